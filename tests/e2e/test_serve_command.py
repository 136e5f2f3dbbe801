"""`waypost serve` as an operator meets it: greeting, probes, reload, drain, several workers; and the gateway mounted as ASGI."""

import asyncio
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import Serve
from e2e_kit import SECRET, Serving, chat, eventually, model, provider, route, told

from waypost import __version__
from waypost.sim.provider import Simulator
from waypost.sim.texts import verify


def simple(sim: Simulator, script: str = "m.ok-n20", *, extra: str = "") -> str:
    return extra + provider("lab", f"{sim.box.origin}/p/lab") + model("lab/small", script) + route("stable", "lab/small")


# --- what it says --------------------------------------------------------------------------------------------------------


def test_it_greets_with_where_it_is_whom_it_found_and_what_routes_mean(sim: Simulator, serve: Serve) -> None:
    gateway = serve(simple(sim))
    assert f"http://127.0.0.1:{gateway.port}/v1" in gateway.text
    assert "lab" in gateway.text and "stable" in gateway.text and "waypost.db" in gateway.text
    assert SECRET not in gateway.text
    assert verify(gateway.ask(chat("stable")).text)


def test_keys_in_the_environment_are_configuration_enough(serve: Serve) -> None:
    gateway = serve(None, env={"OPENAI_API_KEY": "sk-zero-config", "ANTHROPIC_API_KEY": "sk-ant-zero"})
    assert "openai" in gateway.text and "anthropic" in gateway.text and "auto" in gateway.text
    assert "sk-zero-config" not in gateway.text and "sk-ant-zero" not in gateway.text
    names = [row["id"] for row in gateway.get("/v1/models").json["data"]]
    assert "auto" in names and any(name.startswith("openai/") for name in names) and any(name.startswith("anthropic/") for name in names)


def test_nothing_configured_still_starts_and_says_what_to_do(serve: Serve) -> None:
    gateway = serve(None)
    assert "OPENAI_API_KEY" in gateway.text and "demo" in gateway.text
    answer = gateway.ask(chat("openai/gpt-4o-mini"))
    assert answer.status == 404 and answer.error["code"] == "model_not_found"


def test_the_module_tells_its_version() -> None:
    run = subprocess.run([sys.executable, "-m", "waypost", "--version"], capture_output=True, text=True, timeout=20, check=True)
    assert __version__ in run.stdout


def test_probes_and_metrics(sim: Simulator, serve: Serve) -> None:
    gateway = serve(simple(sim))
    assert gateway.get("/livez").status == 200 and gateway.get("/readyz").json["status"] == "ready"
    assert gateway.ask(chat("stable")).status == 200
    metrics = gateway.get("/metrics")
    assert metrics.status == 200 and metrics.headers["content-type"].startswith("text/plain")
    assert b"waypost_" in metrics.body and b"lab/small" in metrics.body
    assert SECRET.encode() not in metrics.body and b"Tell me of" not in metrics.body


# --- reload --------------------------------------------------------------------------------------------------------------


def test_a_reload_takes_the_new_file_and_a_broken_one_changes_nothing(sim: Simulator, serve: Serve) -> None:
    gateway = serve(simple(sim))
    file = gateway.directory / "waypost.toml"
    assert gateway.ask(chat("extra")).status == 404
    file.write_text(simple(sim) + route("extra", "lab/small"))
    gateway.signal(signal.SIGHUP)
    eventually(lambda: "configuration reloaded" in gateway.text, "it says so")
    assert verify(gateway.ask(chat("extra")).text)
    file.write_text("[server]\nprot = 1\n")
    gateway.signal(signal.SIGHUP)
    eventually(lambda: "not reloaded" in gateway.text, "it says so")
    assert "server.prot" in gateway.text
    assert verify(gateway.ask(chat("extra")).text)
    file.unlink()
    gateway.signal(signal.SIGHUP)
    eventually(lambda: gateway.text.count("not reloaded") == 2, "it says so again")
    assert verify(gateway.ask(chat("extra")).text)


