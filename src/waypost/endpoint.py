"""Endpoint: where a provider is and how we sign, from what the user wrote, what the catalogue knows, and a secret.

The credential is bound to its origin and goes nowhere else. Knows no model, no route and no socket.
"""

import hashlib
from collections.abc import Mapping

import msgspec
from msgspec import Struct

from waypost import config as cf
from waypost.core.types import Failure, ProviderCard

_USUAL_AUTH = {"anthropic-messages": "x-api-key", "gemini": "x-goog-api-key"}


class Endpoint(Struct, frozen=True):
    origin: str
    path: str  # prefix before the dialect's own path
    headers: tuple[tuple[bytes, bytes], ...]  # content type, credential, configured extras
    credential: str  # opaque name of the credential in the health memory, never the secret
    max_in_flight: int | None = None
    secret: str = ""

    def redact(self, failure: Failure) -> Failure:
        """Providers quote keys, and not every key looks like one: ours goes on to no caller, log or row."""
        secret = self.secret
        if not secret or not any(secret in text for text in (failure.message, failure.code, failure.param) if text):
            return failure
        return msgspec.structs.replace(
            failure,
            message=failure.message.replace(secret, "[redacted]"),
            code=failure.code and failure.code.replace(secret, "[redacted]"),
            param=failure.param and failure.param.replace(secret, "[redacted]"),
        )


def overlay(name: str, entry: cf.Provider, known: ProviderCard | None) -> ProviderCard:
    """The user's facts over the catalogue's, field by field; what is a list or a table is added to."""
    base = known or ProviderCard(
        name=name, wire=entry.wire or "openai-chat", base_url=entry.base_url or "", auth=_USUAL_AUTH.get(entry.wire or "", "bearer")
    )
    facts = {
        "wire": entry.wire,
        "base_url": entry.base_url,
        "auth": entry.auth,
        "http2": entry.http2,
        "connections": entry.connections,
        "prewarm": entry.prewarm,
        "failure_domain": entry.failure_domain,
        "hourly_usd": entry.hourly_usd,
        "trains_on_data": entry.trains_on_data,
        "zero_retention": entry.zero_retention,
    }
    changes = {k: v for k, v in facts.items() if v is not None}
    return msgspec.structs.replace(
        base,
        name=name,
        headers=(*base.headers, *entry.headers.items()),
        rename=(*base.rename, *entry.rename.items()),
        drop=base.drop | frozenset(entry.drop),
        quirks=base.quirks | frozenset(entry.quirks),
        **changes,
    )


def credential(card: ProviderCard, entry: cf.Provider, env: Mapping[str, str]) -> tuple[str | None, str]:
    """The secret, "" where none is needed; (None, why) when there should be one."""
    if entry.api_key is not None:
        return cf.secret(entry.api_key, env)
    if card.auth == "none" or not card.key_env:
        return "", ""
    found = next((env[v].strip() for v in card.key_env if env.get(v, "").strip()), None)
    names = card.key_env
    return found, f"the variable {names[0]} is not set" if len(names) == 1 else f"none of the variables {', '.join(names)} is set"


def is_sendable(secret: str) -> bool:
    """Whether a header can carry it: visible ASCII only."""
    return all(33 <= ord(char) <= 126 for char in secret)


def endpoint(card: ProviderCard, secret: str, entry: cf.Provider) -> Endpoint:
    scheme, _, rest = card.base_url.partition("://")
    host, slash, path = rest.partition("/")
    headers = {b"content-type": b"application/json", b"accept-encoding": b"identity"}
    if secret:
        name, value = ("authorization", f"Bearer {secret}") if card.auth in ("bearer", "none") else (card.auth, secret)
        headers[name.encode()] = value.encode()
    headers |= {name.lower().encode(): value.encode() for name, value in card.headers}  # what the user wrote wins
    sign = hashlib.sha256(f"{card.name}:{secret}".encode()).hexdigest()[:8] if secret else "none"
    return Endpoint(
        f"{scheme}://{host}", (slash + path).rstrip("/"), tuple(headers.items()), f"{card.name}:{sign}", entry.max_in_flight, secret
    )
