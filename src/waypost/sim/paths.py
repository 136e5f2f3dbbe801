"""Paths: which provider, flavour and dialect a URL means. Pure.

`/p/<name>/...` names a provider, a segment such as `deepseek` a flavour; the rest is recognised by its end, so that each SDK's and
each catalogue's idea of a base URL works.
"""

import re
from typing import Literal
from urllib.parse import parse_qs, unquote

from msgspec import Struct

from waypost.sim.asks import Dialect

FLAVOURS = ("azure", "deepseek", "mistral", "openrouter", "qwen", "vllm")
_GEMINI = re.compile(r"/models/([^/]+(?:/[^/]+)?):(generateContent|streamGenerateContent|countTokens)$")
_AZURE = re.compile(r"/deployments/([^/]+)/")
_ENDS: tuple[tuple[str, Dialect], ...] = (
    ("/chat/completions", "openai-chat"),
    ("/responses", "openai-responses"),
    ("/messages", "anthropic-messages"),
    ("/embeddings", "embeddings"),
)


class Place(Struct, frozen=True):
    kind: Literal["ask", "count", "models", "control", "redirected", "alive", "unknown"]
    provider: str = ""  # "": the box's own
    flavour: str = ""
    dialect: Dialect = "openai-chat"
    model: str = ""
    stream: bool | None = None
    key: str = ""
    rest: str = ""
    query: tuple[tuple[str, str], ...] = ()


def locate(target: str) -> Place:
    """Read a request target."""
    path, _, query = target.partition("?")
    arguments = tuple((name, values[-1]) for name, values in parse_qs(query).items()) if query else ()
    if path.startswith("/_sim/"):
        rest = path.removeprefix("/_sim/")
        return Place("redirected" if rest == "redirected" else "control", rest=rest, query=arguments)
    provider, flavour = "", ""
    if path.startswith("/p/"):
        provider, _, path = path[3:].partition("/")
        path = "/" + path
    for segment in path.split("/")[1:3]:
        if segment in FLAVOURS:
            flavour = segment
    key = dict(arguments).get("key", "")
    gemini = _GEMINI.search(path)
    if gemini:
        model, verb = unquote(gemini[1]), gemini[2]
        kind = "count" if verb == "countTokens" else "ask"
        return Place(kind, provider, flavour, "gemini", model, verb == "streamGenerateContent", key)
    if path.endswith("/messages/count_tokens"):
        return Place("count", provider, flavour, "anthropic-messages", key=key)
    for end, dialect in _ENDS:
        if path.endswith(end):
            deployment = _AZURE.search(path)
            return Place("ask", provider, flavour, dialect, unquote(deployment[1]) if deployment else "", key=key)
    if path.endswith("/models"):
        return Place("models", provider, flavour, "gemini" if "beta" in path else "openai-chat")
    return Place("alive" if path in ("", "/") else "unknown", provider, flavour)
