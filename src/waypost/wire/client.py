"""Client: the `Upstream` port over HTTP/1.1 and, where a request asks for it, HTTP/2.

Decides which pool a request goes to and keeps the one clock of all pools. Never follows a redirect, never decodes a body, adds no header
but `host` and `content-length`. First-byte and idle clocks belong to the caller. Belongs to the event loop of its first use.
"""

import asyncio
import ssl
from typing import TYPE_CHECKING

from waypost.ports import Exchange as ExchangePort
from waypost.ports import Sink, UpstreamRequest
from waypost.wire.dial import Origin
from waypost.wire.exchange import Exchange
from waypost.wire.pool import Pool, Shared
from waypost.wire.tls import client_context

if TYPE_CHECKING:
    from waypost.wire.http2 import Pool2


class Client:
    """`idle_s` stays below the 60 s after which common servers close an idle connection, so that stale ones are rare."""

    def __init__(
        self,
        *,
        ssl_context: ssl.SSLContext | None = None,
        ssl_context_http2: ssl.SSLContext | None = None,
        idle_s: float = 55.0,
        max_age_s: float = 900.0,
        max_waiting: int = 1024,
        max_header_bytes: int = 64 * 1024,
        receive_buffer_bytes: int = 256 * 1024,
        tick_s: float = 1.0,
    ) -> None:
        self._context = ssl_context
        self._context_http2 = ssl_context_http2
        self._idle_s = idle_s
        self._max_age_s = max_age_s
        self._max_waiting = max_waiting
        self._max_header_bytes = max_header_bytes
        self._receive_buffer_bytes = receive_buffer_bytes
        self._tick_s = tick_s
        self._shared: Shared | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._pools: dict[str, Pool] = {}
        self._pools2: dict[str, Pool2] = {}

    def send(self, request: UpstreamRequest, sink: Sink) -> ExchangePort:
        if request.http2:
            return self._pool2(request.origin).send(request, sink)
        pool = self._pools.get(request.origin) or self._pool(request.origin)
        exchange = Exchange(pool, request, sink)
        pool.send(exchange)
        return exchange

    def warm(self, origin: str, *, connections: int, http2: bool = False) -> None:
        pool = self._pool2(origin) if http2 else self._pool(origin)
        pool.warm = connections
        pool.top_up()

    async def close(self) -> None:
        """Cut what is open. Exchanges in flight are lost."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for pool in [*self._pools.values(), *self._pools2.values()]:
            pool.close()
        self._pools.clear()
        self._pools2.clear()
        tasks = list(self._shared.tasks) if self._shared else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # transports close in the next turn of the loop

    def counts(self, origin: str) -> tuple[int, int, int]:
        """(connections open, of these idle, requests waiting) of an origin's HTTP/1.1 pool."""
        pool = self._pools.get(origin)
        return (len(pool.live), len(pool.idle), len(pool.waiting)) if pool else (0, 0, 0)

    def _pool(self, text: str) -> Pool:
        pool = self._pools.get(text)
        if pool is None:
            origin = Origin(text)
            if origin.tls and self._context is None:
                self._context = client_context("http/1.1")
            pool = self._pools[text] = Pool(self._start(), origin, self._context if origin.tls else None)
        return pool

    def _pool2(self, text: str) -> "Pool2":
        pool = self._pools2.get(text)
        if pool is None:
            from waypost.wire.http2 import Pool2  # h2 is imported only where a provider asks for it

            origin = Origin(text)
            if origin.tls and self._context_http2 is None:
                self._context_http2 = client_context("h2")
            pool = self._pools2[text] = Pool2(self._start(), origin, self._context_http2 if origin.tls else None)
        return pool

    def _start(self) -> Shared:
        if self._shared is None:
            loop = asyncio.get_running_loop()
            self._shared = Shared(
                loop,
                tick_s=self._tick_s,
                idle_s=self._idle_s,
                max_age_s=self._max_age_s,
                max_waiting=self._max_waiting,
                max_header_bytes=self._max_header_bytes,
                receive_buffer_bytes=self._receive_buffer_bytes,
            )
            self._sweeper = loop.call_later(self._tick_s, self._sweep, self._shared)
        return self._shared

    def _sweep(self, shared: Shared) -> None:
        shared.tick += 1
        for pool in [*self._pools.values(), *self._pools2.values()]:
            pool.sweep()
        self._sweeper = shared.loop.call_later(self._tick_s, self._sweep, shared)
