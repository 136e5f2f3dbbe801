"""waypost serve: run the gateway. Without a file, the keys in the environment switch their providers on."""

import argparse
import os
import socket
import sys
from pathlib import Path

import apsw

from waypost.adapters.sqlite import LedgerError
from waypost.app import App
from waypost.app import run as run_loop
from waypost.cli.check import DEFAULT, print_problems, summary
from waypost.config import ConfigError

HELP = "run the gateway"
EXAMPLE = "waypost serve --config waypost.toml --port 4000"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", type=Path, help="default: waypost.toml if there is one, else keys from the environment")
    parser.add_argument("--host", metavar="H", help="address to listen on (default: server.host, 127.0.0.1)")
    parser.add_argument("--port", metavar="P", type=int, help="port to listen on, 0 for any (default: server.port, 4000)")
    parser.add_argument("--workers", metavar="N", type=int, help="processes that share the port (default: server.workers, 1)")


def run(args: argparse.Namespace) -> int:
    path: Path | None = args.config or (DEFAULT if DEFAULT.exists() else None)
    try:
        app = App(path)
    except ConfigError as error:
        print_problems(error)
        return 1
    workers = args.workers or app.config.server.workers
    if not app.world.providers:
        say("warning: no provider is switched on. Set a key such as OPENAI_API_KEY, write a waypost.toml, or try `waypost demo`.")
    try:
        if workers > 1:
            from waypost.cli.workers import supervise

            return supervise(app, workers, host=args.host, port=args.port)
        return run_loop(lambda: serve(app, host=args.host, port=args.port))
    except (OSError, LedgerError, apsw.Error) as error:
        return cannot_start(app, args, error)


async def serve(
    app: App, *, host: str | None = None, port: int | None = None, sock: socket.socket | None = None, quiet: bool = False
) -> int:
    address = await app.start(host=host, port=port, sock=sock)
    if not quiet:
        greet(app, address)
    await app.run_until_stopped(say)
    return 0


def greet(app: App, address: tuple[str, int]) -> None:
    """Where it is, whom it found, what `auto` means."""
    scheme = "https" if app.config.server.tls_cert else "http"
    host = "127.0.0.1" if address[0] in ("0.0.0.0", "::") else address[0]
    say(f"waypost serves OpenAI's API at {scheme}://{host if ':' not in host else f'[{host}]'}:{address[1]}/v1")
    for line in summary(app.world):
        say(line)
    say("  ledger   " + app.config.storage.url.removeprefix("sqlite:") + " (read it with `waypost report`)")


def cannot_start(app: App, args: argparse.Namespace, error: Exception) -> int:
    server = app.config.server
    where = f"{args.host or server.host}:{server.port if args.port is None else args.port}"
    if isinstance(error, OSError) and error.errno in (98, 13, 99):
        print(f"waypost: cannot listen on {where}: {os.strerror(error.errno)}; choose another with --host and --port", file=sys.stderr)
    else:
        print(f"waypost: cannot start: {error}; the ledger is to be at {app.config.storage.url} (storage.url)", file=sys.stderr)
    return 1


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
