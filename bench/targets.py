"""Targets: the servers that are measured and what each scenario sends them.

The upstream's behaviour is in the model's name (tools/mock.c): m-d0-n50-g20 streams 50 chunks, 20 ms apart. Waypost runs with keys,
budget, limits, ledger and metrics on (waypost.toml beside this file); nginx is a plain reverse proxy with keep-alive to the upstream.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from machine import BUILD, GATEWAY_CORE, HERE, Server, free_port, nginx_path

KEY = "wp-bench-4f1d0c9ab2e84d57a6c3f0e19d7b52c8"  # a caller's key of this bench, no secret
TEXT = "Please summarise the following text for a busy reader in three sentences. " * 11


@dataclass(frozen=True)
class Scenario:
    model: str
    connections: int
    seconds: float
    title: str

    @property
    def is_stream(self) -> bool:
        return "-n" in self.model


WARM = (Scenario("m-d0", 16, 0.5, "warm"), Scenario("m-d0-n50-g0", 16, 0.4, "warm streams"))
SCENARIOS = {
    "c1": Scenario("m-d0", 1, 1.0, "one connection"),
    "ttft": Scenario("m-d0-n50-g1", 1, 1.0, "one stream"),
    "max": Scenario("m-d0", 64, 2.0, "64 connections"),
    "paced512": Scenario("m-d0-n50-g20", 512, 2.0, "512 streams, a chunk every 20 ms each"),
}


@dataclass(frozen=True)
class Target:
    """A running server: where it listens and how to ask it."""

    name: str
    server: Server
    port: int
    prefix: str = ""
    headers: tuple[str, ...] = ()

    def body(self, scenario: Scenario) -> bytes:
        return request_body(self.prefix + scenario.model, stream=scenario.is_stream)


def request_body(model: str, *, stream: bool, max_tokens: int = 256) -> bytes:
    """About 1 KB, as a small chat request is."""
    messages = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": TEXT}]
    body = {"model": model, "messages": messages, "temperature": 0.7, "max_tokens": max_tokens, "stream": stream}
    return json.dumps(body | ({"stream_options": {"include_usage": True}} if stream else {})).encode()


def filled(name: str, *, upstream: int, port: int, extra: str = "") -> Path:
    """The configuration file with its places filled in, in .bench."""
    text = (HERE / name).read_text() + extra
    for place, value in (("tmp", str(BUILD)), ("upstream", f"127.0.0.1:{upstream}"), ("port", str(port))):
        text = text.replace("{{" + place + "}}", value)
    path = BUILD / name
    path.write_text(text)
    return path


def start_nginx(upstream: int) -> Target:
    port = free_port()
    config = filled("nginx.conf", upstream=upstream, port=port)
    server = Server([nginx_path() or "nginx", "-c", str(config), "-e", "stderr"], core=GATEWAY_CORE, log=BUILD / "nginx.log")
    server.wait_listening(port)
    return Target("nginx", server, port)


def waypost_command(config: Path, port: int) -> list[str]:
    return ["-m", "waypost", "serve", "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]


def start_waypost(upstream: int, *, extra: str = "", under: tuple[str, ...] = (sys.executable,)) -> Target:
    """`extra`: more configuration; `under`: the interpreter, or a profiler before it. The ledger starts empty."""
    port = free_port()
    config = filled("waypost.toml", upstream=upstream, port=port, extra=extra)
    clear_ledger()
    server = Server([*under, *waypost_command(config, port)], core=GATEWAY_CORE, log=BUILD / "waypost.log", env={"BENCH_KEY": KEY})
    server.wait_listening(port)
    return Target("waypost", server, port, prefix="lab/", headers=(f"Authorization: Bearer {KEY}",))


def clear_ledger() -> None:
    for path in sorted(BUILD.glob("waypost-bench.db*"), key=lambda p: p.is_dir()):
        if path.is_dir():
            for segment in path.iterdir():
                segment.unlink()
            path.rmdir()
        else:
            path.unlink()
