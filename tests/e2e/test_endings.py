"""What happens to a request in time: deadlines, hedges, callers who leave or read slowly, crowds, and providers that stay down."""

import asyncio
import http.client
import json
import re
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import Serve
from e2e_kit import WIRES, Serving, chat, eventually, free_port, model, provider, route, told

from waypost.sim.provider import Simulator
from waypost.sim.scripts import Rule
from waypost.sim.texts import verify, verify_prefix


def place(sim: Simulator, name: str, wire: str = "openai-chat", script: str = "m.ok-n20", *, extra: str = "", facts: str = "") -> str:
    return provider(name, f"{sim.box.origin}/p/{name}", wire, extra=extra) + model(f"{name}/m", script, extra=facts)


# --- time ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_a_deadline_ends_a_request_that_no_provider_answers(sim: Simulator, serve: Serve, stream: bool) -> None:
    gateway = serve(place(sim, "late", script="m.silence-60"))
    answer = gateway.ask(chat("late/m", stream=stream), headers={"x-waypost-deadline-ms": "250"})
    assert (answer.status, answer.error["code"]) == (504, "timeout")
    assert answer.headers["x-should-retry"] == "false"
    assert answer.seconds < 5


def test_a_deadline_of_the_caller_is_no_strike_against_the_provider(sim: Simulator, serve: Serve) -> None:
    gateway = serve(place(sim, "patient", script="m.ok-d400-n20"))
    for _ in range(6):
        assert gateway.ask(chat("patient/m"), headers={"x-waypost-deadline-ms": "100"}).status == 504
    assert verify(gateway.ask(chat("patient/m")).text)
    assert [t["standing"] for t in gateway.get("/readyz").json["targets"]] == ["ready"]


def test_a_deadline_cuts_a_live_stream_with_a_typed_error(sim: Simulator, serve: Serve) -> None:
    gateway = serve(place(sim, "dripping", script="m.drip-50-n200"))
    answer = gateway.ask(chat("dripping/m", stream=True), headers={"x-waypost-deadline-ms": "600"})
    stream = told(answer.body)
    assert stream.error is not None and stream.error["code"] == "timeout" and not stream.done
    assert stream.text and verify_prefix(stream.text)


def test_a_hedge_answers_for_a_provider_that_has_become_slow(sim: Simulator, serve: Serve) -> None:
    hedged = "[retries]\nhedge = { enabled = true, quantile = 0.9, max_share = 1.0 }\nbudget_ratio = 1.0\n"
    gateway = serve(hedged + place(sim, "h1") + place(sim, "h2") + route("pair", "h1/m", "h2/m"))
    for _ in range(40):  # it learns how fast the first one usually is
        gateway.ask(chat("pair"))
    sim.set_rules([Rule(provider="h1", ttft_ms=4000)])
    answer = gateway.ask(chat("pair", marker="hedged"))
    sim.set_rules([])
    assert verify(answer.text)
    assert (answer.headers["x-waypost-model"], answer.headers["x-waypost-attempts"]) == ("h2/m", "2")
    assert answer.seconds < 3.5
    rows = gateway.rows(answer.headers["x-request-id"])
    assert sorted(row["outcome"] for row in rows) == ["hedge_lost", "ok"]
    eventually(lambda: all(r.ended == "peer" for r in sim.records("hedged") if r.provider == "h1"), "the loser's socket is closed")


@pytest.mark.parametrize("wire", WIRES)
def test_an_answer_without_content_is_an_answer(sim: Simulator, serve: Serve, wire: str) -> None:
    gateway = serve(place(sim, f"mute{wire[:3]}", wire, "m.empty"))
    answer = gateway.ask(chat(f"mute{wire[:3]}/m"))
    assert (answer.status, answer.text, answer.finish) == (200, "", "stop")
    stream = told(gateway.ask(chat(f"mute{wire[:3]}/m", stream=True)).body)
    assert (stream.text, stream.finish, stream.done, stream.error) == ("", "stop", True, None)
    assert [row["outcome"] for row in gateway.rows()] == ["ok", "ok"]


# --- callers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", WIRES)
def test_a_caller_who_leaves_closes_the_provider_and_pays_what_was_received(sim: Simulator, serve: Serve, wire: str) -> None:
    name = f"left{wire[:3]}"
    gateway = serve(place(sim, name, wire, "m.drip-20-n3000"))
    request_id, left_s = _leave_after(gateway, chat(f"{name}/m", stream=True, marker=name), events=10)
    eventually(lambda: sim.records(name)[0].peer_closed_s is not None, "the simulator sees the close")
    record = sim.records(name)[0]
    assert record.peer_closed_s is not None and record.peer_closed_s - left_s < 0.3
    eventually(lambda: [r["outcome"] for r in gateway.rows(request_id)] == ["caller_left"], "the row says so")
    (row,) = gateway.rows(request_id)
    assert 8 <= int(row["output_tokens"]) <= record.output_tokens + 2
    assert int(row["input_tokens"]) > 0 and int(row["cost_nusd"]) > 0


