"""What the wire tests share: loops to run on, a server around a handler, raw sockets, a recording sink, scripted providers."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from waypost.ports import Handler, Headers, Loss, UpstreamRequest
from waypost.wire.client import Client
from waypost.wire.server import Server, ServerLimits

DEADLINE_S = 5.0
LOOPS = ["uvloop", "asyncio"]


def run(scenario: Coroutine[Any, Any, None], loop: str = "uvloop") -> None:
    async def bounded() -> None:
        await asyncio.wait_for(scenario, DEADLINE_S)

    if loop == "uvloop":
        uvloop = pytest.importorskip("uvloop")
        uvloop.run(bounded())
    else:
        asyncio.run(bounded())


async def until(fact: Callable[[], object]) -> None:
    """Wait for a fact; the scenario's deadline ends a wait in vain."""
    while not fact():  # noqa: ASYNC110 (the facts are the world's, not ours to signal)
        await asyncio.sleep(0.005)


@asynccontextmanager
async def serving(handler: Handler, **limits: Any) -> AsyncIterator[Server]:
    server = Server(handler, ServerLimits(**{"tick_s": 0.02, **limits}))
    await server.start()
    try:
        yield server
    finally:
        await server.close()


class Peer:
    """A raw connection to a server under test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def until(self, mark: bytes) -> bytes:
        return await self.reader.readuntil(mark)

    async def answer(self) -> tuple[int, dict[bytes, bytes], bytes]:
        """One whole answer: status, headers, body with the chunking taken off."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        status = int(head[0].split(b" ")[1])
        headers = dict(line.split(b": ", 1) for line in head[1:] if line)
        if headers.get(b"transfer-encoding") == b"chunked":
            body = b""
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                body += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readexactly(2)
        else:
            body = await self.reader.readexactly(int(headers[b"content-length"]))
        return status, headers, body

    async def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        try:
            return await self.reader.read(-1)
        except ConnectionError:
            return b""

    def leave(self) -> None:
        self.writer.transport.abort()


@asynccontextmanager
async def peer(server: Server) -> AsyncIterator[Peer]:
    reader, writer = await asyncio.open_connection(*server.address)
    try:
        yield Peer(reader, writer)
    finally:
        writer.close()


def request(path: str = "/", body: bytes = b"", *headers: bytes, method: bytes = b"POST") -> bytes:
    lines = [b"%b %b HTTP/1.1" % (method, path.encode()), b"host: test", *headers]
    if body:
        lines.append(b"content-length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


class Recorder:
    """A Sink that writes down what it is told."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.calls: list[str] = []
        self.loss: Loss | None = None
        self.over = asyncio.Event()

    def head(self, status: int, headers: Headers) -> None:
        self.calls.append("head")
        self.status = status
        self.headers = dict(headers)

    def data(self, chunk: bytes) -> None:
        self.calls.append("data")
        self.body += chunk

    def end(self) -> None:
        self.calls.append("end")
        self.over.set()

    def lost(self, loss: Loss) -> None:
        self.calls.append("lost")
        self.loss = loss
        self.over.set()


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Provider:
    """A scripted upstream: `script` runs once for each connection."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.connections = 0
        self.left = 0
        self.requests: list[bytes] = []
        self.origin = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self.script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.left += 1
            writer.close()


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return head, await reader.readexactly(length)


def always(answer: bytes) -> Script:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            writer.write(answer)

    return script


def once(answer: bytes) -> Script:
    """Answer one request with these bytes, then close."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)
        await writer.drain()

    return script


@asynccontextmanager
async def provider(script: Script, ssl: Any = None) -> AsyncIterator[Provider]:
    it = Provider(script)
    server = await asyncio.start_server(it.serve, "127.0.0.1", 0, ssl=ssl)
    port = server.sockets[0].getsockname()[1]
    it.origin = f"{'https' if ssl else 'http'}://{'localhost' if ssl else '127.0.0.1'}:{port}"
    try:
        yield it
    finally:
        server.close()


@asynccontextmanager
async def client(**options: Any) -> AsyncIterator[Client]:
    it = Client(**{"tick_s": 0.02, **options})
    try:
        yield it
    finally:
        await it.close()


def ask(origin: str, body: bytes = b"{}", **fields: Any) -> UpstreamRequest:
    return UpstreamRequest(origin=origin, path="/v1/x?a=1", headers=((b"x-key", b"k"),), body=body, **fields)


def unused_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
