"""App: the composition root. Configuration and environment in, a listening gateway out; the only place that knows every class.

A reload builds and validates a whole new World and swaps it; a broken file changes nothing. A stop drains: no new connections,
`/readyz` says so, live streams finish within `server.drain_s`; a second signal stops at once.
"""

import asyncio
import gc
import logging
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from waypost import world
from waypost.adapters.journal import Journal
from waypost.adapters.sqlite import SqliteLedger, database_path
from waypost.adapters.telemetry import Telemetry
from waypost.api import openai, operations
from waypost.api.ingress import Ingress, Route, protocol_error
from waypost.catalog.load import Catalog
from waypost.config import Config, ConfigError
from waypost.gateway import Gateway
from waypost.ports import Handler
from waypost.relay import now_s
from waypost.wire.client import Client
from waypost.wire.server import Server, ServerLimits
from waypost.world import World

log = logging.getLogger("waypost")
T = TypeVar("T")
CUT_FLUSH_S = 0.1  # for the last words to those whose answer is cut


class App:
    """One gateway in one process. `start`, then `run_until_stopped` or `stop`."""

    def __init__(self, config_file: Path | None = None, *, env: Mapping[str, str] | None = None, config: Config | None = None) -> None:
        """Raises ConfigError with every problem at once. `config` is used instead of a file (tests, the demo)."""
        self.config_file = config_file
        self.env = os.environ if env is None else env
        self._given = config
        self.catalog = Catalog.load()
        self.world = self._build()
        self.telemetry = Telemetry(self._gauges)
        self.server: Server | None = None
        self.handler: Ingress

    def _build(self) -> World:
        today = time.strftime("%Y-%m-%d", time.gmtime())
        if self._given is not None:
            return world.build(self._given, self.catalog, self.env, today=today)
        return world.read(self.config_file, self.catalog, self.env, today=today)

    @property
    def config(self) -> Config:
        return self.world.config

    # --- life ----------------------------------------------------------------------------------------------------------

    async def open(self) -> Handler:
        """Everything but the listening socket. Raises OSError or LedgerError when the ledger cannot be written."""
        database = database_path(self.config.storage.url)
        self.journal = Journal(database)
        self.client = Client()
        self.gateway = Gateway(
            self.world,
            upstream=self.client,
            journal=self.journal,
            random=random.random,
            observe=self.telemetry.observe,
            spent=partial(_spent, database),
        )
        self.handler = Ingress(self.gateway, self._routes(), {"/v1/models/": Route(("GET", "HEAD"), openai.model)})
        gc.collect()
        gc.freeze()  # what lives as long as the process is not looked at again
        gc.set_threshold(20_000, 20, 100)
        return self.handler

    async def start(self, *, host: str | None = None, port: int | None = None, sock: socket.socket | None = None) -> tuple[str, int]:
        """Listen; gives the address. Raises OSError when it is taken."""
        handler = await self.open()
        server = self.config.server
        context = None
        if server.tls_cert is not None and server.tls_key is not None:
            from waypost.wire.tls import server_context

            context = server_context(server.tls_cert, server.tls_key)
        self.server = Server(handler, ServerLimits(max_body_bytes=int(server.max_body_mb * 2**20)), error_body=protocol_error, ssl=context)
        try:
            await self.server.start(host or server.host, server.port if port is None else port, sock=sock)
        except OSError:
            self.journal.close()
            raise
        return self.server.address

    async def stop(self, *, drain_s: float = 0.0) -> bool:
        """Drain for at most `drain_s`, then close. True when nothing was cut."""
        self.handler.is_draining = True
        whole = True
        if self.server is not None and drain_s:
            whole = await self.server.drain(drain_s)
        if self.gateway.flights:
            whole = False
            for flight in list(self.gateway.flights):
                flight.cut()
            await asyncio.sleep(CUT_FLUSH_S)
        if self.server is not None:
            await self.server.close()
        self.gateway.close()
        await self.client.close()
        self.journal.close()
        return whole

    def reload(self) -> str:
        """Build, validate, swap. Raises ConfigError and changes nothing when the new configuration is broken."""
        fresh = self._build()
        fixed = [n for n in ("host", "port", "workers") if getattr(fresh.config.server, n) != getattr(self.config.server, n)]
        if fresh.config.storage != self.config.storage:
            fixed.append("storage")
        self.world = fresh
        self.gateway.swap(fresh)
        return f"; a restart is needed for {', '.join(fixed)}" if fixed else ""

    async def run_until_stopped(self, say: Callable[[str], None]) -> None:
        """Serve until SIGTERM or SIGINT; SIGHUP reloads."""
        loop = asyncio.get_running_loop()
        stop, now = asyncio.Event(), asyncio.Event()

        def on_stop() -> None:
            (now if stop.is_set() else stop).set()

        def on_reload() -> None:
            try:
                say(f"configuration reloaded{self.reload()}")
                for warning in self.world.warnings:
                    say(f"warning: {warning}")
            except ConfigError as error:
                say(f"configuration not reloaded, the old one stays:\n{error}")

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_stop)
        loop.add_signal_handler(signal.SIGHUP, on_reload)
        await stop.wait()
        live = len(self.gateway.flights)
        if live:
            count = f"{live} live request{'s' if live > 1 else ''}"
            say(f"stopping: {count} may finish within {self.config.server.drain_s:g} s; press Ctrl-C again to cut")
        closing = asyncio.ensure_future(self.stop(drain_s=self.config.server.drain_s if live else 0.3))
        at_once = asyncio.ensure_future(now.wait())
        await asyncio.wait((closing, at_once), return_when=asyncio.FIRST_COMPLETED)
        at_once.cancel()
        if not closing.done():
            closing.cancel()
            await asyncio.gather(closing, return_exceptions=True)
            await self.stop()

    # --- parts ---------------------------------------------------------------------------------------------------------

    def _routes(self) -> dict[str, Route]:
        chat = Route(("POST",), openai.chat)
        models = Route(("GET", "HEAD"), openai.models)
        return {
            "/v1/chat/completions": chat,
            "/chat/completions": chat,  # clients whose base URL lacks /v1
            "/v1/models": models,
            "/models": models,
            "/": Route(("GET", "HEAD"), operations.root, is_open=True),
            "/livez": Route(("GET", "HEAD"), operations.livez, is_open=True),
            "/readyz": Route(("GET", "HEAD"), partial(operations.readyz, lambda: self.journal.status().failing), is_open=True),
            "/metrics": Route(("GET", "HEAD"), partial(operations.metrics, self.telemetry), is_open=True),
        }

    def _gauges(self) -> Iterable[tuple[str, str, dict[str, str], float]]:
        gateway, status = self.gateway, self.journal.status()
        yield "waypost_requests_in_flight", "Requests between dispatch and end.", {}, float(len(gateway.flights))
        yield "waypost_journal_faults", "1 while the journal or the ledger cannot be written.", {}, float(status.failing is not None)
        for view in gateway.health.snapshot(now_s()):
            at = {"model": view.deployment, "standing": view.standing}
            yield "waypost_target_standing", "1 for the standing each deployment has now.", at, 1.0
            yield "waypost_target_in_flight", "Attempts in flight per deployment.", {"model": view.deployment}, float(view.in_flight)


def _spent(database: Path, key: str, since_ms: int) -> int:
    ledger = SqliteLedger(database)
    try:
        return ledger.spent(key, since_ms)
    finally:
        ledger.close()


def run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run on uvloop where it is installed, else on asyncio's own loop."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        new_event_loop = asyncio.new_event_loop
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main())


def asgi(config_file: str | None = None) -> Any:
    """The gateway as an ASGI application: `uvicorn --factory waypost.app:asgi`. Reads waypost.toml if there is one."""
    from waypost.wire.asgi import asgi_app

    path = Path(config_file or "waypost.toml")
    app = App(path if config_file or path.exists() else None)
    handler: list[Handler] = []

    async def startup() -> None:
        handler.append(await app.open())

    async def shutdown() -> None:
        await app.stop(drain_s=app.config.server.drain_s)

    return asgi_app(
        lambda request, responder: handler[0](request, responder),
        limits=ServerLimits(max_body_bytes=int(app.config.server.max_body_mb * 2**20)),
        startup=startup,
        shutdown=shutdown,
    )
