"""Ingress: every HTTP request enters here. Finds the endpoint, says who asks, and turns whatever goes wrong into a clear answer.

The route object that was matched is the one that is authorised and called (there is no second look at the path). Errors are
rendered in the dialect of the endpoint; an error nobody foresaw is a 503 with a code, a log line without content, and no more.
"""

import hashlib
import logging
import os
import time
from collections.abc import Callable
from urllib.parse import unquote

from msgspec import Struct

from waypost.core.faults import Refused
from waypost.flight import JSON, refuse
from waypost.gateway import Gateway
from waypost.ports import Request, Responder
from waypost.world import Caller

log = logging.getLogger("waypost")
now_s = time.monotonic

ANYONE = Caller()


class Reached(Struct, frozen=True):
    """What an endpoint is told beside the request: who asks, our id for it, when it came, and the part of the path left over."""

    request_id: str
    caller: Caller
    started_s: float
    rest: str = ""

    @property
    def id_header(self) -> tuple[bytes, bytes]:
        return (b"x-request-id", self.request_id.encode())


Endpoint = Callable[["Ingress", Reached, Request, Responder], None]


class Route(Struct, frozen=True):
    """`is_open`: answered without a key. `prefix`: the rest of the path is the endpoint's argument."""

    methods: tuple[str, ...]
    endpoint: Endpoint
    dialect: str = "openai-chat"
    is_open: bool = False


class Ingress:
    """The Handler of the server. One per process."""

    def __init__(self, gateway: Gateway, exact: dict[str, Route], prefixed: dict[str, Route]) -> None:
        self.gateway = gateway
        self.is_draining = False
        self._exact = exact
        self._prefixed = prefixed
        self._mark = os.urandom(5).hex()  # of this process, so that ids of several workers never meet
        self._count = 0
        self._world = gateway.world
        self._known: dict[bytes, Caller] = {}

    def __call__(self, request: Request, responder: Responder) -> None:
        started_s = now_s()
        self._count += 1
        request_id = f"req_{self._mark}{self._count:010x}"
        dialect = "openai-chat"
        try:
            route, rest = self._find(request.path)
            dialect = route.dialect
            if request.method not in route.methods:
                refused = Refused(405, "method_not_allowed", f"{request.method} is not allowed here; use {' or '.join(route.methods)}.")
                refuse(responder, refused, dialect, request_id, (b"allow", ", ".join(route.methods).encode()))
                return
            caller = ANYONE if route.is_open else self._who(request)
            route.endpoint(self, Reached(request_id, caller, started_s, rest), request, responder)
        except Refused as refused:
            refuse(responder, refused, dialect, request_id)
        except Exception:
            log.exception("request %s broke the gateway", request_id)
            fault = Refused(
                503, "internal_error", "The gateway failed on this request; its log has the cause under this id.", error_type="server"
            )
            refuse(responder, fault, dialect, request_id)

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def _find(self, path: str) -> tuple[Route, str]:
        route = self._exact.get(path)
        if route is not None:
            return route, ""
        if len(path) > 1 and path.endswith("/") and (route := self._exact.get(path.rstrip("/"))) is not None:
            return route, ""
        for prefix, route in self._prefixed.items():
            if path.startswith(prefix) and len(path) > len(prefix):
                return route, unquote(path[len(prefix) :])
        known = ", ".join(sorted(p for p in self._exact if p.startswith("/v1")))
        raise Refused(404, "unknown_endpoint", f"There is no {path[:200]!r} here; the endpoints are {known}.", error_type="not_found")

    def _who(self, request: Request) -> Caller:
        world = self.gateway.world
        sent = request.header(b"authorization")
        if world is not self._world:  # a reload may have revoked a key
            self._world, self._known = world, {}
        if sent is not None and sent in self._known:
            return self._known[sent]
        key = b""
        if sent is not None:
            scheme, _, value = sent.partition(b" ")
            key = value.strip() if scheme.lower() == b"bearer" else sent.strip()
        else:
            key = (request.header(b"x-api-key") or request.header(b"api-key") or b"").strip()
        caller = world.callers.get(hashlib.sha256(key).digest()) if key else None
        if caller is not None:
            if sent is not None:
                self._known[sent] = caller  # only headers that carry a valid key: no more entries than spellings of those
            return caller
        if world.config.auth.required:
            what = "is not known here" if key else "is missing"
            raise Refused(
                401, "invalid_api_key", f"The API key {what}. Send it as `Authorization: Bearer KEY`.", error_type="authentication"
            )
        return ANYONE


def protocol_error(status: int, message: str) -> bytes:
    """The body of an answer to a request that never became one (too large, malformed, too slow)."""
    from waypost.dialects import caller_side

    kinds = {413: "payload_too_large", 431: "invalid_request", 408: "timeout"}
    code = {413: "request_too_large", 414: "uri_too_long", 431: "headers_too_large", 408: "request_timeout", 501: "not_implemented"}
    refused = Refused(status, code.get(status, "bad_http"), message, error_type=kinds.get(status, "invalid_request"))
    return caller_side("openai-chat").refusal(refused, request_id="")


__all__ = ["ANYONE", "JSON", "Ingress", "Reached", "Route", "protocol_error"]
