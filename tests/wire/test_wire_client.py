"""The client side of the wire against scripted providers on real sockets."""

import asyncio
import os
import socket
import ssl
import struct
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire_kit import LOOPS, Recorder, always, ask, client, once, provider, read_request, run, until, unused_port

from waypost.wire.dial import Origin
from waypost.wire.tls import client_context, server_context

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


async def sent(it: Any, request: Any) -> Recorder:
    sink = Recorder()
    it.send(request, sink)
    await sink.over.wait()
    return sink


@pytest.mark.parametrize("loop", LOOPS)
def test_an_exchange_tells_head_data_end_and_its_connection_is_reused(loop: str) -> None:
    async def scenario() -> None:
        async with provider(always(OK)) as upstream, client() as it:
            for _ in range(3):
                sink = await sent(it, ask(upstream.origin))
                assert (sink.status, sink.body, sink.calls) == (200, b"ok", ["head", "data", "end"])
            assert (upstream.connections, it.counts(upstream.origin)) == (1, (1, 1, 0))

    run(scenario(), loop)


def test_the_request_is_written_as_asked_with_host_and_length() -> None:
    seen: list[tuple[bytes, bytes]] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            seen.append(await read_request(reader))
            writer.write(OK)

    async def scenario() -> None:
        async with provider(script) as upstream, client() as it:
            host = upstream.origin.removeprefix("http://").encode()
            await sent(it, ask(upstream.origin, b"{}"))
            await sent(it, ask(upstream.origin, b"", method="GET"))
            await sent(it, ask(upstream.origin, b"x" * 1_000_000))
            start = b" /v1/x?a=1 HTTP/1.1\r\nhost: " + host + b"\r\nx-key: k\r\n"
            assert seen[0] == (b"POST" + start + b"content-length: 2\r\n\r\n", b"{}")
            assert seen[1] == (b"GET" + start + b"\r\n", b"")
            assert len(seen[2][1]) == 1_000_000

    run(scenario())


def test_a_path_that_would_leave_its_line_is_refused() -> None:
    async def scenario() -> None:
        async with client() as it:
            for path in ("/a b", "/a\r\nx: y", "a", "/é"):
                request = ask("http://127.0.0.1:1")
                with pytest.raises(ValueError, match="request line"):
                    it.send(type(request)(origin=request.origin, path=path, headers=(), body=b""), Recorder())

    run(scenario())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_an_answer_means_the_same_however_it_is_split(data: st.DataObject) -> None:
    chunks = data.draw(st.lists(st.binary(min_size=1, max_size=20), max_size=4))
    wire = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX-A: 1\r\ntransfer-encoding: chunked\r\n\r\n"
    wire += b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    cuts = sorted(data.draw(st.sets(st.integers(1, len(wire) - 1), max_size=6)))

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
            writer.write(wire[start:end])
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await reader.read()

    async def scenario() -> None:
        async with provider(script) as upstream, client() as it:
            sink = await sent(it, ask(upstream.origin))
            assert (sink.status, sink.headers[b"x-a"], sink.body) == (200, b"1", b"".join(chunks))
            assert (sink.calls[0], sink.calls[-1], sink.calls.count("head")) == ("head", "end", 1)
            assert it.counts(upstream.origin)[1] == 1

    run(scenario(), "asyncio")


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("answer", "kind", "body"),
    [
        (b"", "eof", b""),
        (b"HTTP/1.1 200 OK\r\ncontent-le", "eof", b""),
        (CHUNKED + b"5\r\nhello\r\n", "eof", b"hello"),
        (CHUNKED + b"5\r\nhello\r\n0\r\n", "eof", b"hello"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello", "eof", b"hello"),
        (CHUNKED + b"5\r\nhelloX", "protocol", b"hello"),
        (CHUNKED + b"zz\r\n", "protocol", b""),
        (b"SSH-2.0-x\r\n", "protocol", b""),
        (b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", "protocol", b""),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", "protocol", b""),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000, "too_large", b""),
    ],
)
def test_a_broken_answer_is_lost_and_never_ends(loop: str, answer: bytes, kind: str, body: bytes) -> None:
    async def scenario() -> None:
        async with provider(once(answer)) as upstream, client() as it:
            sink = await sent(it, ask(upstream.origin))
            assert sink.loss is not None
            assert (sink.loss.kind, sink.loss.sent, sink.body, "end" in sink.calls) == (kind, True, body, False)
            assert it.counts(upstream.origin) == (0, 0, 0)

    run(scenario(), loop)


