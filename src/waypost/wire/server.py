"""Server: a listening socket, its connections, and their one clock.

Decides when connections are swept and how a server ends. Knows nothing of HTTP beyond starting a `Connection` for each caller.
Runs on uvloop where it is installed and on plain asyncio elsewhere.
"""

import asyncio
import socket
from ssl import SSLContext

from waypost.ports import Handler
from waypost.wire.connection import Connection
from waypost.wire.serving import ErrorBody, ServerLimits, Serving, date_line, neutral_error

__all__ = ["Server", "ServerLimits"]

BACKLOG = 4096
DRAIN_GRACE_S = 0.25  # idle connections get this long to be told `connection: close` with an answer instead of a bare FIN
DRAIN_POLL_S = 0.02


class Server:
    """`error_body(status, message)` renders the wire's own 4xx and 5xx as JSON."""

    def __init__(
        self,
        handler: Handler,
        limits: ServerLimits | None = None,
        *,
        error_body: ErrorBody = neutral_error,
        ssl: SSLContext | None = None,
    ) -> None:
        self._handler = handler
        self._limits = limits or ServerLimits()
        self._error_body = error_body
        self._ssl = ssl
        self._serving: Serving | None = None
        self._listener: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self.address: tuple[str, int] = ("", 0)

    @property
    def connections(self) -> int:
        return len(self._serving.connections) if self._serving else 0

    @property
    def requests(self) -> int:
        """Handed over and not yet answered."""
        return self._serving.active if self._serving else 0

    async def start(self, host: str = "127.0.0.1", port: int = 0, *, reuse_port: bool = False, sock: socket.socket | None = None) -> None:
        """Listen. Raises OSError when the address cannot be had. `sock` is a bound socket to use instead."""
        loop = asyncio.get_running_loop()
        sock = sock or await listening_socket(host, port, reuse_port=reuse_port)
        if self._limits.send_buffer_bytes:
            sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_SNDBUF, self._limits.send_buffer_bytes // 2
            )  # Linux doubles it; accepted ones inherit
        self.address = sock.getsockname()[:2]
        serving = self._serving = Serving(self._handler, self._limits, self._error_body, loop)
        self._listener = await loop.create_server(lambda: Connection(serving), sock=sock, ssl=self._ssl, backlog=BACKLOG)
        self._sweeper = loop.call_later(self._limits.tick_s, self._sweep, serving)

    async def drain(self, timeout_s: float) -> bool:
        """Stop accepting, let requests in flight finish, close the rest. False when some were still running at the end.

        Requests that begin during the first quarter of a second are still answered, with `connection: close`.
        """
        serving = self._stop_listening()
        if serving is None:
            return True
        serving.draining = True
        loop = serving.loop
        end_s = loop.time() + timeout_s
        await asyncio.sleep(min(DRAIN_GRACE_S, timeout_s / 2))
        while serving.connections:
            for connection in list(serving.connections):
                connection.hang_up_if_idle()
            if loop.time() >= end_s:
                return False
            await asyncio.sleep(DRAIN_POLL_S)
        return True

    async def close(self) -> None:
        """At once: connections still open are cut. Idempotent."""
        serving = self._stop_listening()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        if serving is not None:
            for connection in list(serving.connections):
                connection.transport.abort()
            await asyncio.sleep(0)

    def _stop_listening(self) -> Serving | None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        return self._serving

    def _sweep(self, serving: Serving) -> None:
        serving.tick += 1
        serving.date = date_line()
        for connection in list(serving.connections):
            connection.sweep()
        self._sweeper = serving.loop.call_later(self._limits.tick_s, self._sweep, serving)


async def listening_socket(host: str, port: int, *, reuse_port: bool) -> socket.socket:
    loop = asyncio.get_running_loop()
    family, _, _, _, address = (await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE))[0]
    return socket.create_server(address[:2], family=family, backlog=BACKLOG, reuse_port=reuse_port)
