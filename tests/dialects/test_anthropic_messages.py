"""Answers of Anthropic Messages: the stream, the whole answer and the errors.

The law stands at the end: one answer, rendered by a small double of the vendor both whole and as a stream cut anywhere, is read
back as the same value.
"""

import json
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from waypost.core import types as t
from waypost.core.fold import fold
from waypost.core.sse import Decoder, Event
from waypost.core.types import Fault
from waypost.dialects.anthropic_messages import PROVIDER

START = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": [],
        "stop_reason": None,
        "usage": {"input_tokens": 3, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 7, "output_tokens": 1},
    },
}
STOP = {"type": "message_stop"}


def event(body: object) -> Event:
    kind = body.get("type", "") if isinstance(body, dict) else ""
    return Event(kind.encode(), json.dumps(body).encode())


def read(*bodies: object) -> list[t.Delta]:
    """Deltas of a stream of these events, to its end."""
    reader = PROVIDER.reader()
    return [delta for body in bodies for delta in reader.feed(event(body))] + reader.eof()


def start_block(index: int, **block) -> dict:
    return {"type": "content_block_start", "index": index, "content_block": block}


def piece(index: int, **delta) -> dict:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def end_block(index: int) -> dict:
    return {"type": "content_block_stop", "index": index}


def end(reason: str, **usage) -> dict:
    return {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": {"output_tokens": 9} | usage}


def test_a_stream_is_read_delta_by_delta():
    assert read(
        START,
        start_block(0, type="text", text=""),
        {"type": "ping"},
        piece(0, type="text_delta", text="Hel"),
        piece(0, type="text_delta", text="lo"),
        end_block(0),
        end("end_turn"),
        STOP,
    ) == [
        t.Begun("msg_1", "claude-x"),
        t.UsageDelta(t.Usage(15, 5, 7, 1)),
        t.TextDelta("Hel"),
        t.TextDelta("lo"),
        t.UsageDelta(t.Usage(15, 5, 7, 9)),
        t.Finish("stop", "end_turn"),
        t.Ended(),
    ]


def test_usage_is_cumulative_and_the_newest_count_holds():
    newer = end("end_turn", input_tokens=4, cache_read_input_tokens=None, output_tokens_details={"thinking_tokens": 6})
    assert fold(read(START, newer, STOP)).usage == t.Usage(16, 5, 7, 9, 6)


def test_unreadable_usage_does_not_cost_the_answer():
    deltas = read(
        START | {"message": {"id": "m", "model": "c", "usage": {"input_tokens": "many"}}}, piece(0, type="text_delta", text="x"), STOP
    )
    assert deltas == [t.Begun("m", "c"), t.TextDelta("x"), t.Ended()]


def test_thoughts_and_their_seals():
    deltas = read(
        START,
        start_block(0, type="thinking", thinking="", signature=""),
        piece(0, type="thinking_delta", thinking="hm"),
        piece(0, type="signature_delta", signature="sig"),
        end_block(0),
        start_block(1, type="redacted_thinking", data="xyz"),
        end_block(1),
        STOP,
    )
    origin = "anthropic-messages"
    assert deltas[2:-1] == [
        t.ReasoningDelta("hm", block=0, origin=origin),
        t.ReasoningDelta(signature="sig", block=0, origin=origin),
        t.ReasoningDelta(redacted="xyz", block=1, origin=origin),
    ]


def test_parallel_calls_are_numbered_whatever_their_blocks():
    deltas = read(
        START,
        start_block(1, type="tool_use", id="a", name="f", input={}),
        piece(1, type="input_json_delta", partial_json=""),
        piece(1, type="input_json_delta", partial_json='{"x":'),
        piece(1, type="input_json_delta", partial_json="1}"),
        end_block(1),
        start_block(2, type="tool_use", id="b", name="g", input={}),
        end_block(2),
        end("tool_use"),
        STOP,
    )
    assert fold(deltas).choices[0] == t.Choice(
        (t.ToolCall("a", "f", '{"x":1}'), t.ToolCall("b", "g", "{}")), finish="tool_calls", native_finish="tool_use"
    )


@pytest.mark.parametrize(
    ("native", "reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("pause_turn", "pause"),
        ("refusal", "refusal"),
        ("something_new", "stop"),
    ],
)
def test_stop_reasons(native, reason):
    assert t.Finish(reason, native) in read(START, end(native), STOP)


def test_a_refusal_says_why():
    stop = {"stop_reason": "refusal", "stop_details": {"type": "refusal", "category": "bio", "explanation": "Not this."}}
    assert fold(read(START, {"type": "message_delta", "delta": stop, "usage": {"output_tokens": 1}}, STOP)).choices == (
        t.Choice((t.Refusal("Not this."),), "refusal", "refusal"),
    )


@pytest.mark.parametrize(
    "unknown",
    [
        {"type": "brand_new", "index": "zero", "delta": 7},
        start_block(0, type="web_search_tool_result", tool_use_id="s", data={"a": 1}, text=["x"]),
        start_block(0, type="server_tool_use", id="srv", name="web_search", input={}),
        piece(0, type="citations_delta", citation={"cited_text": "x"}, text={"a": 1}),
        piece(0, type="compaction_delta", text=None),
        {"no_type": 1, "type": ""},
    ],
)
def test_what_is_not_known_is_passed_over(unknown):
    assert read(START, unknown, end_block(0), end("end_turn"), STOP) == read(START, end("end_turn"), STOP)


def test_arguments_of_a_server_tool_are_no_arguments_of_a_call():
    search = [
        start_block(0, type="server_tool_use", id="s", name="web_search", input={}),
        piece(0, type="input_json_delta", partial_json="{}"),
    ]
    assert read(START, *search, end_block(0), end("end_turn"), STOP) == read(START, end("end_turn"), STOP)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":5}}',
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_a_malformed_event_ends_the_stream_once(data):
    reader = PROVIDER.reader()
    (failed,) = reader.feed(Event(b"", data))
    assert isinstance(failed, t.Failed) and failed.failure.fault is Fault.MALFORMED
    assert reader.feed(event(START)) == reader.eof() == []


def test_a_stream_without_its_end_is_truncated():
    *_, last = read(START, piece(0, type="text_delta", text="x"), end("end_turn"))
    assert isinstance(last, t.Failed) and last.failure.fault is Fault.TRUNCATED


def test_nothing_follows_the_end():
    assert read(START, end("end_turn"), STOP, STOP, START)[-1] == t.Ended()


def test_an_end_before_anything_is_no_answer():
    *_, last = read(START, STOP)
    assert isinstance(last, t.Failed) and last.failure.fault is Fault.MALFORMED


@pytest.mark.parametrize("before", [[], [piece(0, type="text_delta", text="x")]])
@pytest.mark.parametrize(
    ("kind", "message", "fault"),
    [
        ("overloaded_error", "Overloaded", Fault.OVERLOADED),
        ("api_error", "Internal", Fault.SERVER),
        ("rate_limit_error", "Slow", Fault.RATE_LIMITED),
        ("invalid_request_error", "prompt is too long: 9 tokens > 8 maximum", Fault.CONTEXT_LENGTH),
        ("unheard_of_error", "?", Fault.SERVER),
    ],
)
def test_an_error_inside_the_stream(before, kind, message, fault):
    *deltas, last = read(START, *before, {"type": "error", "error": {"type": kind, "message": message}})
    assert len(deltas) == 2 + len(before)
    assert isinstance(last, t.Failed)
    assert (last.failure.fault, last.failure.phase, last.failure.code) == (fault, "stream" if before else "first_token", kind)


def whole(**changes) -> bytes:
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": [{"type": "text", "text": "Hello"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 1, "output_tokens": 2},
    }
    return json.dumps(message | changes).encode()


