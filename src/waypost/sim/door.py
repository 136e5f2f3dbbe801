"""Door: a small HTTP/1.1 server side, written apart from `waypost.wire`, because a double that shares the code under test proves less.

Reads requests (Content-Length and chunked, 100-continue, pipelining one at a time), writes raw bytes, and can end a connection in
every way a provider can: whole, FIN in the middle, reset. Notices at once when the peer leaves. Knows nothing of models.
"""

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Callable, Coroutine
from typing import Any, cast

from msgspec import Struct

MAX_HEAD = 64 * 1024
MAX_BODY = 512 * 1024 * 1024
PIPELINE_BYTES = 1024 * 1024  # read ahead of the request in hand, then stop reading
LINGER_RESET = struct.pack("ii", 1, 0)
FLUSH_S = 5.0
SETTLE_S = 0.002  # between the last byte and a reset, so that the peer's kernel hands the bytes over first


class HttpRequest(Struct):
    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    accept_s: float  # monotonic: connection accepted
    headers_s: float
    body_s: float
    nth: int  # request number on this connection

    @property
    def wants_close(self) -> bool:
        return self.headers.get("connection", "").lower() == "close"


class BadRequest(Exception):
    """Bytes that are no HTTP request: answered 400, then closed."""


Serve = Callable[["Connection", HttpRequest], Coroutine[Any, Any, None]]


class Connection(asyncio.Protocol):
    """One accepted connection. `serve` runs as a task per request and is cancelled when the peer leaves."""

    def __init__(self, serve: Serve, on_close: Callable[["Connection"], None]) -> None:
        self._serve = serve
        self._on_close = on_close
        self._buffer = bytearray()
        self._head: HttpRequest | None = None
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._paused_reading = False
        self._count = 0
        self.transport: asyncio.Transport
        self.accept_s = 0.0
        self.left_s: float | None = None  # monotonic, when the peer left
        self.on_leave: Callable[[], None] | None = None

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self.accept_s = time.monotonic()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._task is None:
            self._advance()
        elif len(self._buffer) > PIPELINE_BYTES and not self._paused_reading:
            self._paused_reading = True
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        self._leave()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._writable.set()
        self._leave()
        self._on_close(self)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _leave(self) -> None:
        if self.left_s is not None:
            return
        self.left_s = time.monotonic()
        if self.on_leave is not None:
            self.on_leave()
        if self._task is not None:
            self._task.cancel()

    # --- reading

    def _advance(self) -> None:
        try:
            request = self._next()
        except BadRequest as error:
            self.write(
                b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(str(error)), str(error).encode())
            )
            self.transport.close()
            return
        if request is None:
            return
        self._task = asyncio.get_running_loop().create_task(self._serve(self, request))
        self._task.add_done_callback(self._served)

    def _served(self, task: asyncio.Task[None]) -> None:
        self._task = None
        self.on_leave = None
        if not task.cancelled() and task.exception() is not None:
            asyncio.get_running_loop().call_exception_handler({"message": "simulator failed", "exception": task.exception()})
            self.transport.abort()
        if self._paused_reading and not self.transport.is_closing():
            self._paused_reading = False
            self.transport.resume_reading()
        if self.left_s is None and not self.transport.is_closing():
            self._advance()

    def _next(self) -> HttpRequest | None:
        """The next whole request of the buffer, or None. Raises BadRequest."""
        if self._head is None:
            self._head = self._read_head()
        request = self._head
        if request is None:
            return None
        body = self._read_body(request)
        if body is None:
            return None
        self._head = None
        request.body = body
        request.body_s = time.monotonic()
        return request

    def _read_head(self) -> HttpRequest | None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > MAX_HEAD:
                raise BadRequest("head too large")
            return None
        lines = self._buffer[:end].decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        try:
            method, target, version = lines[0].split(" ")
            headers = {name.strip().lower(): value.strip() for name, value in (line.split(":", 1) for line in lines[1:])}
        except ValueError as error:
            raise BadRequest("malformed head") from error
        if not version.startswith("HTTP/1."):
            raise BadRequest("not HTTP/1")
        self._count += 1
        now = time.monotonic()
        if headers.get("expect", "").lower() == "100-continue":
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return HttpRequest(method, target, headers, b"", self.accept_s, now, now, self._count)

    def _read_body(self, request: HttpRequest) -> bytes | None:
        if "chunked" in request.headers.get("transfer-encoding", "").lower():
            return self._read_chunked()
        try:
            length = int(request.headers.get("content-length", "0"))
        except ValueError as error:
            raise BadRequest("bad content-length") from error
        if not 0 <= length <= MAX_BODY:
            raise BadRequest("body too large")
        if len(self._buffer) < length:
            return None
        body = bytes(self._buffer[:length])
        del self._buffer[:length]
        return body

    def _read_chunked(self) -> bytes | None:
        parts: list[bytes] = []
        at = 0
        while True:
            line_end = self._buffer.find(b"\r\n", at)
            if line_end < 0:
                return None
            try:
                size = int(self._buffer[at:line_end].split(b";")[0], 16)
            except ValueError as error:
                raise BadRequest("bad chunk") from error
            at = line_end + 2
            if len(self._buffer) < at + size + 2:
                return None
            parts.append(bytes(self._buffer[at : at + size]))
            at += size + 2
            if size == 0:
                del self._buffer[:at]
                return b"".join(parts)

    # --- writing

    def write(self, data: bytes) -> None:
        if self.left_s is None and not self.transport.is_closing():
            self.transport.write(data)

    async def drain(self) -> None:
        await self._writable.wait()

    async def _flush(self) -> None:
        await asyncio.sleep(0)
        self.transport.set_write_buffer_limits(0)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._writable.wait(), FLUSH_S)
        await asyncio.sleep(SETTLE_S)

    async def fin(self) -> None:
        """End the connection with what was said so far."""
        await self._flush()
        self.transport.close()

    async def reset(self) -> None:
        """End it with a RST, after what was said so far."""
        await self._flush()
        self.reset_now()

    def reset_now(self) -> None:
        self.on_leave = None  # it is not the peer who leaves
        reset_socket(self.transport.get_extra_info("socket"))
        self.transport.abort()

    def close(self) -> None:
        self.on_leave = None
        self.transport.abort()


def reset_socket(sock: Any) -> None:
    """Make the close of this socket a reset. A duplicate is used, because event loops hand out guarded sockets."""
    with socket.socket(fileno=socket.dup(sock.fileno())) as twin:
        twin.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
