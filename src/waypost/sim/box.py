"""Box: one listening port with the providers behind it, which can be taken down, brought up and told to misbehave.

Accepts, reads what is asked, has the reply composed, and plays it onto the socket at its pace while the record is kept. Decides
nothing about failures: scripts do (`scripts`, `beats`).
"""

import asyncio
import contextlib
import errno
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Protocol

from msgspec import Struct

from waypost.sim import answers, beats, render_errors, scruples
from waypost.sim.asks import Ask, BadAsk, read
from waypost.sim.beats import Beat, Pace, Reply, Scene
from waypost.sim.door import Connection, HttpRequest, reset_socket
from waypost.sim.paths import Place, locate
from waypost.sim.records import Record
from waypost.sim.render_chat import encode
from waypost.sim.scripts import Rule, Script

BATCH_BYTES = 16 * 1024
SOONEST_S = 0.0005  # shorter waits are caught up with, not slept
BACKLOG = 1024
CREATED = 1_795_000_000  # every answer's `created`: a clock would make equal seeds differ
REBIND_TRIES = 50


class Direction(Struct, frozen=True):
    """What one attempt shall do."""

    script: Script
    pace: Pace
    tokens: int


class Director(Protocol):
    """What a box needs from the simulator it belongs to."""

    time_scale: float
    memory: answers.Memory

    def open_record(self, box: "Box", place: Place, request: HttpRequest) -> Record: ...
    def direct(self, box: "Box", record: Record, ask: Ask, key: str) -> Direction: ...
    def at_accept(self, box: "Box") -> Script: ...
    def close_record(self, record: Record) -> None: ...
    def control(self, place: Place, request: HttpRequest) -> tuple[int, bytes]: ...
    def models(self) -> list[str]: ...


