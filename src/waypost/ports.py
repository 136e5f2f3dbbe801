"""Ports: what the shell needs from the world, named by use. Adapters and `wire` implement them; tests double them.

What happens when a port is away stands here, once:

    Upstream   the attempt fails with a transport fault; the race goes on elsewhere
    Journal    (disk full, EIO) new billable work is refused with 503; running streams finish
    Ledger     rows stay in the journal and are fed later, exactly once
    Limits     local share of the limit
    Cache      a miss
"""

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from waypost.core.types import Attempt, Decision

Headers = list[tuple[bytes, bytes]]


class Clock(Protocol):
    def now_s(self) -> float:
        """Monotonic seconds; never runs back."""
        ...

    def wall_ms(self) -> int:
        """Unix milliseconds, for labels and budget windows only."""
        ...


class UpstreamRequest(Struct, frozen=True):
    """One HTTP request to a provider. `origin` is scheme://host[:port]; `path` includes the query."""

    origin: str
    path: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    method: str = "POST"
    connect_s: float = 2.0
    http2: bool = False
    connections: int = 256


class Loss(Struct, frozen=True):
    """How an exchange broke. `sent` False: certainly no byte of the request left us on this connection."""

    kind: str  # dns | refused | connect_timeout | tls | reset | eof | protocol | too_large | busy
    detail: str
    sent: bool


class Sink(Protocol):
    """Receives one exchange, on the event loop, synchronously: head, data*, then exactly one of end or lost.

    Nothing is called after `Exchange.cancel()`. Interim 1xx answers are swallowed.
    """

    def head(self, status: int, headers: Headers) -> None: ...
    def data(self, chunk: bytes, framed: bytes = b"") -> None:
        """`framed`: the same bytes as the one HTTP chunk they came in, for whoever passes them on; only after `takes_frames`."""
        ...

    def end(self) -> None: ...
    def lost(self, loss: Loss) -> None: ...


class Exchange(Protocol):
    """Control of one exchange in flight. `cancel` closes the socket at once; all are idempotent."""

    takes_frames: bool  # set by the sink: whole HTTP chunks may be told with their framing

    def cancel(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Upstream(Protocol):
    """The only door to providers."""

    def send(self, request: UpstreamRequest, sink: Sink) -> Exchange:
        """Start an exchange; never blocks and never raises for network reasons: those arrive at `sink.lost`."""
        ...

    def warm(self, origin: str, *, connections: int, http2: bool = False) -> None:
        """Keep this many idle connections open to `origin`, in the background."""
        ...

    async def close(self) -> None: ...


class Request(Protocol):
    """One parsed HTTP request of a caller, body whole and bounded."""

    method: str
    path: str  # raw path, still percent-encoded, without the query
    query: str
    headers: Headers  # names in lower case
    peer: str  # address of the caller
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        """Last value of a header; `name` in lower case."""
        ...


class Responder(Protocol):
    """Writes one answer to one caller. After the caller has left, writes are dropped silently."""

    closed: bool  # the caller has left
    on_close: Callable[[], None] | None  # called at once when the caller leaves before `finish`
    on_pause: Callable[[], None] | None  # the caller reads too slowly: stop the source
    on_resume: Callable[[], None] | None

    def answer(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """A whole answer with Content-Length."""
        ...

    def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Begin a streamed answer (chunked on HTTP/1.1)."""
        ...

    def write(self, chunk: bytes, framed: bytes = b"") -> None:
        """`framed`: the same bytes as one HTTP chunk, where they came as such: then nothing is copied."""
        ...

    def finish(self, last: bytes = b"") -> None:
        """End a streamed answer, with `last` in the same packet."""
        ...

    def abort(self) -> None:
        """Cut the connection so that the caller cannot mistake the answer for a whole one."""
        ...


Handler = Callable[[Request, Responder], None]


class Journal(Protocol):
    """Durable intent and result of attempts, on this machine, before the answer's last byte. Appends are one write(2)."""

    def opened(self, attempt: Attempt, worst_case_nusd: int | None) -> None:
        """Before the network is touched. Raises OSError when the disk refuses."""
        ...

    def received(self, attempt: Attempt) -> None:
        """What an open attempt has delivered so far: its bill, should this process die now. Never raises."""
        ...

    def settled(self, attempt: Attempt, decision: Decision | None) -> None:
        """Before the last byte leaves. Fed to the ledger in batches, exactly once."""
        ...


class Random(Protocol):
    def random(self) -> float:
        """Uniform in [0, 1)."""
        ...
