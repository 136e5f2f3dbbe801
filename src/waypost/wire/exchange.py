"""Exchange: one request on one HTTP/1.1 connection to a provider, from bytes to `Sink`.

Decides where an answer ends, whether its connection may carry another one, and how a loss is told. Knows no pool policy beyond
`release` and `forget`, and no clock: first-byte and idle clocks are the caller's, who calls `cancel`.

What one read brings is parsed whole and then told in order (head, data once, end), never from inside the parser: a sink may
cancel, or send its next request on the very connection, from any callback. Bytes after the end of an answer close the connection:
what they belong to is unknowable, and the next request must not be given them (response splitting, RFC 9112, section 11.1).

A lost request is sent again only when it certainly was not sent: the connection was known dead when picked, or it was a reused one
that died with the whole request still in our own write buffer and no byte of an answer. Everything else is told as
`Loss(sent=True)`: the provider may have billed it, so whether to try again is not ours to decide.
"""

import asyncio
import select
from typing import TYPE_CHECKING, cast

import httptools
from httptools import HttpParserError, HttpParserUpgrade
from msgspec import Struct

from waypost.ports import Headers, Loss, Sink, UpstreamRequest

if TYPE_CHECKING:
    from waypost.wire.pool import Pool

MAX_HEADERS = 256
SHY_TICKS = 30  # after a kept connection turned out to be closed
JOIN_BYTES = 65536  # larger bodies are written on their own: copying them costs more than a second buffer
BODYLESS_METHODS = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})

_SIZES = {form % size: size for size in range(1, 4096) for form in (b"%x", b"%X")}  # size lines of chunks of a stream

SPENT = UpstreamRequest(origin="", path="", headers=(), body=b"")


class NoSink:
    """Takes the place of a sink that must hear nothing more."""

    def head(self, status: int, headers: Headers) -> None: ...
    def data(self, chunk: bytes, framed: bytes = b"") -> None: ...
    def end(self) -> None: ...
    def lost(self, loss: Loss) -> None: ...


NO_SINK: Sink = NoSink()


class Exchange(Struct, eq=False):
    """The handle of one request: waiting for a connection, on one, or over."""

    pool: "Pool"
    request: UpstreamRequest
    sink: Sink
    start: bytes = b""  # request line, Host and the headers asked for
    conn: "UpstreamConnection | None" = None
    timer: asyncio.TimerHandle | None = None
    is_over: bool = False
    takes_frames: bool = False

    def cancel(self) -> None:
        if self.is_over:
            return
        self.over()
        conn = self.conn
        if conn is None:
            self.pool.unwait(self)
            return
        self.conn = conn.exchange = None
        conn.drop()

    def pause(self) -> None:
        conn = self.conn
        if conn is not None and not conn.paused:
            conn.paused = True
            conn.transport.pause_reading()

    def resume(self) -> None:
        conn = self.conn
        if conn is not None and conn.paused:
            conn.paused = False
            conn.transport.resume_reading()

    def lose(self, loss: Loss) -> None:
        if self.is_over:
            return
        sink = self.sink
        self.conn = None
        self.over()
        sink.lost(loss)

    def over(self) -> None:
        # Sink and exchange usually hold each other; letting go here frees both without the collector.
        self.is_over = True
        self.sink = NO_SINK


def request_start(method: str, path: str, host: bytes) -> bytes:
    """Request line and Host. Raises ValueError for a path or method that would not stay within its line."""
    if not (path.isascii() and path.isprintable() and path.startswith("/")) or " " in path or not method.isalpha():
        raise ValueError("the path or the method is not fit for a request line")
    return b"%b %b HTTP/1.1\r\nhost: %b\r\n" % (method.encode(), path.encode(), host)


