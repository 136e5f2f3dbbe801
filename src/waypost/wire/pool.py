"""Pool: the connections to one origin: which to reuse, when to dial, who waits, what is kept warm.

Newest first (LIFO), so that a quiet pool shrinks from its oldest end. At the bound, requests wait in a bounded queue for a bounded time.
A dial is not tied to the request that asked for it: whichever connection comes first serves who waits longest.
"""

import asyncio
import random
import ssl
from collections import deque
from collections.abc import Coroutine

from waypost.ports import Loss, UpstreamRequest
from waypost.wire.dial import DialError, Origin, dial
from waypost.wire.exchange import Exchange, UpstreamConnection, request_start
from waypost.wire.http1 import READ_BYTES, header_block
from waypost.wire.outbox import Outbox
from waypost.wire.tls import keep_session

KNOWN_STARTS = 512
WARM_CONNECT_S = 5.0
WARM_BACKOFF_S = (0.5, 30.0)  # first and longest pause after a failed warm-up dial; doubled, with full jitter


class Shared:
    """What all pools of a client share: the tick all clocks count in, the read buffer, the limits."""

    __slots__ = (
        "idle_ticks",
        "loop",
        "max_age_ticks",
        "max_header_bytes",
        "max_waiting",
        "outbox",
        "receive_buffer_bytes",
        "space",
        "tasks",
        "tick",
        "tick_s",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        tick_s: float,
        idle_s: float,
        max_age_s: float,
        max_waiting: int,
        max_header_bytes: int,
        receive_buffer_bytes: int,
    ) -> None:
        self.loop = loop
        self.tick = 0
        self.tick_s = tick_s
        self.idle_ticks = idle_s / tick_s
        self.max_age_ticks = max_age_s / tick_s
        self.max_waiting = max_waiting
        self.max_header_bytes = max_header_bytes
        self.receive_buffer_bytes = receive_buffer_bytes
        self.outbox = Outbox(loop)
        self.space = memoryview(bytearray(READ_BYTES))
        self.tasks: set[asyncio.Task[None]] = set()  # dials in flight

    def spawn(self, dial: Coroutine[None, None, None]) -> None:
        task = self.loop.create_task(dial)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