def test_a_whole_answer():
    assert PROVIDER.reply(whole()) == t.Reply(
        "msg_1", "claude-x", (t.Choice((t.Text("Hello"),), "stop", "end_turn"),), t.Usage(1, output_tokens=2)
    )


def test_unknown_blocks_of_a_whole_answer_are_passed_over():
    blocks = [{"type": "web_search_tool_result", "text": [1]}, {"type": "text", "text": "Hello", "citations": [{"type": "x"}]}]
    assert PROVIDER.reply(whole(content=blocks)) == PROVIDER.reply(whole())


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"", Fault.MALFORMED),
        (b"<html>", Fault.MALFORMED),
        (b"{}", Fault.MALFORMED),
        (whole(content=[{"type": "text", "text": 5}]), Fault.MALFORMED),
        (whole(content=[5]), Fault.MALFORMED),
        (b'{"type":"error","error":{"type":"overloaded_error","message":"x"}}', Fault.OVERLOADED),
        (b'{"error":{"message":"boom","type":"api_error"}}', Fault.SERVER),
        (b'{"error":"boom"}', Fault.SERVER),
        (b"[" * 100_000, Fault.MALFORMED),
    ],
)
def test_a_200_that_is_no_answer(body, fault):
    answer = PROVIDER.reply(body)
    assert isinstance(answer, t.Failure) and answer.fault is fault


def error(kind: str, message: str = "m", **extra) -> bytes:
    return json.dumps({"type": "error", "error": {"type": kind, "message": message} | extra, "request_id": "req_1"}).encode()


