"""Connection: one caller's HTTP/1.1 connection, from bytes to `Handler`.

Decides what is a well-formed request, how much of it is held, in which order requests are answered, and when the caller has left.
Knows no route, no dialect and no JSON: the body of the wire's own error answers comes from `error_body`.

The way of a request has no task, no coroutine, no future and no timer: llhttp's callbacks fill the connection, the handler is
called from the last of them, the answer is one `transport.write`. All clocks are ticks of the server's one sweeper.

A half-closed connection counts as left: a caller that still wants its answer keeps its sending side open. This is what makes
leaving visible at once; HTTP clients do not half-close, `printf | nc` does.

Strictness follows RFC 9112, sections 2.2, 3.2, 5.1, 6.1, 6.3 and 11.2. What llhttp refuses by itself (CL with TE, repeated CL, obs-fold,
bare LF, NUL, bad chunk sizes) is pinned by tests instead of being checked twice.
"""

import asyncio
import os
import select
import socket
import struct
from collections import deque
from typing import cast

import httptools
from httptools import HttpParserError, HttpParserUpgrade

from waypost.ports import Headers
from waypost.wire.answer import BODILESS, CHUNKED, UNTIL_CLOSE, Answer, Request
from waypost.wire.http1 import READ_BYTES, STATUS_LINES
from waypost.wire.serving import Serving

PIPELINED_REQUESTS = 64  # parsed ahead of the one in hand; a caller that sends more is answered this far, then closed
LINGER_S = 1.0  # after an error answer: read on and discard, so that the kernel does not reset the answer away
HANG_UP_POLL_S = 0.1
CHUNK_OVERHEAD = 8  # wire bytes allowed per body byte of a chunked request, trailers included

IDLE, HEAD, BODY = 0, 1, 2  # where the parser stands: between messages, in a head, in a body
NO_PARTS: list[bytes] = []
WATCHED = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect", b"upgrade", b"connection"})