def test_a_live_stream_outlives_the_reload_that_removes_its_model(sim: Simulator, serve: Serve) -> None:
    gateway = serve(simple(sim, "m.g25-n40"))
    with _Live(gateway, chat("lab/small", stream=True)) as live:
        live.wait_for_content()
        (gateway.directory / "waypost.toml").write_text(provider("other", sim.box.origin) + model("other/m", "m.ok"))
        gateway.signal(signal.SIGHUP)
        eventually(lambda: "configuration reloaded" in gateway.text, "it says so")
        assert gateway.ask(chat("lab/small")).status == 404
        stream = told(live.rest())
    assert stream.done and stream.error is None and verify(stream.text)


# --- stop ----------------------------------------------------------------------------------------------------------------


def test_a_stop_lets_live_streams_finish_and_takes_no_new_work(sim: Simulator, serve: Serve) -> None:
    gateway = serve(simple(sim, "m.g25-n40"))
    lives = [_Live(gateway, chat("lab/small", stream=True)) for _ in range(10)]
    for live in lives:
        live.wait_for_content()
    gateway.signal(signal.SIGTERM)
    eventually(lambda: "stopping" in gateway.text, "it says so")
    streams = [told(live.rest()) for live in lives]
    assert all(stream.done and stream.error is None and verify(stream.text) for stream in streams)
    assert gateway.end() == 0
    assert [row["outcome"] for row in gateway.rows()] == ["ok"] * 10


def test_a_second_signal_stops_at_once_and_still_keeps_the_books(sim: Simulator, serve: Serve) -> None:
    gateway = serve(simple(sim, "m.drip-50-n2000"))
    with _Live(gateway, chat("lab/small", stream=True)) as live:
        live.wait_for_content()
        gateway.signal(signal.SIGTERM)
        eventually(lambda: "stopping" in gateway.text, "it says so")
        gateway.signal(signal.SIGTERM)
        began = time.monotonic()
        assert gateway.end() == 0
        assert time.monotonic() - began < 5
        stream = told(live.rest())
    assert not stream.done and stream.error is not None
    assert stream.error["code"] == "gateway_stopping" and "gateway is stopping" in stream.error["message"]
    (row,) = gateway.rows()
    assert row["outcome"] == "cancelled" and int(row["output_tokens"]) > 0


def test_ctrl_c_on_an_idle_gateway_ends_it_quickly_and_quietly(sim: Simulator, serve: Serve) -> None:
    gateway = serve(simple(sim))
    assert gateway.ask(chat("stable")).status == 200
    gateway.signal(signal.SIGINT)
    assert gateway.end(5) == 0
    assert "Traceback" not in gateway.text
    assert len(gateway.rows()) == 1


def test_a_drain_ends_when_its_time_is_over(sim: Simulator, serve: Serve) -> None:
    gateway = serve(simple(sim, "m.drip-50-n2000", extra="[server]\ndrain_s = 0.5\n"))
    with _Live(gateway, chat("lab/small", stream=True)) as live:
        live.wait_for_content()
        gateway.signal(signal.SIGTERM)
        assert gateway.end(10) == 0
        stream = told(live.rest())
    assert not stream.done and stream.error is not None and stream.error["code"] == "gateway_stopping"


@pytest.mark.parametrize("is_stream", [False, True])
def test_who_has_nothing_yet_when_the_drain_ends_is_told_to_try_again(sim: Simulator, serve: Serve, is_stream: bool) -> None:
    marker = f"stopping-{is_stream}"
    gateway = serve(simple(sim, "m.silence-60", extra="[server]\ndrain_s = 0.5\n"))
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(gateway.ask, chat("lab/small", stream=is_stream, marker=marker))
        eventually(lambda: bool(sim.records(marker)), "the provider is asked")
        gateway.signal(signal.SIGTERM)
        assert gateway.end(10) == 0
        answer = asked.result(5)
    assert answer.status == 503 and answer.error["code"] == "gateway_stopping"
    assert answer.headers["retry-after"] == "1"
    (row,) = gateway.rows()
    assert row["outcome"] == "cancelled"


class _Live:
    """A stream that is being read."""

    def __init__(self, gateway: Serving, body: dict[str, Any]) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
        self.connection.request("POST", "/v1/chat/completions", body=json.dumps(body), headers={"Content-Type": "application/json"})
        self.answer = self.connection.getresponse()
        self.got = b""

    def __enter__(self) -> "_Live":
        return self

    def __exit__(self, *exc: object) -> None:
        self.connection.close()

    def wait_for_content(self) -> None:
        while b'"content":"' not in self.got.replace(b'"content":""', b""):
            self.got += self.answer.readline()

    def rest(self) -> bytes:
        try:
            self.got += self.answer.read()
        except (http.client.IncompleteRead, ConnectionError):
            pass
        self.connection.close()
        return self.got


