"""OpenAI-dialect answers of providers: a stream and a whole answer are one Reply, and nothing broken passes for whole."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai_double import DONE, events, replies, splits, whole

from waypost.core.fold import Fold
from waypost.core.sse import Decoder
from waypost.core.types import (
    Choice,
    Ended,
    Failed,
    Failure,
    Fault,
    Reasoning,
    Reply,
    Text,
    ToolCall,
    Usage,
)
from waypost.dialects.openai_chat_provider import PROVIDER
from waypost.dialects.openai_reader import Reader, reply


def read(*chunks: bytes, eof: bool = True, quirks: frozenset[str] = frozenset()) -> Fold:
    decoder, reader, folding = Decoder(), PROVIDER.reader(quirks), Fold()
    for event in (event for chunk in chunks for event in decoder.feed(chunk)):
        for delta in reader.feed(event):
            folding.add(delta)
    for delta in reader.eof() if eof else ():
        folding.add(delta)
    return folding


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps({"id": "i", "model": "m", "created": 1} | fields).encode() + b"\n\n"


def chunk(delta: dict[str, Any], finish: str | None = None, **fields: Any) -> bytes:
    return event(choices=[{"index": 0, "delta": delta, "finish_reason": finish}], **fields)


def body(message: dict[str, Any], finish: str = "stop", **fields: Any) -> bytes:
    return json.dumps({"id": "i", "model": "m", "choices": [{"index": 0, "message": message, "finish_reason": finish}]} | fields).encode()


@settings(max_examples=100)
@given(replies, st.sampled_from(["reasoning_content", "reasoning"]), st.booleans(), st.data())
def test_any_split_of_the_stream_is_the_whole_answer(answer: Reply, thoughts: str, usage_in_choice: bool, data: st.DataObject) -> None:
    stream = b"".join(events(answer, thoughts=thoughts, usage_in_choice=usage_in_choice)) + DONE
    folded = read(*data.draw(splits(stream)))
    assert folded.ended
    assert folded.failure is None
    assert folded.reply() == answer
    assert reply(whole(answer, thoughts=thoughts)) == answer


def test_a_clean_end_after_the_finish_is_complete_only_of_a_provider_that_sends_no_done() -> None:
    said = [chunk({"content": "a"}), chunk({}, "stop")]
    assert not read(*said).ended
    assert read(*said, quirks=frozenset({"no_done_marker"})).ended


@pytest.mark.parametrize("stream", [[], [chunk({"content": "a"})], [chunk({"role": "assistant"})], [b"data: [DONE"]])
def test_an_end_without_terminal_marker_is_truncated(stream: list[bytes]) -> None:
    folded = read(*stream)
    assert not folded.ended
    assert folded.failure is not None
    assert folded.failure.fault is Fault.TRUNCATED


def test_one_unfinished_choice_of_two_is_truncated() -> None:
    second = event(choices=[{"index": 1, "delta": {"content": "b"}}])
    assert not read(chunk({"content": "a"}), second, chunk({}, "stop")).ended


def test_done_alone_is_no_answer() -> None:
    assert read(DONE).failure is not None


def test_done_without_finish_is_an_end() -> None:
    assert read(chunk({"content": "a"}), DONE).ended


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        (b"data: {oops\n\n", Fault.MALFORMED),
        (b'data: {"choices":[{"delta":{"content":5}}]}\n\n', Fault.MALFORMED),
        (b'data: {"id":"\xff"}\n\n', Fault.MALFORMED),
        (event(error={"message": "m", "code": 429}), Fault.RATE_LIMITED),
        (
            event(
                error={"message": "m", "code": "server_error"}, choices=[{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}]
            ),
            Fault.SERVER,
        ),
        (b'event: error\ndata: {"message":"m","type":"overloaded_error"}\n\n', Fault.OVERLOADED),
        (chunk({}, "error"), Fault.SERVER),
        (chunk({}, "insufficient_system_resource"), Fault.OVERLOADED),
    ],
)
def test_a_broken_event_fails_and_nothing_after_it_counts(bad: bytes, fault: Fault) -> None:
    folded = read(chunk({"content": "a"}), bad, chunk({"content": "b"}, "stop"), DONE)
    assert folded.failure is not None
    assert (folded.failure.fault, folded.failure.phase, folded.ended) == (fault, "stream", False)
    assert folded.reply().choices[0].parts == (Text("a"),)


def test_noise_between_events_is_ignored() -> None:
    noise = [
        b": keep-alive\n\n",
        b"data:\n\n",
        event(choices=[], prompt_filter_results=[]),
        event(choices=[], usage=None),
        b"event: x\ndata: {}\n\n",
    ]
    folded = read(event(id="", model="", choices=[]), *noise, chunk({"content": "a"}), *noise, chunk({}, "stop"), chunk({}, "stop"), DONE)
    assert folded.ended
    assert folded.reply() == Reply("i", "m", (Choice((Text("a"),), "stop", "stop"),), None, 1)


def test_tool_calls_without_ids_or_indices_stay_apart() -> None:
    calls = [{"function": {"name": "f", "arguments": "{}"}}, {"id": "b", "function": {"name": "g", "arguments": {"a": 1}}}]
    parts = (ToolCall("call_i_0_0", "f", "{}"), ToolCall("b", "g", '{"a":1}'))
    assert read(*(chunk({"tool_calls": [call]}) for call in calls), chunk({}, "stop")).reply().choices[0].parts == parts
    whole_reply = reply(body({"tool_calls": calls}))
    assert isinstance(whole_reply, Reply)
    assert whole_reply.choices == (Choice(parts, "tool_calls", "stop"),)


def test_mistral_thinks_in_content_parts() -> None:
    content = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "yes"}]
    whole_reply = reply(body({"content": content}))
    assert isinstance(whole_reply, Reply)
    assert whole_reply.choices[0].parts == (Reasoning("hm", origin="openai-chat"), Text("yes"))


def test_reasoning_details_win_over_their_plain_copy() -> None:
    details = [{"type": "reasoning.text", "text": "hm", "signature": "s", "format": "anthropic-claude-v1", "index": 0}]
    whole_reply = reply(body({"content": "x", "reasoning": "hm", "reasoning_details": details}))
    assert isinstance(whole_reply, Reply)
    assert whole_reply.choices[0].parts[0] == Reasoning("hm", "s", None, "anthropic-messages")


@pytest.mark.parametrize(
    ("usage", "read_as"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 2, "prompt_cache_hit_tokens": 3}, Usage(5, 3, 0, 2)),
        ({"prompt_tokens": 5, "completion_tokens": 2, "cached_tokens": 4}, Usage(5, 4, 0, 2)),
        (
            {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 2}},
            Usage(5, 1, 2, 2),
        ),
        (
            {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 10, "completion_tokens_details": {"reasoning_tokens": 3}},
            Usage(5, 0, 0, 5, 3),
        ),
        (
            {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 3}},
            Usage(5, 0, 0, 4, 3),
        ),
        ({"prompt_tokens": -1, "completion_tokens": 0.0}, Usage(-1)),
        ({"prompt_tokens": 1e300, "completion_tokens": 0}, Usage(0)),
        ({}, None),
    ],
)
def test_usage_in_every_spelling(usage: dict[str, Any], read_as: Usage | None) -> None:
    whole_reply = reply(body({"content": "a"}, usage=usage))
    assert isinstance(whole_reply, Reply)
    assert whole_reply.usage == read_as


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (b"", Fault.MALFORMED),
        (b"\n\n\n", Fault.MALFORMED),
        (b"<html>hi</html>", Fault.MALFORMED),
        (b'{"choices":[', Fault.MALFORMED),
        (b'{"choices":[]}', Fault.MALFORMED),
        (b"[]", Fault.MALFORMED),
        (b'{"error":{"message":"m","code":502}}', Fault.SERVER),
        (b'{"error":{"message":"m","code":"insufficient_quota"},"choices":[]}', Fault.QUOTA_EXHAUSTED),
        (b'{"object":"error","message":"m","type":"rate_limit_error","code":"1300"}', Fault.RATE_LIMITED),
        (body({"content": ""}, "error"), Fault.SERVER),
    ],
)
def test_a_200_that_is_no_answer_is_a_failure(answer: bytes, fault: Fault) -> None:
    failure = reply(answer)
    assert isinstance(failure, Failure)
    assert failure.fault is fault


def test_blank_lines_before_the_answer_are_keep_alives() -> None:
    assert isinstance(reply(b"\n\n\n" + body({"content": "a"})), Reply)


@settings(max_examples=150)
@given(
    st.binary(max_size=50)
    | st.text(max_size=30).map(lambda text: ('{"choices":[{"delta":{"content":' + text).encode("utf-8", "surrogatepass"))
)
def test_no_event_breaks_the_reader(data: bytes) -> None:
    reader = Reader()
    for found in Decoder().feed(b"data: " + data.replace(b"\n", b"").replace(b"\r", b"") + b"\n\n"):
        assert all(isinstance(delta, Failed | Ended) or delta for delta in reader.feed(found))
    reply(data)
