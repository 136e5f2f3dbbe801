"""The server side of the wire: what a caller sees, on both loops."""

import asyncio
import os
import socket
import struct
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire_kit import LOOPS, peer, request, run, serving, until

from waypost.wire.answer import Request


def echo(request: Any, responder: Any) -> None:
    responder.answer(200, [(b"x-method", request.method.encode())], request.path.encode() + b"|" + request.body)


class Kept:
    """A handler that keeps what it is given, to be answered by the test."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.responders: list[Any] = []
        self.left = 0
        self.paused = 0
        self.resumed = 0

    def __call__(self, request: Any, responder: Any) -> None:
        self.requests.append(request)
        self.responders.append(responder)
        responder.on_close = self.on_close
        responder.on_pause = self.on_pause
        responder.on_resume = self.on_resume

    def on_close(self) -> None:
        self.left += 1

    def on_pause(self) -> None:
        self.paused += 1

    def on_resume(self) -> None:
        self.resumed += 1


@pytest.mark.parametrize("loop", LOOPS)
def test_a_connection_serves_request_after_request(loop: str) -> None:
    async def scenario() -> None:
        async with serving(echo) as server, peer(server) as caller:
            for body in (b"one", b"two"):
                caller.send(request("/a", body))
                assert (await caller.answer())[2] == b"/a|" + body
            assert server.connections == 1

    run(scenario(), loop)


def test_a_request_shows_its_parts() -> None:
    it = Request("POST", "/a%20b?x=1&y", [(b"x-a", b"1"), (b"x-b", b"2"), (b"x-a", b"3")], b"", "127.0.0.1", "http")
    assert (it.path, it.query, it.header(b"x-a"), it.header(b"x-c")) == ("/a%20b", "x=1&y", b"3", None)


@pytest.mark.parametrize("loop", LOOPS)
def test_pipelined_requests_are_answered_in_order_one_at_a_time(loop: str) -> None:
    async def scenario() -> None:
        kept = Kept()
        async with serving(kept) as server, peer(server) as caller:
            caller.send(request("/1") + request("/2", b"x" * 100) + request("/3"))
            for number in (1, 2, 3):
                await until(lambda number=number: len(kept.requests) == number)
                await asyncio.sleep(0.01)
                assert len(kept.requests) == number
                kept.responders[-1].answer(200, [], kept.requests[-1].path.encode())
                assert (await caller.answer())[2] == b"/%d" % number

    run(scenario(), loop)


def test_a_flood_of_pipelined_requests_is_answered_to_the_bound_and_then_refused() -> None:
    async def scenario() -> None:
        kept = Kept()
        async with serving(kept) as server, peer(server) as caller:
            caller.send(request("/", method=b"GET") * 1000)
            await until(lambda: kept.requests)
            await asyncio.sleep(0.02)
            for number in range(65):
                kept.responders[number].answer(200, [], b"")
            answers = await caller.rest()
            assert answers.count(b" 200 OK") == 65
            assert answers.count(b" 429 ") == 1

    run(scenario())


def test_pipelined_bodies_larger_than_what_is_held_are_all_served() -> None:
    async def scenario() -> None:
        kept = Kept()
        async with serving(kept, held_bytes=1000) as server, peer(server) as caller:
            caller.send(request("/", b"x" * 300_000) * 3)
            for number in range(3):
                await until(lambda number=number: len(kept.requests) == number + 1)
                await asyncio.sleep(0.03)
                assert len(kept.requests[-1].body) == 300_000
                kept.responders[-1].answer(200, [], b"%d" % number)
                assert (await caller.answer())[2] == b"%d" % number

    run(scenario())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_chunked_request_means_the_same_however_it_is_split(data: st.DataObject) -> None:
    chunks = data.draw(st.lists(st.binary(min_size=1, max_size=20), max_size=4))
    coded = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    wire = b"POST /c HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" + coded + request("/next", b"tail")
    cuts = sorted(data.draw(st.sets(st.integers(1, len(wire) - 1), max_size=6)))

    async def scenario() -> None:
        async with serving(echo) as server, peer(server) as caller:
            for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
                caller.send(wire[start:end])
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            assert (await caller.answer())[2] == b"/c|" + b"".join(chunks)
            assert (await caller.answer())[2] == b"/next|tail"

    run(scenario(), "asyncio")


def test_a_streamed_answer_is_chunked_and_keeps_the_connection() -> None:
    def stream(request: Any, responder: Any) -> None:
        responder.start(200, [(b"content-type", b"text/event-stream")])
        responder.write(b"one")
        responder.write(b"")
        responder.write(b"two")
        responder.finish(b"three")
        responder.write(b"too late")
        responder.finish()

    async def scenario() -> None:
        async with serving(stream) as server, peer(server) as caller:
            for _ in range(2):
                caller.send(request())
                status, headers, body = await caller.answer()
                assert (status, headers[b"content-type"], body) == (200, b"text/event-stream", b"onetwothree")

    run(scenario())


@pytest.mark.parametrize("loop", LOOPS)
def test_the_head_of_a_stream_travels_with_the_first_chunk_and_never_waits_for_it(loop: str) -> None:
    async def scenario() -> None:
        kept = Kept()
        async with serving(kept) as server, peer(server) as caller:
            caller.send(request())
            await until(lambda: kept.responders)
            kept.responders[0].start(200, [])
            assert await caller.until(b"\r\n\r\n")
            kept.responders[0].finish(b"x")
            assert await caller.until(b"1\r\nx\r\n0\r\n\r\n")
            caller.send(request())
            await until(lambda: len(kept.responders) == 2)
            kept.responders[1].start(200, [])
            kept.responders[1].write(b"first")
            assert (await caller.reader.read(65536)).endswith(b"\r\n\r\n5\r\nfirst\r\n")

    run(scenario(), loop)


def test_head_gets_the_headers_of_the_answer_without_its_body() -> None:
    async def scenario() -> None:
        async with serving(echo) as server, peer(server) as caller:
            caller.send(request("/a", method=b"HEAD") + request("/b", method=b"GET"))
            head = await caller.until(b"\r\n\r\n")
            assert b"content-length: 3\r\n" in head
            assert (await caller.answer())[2] == b"/b|"

    run(scenario())


def test_http_1_0_gets_an_unchunked_answer_and_a_closed_connection() -> None:
    def stream(request: Any, responder: Any) -> None:
        responder.start(200, [])
        responder.write(b"one")
        responder.finish(b"two")

    async def scenario() -> None:
        async with serving(stream) as server, peer(server) as caller:
            caller.send(b"GET / HTTP/1.0\r\n\r\n")
            head, _, body = (await caller.rest()).partition(b"\r\n\r\n")
            assert (b"chunked" in head, b"connection: close" in head, body) == (False, True, b"onetwo")

    run(scenario())


def test_an_aborted_stream_is_never_taken_for_a_whole_one_even_by_http_1_0() -> None:
    async def scenario() -> None:
        kept = Kept()
        async with serving(kept) as server, peer(server) as caller:
            caller.send(b"GET / HTTP/1.0\r\n\r\n")
            await until(lambda: kept.responders)
            kept.responders[0].start(200, [])
            kept.responders[0].write(b"half")
            await caller.until(b"half")
            kept.responders[0].abort()
            with pytest.raises(ConnectionResetError):
                await caller.reader.read()
            assert kept.left == 0

    run(scenario())


def test_expect_100_continue_is_answered_before_the_body() -> None:
    async def scenario() -> None:
        async with serving(echo) as server, peer(server) as caller:
            head, body = request("/", b"abc", b"expect: 100-continue").split(b"\r\n\r\n")
            caller.send(head + b"\r\n\r\n")
            assert await caller.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            caller.send(body)
            assert (await caller.answer())[2] == b"/|abc"

    run(scenario())


def test_expect_behind_a_request_in_hand_waits_for_its_answer() -> None:
    async def scenario() -> None:
        kept = Kept()
        async with serving(kept) as server, peer(server) as caller:
            head, body = request("/", b"abc", b"expect: 100-continue").split(b"\r\n\r\n")
            caller.send(request("/first") + head + b"\r\n\r\n")
            await until(lambda: kept.responders)
            kept.responders[0].answer(200, [], b"1st")
            assert (await caller.answer())[2] == b"1st"
            assert await caller.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            caller.send(body)
            await until(lambda: len(kept.requests) == 2)
            assert kept.requests[1].body == b"abc"

    run(scenario())


def test_a_body_that_came_unbidden_gets_no_late_100_continue() -> None:
    async def scenario() -> None:
        kept = Kept()
        async with serving(kept) as server, peer(server) as caller:
            caller.send(request("/first") + request("/second", b"abc", b"expect: 100-continue"))
            for number in range(2):
                await until(lambda number=number: len(kept.requests) == number + 1)
                kept.responders[number].answer(200, [], b"")
            caller.writer.write_eof()
            assert b"100 Continue" not in await caller.rest()

    run(scenario())


def test_a_too_large_body_is_refused_before_it_is_read_and_the_caller_can_read_why() -> None:
    async def scenario() -> None:
        kept = Kept()
        async with serving(kept, max_body_bytes=1000) as server, peer(server) as caller:
            caller.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5000000\r\n\r\n" + b"x" * 2_000_000)
            status, headers, body = await caller.answer()
            assert (status, headers[b"connection"], b"1000 bytes" in body) == (413, b"close", True)
            assert not kept.requests

    run(scenario())


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" + b"64\r\n" + b"x" * 100 + b"\r\n0\r\n\r\n", 413),
        (b"GET /" + b"a" * 200 + b" HTTP/1.1\r\nhost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nhost: a\r\n" + b"x: y\r\n" * 20 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 400 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 200_000, 431),
        (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: " + b"y" * 300_000, 400),
        (b"GET / HTTP/1.1\r\nhost:", 408),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nab", 408),
    ],
)
def test_each_limit_has_its_status(sent: bytes, status: int) -> None:
    async def scenario() -> None:
        limits = {"max_body_bytes": 50, "max_target_bytes": 100, "max_headers": 10, "max_header_bytes": 300, "header_s": 0.1, "body_s": 0.1}
        async with serving(echo, **limits) as server, peer(server) as caller:
            caller.send(sent)
            assert (await caller.answer())[0] == status
            assert await caller.rest() == b""

    run(scenario())


def test_an_idle_connection_is_closed_without_a_word() -> None:
    async def scenario() -> None:
        async with serving(echo, idle_s=0.1) as server, peer(server) as caller:
            caller.send(request())
            await caller.answer()
            assert await caller.rest() == b""

    run(scenario())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("way", ["reset", "close", "half-close"])
@pytest.mark.parametrize("phase", ["before the answer", "in the stream", "with the next request half sent"])
def test_a_caller_who_leaves_is_noticed_at_once(loop: str, way: str, phase: str) -> None:
    async def scenario() -> None:
        kept = Kept()
        async with serving(kept) as server, peer(server) as caller:
            caller.send(request())
            await until(lambda: kept.responders)
            responder = kept.responders[0]
            if phase == "in the stream":
                responder.start(200, [])
                responder.write(b"x")
                await caller.until(b"x\r\n")
            elif phase != "before the answer":
                caller.send(request("/next", b"y" * 100)[:-50])
                await asyncio.sleep(0.02)
            if way == "reset":
                sock = caller.writer.get_extra_info("socket")
                socket.socket(fileno=os.dup(sock.fileno())).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                caller.leave()
            elif way == "close":
                caller.writer.close()
            else:
                caller.writer.write_eof()
            await until(lambda: kept.left)
            responder.write(b"dropped")
            responder.finish()
            assert (responder.closed, kept.left, server.requests) == (True, 1, 0)

    run(scenario(), loop)


def test_leaving_is_noticed_though_reading_has_stopped_at_the_bound_of_pipelined_bytes() -> None:
    async def scenario() -> None:
        kept = Kept()
        async with serving(kept, held_bytes=1000) as server, peer(server) as caller:
            caller.send(request() + request("/", b"x" * 20_000))
            await until(lambda: kept.responders)
            await asyncio.sleep(0.05)
            caller.leave()
            await until(lambda: kept.left == 1)

    run(scenario())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_slow_reader_pauses_the_source_and_costs_little(loop: str) -> None:
    async def scenario() -> None:
        kept = Kept()
        async with serving(kept, send_buffer_bytes=32768) as server:
            reader, writer = await asyncio.open_connection(*server.address, limit=1024)
            writer.write(request())
            await until(lambda: kept.responders)
            responder = kept.responders[0]
            responder.start(200, [])
            sent = 0
            for _ in range(2000):
                if kept.paused:
                    break
                responder.write(b"x" * 1000)
                sent += 1000
                await asyncio.sleep(0)
            assert kept.paused == 1
            read = 0
            while not kept.resumed:
                read += len(await reader.read(65536))
            responder.finish()
            while not (await reader.read(65536)).endswith(b"0\r\n\r\n"):
                pass
            writer.close()

    run(scenario(), loop)


def resident_kib() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads /proc")
def test_a_hundred_callers_that_never_read_cost_less_than_256_kib_each() -> None:
    async def scenario() -> None:
        kept: list[Any] = []

        def handler(request: Any, responder: Any) -> None:
            kept.append(responder)

        async with serving(handler, send_buffer_bytes=65536) as server:
            socks: list[socket.socket] = []
            for _ in range(100):
                sock = socket.create_connection(server.address)
                sock.sendall(request())
                socks.append(sock)
            await until(lambda: len(kept) == 100)
            before = resident_kib()
            for responder in kept:
                paused: list[bool] = []
                responder.on_pause = lambda paused=paused: paused.append(True)
                responder.start(200, [])
                for _ in range(500):
                    if paused:
                        break
                    responder.write(b"x" * 4096)
                    await asyncio.sleep(0)
                assert paused
            grown_kib = resident_kib() - before
            assert grown_kib / 100 < 256
            for sock in socks:
                sock.close()

    run(scenario())


def test_a_caller_that_takes_nothing_for_too_long_is_cut() -> None:
    async def scenario() -> None:
        kept = Kept()
        async with serving(kept, write_stall_s=0.1, send_buffer_bytes=16384) as server:
            sock = socket.create_connection(server.address)
            sock.sendall(request())
            await until(lambda: kept.responders)
            kept.responders[0].start(200, [])
            kept.responders[0].write(b"x" * 8_000_000)
            await until(lambda: kept.left)
            await until(lambda: server.connections == 0)
            sock.close()

    run(scenario())


def test_draining_finishes_what_is_under_way_and_takes_nothing_new() -> None:
    async def scenario() -> None:
        kept = Kept()
        async with serving(kept) as server, peer(server) as busy, peer(server) as idle:
            busy.send(request())
            await until(lambda: kept.responders)
            assert (server.requests, server.connections) == (1, 2)
            drain = asyncio.create_task(server.drain(5))
            assert await idle.rest() == b""
            with pytest.raises(OSError):
                await asyncio.open_connection(*server.address)
            kept.responders[0].answer(200, [], b"done")
            _, headers, body = await busy.answer()
            assert (headers[b"connection"], body, await drain) == (b"close", b"done", True)

    run(scenario())


def test_draining_gives_up_at_its_deadline() -> None:
    async def scenario() -> None:
        kept = Kept()
        async with serving(kept) as server, peer(server) as busy:
            busy.send(request())
            await until(lambda: kept.responders)
            assert await server.drain(0.1) is False

    run(scenario())


def test_a_handler_that_breaks_gives_500_and_the_connection_ends() -> None:
    def broken(request: Any, responder: Any) -> None:
        raise KeyError("secret")

    async def scenario() -> None:
        seen: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context["exception"]))
        async with serving(broken) as server, peer(server) as caller:
            caller.send(request())
            status, _, body = await caller.answer()
            assert (status, b"secret" in body, type(seen[0])) == (500, False, KeyError)
            assert await caller.rest() == b""

    run(scenario())


def test_a_line_break_in_an_answer_header_cannot_begin_another() -> None:
    def split(request: Any, responder: Any) -> None:
        responder.answer(200, [(b"x-a", b"1\r\nset-cookie: stolen")], b"")

    async def scenario() -> None:
        async with serving(split) as server, peer(server) as caller:
            caller.send(request())
            headers = (await caller.answer())[1]
            assert headers[b"x-a"] == b"1set-cookie: stolen"

    run(scenario())