class UpstreamConnection(asyncio.BufferedProtocol):
    """One connection to a provider; carries one exchange at a time."""

    __slots__ = (
        "at_edge",
        "born_tick",
        "complete",
        "delivered_head",
        "exchange",
        "gone",
        "has_head",
        "headers",
        "is_reused",
        "keep",
        "parser",
        "parts",
        "paused",
        "pool",
        "received_bytes",
        "sent_bytes",
        "session_kept",
        "since_tick",
        "space",
        "status",
        "transport",
    )

    transport: asyncio.Transport
    parser: httptools.HttpResponseParser

    def __init__(self, pool: "Pool") -> None:
        self.pool = pool
        self.space = pool.shared.space
        self.exchange: Exchange | None = None
        self.born_tick = self.since_tick = pool.shared.tick
        self.is_reused = False
        self.session_kept = False
        self.gone = False  # no longer the pool's
        self.paused = False
        self.complete = False
        self.at_edge = False  # exactly between two chunks, where the parser may be left as it is
        self.has_head = False
        self.delivered_head = False
        self.keep = True
        self.status = 0
        self.sent_bytes = 0
        self.received_bytes = 0
        self.headers: Headers = []
        self.parts: list[bytes] = []

    def begin(self, exchange: Exchange) -> None:
        """Write the request. The pool has checked that this connection is alive and idle."""
        request = exchange.request
        body = request.body
        if body or request.method not in BODYLESS_METHODS:
            head = b"%bcontent-length: %d\r\n\r\n" % (exchange.start, len(body))
        else:
            head = exchange.start + b"\r\n"
        self.exchange = exchange
        exchange.conn = self
        self.complete = self.has_head = self.delivered_head = self.at_edge = False
        self.received_bytes = 0
        self.sent_bytes = len(head) + len(body)
        outbox = self.pool.shared.outbox
        if len(body) > JOIN_BYTES:
            outbox.put(self.transport, head)
            outbox.put(self.transport, body)
        else:
            outbox.put(self.transport, head + body)

    # --- transport ---------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.parser = httptools.HttpResponseParser(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.pool.forget(self)
        if self.exchange is not None:
            if exc is None:
                self._ended_by_eof()
            else:
                self._lose("reset", str(exc) or type(exc).__name__)
        del self.parser  # it holds bound methods of ours

    def eof_received(self) -> bool:
        self.pool.forget(self)
        if self.exchange is not None:
            self._ended_by_eof()
        return False

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.space

    def buffer_updated(self, nbytes: int) -> None:
        exchange = self.exchange
        if exchange is None:
            self.drop()  # an idle provider has nothing to say: whatever this is, it is not for the next request
            return
        if self.at_edge:
            # Exactly one HTTP chunk, size line and line end included: the parser need not see a read that stands between two
            # chunks, it would come to stand there again. The last chunk (size 0), large ones and extensions are its own business.
            data = bytes(self.space[:nbytes])
            line = data.find(b"\r\n", 1, 10)
            if line > 0 and _SIZES.get(data[:line]) == nbytes - line - 4 and data.endswith(b"\r\n"):
                exchange.sink.data(data[line + 2 : -2], data)
                return
            self.at_edge = False
        problem = ""
        try:
            self.parser.feed_data(self.space[:nbytes])
        except (HttpParserError, HttpParserUpgrade) as error:
            problem = str(error.__context__ or error)
            self.keep = False
        if not self.delivered_head:
            self.received_bytes += nbytes
            if self.has_head:
                self.delivered_head = True
                exchange.request = SPENT  # never sent again: a long answer need not hold a long prompt
                exchange.sink.head(self.status, self.headers)
                if self.exchange is not exchange:
                    return  # cancelled from the callback
            elif self.received_bytes > self.pool.shared.max_header_bytes:
                self._lose("too_large", f"a response head of more than {self.pool.shared.max_header_bytes} bytes")
                return
        parts = self.parts
        if parts:
            self.parts = []
            exchange.sink.data(parts[0] if len(parts) == 1 else b"".join(parts))
            if self.exchange is not exchange:
                return
            if exchange.takes_frames and not self.complete:
                self.at_edge = _ends_with_frame(self.space[:nbytes], parts[-1])
        if self.complete:
            self._finish(exchange)
        elif problem:
            self._lose("protocol", problem)

    # --- parser callbacks --------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.complete:
            raise ValueError("bytes after the end of the answer")
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.has_head:  # else a trailer
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self.status = self.parser.get_status_code()
        if len(self.headers) > MAX_HEADERS:
            raise ValueError(f"more than {MAX_HEADERS} header fields")
        if status == 101:
            raise ValueError("101 without having been asked to switch")
        if status >= 200:
            self.has_head = True
            self.keep = self.parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        self.parts.append(body)

    def on_message_complete(self) -> None:
        self.complete = self.has_head  # not for an interim 1xx

    # --- endings -----------------------------------------------------------------------------------------------------

    def _finish(self, exchange: Exchange) -> None:
        sink = exchange.sink
        self.exchange = exchange.conn = None
        exchange.over()
        if self.paused:
            self.paused = False
            self.transport.resume_reading()
        if not self.session_kept:
            self.session_kept = True
            self.pool.keep_session(self.transport)
        is_shy = self.pool.shared.tick < self.pool.shy_until_tick
        if self.keep and not self.gone and not is_shy and self.transport.get_write_buffer_size() == 0:
            self.is_reused = True
            self.pool.release(self)
        else:
            self.drop()
        sink.end()

    def _ended_by_eof(self) -> None:
        exchange = self.exchange
        if exchange is not None and self.has_head and not self._has_length():
            self.keep = False
            self._finish(exchange)  # an answer without a length ends here, well
        else:
            self._lose("eof", "the provider closed the connection before the end of its answer")

    def _has_length(self) -> bool:
        for name, value in self.headers:
            if name == b"content-length" or (name == b"transfer-encoding" and value.lower().endswith(b"chunked")):
                return True
        return False

    def _lose(self, kind: str, detail: str) -> None:
        exchange = self.exchange
        if exchange is None:
            return
        self.exchange = exchange.conn = None
        # Not under TLS: there the buffer holds records, which are longer than what they carry.
        is_plain = self.pool.context is None
        kept_bytes = self.pool.shared.outbox.withdraw(self.transport)
        if is_plain:
            kept_bytes += self.transport.get_write_buffer_size()
        unsent = self.received_bytes == 0 and kept_bytes >= self.sent_bytes
        is_reused = self.is_reused
        if is_reused and self.received_bytes == 0:
            # This server closes connections that it said it would keep. Whether it read our request nobody knows, so for a
            # while no connection of this origin is used twice.
            self.pool.shy_until_tick = self.pool.shared.tick + SHY_TICKS
        self.drop()
        if unsent and is_reused:
            self.pool.wait(exchange)
        else:
            exchange.lose(Loss(kind, detail, sent=not unsent))

    def drop(self) -> None:
        """Close the socket at once and give the place in the pool back."""
        self.pool.forget(self)
        self.transport.abort()

    def is_alive(self) -> bool:
        """No sign of the peer's leaving, as far as can be known without sending.

        The loop tells a FIN when it gets to it; a connection that was idle for a while may have one waiting in the kernel while the
        loop is busy, so those are asked with one poll(2), about 1 us. Data is as bad a sign as FIN.
        """
        if self.transport.is_closing():
            return False
        if self.pool.shared.tick - self.since_tick < 1:
            return True
        sock = self.transport.get_extra_info("socket")
        if sock is None or not hasattr(select, "poll"):
            return True
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLIN)
        return not poll.poll(0)


def _ends_with_frame(data: memoryview, last: bytes) -> bool:
    """Whether the read ended with the whole chunk whose payload the parser gave last: then it stands between two chunks.

    A payload that continues an earlier read stands at the start of this one, so a size line before it is its own.
    """
    frame = b"%x\r\n%b\r\n" % (len(last), last)
    return len(data) >= len(frame) and bytes(data[-len(frame) :]).lower() == frame.lower()