class Pool:
    __slots__ = (
        "bound",
        "context",
        "dialing",
        "idle",
        "is_closed",
        "live",
        "origin",
        "shared",
        "shy_until_tick",
        "starts",
        "waiting",
        "warm",
        "warm_failures",
        "warm_tick",
    )

    def __init__(self, shared: Shared, origin: Origin, context: ssl.SSLContext | None) -> None:
        self.shared = shared
        self.origin = origin
        self.context = context
        self.idle: list[UpstreamConnection] = []  # oldest first
        self.live: set[UpstreamConnection] = set()  # idle ones included
        self.waiting: deque[Exchange] = deque()
        self.dialing = 0
        self.bound = 1
        self.warm = 0
        self.warm_failures = 0
        self.warm_tick = 0
        self.is_closed = False
        self.shy_until_tick = 0
        self.starts: dict[tuple[str, str, tuple[tuple[bytes, bytes], ...]], bytes] = {}

    def send(self, exchange: Exchange) -> None:
        """Raises ValueError when method or path do not fit a request line."""
        request = exchange.request
        # A provider is asked the same way over and over: same path, same credential. Rendered once, found by value.
        exchange.start = self.starts.get((request.method, request.path, request.headers)) or self._render_start(request)
        idle = self.idle
        while idle:
            conn = idle.pop()
            if conn.is_alive():
                conn.begin(exchange)
                return
            conn.drop()
        self.bound = exchange.request.connections
        self.wait(exchange)

    def _render_start(self, request: UpstreamRequest) -> bytes:
        if len(self.starts) >= KNOWN_STARTS:
            self.starts.clear()
        start = request_start(request.method, request.path, self.origin.host_header) + header_block(request.headers)
        self.starts[request.method, request.path, request.headers] = start
        return start

    def wait(self, exchange: Exchange) -> None:
        """Queue for the next connection; losses come later, never from inside `send`."""
        loop = self.shared.loop
        if self.is_closed or len(self.waiting) >= self.shared.max_waiting:
            loop.call_soon(exchange.lose, Loss("busy", "too many requests wait for a connection", sent=False))
            return
        exchange.timer = loop.call_later(exchange.request.connect_s, self._give_up, exchange)
        self.waiting.append(exchange)
        self._dial_for_waiting()

    def unwait(self, exchange: Exchange) -> None:
        if exchange.timer is not None:
            exchange.timer.cancel()
            exchange.timer = None
        if exchange in self.waiting:
            self.waiting.remove(exchange)

    def release(self, conn: UpstreamConnection) -> None:
        """A connection has become free: the longest waiting request has it, or the idle ones."""
        conn.since_tick = self.shared.tick
        if self.waiting:
            exchange = self.waiting[0]
            self.unwait(exchange)
            conn.begin(exchange)
        else:
            self.idle.append(conn)

    def forget(self, conn: UpstreamConnection) -> None:
        """Idempotent. The place is free for another dial."""
        if conn.gone:
            return
        conn.gone = True
        self.live.discard(conn)
        if conn in self.idle:
            self.idle.remove(conn)
        if self.waiting:
            self._dial_for_waiting()

    def keep_session(self, transport: asyncio.Transport) -> None:
        if self.context is not None:
            keep_session(self.context, transport.get_extra_info("ssl_object"), self.origin.host)

    def top_up(self) -> None:
        """Dial what is missing to the warm connections asked for; called each tick."""
        missing = self.warm - len(self.idle) - self.dialing
        room = max(self.bound, self.warm) - len(self.live) - self.dialing
        if missing > 0 and self.shared.tick >= self.warm_tick:
            for _ in range(min(missing, room)):
                self._start_dial(WARM_CONNECT_S)

    def sweep(self) -> None:
        tick = self.shared.tick
        for conn in list(self.idle):
            if tick - conn.since_tick > self.shared.idle_ticks or tick - conn.born_tick > self.shared.max_age_ticks:
                conn.drop()
        self.top_up()

    def close(self) -> None:
        self.is_closed = True
        self.warm = 0
        for exchange in list(self.waiting):
            self.unwait(exchange)
            exchange.lose(Loss("busy", "the client is closed", sent=False))
        for conn in list(self.live):
            exchange = conn.exchange
            conn.exchange = None
            conn.drop()
            if exchange is not None:
                exchange.lose(Loss("reset", "the client is closed", sent=True))

    # --- dialling ----------------------------------------------------------------------------------------------------

    def _dial_for_waiting(self) -> None:
        while self.dialing < len(self.waiting) and len(self.live) + self.dialing < self.bound and not self.is_closed:
            self._start_dial(self.waiting[self.dialing].request.connect_s)

    def _start_dial(self, timeout_s: float) -> None:
        self.dialing += 1
        self.shared.spawn(self._dial(timeout_s))

    async def _dial(self, timeout_s: float) -> None:
        try:
            conn = await dial(
                self.origin,
                lambda: UpstreamConnection(self),
                timeout_s=timeout_s,
                context=self.context,
                receive_buffer_bytes=self.shared.receive_buffer_bytes,
            )
        except DialError as error:
            self.dialing -= 1
            self._dial_failed(error.loss)
            return
        except BaseException:  # cancelled by close()
            self.dialing -= 1
            raise
        if self.is_closed or conn.transport.is_closing():
            conn.drop()  # while this dial still counts: nobody dials in its place
            self.dialing -= 1
            self._dial_failed(Loss("reset", "the connection was closed as soon as it was made", sent=False))
            return
        self.dialing -= 1
        self.warm_failures = 0
        self.live.add(conn)
        self.release(conn)

    def _dial_failed(self, loss: Loss) -> None:
        self.warm_failures += 1
        first_s, longest_s = WARM_BACKOFF_S
        pause_s = random.uniform(first_s / 2, min(longest_s, first_s * 2.0 ** min(self.warm_failures, 16)))
        self.warm_tick = self.shared.tick + int(pause_s / self.shared.tick_s) + 1
        if self.dialing < len(self.waiting):  # else a dial still under way serves everybody
            exchange = self.waiting[0]
            self.unwait(exchange)
            exchange.lose(loss)
        self._dial_for_waiting()

    def _give_up(self, exchange: Exchange) -> None:
        is_busy = not self.dialing
        self.unwait(exchange)
        waited_s = exchange.request.connect_s
        if is_busy:
            exchange.lose(Loss("busy", f"all {self.bound} connections in use for {waited_s:g} s", sent=False))
        else:
            exchange.lose(Loss("connect_timeout", f"no connection within {waited_s:g} s", sent=False))
