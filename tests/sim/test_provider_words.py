"""Each failure word, over real sockets, in each dialect where it makes sense: it does exactly what it says."""

import asyncio
import json
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sim_client import DIALECTS, Said, Seen, events, fold, request, send

from waypost.sim import texts
from waypost.sim.provider import Simulator
from waypost.sim.records import Record

SCALE = 0.01  # a scripted second takes 10 ms
CONTENT_FINISH = {
    "openai-chat": ("stop", "length", "tool_calls", "content_filter"),
    "openai-responses": ("completed", "max_output_tokens", "completed", "content_filter"),
    "anthropic-messages": ("end_turn", "max_tokens", "tool_use", "refusal"),
    "gemini": ("STOP", "MAX_TOKENS", "STOP", "SAFETY"),
}
every_dialect = pytest.mark.parametrize("dialect", DIALECTS)


def in_sim(act: Callable[[Simulator], Awaitable[Any]], **options: Any) -> Any:
    async def run() -> Any:
        async with Simulator(**{"time_scale": SCALE, **options}) as sim:
            return await act(sim)

    return asyncio.run(run())


def ask(dialect: str, model: str, *, wait_s: float = 5.0, head_s: float = 5.0, prefix: str = "", **extra: Any) -> tuple[Seen, Record]:
    """One request to a simulator of its own: what came, and the record of it."""

    async def act(sim: Simulator) -> tuple[Seen, Record]:
        path, body = request(dialect, model, prefix=prefix, **extra)
        seen = await send(sim.port, path, body, wait_s=wait_s, head_s=head_s)
        return seen, sim.log[0]

    return in_sim(act)


def stream(dialect: str, model: str, **extra: Any) -> tuple[Said, Seen, Record]:
    seen, record = ask(dialect, model, **extra)
    return fold(dialect, seen), seen, record


# --- answers


@every_dialect
def test_an_answer_is_whole_verified_and_billed_as_reported(dialect: str) -> None:
    said, seen, record = stream(dialect, "ok")
    assert (seen.status, seen.end) == (200, "whole")
    assert texts.verify(said.text)
    assert texts.checksum(said.text) == record.checksum
    assert said.finishes == [CONTENT_FINISH[dialect][0]]
    assert said.terminals == 1
    assert said.usage == (record.prompt_tokens, record.output_tokens) == (texts.count("Tell me of the river."), 40)
    assert record.ended == "whole" and record.peer_closed_s is None


@every_dialect
def test_a_whole_answer_says_the_same_as_the_stream(dialect: str) -> None:
    said, _, _ = stream(dialect, "ok-n20")
    seen, record = ask(dialect, "ok-n20", stream=False)
    assert json.dumps(said.text)[1:-1] in json.dumps(seen.json)
    assert record.output_tokens == 20


HARMLESS = (
    *("split-1", "split-7", "crlf", "cr", "bom", "u2028", "bom-crlf-split-1", "pings-2", "comments-3", "blank-lines-3", "empty-choices"),
    *(
        "unknown-event",
        "early-hints",
        "slow-2",
        "silence-2",
        "drip-500",
        "burst-10-g50",
        "giant-line-1",
        "d50-g10",
        "stall-5-s2",
        "wrong-type",
    ),
)


@every_dialect
@pytest.mark.parametrize("word", HARMLESS)
def test_a_reader_that_knows_its_wire_is_not_misled_by(word: str, dialect: str) -> None:
    said, seen, record = stream(dialect, f"{word}-n24")
    assert (seen.status, seen.end) == (200, "whole")
    assert texts.verify(said.text)
    assert said.terminals == 1 and len(said.finishes) == 1
    assert not said.errors and not said.malformed
    assert record.output_tokens == 24


@every_dialect
def test_the_ceiling_is_kept_and_said(dialect: str) -> None:
    said, _, record = stream(dialect, "ok", max_tokens=16)
    assert texts.count(said.text) == record.output_tokens == 16
    assert texts.verify_prefix(said.text) and not texts.verify(said.text)
    assert said.finishes == [CONTENT_FINISH[dialect][1]]


