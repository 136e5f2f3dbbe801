"""OpenAI to OpenAI: the provider's bytes, less what is documented, and nothing broken behind them."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai_double import DONE, events, replies, splits

from waypost.core.types import Fault, Reply, Usage
from waypost.dialects.openai_chat import parse
from waypost.dialects.openai_passage import OpenAIPassage

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def passage(*, include_usage: bool = False, cost_nusd: int | None = None) -> OpenAIPassage:
    body = {"messages": [{"role": "user", "content": "hi"}], "stream": True, "stream_options": {"include_usage": include_usage}}
    return OpenAIPassage(parse(json.dumps(body).encode()), cost_of=lambda _: cost_nusd)


def event(**fields: Any) -> bytes:
    head = {"id": "i", "object": "chat.completion.chunk", "created": 5, "model": "m"}
    return b"data: " + json.dumps(head | fields, separators=(",", ":")).encode() + b"\n\n"


def chunk(text: str = "", finish: str | None = None, **fields: Any) -> bytes:
    return event(choices=[{"index": 0, "delta": {"content": text} if text else {}, "finish_reason": finish}], **fields)


def through(target: OpenAIPassage, *chunks: bytes) -> bytes:
    return b"".join([*map(target.feed, chunks), target.end()])


USAGE_CHUNK = event(choices=[], usage=USAGE)
NOISE = [b": keep-alive\n\n", b"\n", event(choices=[], prompt_filter_results=[])]


@settings(max_examples=100)
@given(replies, st.booleans(), st.booleans(), st.data())
def test_any_split_relays_the_same_bytes_less_the_usage_chunk(answer: Reply, include_usage: bool, crlf: bool, data: st.DataObject) -> None:
    frames = [piece for frame in events(answer) for piece in (NOISE[0], frame)]
    end = DONE
    if crlf:
        frames, end = [frame.replace(b"\n", b"\r\n") for frame in frames], DONE.replace(b"\n", b"\r\n")
    target = passage(include_usage=include_usage)
    out = through(target, *data.draw(splits(b"".join(frames) + end)))
    assert target.failure is None
    assert target.finished
    assert out == b"".join(frames[:-1])
    assert target.tail == (frames[-1] + end if include_usage else end)
    assert target.usage == answer.usage


def test_content_is_counted_and_keep_alives_are_not() -> None:
    target = passage()
    sent = [*NOISE, chunk("Hello"), chunk(" wörld"), *NOISE, chunk(" again"), chunk(" and"), chunk(' "quoted" \n'), chunk("", "stop"), DONE]
    assert through(target, *sent) == b"".join(sent[:-1])
    assert target.content_events == 5
    assert target.content_bytes == len('Hello wörld again and "quoted" \n'.encode())


def test_the_learned_shape_lets_nothing_else_through() -> None:
    plain = [chunk(text) for text in ("one", "two", "three")]
    before, after = plain[0].split(b"one")
    for odd in (b'x"},"finish_reason":"stop"}],"a":[{"b":{"c":"', b"\\ud800\\q", b"\x07", b"\xff\xfe", b"a\n\ndata: {"):
        target = passage()
        assert through(target, *plain)[: len(b"".join(plain))] == b"".join(plain)
        target = passage()
        for whole in plain:
            target.feed(whole)
        out = target.feed(before + odd + after)
        assert target.failure is not None or (b"finish_reason" in odd and out), odd


@pytest.mark.parametrize("extra", [{"obfuscation": "x"}, {"usage": None}, {"choices2": [{"delta": {"content": "z"}}]}])
def test_learning_never_miscounts(extra: dict[str, Any]) -> None:
    target = passage()
    for text in ("a", "b", "cd", "e"):
        target.feed(chunk(text, **extra))
    assert (target.content_events, target.content_bytes) == (4, 5)


def test_tool_calls_reasoning_and_refusals_are_content() -> None:
    target = passage()
    calls = [{"index": 0, "id": "c", "function": {"name": "f", "arguments": '{"a"'}}]
    for delta in (
        {"tool_calls": calls},
        {"reasoning": "hm"},
        {"reasoning_content": "hm"},
        {"refusal": "no"},
        {"role": "assistant", "content": ""},
    ):
        target.feed(event(choices=[{"index": 0, "delta": delta}]))
    assert (target.content_events, target.content_bytes) == (4, 10)


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        (b"data: {oops\n\n", Fault.MALFORMED),
        (b'data: {"choices":5}\n\n', Fault.MALFORMED),
        (event(error={"message": "m", "code": 429}), Fault.RATE_LIMITED),
        (event(error={"message": "m", "type": "overloaded_error"}), Fault.OVERLOADED),
        (event(error="boom", choices=[]), Fault.SERVER),
        (b'event: error\ndata: {"message":"m"}\n\n', Fault.SERVER),
        (chunk("", "error"), Fault.SERVER),
    ],
)
@pytest.mark.parametrize("joined", [True, False])
def test_nothing_of_a_broken_event_or_after_it_is_relayed(bad: bytes, fault: Fault, joined: bool) -> None:
    sent = [chunk("a"), bad, chunk("b"), chunk("", "stop"), DONE]
    target = passage()
    assert through(target, *([b"".join(sent)] if joined else sent)) == chunk("a")
    assert target.failure is not None
    assert (target.failure.fault, target.failure.phase) == (fault, "stream")
    assert not target.finished
    assert target.tail == b""


@pytest.mark.parametrize(
    ("sent", "finished"),
    [
        ([chunk("a"), chunk("", "stop")], False),
        ([chunk("a"), chunk("", "stop"), b"data: [DONE]"], True),
        ([chunk("a"), b"data: [DONE]\n"], True),
        ([chunk("a"), DONE], True),
        ([chunk("a"), chunk("", "stop"), b"data: {"], False),
        ([chunk("a")], False),
        ([chunk("a"), event(choices=[{"index": 1, "delta": {}}]), chunk("", "stop")], False),
        ([b": ping\n\n"], False),
        ([DONE], False),
        ([], False),
    ],
)
def test_which_ends_are_ends(sent: list[bytes], finished: bool) -> None:
    target = passage()
    through(target, *sent)
    assert target.finished is finished
    assert (target.failure is None) is finished
    assert target.tail == (DONE if finished else b"")


def test_a_provider_known_to_send_no_done_ends_with_its_finish() -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "hi"}], "stream": True}).encode()
    target = OpenAIPassage(parse(body), cost_of=lambda _: None, ends_bare=True)
    through(target, chunk("a"), chunk("", "stop"))
    assert target.finished
    assert target.tail == DONE


def test_cost_is_spliced_into_the_usage_chunk() -> None:
    target = passage(include_usage=True, cost_nusd=1_500_000)
    through(target, chunk("a"), chunk("", "stop"), USAGE_CHUNK, DONE)
    assert target.tail == USAGE_CHUNK.replace(b'"total_tokens":10}', b'"total_tokens":10,"cost":0.0015}') + DONE
    assert target.usage == Usage(7, output_tokens=3)


def test_usage_in_the_last_choice_chunk_is_priced_there() -> None:
    target = passage(include_usage=True, cost_nusd=1)
    out = through(target, chunk("a"), chunk("", "stop", usage=USAGE), DONE)
    assert b'"cost":0.000000001}' in out
    assert target.usage == Usage(7, output_tokens=3)


def test_a_cut_ends_the_stream_as_length_in_the_providers_envelope() -> None:
    target = passage(include_usage=True, cost_nusd=5)
    target.feed(chunk("endless"))
    out = [line for line in target.cut(Usage(1, output_tokens=2)).split(b"\n\n") if line]
    first, usage = (json.loads(line.removeprefix(b"data: ")) for line in out[:2])
    assert (first["id"], first["model"], first["created"]) == ("i", "m", 5)
    assert first["choices"][0]["finish_reason"] == "length"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 2
    assert out[2] == b"data: [DONE]"
    assert target.feed(chunk("more")) == b""


def test_a_giant_event_is_bounded() -> None:
    target = passage()
    target.feed(b"data: ")
    for _ in range(200):
        target.feed(b"x" * 65536)
    assert target.failure is not None
    assert target.failure.fault is Fault.MALFORMED
