"""The simulator as witness: what it logs and bills, who gets which script, boxes that come and go, control over HTTP."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sim_client import DIALECTS, fold, raw_request, request, send

from waypost.sim import texts
from waypost.sim.provider import Simulator
from waypost.sim.records import Record
from waypost.sim.scripts import Rule

every_dialect = pytest.mark.parametrize("dialect", DIALECTS)


def in_sim(act: Callable[[Simulator], Awaitable[Any]], **options: Any) -> Any:
    async def run() -> Any:
        async with Simulator(**{"time_scale": 0.01, **options}) as sim:
            return await act(sim)

    return asyncio.run(run())


async def status(sim: Simulator, model: str, *, prompt: str = "hi", port: int | None = None, prefix: str = "", key: str = "") -> int:
    path, body = request("openai-chat", model, prompt=prompt, stream=False, prefix=prefix)
    headers = {"Authorization": f"Bearer {key}"} if key else None
    return (await send(port or sim.port, path, body, headers=headers)).status


async def until(holds: Callable[[], Any]) -> None:
    for _ in range(300):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("never came true")


# --- the bill


@every_dialect
def test_the_bill_is_what_was_sent_over_all_attempts_of_a_request(dialect: str) -> None:
    async def act(sim: Simulator) -> None:
        delivered = 0
        for model in ("fail-503", "cut-5", "error-200", "ok-n20", "refuse"):
            path, body = request(dialect, model, prompt="[[order-66]] Tell me.")
            seen = await send(sim.port, path, body)
            delivered += texts.count(fold(dialect, seen).text) if model in ("cut-5", "ok-n20") else 0
        other, body = request(dialect, "ok", prompt="[[order-67]] Tell me.")
        await send(sim.port, other, body)
        bill = sim.bill("order-66")
        assert (bill.attempts, bill.billed) == (5, 2)
        assert bill.output_tokens == delivered == 25
        assert bill.prompt_tokens == 2 * texts.count("[[order-66]] Tell me.")
        assert sim.bill().billed == 3

    in_sim(act)


def test_the_same_prompt_costs_the_same_in_every_dialect() -> None:
    async def act(sim: Simulator) -> None:
        for dialect in DIALECTS:
            path, body = request(dialect, "ok", tools=["weather"], prompt="What is the weather like? Just say.")
            await send(sim.port, path, body)
        assert len({record.prompt_tokens for record in sim.log}) == 1

    in_sim(act)


@every_dialect
@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_peer_that_leaves_is_logged_with_the_tokens_it_left_after(dialect: str, how: str) -> None:
    async def act(sim: Simulator) -> None:
        path, body = request(dialect, "g100-n4000")  # a token each millisecond
        _reader, writer = await asyncio.open_connection("127.0.0.1", sim.port)
        writer.write(raw_request(path, body))
        await until(lambda: sim.log and sim.log[0].output_tokens >= 5)
        writer.close() if how == "close" else writer.transport.abort()
        await until(lambda: sim.log[0].ended)
        record = sim.log[0]
        assert record.ended == "peer" and record.peer_closed_s is not None
        assert record.peer_closed_after == record.output_tokens
        assert 5 <= record.output_tokens < 4000 == record.planned_tokens
        await asyncio.sleep(0.02)
        assert sim.log[0].output_tokens == record.output_tokens, "generation has stopped"
        assert sim.bill().output_tokens == record.output_tokens

    in_sim(act)


def test_a_peer_that_leaves_before_the_head_of_a_whole_answer_is_billed_in_part() -> None:
    async def act(sim: Simulator) -> None:
        path, body = request("openai-chat", "g1000-n100", stream=False)  # a token each 10 ms, one second in all
        _, writer = await asyncio.open_connection("127.0.0.1", sim.port)
        writer.write(raw_request(path, body))
        await until(lambda: sim.log)
        await asyncio.sleep(0.1)
        writer.close()
        await until(lambda: sim.log[0].ended)
        assert sim.log[0].status == 0 and 0 < sim.log[0].output_tokens < 100
        assert sim.log[0].is_billed

    in_sim(act)


def test_a_peer_that_leaves_during_silence_is_seen_at_once() -> None:
    async def act(sim: Simulator) -> None:
        path, body = request("openai-chat", "silence")
        _, writer = await asyncio.open_connection("127.0.0.1", sim.port)
        writer.write(raw_request(path, body))
        await until(lambda: sim.log)
        writer.close()
        await until(lambda: sim.log[0].ended)
        assert sim.log[0].peer_closed_after == 0 and not sim.log[0].is_billed

    in_sim(act)


def test_times_are_in_the_order_of_events() -> None:
    async def act(sim: Simulator) -> None:
        path, body = request("openai-chat", "d500-g100-n5")
        await send(sim.port, path, body)
        r = sim.log[0]
        assert r.first_byte_s is not None and r.first_token_s is not None and r.last_byte_s is not None
        assert r.accept_s <= r.headers_s <= r.body_s < r.first_byte_s <= r.first_token_s < r.last_byte_s

    in_sim(act)


def test_a_repeated_prefix_is_cached_and_reported() -> None:
    async def act(sim: Simulator) -> None:
        long = "A long opening that every turn repeats. " * 40  # 400 tokens
        for turn in ("one", "two"):
            path, body = request("openai-chat", "ok", prompt=long + turn, stream=False)
            seen = await send(sim.port, path, body)
        assert [record.cached_tokens for record in sim.log] == [0, 384]
        assert seen.json["usage"]["prompt_tokens_details"]["cached_tokens"] == 384
        assert sim.log[0].prefix == sim.log[1].prefix

    in_sim(act)


def test_anthropic_caches_only_what_is_marked_and_counts_it_apart() -> None:
    async def act(sim: Simulator) -> None:
        long = "A long opening that every turn repeats. " * 40
        for marked in (False, False, True, True):
            path, body = request("anthropic-messages", "ok", stream=False)
            body["system"] = [{"type": "text", "text": long, **({"cache_control": {"type": "ephemeral"}} if marked else {})}]
            seen = await send(sim.port, path, body)
        assert [(r.cached_tokens, r.cache_write_tokens) for r in sim.log] == [(0, 0), (0, 0), (0, 384), (384, 0)]
        used = seen.json["usage"]
        assert used["cache_read_input_tokens"] == 384 and used["input_tokens"] == sim.log[-1].prompt_tokens - 384

    in_sim(act)


def test_a_cache_key_finds_the_warm_server_and_chance_does_not() -> None:
    async def act(sim: Simulator) -> tuple[int, int]:
        hits = {"": 0, "k": 0}
        for key in hits:
            for turn in range(8):
                path, body = request("openai-chat", "servers-4", prompt=(key or "x") * 800 + f"turn {turn}", stream=False)
                await send(sim.port, path, {**body, **({"prompt_cache_key": key} if key else {})})
                hits[key] += sim.log[-1].cached_tokens > 0
        return hits["k"], hits[""]

    keyed, unkeyed = in_sim(act)
    assert keyed == 7 > unkeyed


def test_keys_are_logged_as_hashes_only() -> None:
    async def act(sim: Simulator) -> None:
        await status(sim, "ok", key="sk-secret-canary")
        path, body = request("gemini", "ok")
        await send(sim.port, path + "&key=sk-secret-canary", body)
        assert sim.log[0].key == sim.log[1].key and [r.key_in_url for r in sim.log] == [False, True]
        assert "canary" not in repr(sim.log)

    in_sim(act)


# --- who gets which script


def test_only_the_first_attempts_of_a_request_fail() -> None:
    async def act(sim: Simulator) -> None:
        assert [await status(sim, "fail-503-x2") for _ in range(3)] == [503, 503, 200]
        assert await status(sim, "fail-503-x2", prompt="another request") == 503

    in_sim(act)


def test_probability_draws_by_seed_and_not_by_order() -> None:
    async def act(sim: Simulator) -> dict[str, int]:
        prompts = [f"request {i}" for i in range(60)]
        if sim.seed < 0:
            prompts.reverse()
        sim.seed = abs(sim.seed)
        return {prompt: await status(sim, "fail-503-p0.5", prompt=prompt) for prompt in prompts}

    first, reversed_order, other_seed = in_sim(act, seed=7), in_sim(act, seed=-7), in_sim(act, seed=8)
    assert first == reversed_order
    assert first != other_seed
    assert 15 < sum(1 for s in first.values() if s == 503) < 45


def test_equal_seeds_give_equal_bytes() -> None:
    async def act(sim: Simulator) -> list[bytes]:
        bodies: list[bytes] = []
        for dialect in DIALECTS:
            path, body = request(dialect, "think-p0.5-no-done")
            bodies.append((await send(sim.port, path, body)).body)
        return bodies

    assert in_sim(act, seed=3) == in_sim(act, seed=3)


def test_rules_come_before_the_models_name_and_run_out() -> None:
    async def act(sim: Simulator) -> None:
        sim.set_rules([Rule(model="gpt-*", script=["fail-503", "fail-429"]), Rule(model="gpt-5", script="fail-404")])
        assert [await status(sim, "gpt-5") for _ in range(3)] == [503, 429, 404]
        assert await status(sim, "fail-401") == 401
        sim.set_rules([])
        assert await status(sim, "gpt-5") == 200

    in_sim(act)


def test_rules_count_per_request_when_told() -> None:
    async def act(sim: Simulator) -> None:
        sim.set_rules([Rule(script="fail-503", last=1, per_request=True)])
        assert [await status(sim, "m", prompt=p) for p in ("[[a]]", "[[b]]", "[[a]]", "[[b]]")] == [503, 503, 200, 200]

    in_sim(act)


def test_rules_know_provider_key_and_time() -> None:
    async def act(sim: Simulator) -> None:
        sim.set_rules(
            [
                Rule(provider="slow*", script="fail-529"),
                Rule(key="*-dead", script="fail-401"),
                Rule(model="m", until_s=30, script="fail-500"),
            ]
        )
        assert await status(sim, "ok", prefix="/p/slow-one") == 529
        assert await status(sim, "ok", prefix="/p/fast-one") == 200
        assert await status(sim, "ok", key="sk-dead") == 401
        assert await status(sim, "m") == 500
        sim.time_scale = 1e-9  # scripted time flies past the window
        assert await status(sim, "m") == 200

    in_sim(act)


def test_a_rule_may_set_only_the_pace() -> None:
    async def act(sim: Simulator) -> Record:
        sim.set_rules([Rule(tokens=7, ttft_ms="lognormal:500:0.1"), Rule(script="cut-3")])
        path, body = request("openai-chat", "gpt")
        await send(sim.port, path, body)
        return sim.log[0]

    record = in_sim(act)
    assert record.planned_tokens == 7 and record.script == "cut-3"
    assert record.first_byte_s is not None and record.first_byte_s - record.body_s > 0.002


# --- boxes


def test_a_box_that_is_down_refuses_and_comes_up_on_its_port() -> None:
    async def act(sim: Simulator) -> None:
        box = sim.add_provider("b", rules=[Rule(script="fail-502", last=1)])
        assert [await status(sim, "ok", port=box.port) for _ in range(2)] == [502, 200]
        port = box.port
        box.down()
        assert not box.is_up
        with pytest.raises(ConnectionRefusedError):
            await status(sim, "ok", port=port)
        assert await status(sim, "ok") == 200, "the others stand"
        box.up()
        box.set_rules([Rule(script="fail-404")])
        assert box.port == port and await status(sim, "ok", port=port) == 404

    in_sim(act)


def test_going_down_may_cut_what_is_open() -> None:
    async def act(sim: Simulator) -> None:
        path, body = request("openai-chat", "g1000-n1000")
        running = asyncio.create_task(send(sim.port, path, body))
        await until(lambda: sim.log and sim.log[0].output_tokens)
        sim.box.down(cut=True)
        assert (await running).end == "rst"
        await until(lambda: sim.log[0].ended)
        assert sim.log[0].ended == "broken" and sim.log[0].peer_closed_s is None

    in_sim(act)


def test_a_box_may_reset_or_hold_connections_at_accept() -> None:
    async def act(sim: Simulator) -> None:
        box = sim.add_provider("b", rules=[Rule(at="accept", script=["refuse", "silence"])])
        path, body = request("openai-chat", "ok")
        assert [(await send(box.port, path, body, head_s=0.2)).end for _ in range(3)] == ["rst", "open", "whole"]
        assert len(sim.log) == 1

    in_sim(act)


def test_a_box_takes_only_its_keys() -> None:
    async def act(sim: Simulator) -> None:
        box = sim.add_provider("b", keys=["sk-good"])
        assert await status(sim, "ok", port=box.port, key="sk-good") == 200
        assert await status(sim, "ok", port=box.port, key="sk-bad") == 401

    in_sim(act)


def test_connections_are_kept_and_requests_on_them_numbered() -> None:
    async def act(sim: Simulator) -> None:
        path, body = request("openai-chat", "ok-n3", stream=False)
        reader, writer = await asyncio.open_connection("127.0.0.1", sim.port)
        writer.write(raw_request(path, body) * 2)  # pipelined
        for _ in range(2):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            assert texts.verify(json.loads(await reader.readexactly(length))["choices"][0]["message"]["content"])
        writer.close()
        assert [record.connection_requests for record in sim.log] == [1, 2]

    in_sim(act)


def test_chunked_requests_and_expectations_are_read() -> None:
    async def act(sim: Simulator) -> None:
        path, body = request("openai-chat", "ok", stream=False)
        payload = json.dumps(body).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", sim.port)
        writer.write(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n".encode()
        )
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        for byte in b"%x\r\n%b\r\n0\r\n\r\n" % (len(payload), payload):
            writer.write(bytes([byte]))
        answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 200") and b"Connection: close" in answer

    in_sim(act)


@pytest.mark.parametrize(
    "bad", [b"\x16\x03\x01 no http\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"POST / SPDY/9\r\n\r\n"]
)
def test_bytes_that_are_no_request_get_a_400(bad: bytes) -> None:
    async def act(sim: Simulator) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", sim.port)
        writer.write(bad)
        assert (await asyncio.wait_for(reader.read(), 2)).startswith(b"HTTP/1.1 400")
        writer.close()

    in_sim(act)


@every_dialect
@pytest.mark.parametrize("body", [b"{", b"[]", b"{}", b'{"model": 7}', b'{"model": "m", "messages": "x", "input": 3, "contents": {}}'])
def test_bodies_that_no_provider_takes_get_the_dialects_400(dialect: str, body: bytes) -> None:
    async def act(sim: Simulator) -> None:
        path, _ = request(dialect, "ok")
        seen = await send(sim.port, path, body)
        assert seen.status == 400 and seen.json["error"]["message"]

    in_sim(act)


# --- the rest of the wire


def test_tokens_are_counted_on_request() -> None:
    async def act(sim: Simulator) -> None:
        path, body = request("anthropic-messages", "ok")
        assert (await send(sim.port, path + "/count_tokens", body)).json == {"input_tokens": 6}
        _, body = request("gemini", "ok")
        assert (await send(sim.port, "/v1beta/models/ok:countTokens", body)).json == {"totalTokens": 6}

    in_sim(act)


def test_embeddings_are_unit_vectors_of_the_text() -> None:
    async def act(sim: Simulator) -> None:
        seen = await send(sim.port, "/v1/embeddings", {"model": "e", "input": ["a", "b", "a"], "dimensions": 8})
        a, b, again = (row["embedding"] for row in seen.json["data"])
        assert a == again != b and abs(sum(x * x for x in a) - 1) < 1e-4
        assert (await send(sim.port, "/v1/embeddings", {"model": "fail-503", "input": "a"})).status == 503

    in_sim(act)


@pytest.mark.parametrize(
    ("prefix", "field"),
    [
        ("/deepseek", "prompt_cache_miss_tokens"),
        ("/openrouter", "cost"),
        ("/mistral", "prompt_tokens"),
        ("/qwen/compatible-mode", "prompt_tokens"),
    ],
)
def test_flavours_live_under_their_own_paths(prefix: str, field: str) -> None:
    async def act(sim: Simulator) -> None:
        path, body = request("openai-chat", "ok", stream=False, prefix=prefix)
        assert field in (await send(sim.port, path, body)).json["usage"]
        assert sim.log[0].flavour == prefix.split("/")[1]

    in_sim(act)


def test_azure_names_the_model_in_the_path() -> None:
    async def act(sim: Simulator) -> None:
        path = "/azure/openai/deployments/gpt-4o/chat/completions?api-version=2026-01-01"
        seen = await send(sim.port, path, {"messages": [{"role": "user", "content": "hi"}], "stream": True})
        assert sim.log[0].model == "gpt-4o" and b'"choices":[],"prompt_filter_results"' in seen.body

    in_sim(act)


def test_control_over_http() -> None:
    async def act(sim: Simulator) -> None:
        sim.add_provider("b")
        put = await send(sim.port, "/_sim/rules", [{"model": "m", "script": "fail-503"}], method="PUT")
        assert put.status == 200 and await status(sim, "m", prompt="[[x]]") == 503
        log = (await send(sim.port, "/_sim/log?marker=x", None, method="GET")).json
        assert [row["status"] for row in log] == [503]
        assert (await send(sim.port, "/_sim/bill?marker=x", None, method="GET")).json["attempts"] == 1
        bad = await send(sim.port, "/_sim/rules", [{"script": "explode"}], method="PUT")
        assert bad.status == 400 and "explode" in bad.json["error"]["message"]
        assert await status(sim, "m") == 503, "a bad set of rules changes nothing"
        await send(sim.port, "/_sim/down?provider=b", None)
        assert not sim.boxes["b"].is_up
        await send(sim.port, "/_sim/reset", None)
        assert not sim.log
        assert (await send(sim.port, "/_sim/nonsense", None)).status == 400
        assert (await send(sim.port, "/v1/models", None, method="GET")).json["data"][0]["id"] == "ok"
        assert (await send(sim.port, "/nowhere", None)).status == 404

    in_sim(act)


def test_a_slow_reader_holds_generation_back() -> None:
    async def act(sim: Simulator) -> None:
        path, body = request("openai-chat", "n1000000")
        _reader, writer = await asyncio.open_connection("127.0.0.1", sim.port, limit=1024)
        writer.write(raw_request(path, {**body, "model": "endless"}))
        await until(lambda: sim.log and sim.log[0].bytes_pushed > 100_000)
        last = -1
        while sim.log[0].bytes_pushed != last:
            last = sim.log[0].bytes_pushed
            await asyncio.sleep(0.05)
        assert sim.log[0].output_tokens < 500_000 and not sim.log[0].ended
        writer.transport.abort()
        await until(lambda: sim.log[0].ended == "peer")

    in_sim(act)