RETRY = [(b"retry-after", b"17")]
FAILURES = [
    (400, [], error("invalid_request_error", "messages: roles must alternate"), Fault.BAD_REQUEST, None),
    (400, [], error("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"), Fault.CONTEXT_LENGTH, None),
    (400, [], error("invalid_request_error", "input length and `max_tokens` exceed context limit: 9 + 9 > 10"), Fault.CONTEXT_LENGTH, None),
    (400, [], error("invalid_request_error", "Your credit balance is too low to access the API."), Fault.QUOTA_EXHAUSTED, None),
    (400, [], error("invalid_request_error", "You have reached your specified API usage limits."), Fault.QUOTA_EXHAUSTED, None),
    (400, [], error("invalid_request_error", "Output blocked by content filtering policy"), Fault.CONTENT_FILTER, None),
    (400, [], error("invalid_request_error", details={"error_code": "organization_on_hold"}), Fault.AUTH, None),
    (401, [], error("authentication_error", "invalid x-api-key"), Fault.AUTH, None),
    (402, [], error("billing_error"), Fault.QUOTA_EXHAUSTED, None),
    (403, [], error("permission_error"), Fault.AUTH, None),
    (404, [], error("not_found_error", "model: claude-9"), Fault.MODEL_UNAVAILABLE, None),
    (409, [], error("conflict_error"), Fault.SERVER, None),
    (413, [], error("request_too_large"), Fault.BAD_REQUEST, None),
    (413, [], b"<html><center>413 Request Entity Too Large</center></html>", Fault.BAD_REQUEST, None),
    (429, RETRY, error("rate_limit_error"), Fault.RATE_LIMITED, 17.0),
    (429, RETRY, error("rate_limit_error", details={"error_code": "ramp_limit_exceeded"}), Fault.RATE_LIMITED, 17.0),
    (429, [], error("rate_limit_error", details={"error_code": "enforced_spend_limit_reached"}), Fault.QUOTA_EXHAUSTED, None),
    (429, [], error("rate_limit_error", details=["odd"]), Fault.RATE_LIMITED, None),
    (500, [], error("api_error"), Fault.SERVER, None),
    (500, [], error("overloaded_error"), Fault.OVERLOADED, None),
    (502, [], b"<html>", Fault.SERVER, None),
    (503, [], b"", Fault.OVERLOADED, None),
    (504, [], error("timeout_error"), Fault.SERVER, None),
    (524, [], b"error code: 524", Fault.SERVER, None),
    (529, RETRY, error("overloaded_error"), Fault.OVERLOADED, 17.0),
    (302, [(b"location", b"https://elsewhere")], b"", Fault.REDIRECT, None),
    (418, [], b"[1]", Fault.BAD_REQUEST, None),
]


@pytest.mark.parametrize(("status", "headers", "body", "fault", "wait_s"), FAILURES)
def test_the_table_of_errors(status, headers, body, fault, wait_s):
    failure = PROVIDER.failure(status, headers, body, 0)
    assert (failure.fault, failure.status, failure.retry_after_s, failure.phase) == (fault, status, wait_s, "headers")
    assert failure.message and "<" not in failure.message


def test_a_key_in_an_error_is_not_repeated():
    failure = PROVIDER.failure(401, [], error("authentication_error", "bad key sk-ant-api03-SECRETSECRET"), 0)
    assert "SECRET" not in failure.message


@settings(max_examples=200, deadline=None)
@given(status=st.integers(100, 599), body=st.binary(max_size=200))
def test_no_error_body_is_too_odd(status, body):
    assert PROVIDER.failure(status, [(b"retry-after", body)], body, 0).status == status


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(["type", "index", "message", "content_block", "delta", "usage", "error", "content", "id", "text", "input"])
KINDS = st.sampled_from(
    ["message_start", "content_block_start", "content_block_delta", "message_delta", "error", "text", "tool_use", "text_delta"]
)
WILD = st.dictionaries(FIELDS, JSON | KINDS | st.dictionaries(FIELDS, JSON | KINDS, max_size=3), max_size=5)


@settings(max_examples=300, deadline=None)
@given(datas=st.lists(st.binary(max_size=40) | WILD.map(lambda body: json.dumps(body).encode()), max_size=4))
def test_no_event_is_too_odd(datas):
    reader = PROVIDER.reader()
    deltas = [delta for data in datas for delta in reader.feed(Event(b"", data))] + reader.eof()
    assert sum(isinstance(delta, t.Failed | t.Ended) for delta in deltas) == 1
    for data in datas:
        assert isinstance(PROVIDER.reply(data), t.Reply | t.Failure)


# The law.

