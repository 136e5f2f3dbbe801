"""Between dialects: a stream translated or gathered, with the same counts and the same ends."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai_double import DONE, events, replies, splits

from waypost.core.types import Choice, Fault, Reply, Text, Usage
from waypost.dialects.openai_answer import ChunkEncoder
from waypost.dialects.openai_reader import Reader
from waypost.dialects.openai_reader import reply as read_whole
from waypost.dialects.passage import Gather, Translation


def translation() -> Translation:
    return Translation(Reader(), ChunkEncoder(request_id="r", model="p/m", cost_of=lambda _: 5, include_usage=True))


def chunk(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return b"data: " + json.dumps({"id": "i", "model": "m", "choices": [choice]}).encode() + b"\n\n"


@settings(max_examples=60)
@given(replies, st.data())
def test_a_translated_stream_says_what_was_said(answer: Reply, data: st.DataObject) -> None:
    target, back = translation(), Gather(Reader())
    chunks = data.draw(splits(b"".join(events(answer)) + DONE))
    out = b"".join([*map(target.feed, chunks), target.end()])
    assert target.finished
    assert target.tail.endswith(DONE)
    back.feed(out + target.tail)
    assert back.finished
    assert (back.reply.choices, back.reply.usage) == (answer.choices, answer.usage)
    assert target.usage == answer.usage


@settings(max_examples=60)
@given(replies, st.data())
def test_a_gathered_stream_is_the_whole_answer(answer: Reply, data: st.DataObject) -> None:
    target = Gather(Reader())
    assert b"".join(map(target.feed, data.draw(splits(b"".join(events(answer)) + DONE)))) == b""
    assert target.finished
    assert target.reply == answer
    assert not isinstance(read_whole(b"{}"), Reply)


@pytest.mark.parametrize(
    ("last", "fault"),
    [(b"", Fault.TRUNCATED), (b"data: {oops\n\n", Fault.MALFORMED), (b'data: {"error":{"code":429}}\n\n', Fault.RATE_LIMITED)],
)
def test_a_broken_stream_fails_and_stops(last: bytes, fault: Fault) -> None:
    target = translation()
    out = target.feed(chunk("a") + last)
    assert target.end() == b""
    assert target.failure is not None
    assert target.failure.fault is fault
    assert b'"a"' in out
    assert target.feed(chunk("b")) == b""
    assert (target.tail, target.finished, target.content_events) == (b"", False, 1)


def test_the_terminal_marker_is_held_back() -> None:
    target = translation()
    out = target.feed(chunk("a") + chunk("", "stop") + DONE)
    assert b"[DONE]" not in out
    assert target.tail == DONE


def test_a_cut_ends_with_length_and_usage() -> None:
    target = translation()
    target.feed(chunk("a"))
    out = target.cut(Usage(1, output_tokens=1))
    assert b'"finish_reason":"length"' in out
    assert b'"completion_tokens":1' in out
    assert out.endswith(DONE)


def test_a_cut_gathering_keeps_what_was_gathered() -> None:
    target = Gather(Reader())
    target.feed(chunk("a"))
    assert target.cut(Usage(1, output_tokens=1)) == b""
    assert target.reply.choices == (Choice((Text("a"),), "length"),)
    assert target.reply.usage == Usage(1, output_tokens=1)