# --- several workers -----------------------------------------------------------------------------------------------------


def test_two_workers_serve_one_port_and_one_ledger_and_both_end(sim: Simulator, serve: Serve) -> None:
    gateway = serve(simple(sim), "--workers", "2")
    pids = _children(gateway.process.pid)
    assert len(pids) == 2
    answers = [gateway.ask(chat("stable")) for _ in range(30)]
    assert all(verify(answer.text) for answer in answers)
    assert len({answer.headers["x-request-id"] for answer in answers}) == 30
    assert len({answer.headers["x-request-id"][:14] for answer in answers}) == 2  # both did some of it
    gateway.signal(signal.SIGTERM)
    assert gateway.end(10) == 0
    eventually(lambda: not any(_lives(pid) for pid in pids), "both are gone")
    assert sorted(row["request_id"] for row in gateway.rows()) == sorted(answer.headers["x-request-id"] for answer in answers)


def test_a_worker_that_dies_is_replaced_and_its_rows_are_kept(sim: Simulator, serve: Serve) -> None:
    gateway = serve(simple(sim), "--workers", "2")
    before = [gateway.ask(chat("stable")).headers["x-request-id"] for _ in range(10)]
    victim = _children(gateway.process.pid)[0]
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: "starting another" in gateway.text, "the parent says so")
    eventually(lambda: len(_children(gateway.process.pid)) == 2 and victim not in _children(gateway.process.pid), "two again")

    def serves() -> bool:
        try:
            return gateway.ask(chat("stable")).status == 200
        except OSError:
            return False

    eventually(serves, "it serves")
    assert set(before) <= {row["request_id"] for row in gateway.rows()}
    gateway.signal(signal.SIGTERM)
    assert gateway.end(10) == 0


def test_workers_do_not_outlive_a_parent_that_is_killed(sim: Simulator, serve: Serve) -> None:
    gateway = serve(simple(sim), "--workers", "2")
    pids = _children(gateway.process.pid)
    gateway.signal(signal.SIGKILL)
    eventually(lambda: not any(_lives(pid) for pid in pids), "nobody keeps the port")


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# --- mounted in another application --------------------------------------------------------------------------------------


@pytest.fixture
def mounted(sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    (tmp_path / "waypost.toml").write_text(simple(sim))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIM_KEY", SECRET)
    from waypost.app import asgi

    yield asgi


@pytest.mark.parametrize("stream", [False, True])
def test_the_same_gateway_runs_as_an_asgi_application(mounted: Any, stream: bool) -> None:
    async def drive() -> tuple[int, bytes]:
        application = mounted()
        begun, ended = asyncio.Event(), asyncio.Event()
        inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

        async def said(event: dict[str, Any]) -> None:
            (begun if event["type"] == "lifespan.startup.complete" else ended).set()

        lifespan = asyncio.ensure_future(application({"type": "lifespan", "asgi": {"version": "3.0"}}, inbox.get, said))
        await inbox.put({"type": "lifespan.startup"})
        await asyncio.wait_for(begun.wait(), 10)
        got = await _asgi_post(application, json.dumps(chat("stable", stream=stream)).encode())
        await inbox.put({"type": "lifespan.shutdown"})
        await asyncio.wait_for(ended.wait(), 10)
        await asyncio.wait_for(lifespan, 10)
        return got

    status, body = asyncio.run(drive())
    assert status == 200
    assert verify(told(body).text if stream else json.loads(body)["choices"][0]["message"]["content"])


async def _asgi_post(application: Any, body: bytes) -> tuple[int, bytes]:
    head: list[int] = []
    parts: list[bytes] = []
    requests = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> dict[str, Any]:
        for event in requests:
            return event
        await asyncio.sleep(3600)
        return {"type": "http.disconnect"}

    async def send(event: dict[str, Any]) -> None:
        if event["type"] == "http.response.start":
            head.append(event["status"])
        else:
            parts.append(event.get("body", b""))

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/chat/completions",
        "raw_path": b"/v1/chat/completions",
        "query_string": b"",
        "headers": [(b"host", b"x"), (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    await asyncio.wait_for(application(scope, receive, send), 10)
    return head[0], b"".join(parts)