def test_a_caller_who_leaves_before_the_first_byte_closes_the_provider_too(sim: Simulator, serve: Serve) -> None:
    gateway = serve(place(sim, "early", script="m.silence-30"))
    raw = json.dumps(chat("early/m", marker="early")).encode()
    with socket.create_connection(("127.0.0.1", gateway.port)) as caller:
        caller.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(raw), raw))
        eventually(lambda: bool(sim.records("early")), "the provider is asked")
        left_s = time.monotonic()
    eventually(lambda: sim.records("early")[0].peer_closed_s is not None, "the simulator sees the close")
    assert (sim.records("early")[0].peer_closed_s or 0) - left_s < 0.3
    eventually(lambda: [r["outcome"] for r in gateway.rows()] == ["caller_left"], "the row says so")


def _leave_after(gateway: Serving, body: dict[str, object], *, events: int) -> tuple[str, float]:
    """Read some events, then hang up. (request id, the moment of leaving)"""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
    connection.request("POST", "/v1/chat/completions", body=json.dumps(body), headers={"Content-Type": "application/json"})
    answer = connection.getresponse()
    seen = 0
    while seen < events:
        seen += answer.readline().startswith(b"data:")
    request_id = answer.headers["x-request-id"]
    answer.close()
    left_s = time.monotonic()
    connection.close()
    return request_id, left_s


def test_a_caller_who_never_reads_is_not_buffered_for(sim: Simulator, serve: Serve) -> None:
    gateway = serve(place(sim, "fast", script="m.n400000"))
    gateway.ask(chat("fast/m", max_tokens=5))
    before = gateway.rss_mib()
    raw = json.dumps(chat("fast/m", stream=True, marker="unread")).encode()
    with socket.socket() as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.connect(("127.0.0.1", gateway.port))
        caller.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(raw), raw))
        eventually(lambda: bool(sim.records("unread")), "the provider is asked")
        pushed = -1
        while sim.records("unread")[0].bytes_pushed != pushed:  # until the provider is held back
            pushed = sim.records("unread")[0].bytes_pushed
            time.sleep(0.3)
        assert pushed < 40_000_000 and sim.records("unread")[0].ended == ""  # of some 80 MB; the rest is kernels' socket buffers
        assert gateway.rss_mib() - before < 12
        assert gateway.get("/livez").status == 200


# --- crowds --------------------------------------------------------------------------------------------------------------


def test_five_hundred_streams_at_once_all_arrive_whole(sim: Simulator, serve: Serve) -> None:
    gateway = serve(place(sim, "crowd", script="m.g20-n20") + place(sim, "crowd2", "anthropic-messages", "m.g20-n20"))
    bodies = asyncio.run(_all_at_once(gateway.port, [chat(f"crowd{'2' * (i % 2)}/m", stream=True) for i in range(500)]))
    ends = Counter((stream.done, stream.error is None, verify(stream.text)) for stream in map(told, bodies))
    assert ends == {(True, True, True): 500}
    rows = gateway.rows()
    assert Counter(row["outcome"] for row in rows) == {"ok": 500}
    assert len({row["request_id"] for row in rows}) == 500
    assert {row["output_tokens"] for row in rows} == {"20"}


def test_every_call_in_flight_finds_the_second_provider_when_the_first_dies(sim: Simulator, serve: Serve) -> None:
    gateway = serve(place(sim, "dying", script="m.fail-503-d300") + place(sim, "heir") + route("pair", "dying/m", "heir/m"))
    bodies = asyncio.run(_all_at_once(gateway.port, [chat("pair", stream=True) for _ in range(80)]))
    assert Counter(verify(told(body).text) for body in bodies) == {True: 80}


async def _all_at_once(port: int, asks: list[dict[str, object]]) -> list[bytes]:
    return await asyncio.gather(*(_stream(port, json.dumps(ask).encode()) for ask in asks))


async def _stream(port: int, raw: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(raw), raw))
    got = await asyncio.wait_for(reader.read(-1), 30)
    writer.close()
    body = got.partition(b"\r\n\r\n")[2]
    return re.sub(rb"(?:^|\r\n)[0-9a-fA-F]+\r\n", b"", body)  # the chunks' sizes


# --- providers that stay down --------------------------------------------------------------------------------------------


