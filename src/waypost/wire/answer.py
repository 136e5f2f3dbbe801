"""Answer: the two faces of one request that the handler sees, `Request` and `Responder` of `ports`.

Decides the framing of an answer and what a finished or abandoned one still does (nothing). Knows no limits and no clock. Each write is
one `transport.write`; backpressure is the connection's.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import Struct

from waypost.ports import Headers
from waypost.wire.http1 import STATUS_LINES, header_block

if TYPE_CHECKING:
    from waypost.wire.connection import Connection

CHUNKED, BODILESS, UNTIL_CLOSE = 0, 1, 2  # how an answer is framed: HTTP/1.1, to HEAD, to HTTP/1.0


class Request:
    """One request, whole. Header names are lower case, in the order sent."""

    __slots__ = ("body", "headers", "method", "path", "peer", "query", "scheme")

    def __init__(self, method: str, target: str, headers: Headers, body: bytes, peer: str, scheme: str) -> None:
        self.method = method
        self.path, _, self.query = target.partition("?")
        self.headers = headers
        self.body = body
        self.peer = peer
        self.scheme = scheme

    def header(self, name: bytes) -> bytes | None:
        # A scan: callers send 5 to 20 headers and few are asked for, which is cheaper than building a dict.
        for known, value in reversed(self.headers):
            if known == name:
                return value
        return None


class Answer(Struct, eq=False):
    """The Responder of one request. Framing headers (content-length, transfer-encoding, connection, date) are its own business."""

    _conn: "Connection | None"  # None once finished or left: later calls fall through
    _keep: bool
    _framing: int
    _head: bytes | None = None
    _started: bool = False
    closed: bool = False
    on_close: Callable[[], None] | None = None
    on_pause: Callable[[], None] | None = None
    on_resume: Callable[[], None] | None = None

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        conn = self._conn
        if conn is None:
            return
        if self._started:
            raise RuntimeError("answer() after start()")
        keep = self._keep and not conn.server.draining
        block = header_block(headers)
        if not keep:
            block += b"connection: close\r\n"
        length = b"content-length: %d\r\n" % len(body) if body or (status != 204 and status != 304) else b""
        shown = b"" if self._framing == BODILESS else body
        conn.send(b"".join((STATUS_LINES[status], conn.server.date, length, block, b"\r\n", shown)))
        self._forget()
        conn.done(keep)

    def start(self, status: int, headers: Headers) -> None:
        conn = self._conn
        if conn is None:
            return
        if self._started:
            raise RuntimeError("start() twice")
        self._started = True
        block = header_block(headers)
        if self._framing != UNTIL_CLOSE:
            block += b"transfer-encoding: chunked\r\n"
        self._keep = self._keep and not conn.server.draining
        if not self._keep:
            block += b"connection: close\r\n"
        # Held until the first chunk or the end of this turn of the loop, so that head and first chunk share a packet.
        self._head = b"%b%b%b\r\n" % (STATUS_LINES[status], conn.server.date, block)
        conn.server.loop.call_soon(self._flush_head)

    def write(self, chunk: bytes, framed: bytes = b"") -> None:
        conn = self._conn
        if conn is None or not chunk:
            return
        data = self._unchunked(chunk) if self._framing != CHUNKED else framed or b"%x\r\n%b\r\n" % (len(chunk), chunk)
        if self._head is not None:
            data = self._head + data
            self._head = None
        elif not self._started:
            raise RuntimeError("write() before start()")
        conn.send(data)

    def finish(self, last: bytes = b"") -> None:
        conn = self._conn
        if conn is None:
            return
        if not self._started:
            raise RuntimeError("finish() before start()")
        if self._framing != CHUNKED:
            data = self._unchunked(last)
        elif last:
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(last), last)
        else:
            data = b"0\r\n\r\n"
        if self._head is not None:
            data = self._head + data
            self._head = None
        if data:
            conn.send(data)
        self._forget()
        conn.done(self._keep and not conn.server.draining)

    def abort(self) -> None:
        conn = self._conn
        if conn is not None:
            self.closed = True
            self._forget()
            conn.done(False, abort=True)

    @property
    def is_open(self) -> bool:
        return self._conn is not None

    def fail(self, body: bytes) -> None:
        """The handler broke: 500 when nothing was written yet, else cut."""
        self._keep = False
        if self._started:
            self.abort()
        else:
            self.answer(500, [(b"content-type", b"application/json")], body)

    def leave(self) -> None:
        """The caller has gone: tell whoever produces this answer."""
        on_close = self.on_close
        self.closed = True
        self._forget()
        if on_close is not None:
            on_close()

    def _unchunked(self, chunk: bytes) -> bytes:
        return b"" if self._framing == BODILESS else chunk

    def _flush_head(self) -> None:
        conn, head = self._conn, self._head
        if conn is not None and head is not None:
            self._head = None
            conn.send(head)

    def _forget(self) -> None:
        # Breaks the cycles with the handler's closures, so that a finished request is freed without the collector.
        self._conn = self.on_close = self.on_pause = self.on_resume = None
        self._head = None
