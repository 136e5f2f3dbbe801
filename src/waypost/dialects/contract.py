"""Contract: the shapes that every dialect file fills, on the provider's side and on the caller's side.

Pure: bytes in, values out. One dialect file serves both sides and knows no other dialect; what passes between two of them is
`Prompt`, `Delta` and `Reply`. A dialect is found by its wire name in `waypost.dialects.DIALECTS` (lazy imports).
"""

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from waypost.core.faults import Refused
from waypost.core.sse import Event
from waypost.core.types import Call, Delta, Deployment, Failure, Prompt, Reply, Usage

Headers = list[tuple[bytes, bytes]]
CostOf = Callable[[Usage], int | None]  # nano-dollars of a usage at the deployment's price; None: unknown


class Dispatch(Struct, frozen=True):
    """One request for a provider, without credential and without origin: `path` is appended to the provider's base_url."""

    path: str
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    dropped: tuple[str, ...] = ()  # what could not be carried, as "param" or "param->value(reason)" tokens


class StreamReader(Protocol):
    """Folds one provider's stream into Deltas. One per attempt. Unknown events are ignored; a malformed one gives Failed."""

    def feed(self, event: Event) -> list[Delta]: ...

    def eof(self) -> list[Delta]:
        """The transport ended cleanly: [] when `Ended` was already given, else Ended (Gemini after a finish) or Failed(TRUNCATED)."""
        ...


class ProviderSide(Protocol):
    """How a provider of this wire is spoken to."""

    def dispatch(self, prompt: Prompt, deployment: Deployment, *, stream: bool) -> Dispatch: ...
    def reader(self, quirks: frozenset[str] = frozenset()) -> StreamReader: ...

    def reply(self, body: bytes) -> Reply | Failure:
        """A whole 200 answer. A Failure for an error in a 200, an empty or malformed body, a blocked prompt."""
        ...

    def failure(self, status: int, headers: Headers, body: bytes, now_ms: int) -> Failure:
        """Classify a non-200 answer. Never raises; reads Retry-After in all its forms (`now_ms` for HTTP dates)."""
        ...


class Encoder(Protocol):
    """Renders Deltas as the caller's stream. One per answer."""

    def encode(self, delta: Delta) -> bytes: ...


class CallerSide(Protocol):
    """How a caller of this dialect is understood and answered."""

    def parse(self, body: bytes) -> Call:
        """Raises Refused (400) with the field, the value seen and the fix."""
        ...

    def prompt(self, call: Call) -> Prompt: ...
    def encoder(self, call: Call, *, request_id: str, model: str, cost_of: CostOf) -> Encoder: ...
    def render(self, reply: Reply, *, request_id: str, model: str, cost_nusd: int | None) -> bytes: ...
    def refusal(self, refused: Refused, *, request_id: str) -> bytes:
        """Error body for a request the gateway refused."""
        ...

    def error(self, failure: Failure, *, request_id: str) -> tuple[int, bytes]:
        """Status and body for a failed request that delivered nothing."""
        ...

    def error_event(self, failure: Failure, *, request_id: str) -> bytes:
        """The typed error that ends a stream which already delivered content."""
        ...


class Passage(Protocol):
    """From one attempt's body bytes to the caller's bytes, and what was seen on the way. Same dialect: bytes relayed.

    `feed` returns what may be sent to the caller now (possibly b""). Once `failure` or `finished` is set, further input is
    ignored. Bytes of the terminal marker are held in `tail`, so that the bill is durable before they leave.
    """

    content_events: int  # content, reasoning or tool-call deltas seen
    content_bytes: int  # UTF-8 bytes of generated text, approximately
    finished: bool  # terminal marker seen
    failure: Failure | None
    usage: Usage | None  # as reported so far
    tail: bytes  # the end of the caller's stream, once finished

    def feed(self, chunk: bytes) -> bytes: ...

    def end(self) -> bytes:
        """The transport ended: sets `finished` or a TRUNCATED failure."""
        ...

    def cut(self, usage: Usage) -> bytes:
        """End the caller's stream ourselves with finish reason `length` and this usage (a stream past its max_tokens)."""
        ...
