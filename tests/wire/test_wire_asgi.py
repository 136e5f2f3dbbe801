"""The ASGI bridge, called as an ASGI server calls it."""

import asyncio
from typing import Any

import pytest
from wire_kit import run, until

from waypost.wire.asgi import Abort, asgi_app
from waypost.wire.server import ServerLimits


class Caller:
    """Plays the ASGI server for one request."""

    def __init__(self, *bodies: bytes) -> None:
        self.inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        for number, body in enumerate(bodies, 1):
            self.inbox.put_nowait({"type": "http.request", "body": body, "more_body": number < len(bodies)})
        self.sent: list[dict[str, Any]] = []
        self.may_send = asyncio.Event()
        self.may_send.set()
        self.scope = {
            "type": "http",
            "method": "POST",
            "path": "/a b",
            "raw_path": b"/a%20b",
            "query_string": b"x=1",
            "headers": [(b"x-a", b"1")],
            "client": ("10.0.0.1", 5),
            "scheme": "https",
        }

    async def send(self, message: dict[str, Any]) -> None:
        await self.may_send.wait()
        self.sent.append(message)

    def leave(self) -> None:
        self.inbox.put_nowait({"type": "http.disconnect"})

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


def test_a_request_arrives_whole_and_the_answer_leaves() -> None:
    def handler(request: Any, responder: Any) -> None:
        seen = (request.method, request.path, request.query, request.header(b"x-a"), request.peer, request.scheme)
        assert seen == ("POST", "/a%20b", "x=1", b"1", "10.0.0.1", "https")
        responder.answer(201, [(b"x-b", b"2")], request.body)

    async def scenario() -> None:
        caller = Caller(b"one", b"two")
        await asgi_app(handler)(caller.scope, caller.inbox.get, caller.send)
        assert (caller.sent[0]["status"], caller.body, caller.sent[-1]["more_body"]) == (201, b"onetwo", False)
        assert (b"content-length", b"6") in caller.sent[0]["headers"]

    run(scenario())


def test_a_stream_is_sent_as_it_is_written_and_pauses_behind_a_slow_server() -> None:
    responders: list[Any] = []
    events: list[str] = []

    def handler(request: Any, responder: Any) -> None:
        responders.append(responder)
        responder.on_pause = lambda: events.append("pause")
        responder.on_resume = lambda: events.append("resume")
        responder.start(200, [])
        responder.write(b"first")

    async def scenario() -> None:
        caller = Caller(b"")
        task = asyncio.create_task(asgi_app(handler)(caller.scope, caller.inbox.get, caller.send))
        await until(lambda: caller.body == b"first")
        caller.may_send.clear()
        for _ in range(3):
            responders[0].write(b"x" * 40_000)
        await asyncio.sleep(0.01)
        assert events == ["pause"]
        caller.may_send.set()
        await until(lambda: events == ["pause", "resume"])
        responders[0].finish(b"last")
        await task
        assert caller.body == b"first" + b"x" * 120_000 + b"last"

    run(scenario())


@pytest.mark.parametrize("way", ["disconnect", "cancel"])
def test_a_caller_who_leaves_is_told_to_the_handler(way: str) -> None:
    left: list[bool] = []
    responders: list[Any] = []

    def handler(request: Any, responder: Any) -> None:
        responders.append(responder)
        responder.on_close = lambda: left.append(True)

    async def scenario() -> None:
        caller = Caller(b"")
        task = asyncio.create_task(asgi_app(handler)(caller.scope, caller.inbox.get, caller.send))
        await until(lambda: responders)
        await asyncio.sleep(0.01)
        if way == "disconnect":
            caller.leave()
        else:
            task.cancel()
        await asyncio.wait([task])
        responders[0].write(b"dropped")
        assert (left, responders[0].closed, caller.sent) == ([True], True, [])

    run(scenario())


def test_an_aborted_answer_is_not_ended() -> None:
    def handler(request: Any, responder: Any) -> None:
        responder.start(200, [])
        responder.write(b"half")
        responder.abort()

    async def scenario() -> None:
        caller = Caller(b"")
        with pytest.raises(Abort):
            await asgi_app(handler)(caller.scope, caller.inbox.get, caller.send)
        assert caller.sent[-1]["more_body"]

    run(scenario())


def test_a_too_large_body_is_refused() -> None:
    async def scenario() -> None:
        caller = Caller(b"x" * 60, b"x" * 60)
        await asgi_app(lambda request, responder: None, limits=ServerLimits(max_body_bytes=100))(
            caller.scope, caller.inbox.get, caller.send
        )
        assert caller.sent[0]["status"] == 413

    run(scenario())


@pytest.mark.parametrize("fails", [False, True])
def test_the_lifespan_runs_the_hooks(fails: bool) -> None:
    ran: list[str] = []

    async def startup() -> None:
        ran.append("startup")
        if fails:
            raise RuntimeError("no store")

    async def shutdown() -> None:
        ran.append("shutdown")

    async def scenario() -> None:
        caller = Caller()
        for kind in ("startup", "shutdown"):
            caller.inbox.put_nowait({"type": f"lifespan.{kind}"})
        app = asgi_app(lambda request, responder: None, startup=startup, shutdown=shutdown)
        if fails:
            with pytest.raises(RuntimeError):
                await app({"type": "lifespan"}, caller.inbox.get, caller.send)
            assert caller.sent == [{"type": "lifespan.startup.failed", "message": "no store"}]
        else:
            await app({"type": "lifespan"}, caller.inbox.get, caller.send)
            assert (ran, caller.sent[-1]["type"]) == (["startup", "shutdown"], "lifespan.shutdown.complete")

    run(scenario())
