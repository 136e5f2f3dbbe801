"""HTTP/2 to a small provider made of h2, over plain TCP with prior knowledge."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, RequestReceived, StreamEnded, StreamReset, WindowUpdated
from h2.settings import SettingCodes, Settings
from wire_kit import LOOPS, Recorder, ask, client, run, until, unused_port

HEAD = [(":status", "200"), ("content-type", "text/plain"), ("x-a", "1")]


class H2Provider(asyncio.Protocol):
    """Answers through `on_request(provider, stream_id)`, called when a request is whole."""

    made: ClassVar[list[Any]] = []

    def __init__(self, on_request: "Callable[[H2Provider, int], None]", streams: int) -> None:
        self.on_request = on_request
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.h2.local_settings = Settings(client=False, initial_values={SettingCodes.MAX_CONCURRENT_STREAMS: streams})
        self.bodies: dict[int, bytes] = {}
        self.heads: dict[int, dict[str, str]] = {}
        self.resets: list[int] = []
        self.to_send: dict[int, bytes] = {}
        self.lost = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        H2Provider.made.append(self)
        self.h2.initiate_connection()
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True

    def flush(self) -> None:
        self.transport.write(self.h2.data_to_send())

    def data_received(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            if isinstance(event, RequestReceived):
                self.heads[event.stream_id] = dict(event.headers)  # type: ignore[arg-type]
                self.bodies[event.stream_id] = b""
            elif isinstance(event, DataReceived):
                self.bodies[event.stream_id] += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, StreamEnded):
                self.on_request(self, event.stream_id)
            elif isinstance(event, StreamReset):
                self.resets.append(event.stream_id)
                self.to_send.pop(event.stream_id, None)
            elif isinstance(event, WindowUpdated):
                for stream_id in list(self.to_send):
                    self.pump(stream_id)
        self.flush()

    def send(self, stream_id: int, body: bytes) -> None:
        self.h2.send_headers(stream_id, HEAD)
        self.to_send[stream_id] = body
        self.pump(stream_id)

    def pump(self, stream_id: int) -> None:
        body = self.to_send[stream_id]
        while body and (room := min(self.h2.local_flow_control_window(stream_id), 16384)) > 0:
            self.h2.send_data(stream_id, body[:room])
            body = body[room:]
        self.to_send[stream_id] = body
        if not body:
            del self.to_send[stream_id]
            self.h2.end_stream(stream_id)


@asynccontextmanager
async def h2_provider(on_request: Callable[[H2Provider, int], None], streams: int = 100) -> AsyncIterator[str]:
    H2Provider.made = []
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: H2Provider(on_request, streams), "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def echo(provider: H2Provider, stream_id: int) -> None:
    provider.send(stream_id, provider.bodies[stream_id])


def ignore(provider: H2Provider, stream_id: int) -> None:
    pass


@pytest.mark.parametrize("loop", LOOPS)
def test_many_exchanges_share_one_connection(loop: str) -> None:
    async def scenario() -> None:
        async with h2_provider(echo) as origin, client() as it:
            sinks = [Recorder() for _ in range(20)]
            for number, sink in enumerate(sinks):
                it.send(ask(origin, b"%d" % number, http2=True), sink)
            for number, sink in enumerate(sinks):
                await sink.over.wait()
                assert (sink.status, sink.headers[b"x-a"], sink.body, sink.calls[-1]) == (200, b"1", b"%d" % number, "end")
            assert len(H2Provider.made) == 1
            head = H2Provider.made[0].heads[1]
            assert (head[":method"], head[":path"], head[":authority"], head["x-key"]) == ("POST", "/v1/x?a=1", origin[7:], "k")

    run(scenario(), loop)


def test_a_body_larger_than_the_windows_goes_both_ways() -> None:
    async def scenario() -> None:
        async with h2_provider(echo) as origin, client() as it:
            body = bytes(range(256)) * 4000
            sink = Recorder()
            it.send(ask(origin, body, http2=True), sink)
            await sink.over.wait()
            assert sink.body == body

    run(scenario())


def test_more_streams_than_the_provider_takes_open_further_connections_or_wait() -> None:
    async def scenario() -> None:
        async with h2_provider(echo, streams=2) as origin, client() as it:
            sinks = [Recorder() for _ in range(9)]
            for sink in sinks:
                it.send(ask(origin, http2=True, connections=2), sink)
            for sink in sinks:
                await sink.over.wait()
                assert sink.calls[-1] == "end"
            assert len(H2Provider.made) <= 2

    run(scenario())


def test_cancel_resets_the_stream_and_leaves_the_connection() -> None:
    async def scenario() -> None:
        async with h2_provider(ignore) as origin, client() as it:
            sink = Recorder()
            exchange = it.send(ask(origin, http2=True), sink)
            await until(lambda: H2Provider.made and H2Provider.made[0].bodies)
            exchange.cancel()
            await until(lambda: H2Provider.made[0].resets == [1])
            assert (sink.calls, H2Provider.made[0].lost) == ([], False)

    run(scenario())


def test_a_paused_stream_stops_at_its_window_while_others_go_on() -> None:
    def large(provider: H2Provider, stream_id: int) -> None:
        provider.send(stream_id, b"x" * 500_000)

    async def scenario() -> None:
        async with h2_provider(large) as origin, client() as it:
            slow, fast = Recorder(), Recorder()
            exchange = it.send(ask(origin, http2=True), slow)
            exchange.pause()
            it.send(ask(origin, http2=True), fast)
            await fast.over.wait()
            assert (len(fast.body), len(slow.body)) == (500_000, 65_535)
            exchange.resume()
            await slow.over.wait()
            assert len(slow.body) == 500_000

    run(scenario())


@pytest.mark.parametrize(("code", "was_sent"), [(ErrorCodes.REFUSED_STREAM, False), (ErrorCodes.INTERNAL_ERROR, True)])
def test_a_reset_stream_is_lost_and_a_refused_one_was_certainly_not_processed(code: ErrorCodes, was_sent: bool) -> None:
    async def scenario() -> None:
        async with h2_provider(lambda provider, stream_id: provider.h2.reset_stream(stream_id, code)) as origin, client() as it:
            sink = Recorder()
            it.send(ask(origin, http2=True), sink)
            await sink.over.wait()
            assert sink.loss is not None
            assert (sink.loss.kind, sink.loss.sent) == ("reset", was_sent)

    run(scenario())


def test_goaway_loses_what_the_provider_will_not_do_and_the_next_request_dials_anew() -> None:
    def go_away(provider: H2Provider, stream_id: int) -> None:
        if len(H2Provider.made) == 1:
            provider.h2.close_connection(last_stream_id=0)
        else:
            echo(provider, stream_id)

    async def scenario() -> None:
        async with h2_provider(go_away) as origin, client() as it:
            first, second = Recorder(), Recorder()
            it.send(ask(origin, http2=True), first)
            await first.over.wait()
            assert first.loss is not None and not first.loss.sent
            it.send(ask(origin, b"2", http2=True), second)
            await second.over.wait()
            assert (second.body, len(H2Provider.made)) == (b"2", 2)

    run(scenario())


def test_a_lost_connection_loses_all_its_streams() -> None:
    async def scenario() -> None:
        async with h2_provider(ignore) as origin, client() as it:
            sinks = [Recorder(), Recorder()]
            for sink in sinks:
                it.send(ask(origin, http2=True), sink)
            await until(lambda: H2Provider.made and len(H2Provider.made[0].bodies) == 2)
            H2Provider.made[0].transport.abort()
            for sink in sinks:
                await sink.over.wait()
                assert sink.calls == ["lost"]

    run(scenario())


def test_a_provider_that_refuses_the_connection_loses_all_who_wait() -> None:
    async def scenario() -> None:
        async with client() as it:
            sink = Recorder()
            it.send(ask(f"http://127.0.0.1:{unused_port()}", http2=True), sink)
            await sink.over.wait()
            assert sink.loss is not None
            assert (sink.loss.kind, sink.loss.sent) == ("refused", False)

    run(scenario())


def test_h2_is_imported_only_when_asked_for() -> None:
    import subprocess
    import sys

    code = "import sys; import waypost.wire.client, waypost.wire.server; sys.exit('h2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