class Box:
    """One port. `down` stops listening, so that connecting is refused; `up` listens again on the same port."""

    def __init__(
        self,
        director: Director,
        name: str,
        *,
        host: str,
        port: int,
        rules: Sequence[Rule],
        flavour: str,
        keys: frozenset[str] | None,
        tls: ssl.SSLContext | None,
        run: Callable[[Callable[[], None]], None],
    ) -> None:
        self.name = name
        self.host = host
        self.port = port
        self.flavour = flavour
        self.keys = keys
        self.rules: tuple[Rule, ...] = tuple(rules)
        self._director = director
        self._tls = tls
        self._run = run  # runs a function on the loop's thread and waits
        self._listener: socket.socket | None = None
        self._connections: set[Connection] = set()
        self._held: list[socket.socket] = []
        self._adopting: set[asyncio.Task[None]] = set()
        self._emptied = asyncio.Event()
        self._has_been_up = False

    # --- from any thread

    @property
    def origin(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}"

    @property
    def is_up(self) -> bool:
        return self._listener is not None

    @property
    def connections(self) -> int:
        return len(self._connections)

    def set_rules(self, rules: Sequence[Rule]) -> None:
        self.rules = tuple(rules)

    def up(self) -> None:
        self._run(self._up)

    def down(self, *, cut: bool = False) -> None:
        """Refuse new connections; with `cut`, reset the open ones too."""
        self._run(lambda: self._down(cut))

    # --- on the loop

    def _up(self) -> None:
        if self._listener is not None:
            return
        self._listener = self._bind()
        self._has_been_up = True
        self.port = int(self._listener.getsockname()[1])
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)

    def _bind(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        for attempt in range(REBIND_TRIES):
            listener = socket.socket(family, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setblocking(False)
            try:
                listener.bind((self.host, self.port))
                listener.listen(BACKLOG)
                return listener
            except OSError as error:
                listener.close()
                if error.errno != errno.EADDRINUSE or attempt == REBIND_TRIES - 1 or not self._has_been_up:
                    raise
                time.sleep(0.01)  # somebody's outgoing connection borrowed our port while we were down
        raise AssertionError("unreachable")

    def _down(self, cut: bool) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None
        for held in self._held:
            held.close()
        self._held.clear()
        if cut:
            for connection in list(self._connections):
                connection.reset_now()

    async def shut(self) -> None:
        """Stop for good: nothing listens, every connection is closed, every task has ended."""
        self._down(cut=False)
        await asyncio.gather(*self._adopting, return_exceptions=True)
        for connection in list(self._connections):
            connection.close()
        while self._connections:
            self._emptied.clear()
            await self._emptied.wait()

    def _accept(self) -> None:
        listener = self._listener
        assert listener is not None
        for _ in range(BACKLOG):
            try:
                accepted, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            accepted.setblocking(False)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            script = self._director.at_accept(self)
            if "refuse" in script or "reset" in script:
                reset_socket(accepted)
                accepted.close()
            elif "silence" in script:
                self._held.append(accepted)
            else:
                task = asyncio.get_running_loop().create_task(self._adopt(accepted))
                self._adopting.add(task)
                task.add_done_callback(self._adopting.discard)

    async def _adopt(self, accepted: socket.socket) -> None:
        connection = Connection(self._serve, self._forget)
        self._connections.add(connection)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, accepted, ssl=self._tls)
        except OSError:  # the peer left, or TLS failed
            self._forget(connection)
            accepted.close()

    def _forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._emptied.set()

    # --- one request

    async def _serve(self, connection: Connection, request: HttpRequest) -> None:
        place = locate(request.target)
        if place.kind in ("control", "models", "alive", "unknown"):
            self._answer_plainly(connection, request, place)
            return
        record = self._director.open_record(self, place, request)
        try:
            reply = self._compose(place, request, record)
            await self._play(connection, request, reply, record)
        finally:
            record.ended = record.ended or "broken"
            self._director.close_record(record)

    def _compose(self, place: Place, request: HttpRequest, record: Record) -> Reply:
        if place.kind == "redirected":
            record.redirected = True
            return _plain(200, b'{"choices":[{"message":{"role":"assistant","content":"stolen"},"finish_reason":"stop"}]}')
        flavour = place.flavour or self.flavour
        said = render_errors.speech(place.dialect, flavour)
        key = credential(request, place)
        if self.keys is not None and key not in self.keys:
            return _plain(401, render_errors.body(said, 401, request_id=record.id))
        try:
            ask, body = read(place.dialect, flavour, request.body, model=place.model, stream=place.stream)
        except BadAsk as error:
            return _plain(400, render_errors.body(said, 400, request_id=record.id, message=str(error), param=error.param))
        if place.kind == "count":
            return _plain(200, encode({"totalTokens" if place.dialect == "gemini" else "input_tokens": ask.prompt_tokens}))
        direction = self._director.direct(self, record, ask, key)
        complaint = scruples.complaint(direction.script, ask, body)
        if complaint is not None:
            return _plain(400, render_errors.body(said, 400, request_id=record.id, message=complaint))
        return self._reply(ask, direction, record, said)

    def _reply(self, ask: Ask, direction: Direction, record: Record, said: render_errors.Speech) -> Reply:
        script, chance = direction.script, direction.pace.chance
        answer = answers.compose(ask, script, id=record.id, tokens=direction.tokens, created=CREATED)
        place = f"{record.provider}\0{record.model}\0{record.key}\0"
        cached, written, record.prefix = self._director.memory.recall(ask, script, place, chance)
        answer.cached_tokens, answer.cache_write_tokens = cached, written
        record.prompt_tokens, record.cached_tokens, record.cache_write_tokens = answer.prompt_tokens, cached, written
        record.planned_tokens, record.reasoning_tokens, record.checksum = answer.output_tokens, answer.reasoning_tokens, answer.checksum
        scene = Scene(ask, script, answer, direction.pace, said, f"http://localhost:{self.port}/_sim/redirected", time.time())
        reply = beats.reply(scene)
        record.is_answer = reply.is_answer
        return reply

    def _answer_plainly(self, connection: Connection, request: HttpRequest, place: Place) -> None:
        status, body = (
            404,
            encode({"error": {"message": f"no such path: {request.target.partition('?')[0]}", "type": "invalid_request_error"}}),
        )
        if place.kind == "control":
            status, body = self._director.control(place, request)
        elif place.kind == "models":
            status, body = 200, _models(self._director.models(), place, "anthropic-version" in request.headers)
        elif place.kind == "alive":
            status, body = 200, b"{}"
        connection.write(_head(status, [("Content-Type", "application/json")], length=len(body)) + body)
        if request.wants_close:
            connection.transport.close()

    # --- playing

    async def _play(self, connection: Connection, request: HttpRequest, reply: Reply, record: Record) -> None:
        scale = self._director.time_scale
        player = _Player(connection, reply, record, scale)
        connection.on_leave = player.peer_left
        if reply.hints:
            connection.write(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")
        if reply.head_wait_s > 0:
            player.begin_generating()
            await asyncio.sleep(reply.head_wait_s * scale)
        record.output_tokens += reply.generates
        if reply.status:
            headers = [*reply.headers, ("x-request-id", record.id), ("request-id", record.id)]
            if request.wants_close:
                headers.append(("Connection", "close"))
            record.status = reply.status
            player.say_head(_head(reply.status, headers, length=reply.length))
        await player.play()
        if request.wants_close and record.ended == "whole":
            connection.transport.close()


class _Player:
    """Writes one reply and keeps its record. Beats that need no wait between them leave in one write."""

    def __init__(self, connection: Connection, reply: Reply, record: Record, scale: float) -> None:
        self._connection = connection
        self._reply = reply
        self._record = record
        self._scale = scale
        self._batch = bytearray()
        self._tokens = 0
        self._generating_s: float | None = None

    def begin_generating(self) -> None:
        self._generating_s = time.monotonic()

    def peer_left(self) -> None:
        """Called by the connection at the moment the peer leaves, before the task is cancelled."""
        record, reply = self._record, self._reply
        if record.ended:
            return
        if record.status == 0 and self._generating_s is not None and reply.generate_s > 0:
            generated_s = time.monotonic() - self._generating_s - (reply.head_wait_s - reply.generate_s) * self._scale
            share = generated_s / (reply.generate_s * self._scale)
            record.output_tokens = int(reply.generates * min(1.0, max(0.0, share)))
        record.peer_closed_s = self._connection.left_s
        record.peer_closed_after = record.output_tokens
        record.ended = "peer"

    def say_head(self, head: bytes) -> None:
        self._batch += head

    async def play(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        for beat in self._reply.beats:
            if beat.wait_s > 0:
                due += beat.wait_s * self._scale
                wait = due - loop.time()
                if wait > SOONEST_S:
                    self._flush()
                    await self._connection.drain()
                    await asyncio.sleep(wait)
            if self._reply.split and beat.data:
                await self._say_split(beat)
            else:
                self._say(beat.data)
                self._tokens += beat.tokens
            if beat.end:
                await self._end(beat)
                return
            if len(self._batch) > BATCH_BYTES:
                self._flush()
                await self._connection.drain()
                await asyncio.sleep(0)
        if self._reply.status and self._reply.length is None:
            self._batch += b"0\r\n\r\n"
        self._flush()
        self._record.ended = "whole"

    async def _end(self, beat: Beat) -> None:
        self._flush()
        self._record.ended = beat.end
        if beat.end == "fin":
            await self._connection.fin()
        elif self._reply.status == 0:
            self._connection.reset_now()
        else:
            await self._connection.reset()

    def _say(self, data: bytes) -> None:
        if not data:
            return
        if self._reply.length is None:
            self._batch += b"%x\r\n%b\r\n" % (len(data), data)
        else:
            self._batch += data

    async def _say_split(self, beat: Beat) -> None:
        """Each few bytes a chunk and a write of their own; the tokens count once the last byte is out."""
        step = self._reply.split
        for at in range(0, len(beat.data), step):
            self._say(beat.data[at : at + step])
            self._flush()
            await asyncio.sleep(0)
        self._record.output_tokens += beat.tokens

    def _flush(self) -> None:
        if not self._batch:
            return
        record, now = self._record, time.monotonic()
        self._connection.write(bytes(self._batch))
        record.first_byte_s = record.first_byte_s or now
        record.last_byte_s = now
        record.bytes_pushed += len(self._batch)
        if self._tokens:
            record.first_token_s = record.first_token_s or now
            record.output_tokens += self._tokens
        self._batch.clear()
        self._tokens = 0


def _plain(status: int, body: bytes) -> Reply:
    return Reply(status, [("Content-Type", "application/json")], iter((Beat(body),)), length=len(body))


def _head(status: int, headers: Sequence[tuple[str, str]], *, length: int | None) -> bytes:
    with contextlib.suppress(ValueError):
        phrase = HTTPStatus(status).phrase
        return _lines(f"HTTP/1.1 {status} {phrase}", headers, length)
    return _lines(f"HTTP/1.1 {status} Simulated", headers, length)


def _lines(first: str, headers: Sequence[tuple[str, str]], length: int | None) -> bytes:
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    said = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"{first}\r\n{said}{framing}\r\n\r\n".encode("latin-1")


def credential(request: HttpRequest, place: Place) -> str:
    """The key a request carries, in whichever of the four places."""
    bearer = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
    return bearer or next(
        (request.headers[name] for name in ("x-api-key", "x-goog-api-key", "api-key") if name in request.headers), place.key
    )


def _models(names: list[str], place: Place, is_anthropic: bool) -> bytes:
    if place.dialect == "gemini":
        return encode({"models": [{"name": f"models/{name}", "displayName": name} for name in names]})
    if is_anthropic:
        rows = [{"type": "model", "id": name, "display_name": name, "created_at": "2026-11-01T00:00:00Z"} for name in names]
        return encode({"data": rows, "has_more": False, "first_id": names[0], "last_id": names[-1]})
    return encode(
        {"object": "list", "data": [{"id": name, "object": "model", "created": CREATED, "owned_by": "simulator"} for name in names]}
    )