class Refusal(Exception):
    """Raised inside a parser callback to stop the parser."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Connection(asyncio.BufferedProtocol):
    """One caller's connection: parses, hands over one request at a time, watches for the caller's leaving."""

    __slots__ = (
        "answer",
        "deaf",
        "expecting",
        "fed_bytes",
        "flushed",
        "flushed_tick",
        "framing",
        "headers",
        "held",
        "held_bytes",
        "keep",
        "parser",
        "partial_bytes",
        "parts",
        "paused",
        "peer",
        "phase",
        "put",
        "queue",
        "refusal",
        "scheme",
        "server",
        "since_tick",
        "size",
        "stepping",
        "target",
        "transport",
        "written",
    )

    transport: asyncio.Transport
    parser: httptools.HttpRequestParser

    def __init__(self, server: Serving) -> None:
        self.server = server
        self.answer: Answer | None = None  # of the request in hand
        self.queue: deque[tuple[Request, Answer]] = deque()  # parsed, waiting for it
        self.held: list[bytes] = []  # unparsed, waiting for it
        self.held_bytes = 0
        self.refusal: Refusal | None = None  # to be sent when all before it is answered
        self.deaf = False  # discard what comes: the connection ends after the answers it still owes
        self.paused = False
        self.stepping = False
        self.expecting = False
        self.phase = IDLE
        self.partial_bytes = 0
        self.written = 0
        self.put = server.outbox.put
        self.flushed = 0
        self.flushed_tick = 0
        self.since_tick = server.tick
        self.peer = ""
        self.scheme = "http"

    # --- transport ---------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(self.server.limits.write_high_bytes)
        peername = transport.get_extra_info("peername")
        if isinstance(peername, tuple):
            self.peer = cast(str, peername[0])
        if transport.get_extra_info("sslcontext") is not None:
            self.scheme = "https"
        self.parser = httptools.HttpRequestParser(self)
        self.server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.connections.discard(self)
        self.deaf = True
        self.queue.clear()
        self.held.clear()
        self._leave()
        del self.parser  # it holds bound methods of ours

    def eof_received(self) -> bool:
        self.deaf = True
        if self.answer is not None:
            self._leave()
            self.transport.abort()
        return False

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.server.space

    def buffer_updated(self, nbytes: int) -> None:
        if self.deaf:
            return
        data = self.server.space[:nbytes]
        if self.answer is not None or self.queue or self.paused:
            self._hold(bytes(data))
        else:
            self._parse(data)

    def pause_writing(self) -> None:
        self.paused = True
        answer = self.answer
        if answer is not None and answer.on_pause is not None:
            answer.on_pause()

    def resume_writing(self) -> None:
        self.paused = False
        answer = self.answer
        if answer is None:
            self._next()
        elif answer.on_resume is not None:
            answer.on_resume()

    # --- parser callbacks --------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self.phase = HEAD
        self.since_tick = self.server.tick
        self.target = b""
        self.headers: Headers = []
        self.parts: list[bytes] = []
        self.size = 0
        self.expecting = False

    def on_url(self, url: bytes) -> None:
        self.target += url
        if len(self.target) > self.server.limits.max_target_bytes:
            raise Refusal(414, f"the request target is longer than {self.server.limits.max_target_bytes} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.phase == BODY:
            return  # a trailer: nobody here asks for one
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        limits = self.server.limits
        headers = self.headers
        hosts = 0
        special = False
        for name, value in headers:
            if not value.isascii():
                raise Refusal(400, "a header value is not ASCII")
            if name in WATCHED:
                if name == b"host":
                    hosts += 1
                elif name == b"content-length":
                    if int(value) > limits.max_body_bytes:
                        raise self._too_large()
                else:
                    special = True
        if len(headers) > limits.max_headers:
            raise Refusal(431, f"more than {limits.max_headers} header fields")
        if self.fed_bytes + self.partial_bytes > limits.max_header_bytes:
            self._check_header_bytes()
        self.keep = self.parser.should_keep_alive()
        self.framing = CHUNKED
        if special or hosts != 1 or not self.keep or not self.target.startswith(b"/") or b"#" in self.target:
            self._check_special(hosts)
        self.phase = BODY
        self.partial_bytes = 0
        self.since_tick = self.server.tick

    def on_body(self, body: bytes) -> None:
        self.parts.append(body)
        self.size += len(body)
        if self.size > self.server.limits.max_body_bytes:
            raise self._too_large()

    def on_message_complete(self) -> None:
        self.phase = IDLE
        self.partial_bytes = 0
        self.expecting = False
        parts = self.parts
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        method = self.parser.get_method().decode()
        if method == "HEAD":
            self.framing = BODILESS
        request = Request(method, self.target.decode(), self.headers, body, self.peer, self.scheme)
        self.parts = NO_PARTS
        if not self.keep:
            self.deaf = True
        answer = Answer(self, self.keep, self.framing)
        if self.answer is None and not self.queue and not self.paused:
            self._dispatch(request, answer)
            return
        if len(self.queue) >= PIPELINED_REQUESTS:
            raise Refusal(429, f"more than {PIPELINED_REQUESTS} pipelined requests")
        self.queue.append((request, answer))

    # --- checks ------------------------------------------------------------------------------------------------------

    def _check_header_bytes(self) -> None:
        limit = self.server.limits.max_header_bytes
        if sum([len(name) + len(value) + 4 for name, value in self.headers]) > limit:
            raise Refusal(431, f"header fields of more than {limit} bytes")

    def _too_large(self) -> Refusal:
        return Refusal(413, f"the body is larger than {self.server.limits.max_body_bytes} bytes")

    def _check_special(self, hosts: int) -> None:
        """What an ordinary request never has. llhttp has already refused what it can."""
        fields = dict(self.headers)
        coding = fields.get(b"transfer-encoding")
        self._check_version(is_coded=coding is not None)
        if coding is not None and coding.lower() != b"chunked":
            raise Refusal(501, "the only transfer coding known is chunked")
        if hosts > 1:
            raise Refusal(400, "several Host fields")
        if hosts == 0 and self.framing != UNTIL_CLOSE:
            raise Refusal(400, "no Host field")
        if not self.target.startswith(b"/") or b"#" in self.target:
            self._check_target(fields.get(b"host", b""))
        expect = fields.get(b"expect")
        if expect is not None:
            if expect.lower() != b"100-continue":
                raise Refusal(417, "the only expectation known is 100-continue")
            self.expecting = self.framing != UNTIL_CLOSE
            self._continue()

    def _check_version(self, *, is_coded: bool) -> None:
        """A kept-alive request without a Connection field is HTTP/1.1; the version itself is costly to ask for."""
        if self.parser.should_upgrade():
            raise Refusal(501, "no protocol to upgrade to and no tunnels")
        version = self.parser.get_http_version()
        if version == "1.1":
            return
        if version != "1.0":
            raise Refusal(505, "HTTP/1.1 or HTTP/1.0, please")
        if is_coded:
            raise Refusal(400, "Transfer-Encoding in an HTTP/1.0 request")
        self.keep = False
        self.framing = UNTIL_CLOSE

    def _check_target(self, host: bytes) -> None:
        """Not origin-form: absolute-form is taken when it names the host that Host names (RFC 9112, 3.2.2)."""
        target = self.target
        if target == b"*" and self.parser.get_method() == b"OPTIONS":
            return
        scheme, mark, rest = target.partition(b"://")
        authority, slash, path = rest.partition(b"/")
        if b"#" in target or not mark or scheme.lower() not in (b"http", b"https"):
            raise Refusal(400, "the request target is neither a path nor an absolute URL")
        if authority.lower() != host.lower():
            raise Refusal(400, "the request target and Host name different hosts")
        self.target = slash + path if slash else b"/"

    # --- one request at a time ---------------------------------------------------------------------------------------

    def done(self, keep: bool, *, abort: bool = False) -> None:
        """The answer in hand is finished; its last byte has been written."""
        self.answer = None
        self.server.active -= 1
        self.since_tick = self.server.tick
        if abort:
            self._cut()
        elif not keep:
            self.deaf = True
            self.queue.clear()
            self.server.outbox.flush()
            self.transport.close()
        elif (self.queue or self.held or self.refusal or self.expecting) and not self.stepping:
            self._next()

    def send(self, data: bytes) -> None:
        self.written += len(data)
        self.put(self.transport, data)

    def _dispatch(self, request: Request, answer: Answer) -> None:
        self.answer = answer
        self.server.active += 1
        try:
            self.server.handler(request, answer)
        except Exception as error:
            self._report(error)
            if answer.is_open:
                answer.fail(self.server.error_body(500, "internal error"))

    def _next(self) -> None:
        """Go on with what waited for the answer in hand: parsed requests, unparsed bytes, then a refusal of the rest."""
        self.stepping = True
        while self.answer is None and not self.paused:
            if self.queue:
                self._dispatch(*self.queue.popleft())
            elif self.held:
                data = b"".join(self.held)
                self.held.clear()
                if self.held_bytes > self.server.limits.held_bytes:
                    self.transport.resume_reading()
                self.held_bytes = 0
                self._parse(data)
            else:
                break
        self.stepping = False
        if self.answer is None and not self.queue:
            if self.refusal is not None:
                self._refuse(self.refusal)
            elif self.expecting:
                self._continue()

    def _parse(self, data: memoryview | bytes) -> None:
        self.fed_bytes = len(data)
        try:
            self.parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._stop(error)
        else:
            if self.phase != IDLE:
                self._incomplete(len(data))

    def _incomplete(self, nbytes: int) -> None:
        """Bound what the parser gathers out of our sight: a head without end, a trailer without end, chunks of one byte."""
        self.partial_bytes += nbytes
        limits = self.server.limits
        if self.phase == HEAD:
            if self.partial_bytes > limits.max_header_bytes + READ_BYTES:
                self._refuse(Refusal(431, f"header fields of more than {limits.max_header_bytes} bytes"))
            return
        self.since_tick = self.server.tick
        if self.partial_bytes > self.size * CHUNK_OVERHEAD + 2 * READ_BYTES:
            self._refuse(Refusal(400, "too little body in too many bytes"))

    def _stop(self, error: Exception) -> None:
        """The parser gave up: by our refusal, for the peer's fault, or because we had already heard enough."""
        cause = error.__context__
        if isinstance(cause, Refusal):
            self._refuse(cause)
        elif isinstance(error, httptools.HttpParserCallbackError):
            self._report(cause or error)
            self._refuse(Refusal(500, "internal error"))
        elif not self.deaf:
            self._refuse(Refusal(400, f"malformed request: {error}"))

    def _refuse(self, refusal: Refusal) -> None:
        """Answer for the wire itself, in its turn, and end the connection."""
        self.deaf = True
        self.phase = IDLE
        if self.answer is not None or self.queue:
            self.refusal = refusal
            return
        self.refusal = None
        body = self.server.error_body(refusal.status, refusal.message)
        head = b"%b%bcontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.server.outbox.flush()
        self.transport.write(head % (STATUS_LINES[refusal.status], self.server.date, len(body)) + body)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.server.loop.call_later(LINGER_S, self.transport.abort)

    def _continue(self) -> None:
        if self.expecting and self.answer is None and not self.queue:
            self.expecting = False
            self.server.outbox.flush()
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _hold(self, data: bytes) -> None:
        """Keep pipelined bytes for later. Past the bound reading stops, and with it the sight of a FIN: so poll for that."""
        limit = self.server.limits.held_bytes
        self.held.append(data)
        before, self.held_bytes = self.held_bytes, self.held_bytes + len(data)
        if before <= limit < self.held_bytes:
            self.transport.pause_reading()
            self._watch_for_hang_up()

    def _watch_for_hang_up(self) -> None:
        if self.deaf or self.held_bytes <= self.server.limits.held_bytes:
            return
        if hung_up(self.transport):
            self.eof_received()
            self.transport.abort()
            return
        self.server.loop.call_later(HANG_UP_POLL_S, self._watch_for_hang_up)

    # --- endings -----------------------------------------------------------------------------------------------------

    def _leave(self) -> None:
        answer = self.answer
        if answer is not None:
            self.answer = None
            self.server.active -= 1
            answer.leave()

    def _cut(self) -> None:
        """End with a reset, not a FIN: to an HTTP/1.0 caller a FIN would be the end of a whole answer."""
        self.deaf = True
        self.server.outbox.flush()
        reset_on_close(self.transport)
        self.transport.abort()

    def _report(self, error: BaseException) -> None:
        self.server.loop.call_exception_handler({"message": "request handler failed", "exception": error, "transport": self.transport})

    def hang_up_if_idle(self) -> None:
        if self.answer is None and not self.queue and not self.held and self.phase == IDLE:
            self.deaf = True
            self.server.outbox.flush()
            self.transport.close()

    def sweep(self) -> None:
        """Called each tick: the clocks of this connection."""
        serving = self.server
        limits = serving.limits
        waiting = self.transport.get_write_buffer_size()
        flushed = self.written - waiting
        if not waiting or flushed != self.flushed:
            self.flushed = flushed
            self.flushed_tick = serving.tick
        elif serving.tick - self.flushed_tick > serving.ticks(limits.write_stall_s):
            self._leave()
            self.transport.abort()
            return
        if self.answer is not None or self.deaf:
            return
        age = serving.tick - self.since_tick
        if self.phase == IDLE:
            if age > serving.ticks(limits.idle_s):
                self.hang_up_if_idle()
        elif self.phase == HEAD:
            if age > serving.ticks(limits.header_s):
                self._refuse(Refusal(408, f"the head of the request took longer than {limits.header_s:g} s"))
        elif age > serving.ticks(limits.body_s):
            self._refuse(Refusal(408, f"no byte of the body for {limits.body_s:g} s"))


def hung_up(transport: asyncio.Transport) -> bool:
    """Has the peer closed its side, although unread bytes stand before its FIN? Linux only; elsewhere found out at the next read."""
    event = getattr(select, "POLLRDHUP", 0)
    sock = transport.get_extra_info("socket")
    if not event or sock is None:
        return False
    poll = select.poll()
    poll.register(sock.fileno(), event)
    return bool(poll.poll(0))


def reset_on_close(transport: asyncio.Transport) -> None:
    sock = transport.get_extra_info("socket")
    if sock is None:
        return
    with socket.socket(fileno=os.dup(sock.fileno())) as own:  # uvloop's pseudo socket takes no options
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