TEXT = st.text(min_size=1, max_size=12)
ORIGIN = "anthropic-messages"
THOUGHTS = st.lists(
    st.builds(lambda text, seal: t.Reasoning(text, signature=seal, origin=ORIGIN), TEXT, TEXT)
    | TEXT.map(lambda data: t.Reasoning(redacted=data, origin=ORIGIN)),
    max_size=2,
)
ARGUMENTS = st.dictionaries(TEXT, st.integers() | TEXT | st.none(), max_size=2).map(lambda value: msgspec.json.encode(value).decode())
CALLS = st.lists(st.builds(t.ToolCall, TEXT, TEXT, ARGUMENTS), max_size=3)
USAGE = st.builds(
    lambda plain, read, written, thought, said: t.Usage(plain + read + written, read, written, thought + said, thought),
    *[st.integers(0, 10**6)] * 5,
)
REASONS = {"end_turn": "stop", "max_tokens": "length", "tool_use": "tool_calls", "pause_turn": "pause", "refusal": "refusal"}
REPLIES = st.builds(
    lambda id_, model, thoughts, text, calls, native, usage: t.Reply(
        id_, model, (t.Choice((*thoughts, *text, *calls), REASONS[native], native),), usage
    ),
    TEXT,
    TEXT,
    THOUGHTS,
    st.lists(TEXT.map(t.Text), max_size=1),
    CALLS,
    st.sampled_from(sorted(REASONS)),
    USAGE,
)


def usage_json(usage: t.Usage) -> dict:
    return {
        "input_tokens": usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }


def block_json(part: t.Part) -> dict:
    match part:
        case t.Text():
            return {"type": "text", "text": part.text}
        case t.ToolCall():
            return {"type": "tool_use", "id": part.id, "name": part.name, "input": msgspec.Raw(part.arguments.encode())}
        case t.Reasoning(redacted=None):
            return {"type": "thinking", "thinking": part.text, "signature": part.signature}
        case t.Reasoning():
            return {"type": "redacted_thinking", "data": part.redacted}
    raise AssertionError(part)


def rendered_whole(reply: t.Reply) -> bytes:
    (choice,) = reply.choices
    return msgspec.json.encode(
        {
            "id": reply.id,
            "type": "message",
            "role": "assistant",
            "model": reply.model,
            "content": [block_json(part) for part in choice.parts],
            "stop_reason": choice.native_finish,
            "usage": usage_json(reply.usage),
        }
    )


def split(text: str, at: int) -> list[str]:
    at %= len(text) + 1
    return [text[:at], text[at:]]


def rendered_stream(reply: t.Reply, at: int) -> bytes:
    (choice,) = reply.choices
    empty = {"text": {"text": ""}, "thinking": {"thinking": "", "signature": ""}, "tool_use": {"input": {}}, "redacted_thinking": {}}
    events = [{"type": "message_start", "message": {"id": reply.id, "model": reply.model, "content": [], "usage": {"input_tokens": 1}}}]
    for index, part in enumerate(choice.parts):
        block = block_json(part)
        pieces = []
        match part:
            case t.Text():
                pieces = [{"type": "text_delta", "text": text} for text in split(part.text, at)]
            case t.ToolCall():
                pieces = [{"type": "input_json_delta", "partial_json": text} for text in split(part.arguments, at)]
            case t.Reasoning(redacted=None):
                pieces = [{"type": "thinking_delta", "thinking": text} for text in split(part.text, at)]
                pieces.append({"type": "signature_delta", "signature": part.signature})
        events += [start_block(index, **(block | empty[block["type"]])), {"type": "ping"}]
        events += [*(piece(index, **delta) for delta in pieces), end_block(index)]
    events.append({"type": "message_delta", "delta": {"stop_reason": choice.native_finish}, "usage": usage_json(reply.usage)})
    events.append(STOP)
    return b"".join(b"event: " + body["type"].encode() + b"\ndata: " + msgspec.json.encode(body) + b"\n\n" for body in events)


@settings(max_examples=150, deadline=None)
@given(reply=REPLIES, at=st.integers(0, 20), cuts=st.lists(st.integers(0, 4000), max_size=6))
def test_a_stream_cut_anywhere_is_the_whole_answer(reply, at, cuts):
    stream = rendered_stream(reply, at)
    edges = [0, *sorted(cut % len(stream) for cut in cuts), len(stream)]
    decoder, reader = Decoder(), PROVIDER.reader()
    deltas = [delta for begin, stop in pairwise(edges) for seen in decoder.feed(stream[begin:stop]) for delta in reader.feed(seen)]
    assert deltas[-1] == t.Ended() and reader.eof() == []
    assert fold(deltas) == PROVIDER.reply(rendered_whole(reply)) == reply