@every_dialect
def test_the_ceiling_is_ignored_when_told(dialect: str) -> None:
    said, _, record = stream(dialect, "ignore-max", max_tokens=16)
    assert texts.verify(said.text) and record.output_tokens == 40


@every_dialect
def test_a_cut_at_the_ceiling_may_pose_as_a_natural_stop_without_usage(dialect: str) -> None:
    said, _, record = stream(dialect, "stop-at-max", max_tokens=16)
    assert said.finishes == [CONTENT_FINISH[dialect][0]]
    assert said.usage is None and record.output_tokens == 16


@pytest.mark.parametrize(("dialect", "field"), [("openai-chat", "stop"), ("anthropic-messages", "stop_sequences")])
def test_a_stop_sequence_ends_the_text_before_it(dialect: str, field: str) -> None:
    said, _, record = stream(dialect, "ok", **{field: [". "]})
    assert said.text.endswith(" tokens") and record.output_tokens == texts.count(said.text)
    assert said.finishes == ["stop_sequence" if dialect == "anthropic-messages" else "stop"]


@every_dialect
def test_tools_are_called_with_arguments_after_their_schema(dialect: str) -> None:
    said, _, record = stream(dialect, "tool", tools=["weather"])
    (name, arguments) = said.calls[0]
    assert name == "weather" and isinstance(json.loads(arguments)["city"], str)
    assert said.finishes == [CONTENT_FINISH[dialect][2]]
    assert said.usage is not None and said.usage[1] == record.output_tokens
    if dialect != "gemini":
        assert record.output_tokens == 1 + texts.count(arguments)


@every_dialect
def test_two_tools_are_called_in_parallel(dialect: str) -> None:
    said, _, _ = stream(dialect, "tools2", tools=["weather", "news"])
    assert [name for name, _ in said.calls] == ["weather", "news"]


@every_dialect
def test_reasoning_comes_first_and_is_counted(dialect: str) -> None:
    said, _, record = stream(dialect, "think-n20")
    assert texts.verify(said.reasoning) and texts.verify(said.text)
    assert record.reasoning_tokens == 10 and record.output_tokens == 30
    assert said.usage is not None and said.usage[1] == 30


@every_dialect
def test_a_filtered_answer_ends_half_way_with_its_reason(dialect: str) -> None:
    said, _, _ = stream(dialect, "filter")
    assert said.finishes == [CONTENT_FINISH[dialect][3]]
    assert texts.verify_prefix(said.text) and not texts.verify(said.text)


def test_a_refusal_speaks_in_its_own_field() -> None:
    assert stream("openai-chat", "refusal")[0].refusal.startswith("I must decline")
    assert stream("openai-responses", "refusal")[0].refusal.startswith("I must decline")
    assert stream("anthropic-messages", "refusal")[0].finishes == ["refusal"]


@every_dialect
def test_an_empty_answer_is_finished_and_billed(dialect: str) -> None:
    said, seen, record = stream(dialect, "empty")
    assert seen.end == "whole" and said.terminals == 1 and not said.text
    assert record.is_billed and record.output_tokens == 0