def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    async def scenario() -> None:
        async with provider(once(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nall of it")) as upstream, client() as it:
            sink = await sent(it, ask(upstream.origin))
            assert (sink.body, sink.calls[-1]) == (b"all of it", "end")

    run(scenario())


def test_a_reset_is_told_as_a_reset() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(CHUNKED + b"5\r\nhello\r\n")
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async def scenario() -> None:
        async with provider(script) as upstream, client() as it:
            sink = await sent(it, ask(upstream.origin))
            assert sink.loss is not None
            assert (sink.loss.kind, sink.body) == ("reset", b"hello")

    run(scenario(), "asyncio")


@pytest.mark.parametrize("surplus", [b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nstolen", b"garbage"])
@pytest.mark.parametrize("pause_s", [0.0, 0.05])
def test_bytes_nobody_asked_for_close_the_connection_and_reach_no_other_request(surplus: bytes, pause_s: float) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK + (b"" if pause_s else surplus))
        if pause_s:
            await asyncio.sleep(pause_s)
            writer.write(surplus)
        await reader.read()

    async def scenario() -> None:
        async with provider(script) as upstream, client() as it:
            assert (await sent(it, ask(upstream.origin))).body == b"ok"
            await asyncio.sleep(2 * pause_s)
            assert (await sent(it, ask(upstream.origin))).body == b"ok"
            assert upstream.connections == 2

    run(scenario())


def test_a_request_sent_from_the_end_of_another_is_not_given_its_surplus() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            writer.write(OK + b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nstolen")

    async def scenario() -> None:
        async with provider(script) as upstream, client() as it:
            second = Recorder()

            class Chain(Recorder):
                def end(self) -> None:
                    it.send(ask(upstream.origin), second)

            it.send(ask(upstream.origin), Chain())
            await second.over.wait()
            assert (second.body, upstream.connections) == (b"ok", 2)

    run(scenario())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_pooled_connection_the_provider_closed_is_not_used(loop: str) -> None:
    async def scenario() -> None:
        async with provider(once(OK)) as upstream, client() as it:
            for _ in range(3):
                assert (await sent(it, ask(upstream.origin))).body == b"ok"
                await until(lambda: it.counts(upstream.origin) == (0, 0, 0))
            assert upstream.connections == 3

    run(scenario(), loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_close_not_yet_told_by_the_loop_is_found_before_the_request_is_written(loop: str) -> None:
    """The loop is blocked while the provider's FIN arrives, as a busy loop would be; the provider runs in a thread."""
    import threading

    listener = socket.create_server(("127.0.0.1", 0))
    asked = threading.Event()
    served: list[bytes] = []

    def upstream() -> None:
        for _ in range(2):
            sock, _ = listener.accept()
            served.append(sock.recv(65536))
            sock.sendall(OK)
            if len(served) == 1:
                asked.wait()
            sock.close()

    async def scenario() -> None:
        thread = threading.Thread(target=upstream, daemon=True)
        thread.start()
        async with client() as it:
            origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
            await sent(it, ask(origin))
            await asyncio.sleep(0.06)  # idle for some ticks
            asked.set()
            time.sleep(0.05)  # noqa: ASYNC251 (the FIN is in the kernel, the loop has not seen it)
            assert (await sent(it, ask(origin))).body == b"ok"
        thread.join(1)
        listener.close()
        assert len(served) == 2

    run(scenario(), loop)


def test_a_reused_connection_lost_after_the_request_left_is_told_as_sent_and_not_repeated() -> None:
    seen: list[bytes] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append((await read_request(reader))[1])
        writer.write(OK)
        seen.append((await read_request(reader))[1])

    async def scenario() -> None:
        async with provider(script) as upstream, client() as it:
            await sent(it, ask(upstream.origin, b"1"))
            sink = await sent(it, ask(upstream.origin, b"2"))
            assert sink.loss is not None
            assert (sink.loss.kind, sink.loss.sent, seen) == ("eof", True, [b"1", b"2"])

    run(scenario())


class DyingTransport(asyncio.Transport):
    """Takes a request into its own buffer and hands `handed` bytes of it to the kernel."""

    def __init__(self, handed: int) -> None:
        super().__init__()
        self.handed = handed
        self.taken = 0

    def write(self, data: Any) -> None:
        self.taken += len(data)

    def get_write_buffer_size(self) -> int:
        return self.taken - self.handed

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        pass


@pytest.mark.parametrize(("handed", "is_repeated"), [(0, True), (1, False)])
def test_a_request_lost_on_a_reused_connection_is_repeated_only_if_no_byte_left_us(handed: int, is_repeated: bool) -> None:
    from waypost.wire.exchange import UpstreamConnection

    async def scenario() -> None:
        async with provider(always(OK)) as upstream, client() as it:
            await sent(it, ask(upstream.origin))
            pool = it._pools[upstream.origin]  # type: ignore[reportPrivateUsage]
            dying = UpstreamConnection(pool)
            dying.connection_made(DyingTransport(handed))
            dying.is_reused = True
            pool.live.add(dying)
            pool.idle.append(dying)
            sink = Recorder()
            it.send(ask(upstream.origin), sink)
            pool.idle.clear()
            dying.connection_lost(ConnectionResetError("peer"))
            await sink.over.wait()
            if is_repeated:
                assert (sink.calls, sink.body) == (["head", "data", "end"], b"ok")
            else:
                assert sink.loss is not None
                assert (sink.loss.kind, sink.loss.sent) == ("reset", True)

    run(scenario())


@pytest.mark.parametrize("loop", LOOPS)
def test_refused_and_unresolvable_origins_are_lost_unsent(loop: str) -> None:
    async def scenario() -> None:
        async with client() as it:
            for origin, kinds in ((f"http://127.0.0.1:{unused_port()}", {"refused"}), ("http://no.such.host.invalid", {"dns"})):
                sink = await sent(it, ask(origin, connect_s=5.0))
                assert sink.loss is not None
                assert (sink.loss.kind in kinds, sink.loss.sent) == (True, False)

    run(scenario(), loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_provider_that_accepts_and_resets_is_dialled_once_per_request(loop: str) -> None:
    dials = 0

    def resets(listener: socket.socket) -> None:
        nonlocal dials
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            dials += 1
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()

    async def busy() -> None:  # a loop so slow that it hears of the connection and of its reset in one turn
        while True:
            time.sleep(0.002)  # noqa: ASYNC251
            await asyncio.sleep(0)

    async def scenario(origin: str) -> None:
        load = asyncio.ensure_future(busy())
        async with client() as it:
            for _ in range(50):
                assert (await sent(it, ask(origin))).calls == ["lost"]
        load.cancel()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=resets, args=(listener,))
        thread.start()
        try:
            run(scenario(f"http://127.0.0.1:{listener.getsockname()[1]}"), loop)
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
    assert dials == 50


def test_a_connection_that_does_not_come_is_given_up_in_time() -> None:
    async def scenario() -> None:
        with socket.socket() as deaf:
            deaf.bind(("127.0.0.1", 0))
            deaf.listen(0)
            fill = [socket.socket() for _ in range(4)]
            for sock in fill:
                sock.setblocking(False)
                sock.connect_ex(deaf.getsockname())
            async with client() as it:
                sink = await sent(it, ask(f"http://127.0.0.1:{deaf.getsockname()[1]}", connect_s=0.2))
                assert sink.loss is not None
                assert (sink.loss.kind, sink.loss.sent) == ("connect_timeout", False)
            for sock in fill:
                sock.close()

    run(scenario())


def test_the_next_address_is_tried_when_one_refuses() -> None:
    async def scenario() -> None:
        async with provider(always(OK)) as upstream:
            port = int(upstream.origin.rpartition(":")[2])
            origin = Origin(f"http://both.test:{port}")
            origin._addresses = [  # type: ignore[reportPrivateUsage]
                (socket.AF_INET, ("127.0.0.1", unused_port())),
                (socket.AF_INET, ("127.0.0.1", port)),
            ]
            origin._resolved_s = asyncio.get_running_loop().time()  # type: ignore[reportPrivateUsage]
            from waypost.wire.dial import dial

            protocol = await dial(origin, asyncio.Protocol, timeout_s=2.0, context=None, receive_buffer_bytes=0)
            assert protocol is not None
            await until(lambda: upstream.connections == 1)

    run(scenario())


@pytest.mark.parametrize("loop", LOOPS)
def test_cancel_closes_the_socket_and_silences_the_sink(loop: str) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(CHUNKED)
        while await reader.read(1) != b"":
            pass

    async def scenario() -> None:
        async with provider(script) as upstream, client() as it:
            sink = Recorder()
            exchange = it.send(ask(upstream.origin), sink)
            await until(lambda: sink.status)
            exchange.cancel()
            exchange.cancel()
            await until(lambda: upstream.left)
            assert (sink.calls, it.counts(upstream.origin)) == (["head"], (0, 0, 0))

    run(scenario(), loop)


def test_cancel_from_any_callback_or_before_the_connection_is_the_last_that_happens() -> None:
    class Quitter(Recorder):
        def __init__(self, at: str) -> None:
            super().__init__()
            self.at = at
            self.exchange: Any = None

        def head(self, status: int, headers: Any) -> None:
            super().head(status, headers)
            if self.at == "head":
                self.exchange.cancel()

        def data(self, chunk: bytes) -> None:
            super().data(chunk)
            if self.at == "data":
                self.exchange.cancel()

    async def scenario() -> None:
        async with provider(always(OK)) as upstream, client() as it:
            for at, calls in (("head", ["head"]), ("data", ["head", "data"]), ("start", [])):
                sink = Quitter(at)
                sink.exchange = it.send(ask(upstream.origin), sink)
                if at == "start":
                    sink.exchange.cancel()
                await asyncio.sleep(0.05)
                assert sink.calls == calls

    run(scenario())


def test_a_late_cancel_does_not_touch_the_next_exchange_of_the_connection() -> None:
    async def scenario() -> None:
        async with provider(always(OK)) as upstream, client() as it:
            first = Recorder()
            exchange = it.send(ask(upstream.origin), first)
            await first.over.wait()
            second = Recorder()
            it.send(ask(upstream.origin), second)
            exchange.cancel()
            exchange.pause()
            await second.over.wait()
            assert (second.body, upstream.connections) == (b"ok", 1)

    run(scenario())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_paused_exchange_stops_the_provider(loop: str) -> None:
    written = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await read_request(reader)
        with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as own:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4000000\r\n\r\n")
        for _ in range(40):
            writer.write(b"x" * 100_000)
            await writer.drain()
            written += 100_000

    async def scenario() -> None:
        async with provider(script) as upstream, client(receive_buffer_bytes=65536) as it:
            sink = Recorder()
            exchange = it.send(ask(upstream.origin), sink)
            await until(lambda: sink.body)
            exchange.pause()
            exchange.pause()
            await asyncio.sleep(0.1)
            held = len(sink.body)
            await asyncio.sleep(0.1)
            assert len(sink.body) == held
            assert written < 4_000_000
            exchange.resume()
            await sink.over.wait()
            assert (len(sink.body), sink.calls[-1]) == (4_000_000, "end")

    run(scenario(), loop)


def test_at_the_bound_requests_wait_in_order_and_are_lost_as_busy_when_time_is_up() -> None:
    gate = asyncio.Event()
    order: list[bytes] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            order.append((await read_request(reader))[1])
            await gate.wait()
            writer.write(OK)

    async def scenario() -> None:
        async with provider(script) as upstream, client() as it:
            first, second, third, late = (Recorder() for _ in range(4))
            it.send(ask(upstream.origin, b"1", connections=1), first)
            await until(lambda: order)
            it.send(ask(upstream.origin, b"2", connections=1), second)
            it.send(ask(upstream.origin, b"3", connections=1), third)
            it.send(ask(upstream.origin, b"4", connections=1, connect_s=0.05), late)
            await late.over.wait()
            assert late.loss is not None
            assert (late.loss.kind, late.loss.sent) == ("busy", False)
            gate.set()
            await third.over.wait()
            assert (order, upstream.connections, second.body) == ([b"1", b"2", b"3"], 1, b"ok")

    run(scenario())


def test_the_queue_at_the_bound_is_itself_bounded() -> None:
    async def scenario() -> None:
        async with provider(always(b"")) as upstream, client(max_waiting=1) as it:
            it.send(ask(upstream.origin, connections=1), Recorder())
            await until(lambda: it.counts(upstream.origin)[0] == 1)
            it.send(ask(upstream.origin, connections=1), Recorder())
            sink = await sent(it, ask(upstream.origin, connections=1))
            assert sink.loss is not None and sink.loss.kind == "busy"

    run(scenario())


@pytest.mark.parametrize("loop", LOOPS)
def test_warm_connections_are_there_before_the_first_request_and_come_back(loop: str) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await always(OK)(reader, writer)

    writers: list[asyncio.StreamWriter] = []

    async def scenario() -> None:
        async with provider(script) as upstream, client() as it:
            it.warm(upstream.origin, connections=2)
            await until(lambda: it.counts(upstream.origin) == (2, 2, 0))
            assert (await sent(it, ask(upstream.origin))).body == b"ok"
            assert upstream.connections == 2
            for writer in writers[:]:
                writer.close()
            await until(lambda: upstream.connections == 4)
            await until(lambda: it.counts(upstream.origin) == (2, 2, 0))

    run(scenario(), loop)


def test_idle_connections_are_closed_in_time() -> None:
    async def scenario() -> None:
        async with provider(always(OK)) as upstream, client(idle_s=0.06) as it:
            await sent(it, ask(upstream.origin))
            await until(lambda: it.counts(upstream.origin) == (0, 0, 0))
            await until(lambda: upstream.left == 1)

    run(scenario())


def test_closing_the_client_loses_what_is_under_way_once() -> None:
    async def scenario() -> None:
        async with provider(always(b"")) as upstream, client() as it:
            sink = Recorder()
            it.send(ask(upstream.origin), sink)
            await until(lambda: it.counts(upstream.origin)[0] == 1)
            await it.close()
            await asyncio.sleep(0.02)
            assert sink.calls == ["lost"]

    run(scenario())


@pytest.mark.parametrize("text", ["ftp://a", "http://", "a:80", "http://u:p@a", "http://a/path", "http://a?x"])
def test_what_is_no_origin_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="not an origin"):
        Origin(text)


@pytest.mark.parametrize(("text", "header"), [("http://a", b"a"), ("https://a:8443", b"a:8443"), ("http://[::1]:80", b"[::1]:80")])
def test_the_host_header_names_the_origin(text: str, header: bytes) -> None:
    assert Origin(text).host_header == header


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return cert_file, key_file


@pytest.mark.parametrize("loop", LOOPS)
def test_our_client_and_our_server_speak_tls_and_resume_the_session(certificate: tuple[Path, Path], loop: str) -> None:
    from waypost.wire.server import Server

    def handler(request: Any, responder: Any) -> None:
        responder.answer(200, [], request.scheme.encode() + b" " + request.body)

    async def scenario() -> None:
        server = Server(handler, ssl=server_context(*certificate))
        await server.start()
        origin = f"https://localhost:{server.address[1]}"
        async with client(ssl_context=client_context("http/1.1", ca_file=certificate[0])) as it:
            assert (await sent(it, ask(origin, b"body"))).body == b"https body"
            pool = it._pools[origin]  # type: ignore[reportPrivateUsage]
            pool.idle[0].drop()
            assert (await sent(it, ask(origin, b"x" * 300_000))).body == b"https " + b"x" * 300_000
            assert pool.idle[0].transport.get_extra_info("ssl_object").session_reused
        await server.close()

    run(scenario(), loop)


def test_a_certificate_nobody_vouches_for_is_refused(certificate: tuple[Path, Path]) -> None:
    async def scenario() -> None:
        async with provider(always(OK), ssl=server_context(*certificate)) as upstream, client() as it:
            sink = await sent(it, ask(upstream.origin))
            assert sink.loss is not None
            assert (sink.loss.kind, sink.loss.sent) == ("tls", False)

    run(scenario())


def test_a_certificate_of_another_host_is_refused(certificate: tuple[Path, Path]) -> None:
    async def scenario() -> None:
        context = client_context("http/1.1", ca_file=certificate[0])
        assert context.verify_mode is ssl.CERT_REQUIRED
        async with provider(always(OK), ssl=server_context(*certificate)) as upstream, client(ssl_context=context) as it:
            sink = await sent(it, ask(upstream.origin.replace("localhost", "127.0.0.1")))
            assert sink.loss is not None and sink.loss.kind == "tls"

    run(scenario())