def test_a_provider_that_refuses_is_not_dialled_for_every_request(serve: Serve, sim: Simulator) -> None:
    with socket.socket() as listener:  # accepts in the kernel and is reset by us, so that dials can be counted
        listener.bind(("127.0.0.1", 0))
        listener.listen(256)
        dials: list[float] = []

        def refuse() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                dials.append(time.monotonic())
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                peer.close()

        with ThreadPoolExecutor(1) as pool:
            pool.submit(refuse)
            dead = provider("dead", f"http://127.0.0.1:{listener.getsockname()[1]}") + model("dead/m", "m")
            gateway = serve(dead + place(sim, "alive") + route("pair", "dead/m", "alive/m"))
            answers = [gateway.ask(chat("pair")) for _ in range(60)]
            listener.shutdown(socket.SHUT_RDWR)
    assert all(verify(answer.text) for answer in answers)
    assert len(dials) <= 20
    assert answers[-1].headers["x-waypost-attempts"] == "1"


def test_alone_and_refused_every_caller_gets_a_clean_error_and_recovery_is_noticed(sim: Simulator, serve: Serve) -> None:
    box = sim.add_provider("box")
    gateway = serve(provider("solo", box.origin) + model("solo/m", "m.ok-n20"))
    box.down(cut=True)
    assert {gateway.ask(chat("solo/m")).status for _ in range(8)} <= {502, 503}
    box.up()
    eventually(lambda: gateway.ask(chat("solo/m")).status == 200, "it is served again", timeout_s=15)


def test_a_dead_credential_takes_out_its_provider_and_nobody_else(sim: Simulator, serve: Serve) -> None:
    gateway = serve(place(sim, "nokey", script="m.fail-401") + place(sim, "keyed") + route("pair", "nokey/m", "keyed/m"))
    answers = [gateway.ask(chat("pair", marker=f"key{i}")) for i in range(10)]
    assert all(verify(answer.text) for answer in answers)
    assert [answer.headers["x-waypost-attempts"] for answer in answers] == ["2", *["1"] * 9]
    targets = {t["deployment"]: t for t in gateway.get("/readyz").json["targets"]}
    assert targets["nokey/m"]["standing"] == "dead" and targets["nokey/m"]["alarm"]
    assert targets["keyed/m"]["standing"] == "ready"


def test_retry_after_is_obeyed(sim: Simulator, serve: Serve) -> None:
    gateway = serve(place(sim, "busy", script="m.fail-429-ra2-x1-n20") + place(sim, "free") + route("pair", "busy/m", "free/m"))
    answers = [gateway.ask(chat("pair", marker="patience")) for _ in range(5)]
    assert all(verify(answer.text) for answer in answers)
    assert len([r for r in sim.records("patience") if r.provider == "busy"]) == 1
    alone = gateway.ask(chat("busy/m"), headers={"x-waypost-deadline-ms": "500"})
    assert alone.status == 429 and 1 <= int(alone.headers["retry-after"]) <= 3


def test_a_short_retry_after_is_waited_for_when_there_is_nobody_else(sim: Simulator, serve: Serve) -> None:
    gateway = serve(place(sim, "brief", script="m.fail-429-ms200-x1-n20"))
    answer = gateway.ask(chat("brief/m", marker="brief"))
    assert verify(answer.text) and answer.headers["x-waypost-attempts"] == "2"


def test_too_long_for_one_model_goes_only_to_a_larger_window(sim: Simulator, serve: Serve) -> None:
    config = place(sim, "small", script="m.fail-400-context", facts="context_tokens = 8000")
    config += place(sim, "equal", facts="context_tokens = 8000") + place(sim, "large", facts="context_tokens = 100000")
    gateway = serve(config + route("up", "small/m", "equal/m", "large/m") + route("flat", "small/m", "equal/m"))
    answer = gateway.ask(chat("up", marker="long"))
    assert verify(answer.text) and answer.headers["x-waypost-model"] == "large/m"
    refused = gateway.ask(chat("flat", marker="long2"))
    assert (refused.status, refused.error["code"], refused.headers["x-waypost-attempts"]) == (400, "context_length_exceeded", "1")
    assert {r.provider for r in sim.records("long") + sim.records("long2")} == {"small", "large"}


@pytest.mark.parametrize("wire", WIRES)
def test_nobody_else_is_asked_to_say_what_a_filter_stopped(sim: Simulator, serve: Serve, wire: str) -> None:
    name = f"filter{wire[:3]}"
    gateway = serve(place(sim, name, wire, "m.filter-n20") + place(sim, "other") + route("pair", f"{name}/m", "other/m"))
    answer = gateway.ask(chat("pair", marker=name))
    assert answer.status == 200 and answer.finish == "content_filter" and answer.headers["x-waypost-attempts"] == "1"
    stream = told(gateway.ask(chat("pair", stream=True, marker=name)).body)
    assert stream.finish == "content_filter" and stream.done and stream.error is None
    assert {r.provider for r in sim.records(name)} == {name}


def test_refused_for_good_and_alone(serve: Serve) -> None:
    gateway = serve(provider("nobody", f"http://127.0.0.1:{free_port()}") + model("nobody/m", "m"))
    answer = gateway.ask(chat("nobody/m", stream=True))
    assert answer.status == 502 and answer.headers["x-should-retry"] == "false" and answer.error["code"] == "provider_unavailable"