def test_structured_output_fits_its_schema() -> None:
    schema = {
        "type": "object",
        "properties": {
            "kind": {"enum": ["a", "b"]},
            "n": {"type": "integer", "minimum": 200},
            "list": {"type": "array", "items": {"$ref": "#/$defs/leaf"}},
        },
        "$defs": {"leaf": {"type": ["string", "null"], "maxLength": 4}},
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    said, _, _ = stream("openai-chat", "ok", response_format=wanted)
    made = json.loads(said.text)
    assert made["kind"] in "ab" and made["n"] == 200 and len(made["list"][0]) <= 4


# --- statuses

STATUSES = (400, 401, 402, 403, 404, 413, 422, 429, 500, 503, 504, 524, 529)


@every_dialect
@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("streamed", [True, False])
def test_a_status_comes_with_the_dialects_error_body(dialect: str, status: int, streamed: bool) -> None:
    seen, record = ask(dialect, f"gpt-sim.fail-{status}", stream=streamed)
    assert (seen.status, seen.end, record.status) == (status, "whole", status)
    error = seen.json["error"]
    assert error["message"]
    assert (seen.json.get("type") == "error") == (dialect == "anthropic-messages")
    assert ("status" in error and error["code"] == status) == (dialect == "gemini")
    assert not record.is_billed


FLAVOURED = [
    ("", "openai-chat", "fail-429-quota", 429, lambda b: b["error"]["code"] == "insufficient_quota"),
    ("", "openai-chat", "fail-400-context", 400, lambda b: b["error"]["code"] == "context_length_exceeded"),
    ("", "openai-chat", "fail-503-slow-down", 503, lambda b: b["error"]["code"] == "slow_down"),
    ("", "anthropic-messages", "fail-529", 529, lambda b: b["error"]["type"] == "overloaded_error"),
    ("", "anthropic-messages", "fail-400-context", 400, lambda b: "prompt is too long" in b["error"]["message"]),
    ("", "anthropic-messages", "fail-429-quota", 429, lambda b: b["error"]["details"]["error_code"] == "enforced_spend_limit_reached"),
    ("", "gemini", "fail-429", 429, lambda b: b["error"]["details"][0]["retryDelay"] == "17s"),
    ("", "gemini", "fail-429-quota", 429, lambda b: "PerDay" in b["error"]["details"][0]["violations"][0]["quotaId"]),
    ("/mistral", "openai-chat", "fail-429", 429, lambda b: b["object"] == "error" and b["type"] == "rate_limit_error"),
    ("/azure", "openai-chat", "fail-429", 429, lambda b: b["error"]["code"] == "429"),
    ("/azure", "openai-chat", "fail-400-moderation", 400, lambda b: b["error"]["innererror"]["code"] == "ResponsibleAIPolicyViolation"),
    ("/openrouter", "openai-chat", "fail-403", 403, lambda b: b["error"]["metadata"]["reasons"]),
    ("/openrouter", "openai-chat", "fail-402-in-flight", 402, lambda b: "in_flight" in b["error"]["metadata"]["limit_source"]),
    ("/qwen", "openai-chat", "fail-400-arrears", 400, lambda b: b["error"]["code"] == "Arrearage"),
    ("/deepseek", "openai-chat", "fail-402", 402, lambda b: b["error"]["message"] == "Insufficient Balance"),
    ("/vllm", "openai-chat", "fail-400-context", 400, lambda b: b["error"]["type"] == "BadRequestError" and b["error"]["code"] == 400),
    ("", "openai-chat", "blocked-prompt", 400, lambda b: b["error"]["code"] == "content_policy_violation"),
    ("/openrouter", "openai-chat", "blocked-prompt", 403, lambda b: b["error"]["code"] == 403),
]


@pytest.mark.parametrize(("prefix", "dialect", "model", "status", "holds"), FLAVOURED)
def test_each_provider_words_its_errors_its_own_way(
    prefix: str, dialect: str, model: str, status: int, holds: Callable[[Any], Any]
) -> None:
    seen, _ = ask(dialect, model, prefix=prefix)
    assert seen.status == status and holds(seen.json)


RETRY_HEADERS = [
    ("fail-429-ra2", "retry-after", "2"),
    ("fail-429-ms1500", "retry-after-ms", "1500"),
    ("fail-503-ra3600", "retry-after", "3600"),
    ("fail-429-negative", "retry-after", "-1"),
    ("fail-429-garbage", "retry-after", "soon, perhaps"),
    ("fail-429", "x-ratelimit-reset-tokens", "1m0.5s"),
]


@pytest.mark.parametrize(("model", "name", "value"), RETRY_HEADERS)
def test_retry_headers_come_in_all_their_forms(model: str, name: str, value: str) -> None:
    assert ask("openai-chat", model)[0].headers[name] == value


def test_a_retry_date_is_an_http_date() -> None:
    assert ask("openai-chat", "fail-429-date")[0].headers["retry-after"].endswith(" GMT")


def test_a_web_page_may_be_the_error_body() -> None:
    seen, _ = ask("openai-chat", "fail-502-html")
    assert seen.status == 502 and seen.headers["content-type"].startswith("text/html") and b"<html>" in seen.body
    assert ask("openai-chat", "fail-500-bare")[0].body == b""


def test_a_blocked_prompt_on_gemini_is_a_200_without_candidates() -> None:
    seen, record = ask("gemini", "blocked-prompt", stream=False)
    assert seen.status == 200 and "candidates" not in seen.json and seen.json["promptFeedback"]["blockReason"]
    streamed, _ = ask("gemini", "blocked-prompt")
    assert "promptFeedback" in events(streamed.body, Said())[0]
    assert not record.is_billed


# --- connections and waits


@every_dialect
@pytest.mark.parametrize("word", ["refuse", "reset"])
def test_a_reset_before_headers(dialect: str, word: str) -> None:
    seen, record = ask(dialect, word)
    assert (seen.status, seen.end, record.status, record.ended) == (0, "rst", 0, "rst")
    assert not record.is_billed


@every_dialect
@pytest.mark.parametrize("streamed", [True, False])
def test_silence_sends_no_byte(dialect: str, streamed: bool) -> None:
    seen, record = ask(dialect, "silence", head_s=0.1, stream=streamed)
    assert (seen.status, seen.end) == (0, "open")
    assert record.first_byte_s is None


@every_dialect
@pytest.mark.parametrize("word", ["slow", "comments", "blank-lines", "pings-30"])
def test_headers_and_keepalives_come_long_before_content(dialect: str, word: str) -> None:
    seen, record = ask(dialect, word, wait_s=0.1)  # 20 or 30 s scripted: 200 or 300 ms
    said = fold(dialect, seen)
    assert (seen.status, seen.end) == (200, "open")
    assert not said.text and record.output_tokens == 0
    if word == "comments":
        assert said.comments >= 2
    if word == "blank-lines":
        assert seen.chunks.count(b"\n") >= 2


def test_deepseek_sends_blank_lines_before_a_whole_body() -> None:
    seen, _ = ask("openai-chat", "blank-lines-3", stream=False, prefix="/deepseek")
    assert seen.body.startswith(b"\n\n\n{") and texts.verify(seen.json["choices"][0]["message"]["content"])


def test_each_flavour_has_its_own_comment() -> None:
    assert b": OPENROUTER PROCESSING\n\n" in ask("openai-chat", "comments-2", prefix="/openrouter")[0].body
    assert b": keep-alive\n\n" in ask("openai-chat", "comments-2", prefix="/deepseek")[0].body


def test_early_hints_come_before_the_answer() -> None:
    seen, _ = ask("openai-chat", "early-hints")
    assert seen.interim == [103] and seen.status == 200


def test_a_redirect_names_another_host_and_whoever_follows_is_logged() -> None:
    async def act(sim: Simulator) -> None:
        path, body = request("openai-chat", "redirect")
        seen = await send(sim.port, path, body)
        assert seen.status == 307 and seen.headers["location"] == f"http://localhost:{sim.port}/_sim/redirected"
        assert not any(record.redirected for record in sim.log)
        await send(sim.port, "/_sim/redirected", body)
        assert sim.log[-1].redirected

    in_sim(act)


# --- streams that break


@every_dialect
@pytest.mark.parametrize(("word", "end"), [("stall", "open"), ("cut", "fin"), ("rst", "rst"), ("error", "whole"), ("clean-cut", "whole")])
@pytest.mark.parametrize("k", [0, 5, 23])
def test_a_stream_breaks_after_exactly_k_tokens(dialect: str, word: str, end: str, k: int) -> None:
    said, seen, record = stream(dialect, f"{word}-{k}-n24", wait_s=0.15)
    assert (seen.status, seen.end) == (200, end)
    assert texts.count(said.text) == record.output_tokens == k
    assert texts.verify_prefix(said.text)
    assert said.terminals == 0 and not said.finishes
    assert len(said.errors) == (1 if word == "error" else 0)
    assert record.is_billed == (k > 0 or end == "whole")


@every_dialect
def test_a_stream_may_break_between_its_last_token_and_its_usage(dialect: str) -> None:
    said, seen, record = stream(dialect, "cut-last")
    assert seen.end == "fin" and texts.verify(said.text) and said.terminals == 0 and not said.finishes
    assert record.output_tokens == 40


@every_dialect
def test_a_malformed_event_is_one_and_the_rest_is_whole(dialect: str) -> None:
    said, seen, _ = stream(dialect, "malformed-5")
    assert seen.end == "whole" and said.malformed == 1 and texts.verify(said.text) and said.terminals == 1


@every_dialect
def test_the_terminal_marker_may_be_missing(dialect: str) -> None:
    said, seen, _ = stream(dialect, "no-done")
    assert seen.end == "whole" and texts.verify(said.text) and said.terminals == 0


@every_dialect
def test_the_finish_may_be_missing(dialect: str) -> None:
    assert not stream(dialect, "no-finish")[0].finishes


@every_dialect
def test_the_finish_may_be_said_twice(dialect: str) -> None:
    assert len(stream(dialect, "dup-finish")[0].finishes) == 2


@every_dialect
def test_usage_may_be_missing_or_zero(dialect: str) -> None:
    said, _, record = stream(dialect, "no-usage")
    assert said.usage is None and record.output_tokens == 40
    assert stream(dialect, "zero-usage")[0].usage == (0, 0)


def test_usage_may_stand_in_a_chunk_with_choices() -> None:
    said, seen, record = stream("openai-chat", "usage-in-choice")
    assert said.usage == (record.prompt_tokens, 40)
    assert all(event["choices"] for event in events(seen.body, Said()) if event != "[DONE]")


@every_dialect
def test_an_endless_stream_passes_the_ceiling(dialect: str) -> None:
    said, seen, record = stream(dialect, "endless-n10", max_tokens=10, wait_s=0.2)
    assert seen.end == "open" and texts.count(said.text) > 20 and said.terminals == 0
    assert record.output_tokens >= texts.count(said.text)


def test_an_endless_body_never_ends() -> None:
    seen, _ = ask("openai-chat", "endless", stream=False, wait_s=0.1)
    assert seen.end == "open" and len(seen.body) > 500


@pytest.mark.parametrize("streamed", [True, False])
@every_dialect
def test_errors_hide_in_a_200(dialect: str, streamed: bool) -> None:
    seen, record = ask(dialect, "error-200", stream=streamed)
    assert seen.status == 200 and seen.json["error"] and not record.is_billed


@every_dialect
def test_a_200_may_be_no_answer_at_all(dialect: str) -> None:
    assert ask(dialect, "empty-200")[0].body == b""
    page, _ = ask(dialect, "html-200")
    assert page.headers["content-type"].startswith("text/html") and page.status == 200
    whole, _ = ask(dialect, "not-stream")
    assert whole.headers["content-type"] == "application/json" and whole.json


@every_dialect
@pytest.mark.parametrize(("word", "end"), [("cut", "fin"), ("rst", "rst"), ("stall", "open"), ("cut-last", "fin"), ("no-done", "fin")])
def test_a_whole_body_breaks_too(dialect: str, word: str, end: str) -> None:
    seen, record = ask(dialect, word, stream=False, wait_s=0.15)
    assert (seen.status, seen.end) == (200, end)
    assert record.output_tokens == 40, "generated in full before the head, as providers do"


def test_a_malformed_body_has_the_length_it_says() -> None:
    seen, _ = ask("openai-chat", "malformed", stream=False)
    assert seen.end == "whole"
    with pytest.raises(ValueError, match=r".+"):
        json.loads(seen.body)


def test_a_bomb_is_a_thousand_times_larger_than_it_looks() -> None:
    seen, _ = ask("openai-chat", "gzip-bomb")
    assert seen.headers["content-encoding"] == "gzip"
    opener, size = zlib.decompressobj(16 + zlib.MAX_WBITS), 0
    data = seen.body
    while data and not opener.eof:
        size += len(opener.decompress(data, 16 * 1024 * 1024))
        data = opener.unconsumed_tail
    assert opener.eof, "whole, and its checksum holds"
    assert size > 900 * len(seen.body)


def test_bytes_are_split_inside_characters() -> None:
    seen, _ = ask("openai-chat", "split-5-n200")
    assert {len(chunk) for chunk in seen.chunks} <= {1, 2, 3, 4, 5}
    assert any("\ufffd" in chunk.decode(errors="replace") for chunk in seen.chunks)


# --- capacity and scruples


def test_a_full_model_refuses_while_it_is_full() -> None:
    async def act(sim: Simulator) -> None:
        path, body = request("openai-chat", "full-2-d10000")
        first = await asyncio.gather(*(send(sim.port, path, body) for _ in range(5)))
        assert sorted(seen.status for seen in first) == [200, 200, 429, 429, 429]
        assert (await send(sim.port, path, body)).status == 200

    in_sim(act)


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


SCRUPLES: list[tuple[str, str, dict[str, Any]]] = [
    ("openai-chat", "strict-system", {"messages": [user("a"), {"role": "system", "content": "b"}]}),
    ("openai-chat", "no-prefill", {"messages": [user("a"), {"role": "assistant", "content": "b"}]}),
    ("openai-chat", "strict-max-100", {"max_tokens": 101}),
    ("openai-chat", "strict-reasoning", {"tools": ["t"], "messages": [user("a"), {"role": "assistant", "content": "b"}]}),
    ("openai-chat", "no-forced-tool", {"tools": ["t"], "tool_choice": "required"}),
    ("openai-responses", "strict-items", {"input": [{"role": "user", "content": "a", "status": "completed"}]}),
    ("openai-responses", "strict-items", {"input": [{"id": "msg_other", "role": "user", "content": "a"}]}),
    ("anthropic-messages", "strict-tools", {"tools_raw": [{"name": "t", "input_schema": {"anyOf": []}}]}),
    (
        "anthropic-messages",
        "strict-thinking",
        {"messages": [user("a"), {"role": "assistant", "content": [{"type": "thinking", "thinking": "x", "signature": "y"}]}, user("b")]},
    ),
]


@pytest.mark.parametrize(("dialect", "word", "fields"), SCRUPLES)
def test_a_picky_provider_refuses_and_a_patient_one_does_not(dialect: str, word: str, fields: dict[str, Any]) -> None:
    async def act(sim: Simulator) -> list[int]:
        statuses: list[int] = []
        for model in (word, "ok"):
            given = {name: value for name, value in fields.items() if name != "tools_raw"}
            path, body = request(dialect, model, **given)
            body |= {"tools": fields["tools_raw"]} if "tools_raw" in fields else {}
            statuses.append((await send(sim.port, path, body)).status)
        return statuses

    assert in_sim(act) == [400, 200]


def test_thinking_replayed_as_it_came_is_taken() -> None:
    async def act(sim: Simulator) -> int:
        path, body = request("anthropic-messages", "think-strict-thinking", stream=False)
        content = (await send(sim.port, path, body)).json["content"]
        body["messages"] += [{"role": "assistant", "content": content}, user("go on")]
        return (await send(sim.port, path, body)).status

    assert in_sim(act) == 200
