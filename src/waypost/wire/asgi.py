"""ASGI: the same Handler under any ASGI server, for mounting the gateway in another application.

Decides nothing of its own: it turns one ASGI scope into a Request and a Responder's calls into `send`. Backpressure is the server's:
while an awaited `send` has not returned, further chunks gather here and, past `HIGH_BYTES`, the source is paused. Slower than our own
server by design (a coroutine, a queue and two dicts per message).
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from waypost.ports import Handler, Headers
from waypost.wire.answer import Request
from waypost.wire.serving import ServerLimits, neutral_error

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Hook = Callable[[], Awaitable[None]]

HIGH_BYTES = 64 * 1024


class Abort(Exception):
    """Makes the ASGI server cut the connection: an answer broken off must not look whole."""


class AsgiAnswer:
    """The Responder of one ASGI request: messages out through a list and one event."""

    def __init__(self) -> None:
        self.closed = False
        self.on_close: Callable[[], None] | None = None
        self.on_pause: Callable[[], None] | None = None
        self.on_resume: Callable[[], None] | None = None
        self._messages: list[Message] = []
        self._waiting_bytes = 0
        self._is_paused = False
        self._is_aborted = False
        self._is_over = False
        self._wake = asyncio.Event()

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        self.start(status, [(b"content-length", b"%d" % len(body)), *headers])
        self.finish(body)

    def start(self, status: int, headers: Headers) -> None:
        self._put({"type": "http.response.start", "status": status, "headers": headers}, 0)

    def write(self, chunk: bytes, framed: bytes = b"") -> None:
        if chunk:
            self._put({"type": "http.response.body", "body": chunk, "more_body": True}, len(chunk))

    def finish(self, last: bytes = b"") -> None:
        self._put({"type": "http.response.body", "body": last, "more_body": False}, len(last))
        self._is_over = True

    def abort(self) -> None:
        if not self._is_over:
            self._is_over = self._is_aborted = self.closed = True
            self._wake.set()

    def leave(self) -> None:
        if not self._is_over:
            self._is_over = self.closed = True
            self._wake.set()
            if self.on_close is not None:
                self.on_close()

    async def pump(self, send: Send) -> None:
        """Send what is written until the answer is over."""
        while True:
            while self._messages:
                messages, self._messages, self._waiting_bytes = self._messages, [], 0
                for message in messages:
                    await send(message)
            if self._is_paused:
                self._is_paused = False
                if self.on_resume is not None:
                    self.on_resume()
            if self._is_aborted:
                raise Abort
            if self._is_over and not self._messages:
                return
            await self._wake.wait()
            self._wake.clear()

    def _put(self, message: Message, size: int) -> None:
        if self._is_over:
            return
        self._messages.append(message)
        self._waiting_bytes += size
        self._wake.set()
        if self._waiting_bytes > HIGH_BYTES and not self._is_paused:
            self._is_paused = True
            if self.on_pause is not None:
                self.on_pause()


def asgi_app(
    handler: Handler, *, limits: ServerLimits | None = None, startup: Hook | None = None, shutdown: Hook | None = None
) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """The ASGI callable. `startup` and `shutdown` run in the server's lifespan."""
    max_body_bytes = (limits or ServerLimits()).max_body_bytes

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send, startup, shutdown)
        elif scope["type"] == "http":
            await _serve(handler, max_body_bytes, scope, receive, send)
        else:
            raise NotImplementedError(f"ASGI scope {scope['type']!r}")

    return app


async def _serve(handler: Handler, max_body_bytes: int, scope: Scope, receive: Receive, send: Send) -> None:
    body = await _body(receive, max_body_bytes)
    answer = AsgiAnswer()
    if isinstance(body, int):
        if body:
            answer.answer(
                body, [(b"content-type", b"application/json")], neutral_error(body, f"the body is larger than {max_body_bytes} bytes")
            )
            await answer.pump(send)
        return
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope.get("query_string", b"")
    target = path.decode("latin-1") + ("?" + query.decode("latin-1") if query else "")
    client: tuple[str, int] | None = scope.get("client")
    headers: Headers = list(scope["headers"])
    request = Request(scope["method"], target, headers, body, client[0] if client else "", scope.get("scheme", "http"))
    handler(request, answer)
    watcher = asyncio.create_task(_watch(receive, answer))
    try:
        await answer.pump(send)
    finally:
        answer.leave()  # nothing when the answer is over; else our task was cancelled or the send failed
        watcher.cancel()


async def _body(receive: Receive, max_body_bytes: int) -> bytes | int:
    """The whole body, or the status to refuse it with; 0 when the caller has left already."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return 0
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > max_body_bytes:
            return 413
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


async def _watch(receive: Receive, answer: AsgiAnswer) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    answer.leave()


async def _lifespan(receive: Receive, send: Send, startup: Hook | None, shutdown: Hook | None) -> None:
    hooks = {"lifespan.startup": startup, "lifespan.shutdown": shutdown}
    while True:
        kind: str = (await receive())["type"]
        hook = hooks.get(kind)
        try:
            if hook is not None:
                await hook()
        except Exception as error:
            await send({"type": f"{kind}.failed", "message": str(error)})
            raise
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return
