"""Answers of Gemini generateContent: the stream, the whole answer and the errors.

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
from waypost.dialects.gemini import PROVIDER

ORIGIN = "gemini"


def chunk(*parts: dict, finish: str | None = None, index: int = 0, **fields) -> dict:
    candidate: dict = {"content": {"role": "model", "parts": list(parts)}, "index": index}
    if finish:
        candidate["finishReason"] = finish
    return {"candidates": [candidate], "modelVersion": "gemini-x", "responseId": "r1"} | fields


def read(*bodies: object) -> list[t.Delta]:
    """Deltas of a stream of these chunks, to its end."""
    reader = PROVIDER.reader()
    return [delta for body in bodies for delta in reader.feed(Event(b"", json.dumps(body).encode()))] + reader.eof()


USAGE = {
    "promptTokenCount": 10,
    "cachedContentTokenCount": 4,
    "candidatesTokenCount": 5,
    "thoughtsTokenCount": 3,
    "toolUsePromptTokenCount": 2,
    "totalTokenCount": 20,
}


def test_a_stream_is_read_delta_by_delta():
    assert read(chunk({"text": "Hel"}), chunk({"text": "lo"}), {"candidates": [{"finishReason": "STOP"}], "usageMetadata": USAGE}) == [
        t.Begun("r1", "gemini-x"),
        t.TextDelta("Hel"),
        t.TextDelta("lo"),
        t.UsageDelta(t.Usage(12, 4, 0, 8, 3)),
        t.Finish("stop", "STOP"),
        t.Ended(),
    ]


def test_a_finish_reason_in_every_chunk_finishes_once():
    deltas = read(chunk({"text": "a"}, finish="STOP"), chunk({"text": "b"}, finish="STOP"))
    assert deltas == [t.Begun("r1", "gemini-x"), t.TextDelta("a"), t.TextDelta("b"), t.Finish("stop", "STOP"), t.Ended()]


def test_thoughts_run_together_and_a_seal_closes_them():
    deltas = read(
        chunk({"text": "h", "thought": True}),
        chunk({"text": "m", "thought": True, "thoughtSignature": "c2ln"}, {"text": "aha", "thought": True}),
        chunk({"text": "Yes"}),
        chunk({"text": "", "thoughtSignature": "ZW5k"}, finish="STOP"),
    )
    assert fold(deltas).choices[0].parts == (
        t.Reasoning("hm", "c2ln", origin=ORIGIN),
        t.Reasoning("aha", origin=ORIGIN),
        t.Reasoning(signature="ZW5k", origin=ORIGIN),
        t.Text("Yes"),
    )


def test_calls_without_ids_get_ids_that_do_not_repeat_in_the_next_answer():
    calls = [
        {"functionCall": {"name": "f", "args": {"x": 1}}, "thoughtSignature": "c2ln"},
        {"functionCall": {"name": "g"}},
        {"functionCall": {"name": "h", "id": "own", "args": {}}},
    ]
    assert fold(read(chunk(*calls, finish="STOP"))).choices[0] == t.Choice(
        (
            t.ToolCall("call_r1_0", "f", '{"x": 1}', "c2ln"),
            t.ToolCall("call_r1_1", "g", "{}"),
            t.ToolCall("own", "h", "{}"),
        ),
        finish="tool_calls",
        native_finish="STOP",
    )


def test_several_candidates_are_choices():
    both = {
        "candidates": [
            chunk({"text": "a"}, finish="STOP")["candidates"][0],
            chunk({"text": "b"}, finish="MAX_TOKENS", index=1)["candidates"][0],
        ]
    }
    assert [(choice.parts, choice.finish) for choice in fold(read(both)).choices] == [((t.Text("a"),), "stop"), ((t.Text("b"),), "length")]


@pytest.mark.parametrize(
    ("native", "reason"),
    [("STOP", "stop"), ("MAX_TOKENS", "length"), ("CONTINUATION", "pause"), ("SOMETHING_NEW", "stop")]
    + [(name, "content_filter") for name in ("SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY")]
    + [(name, "error") for name in ("MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "MISSING_THOUGHT_SIGNATURE", "OTHER", "NO_IMAGE")],
)
def test_finish_reasons(native, reason):
    assert read(chunk({"text": "x"}), {"candidates": [{"finishReason": native}]})[-2:] == [t.Finish(reason, native), t.Ended()]


def test_a_model_that_fails_before_it_speaks_is_a_failure():
    failure = failed(read({"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL"}]}))
    assert (failure.fault, failure.code) == (Fault.MALFORMED, "MALFORMED_FUNCTION_CALL")
    assert read({"candidates": [{"finishReason": "SAFETY"}]})[-1] == t.Ended()


def failed(deltas: list[t.Delta]) -> t.Failure:
    last = deltas[-1]
    assert isinstance(last, t.Failed)
    return last.failure


def test_a_blocked_prompt_is_a_failure_and_its_usage_is_kept():
    deltas = read({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 9}})
    assert t.UsageDelta(t.Usage(9)) in deltas
    assert (failed(deltas).fault, failed(deltas).code) == (Fault.CONTENT_FILTER, "SAFETY")


@pytest.mark.parametrize("bodies", [[], [chunk({"text": "x"})], [chunk({"text": "x"}, finish="FINISH_REASON_UNSPECIFIED")], [{}]])
def test_an_end_without_a_finish_reason_is_truncated(bodies):
    assert failed(read(*bodies)).fault is Fault.TRUNCATED


def test_one_of_two_candidates_left_open_is_truncated():
    assert failed(read(chunk({"text": "a"}, finish="STOP"), chunk({"text": "b"}, index=1))).fault is Fault.TRUNCATED


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        ({"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}, Fault.OVERLOADED),
        ({"message": "x", "status": "INTERNAL"}, Fault.SERVER),
        ({"code": 429, "status": "RESOURCE_EXHAUSTED"}, Fault.RATE_LIMITED),
        ({"code": "odd"}, Fault.SERVER),
        ("odd", Fault.SERVER),
    ],
)
@pytest.mark.parametrize("before", [[], [chunk({"text": "x"})]])
def test_an_error_inside_the_stream(before, error, fault):
    failure = failed(read(*before, {"error": error}))
    assert (failure.fault, failure.phase) == (fault, "stream" if before else "first_token")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b'{"candidates":{}}', b"\xff", b"[" * 100_000, b'{"x":' + b"[" * 100_000])
def test_a_malformed_chunk_ends_the_stream_once(data):
    reader = PROVIDER.reader()
    (delta,) = reader.feed(Event(b"", data))
    assert isinstance(delta, t.Failed) and delta.failure.fault is Fault.MALFORMED
    assert reader.feed(Event(b"", json.dumps(chunk({"text": "x"})).encode())) == reader.eof() == []


def test_parts_and_usage_we_do_not_know_are_passed_over():
    odd = chunk(
        {"executableCode": {"code": "1"}},
        {"inlineData": {"data": "AA"}},
        {"text": "x"},
        finish="STOP",
        usageMetadata={"promptTokenCount": "n"},
    )
    assert read(odd) == read(chunk({"text": "x"}, finish="STOP"))


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ({}, Fault.MALFORMED),
        ({"candidates": []}, Fault.MALFORMED),
        ({"candidates": 5}, Fault.MALFORMED),
        ({"promptFeedback": {"blockReason": "OTHER"}}, Fault.CONTENT_FILTER),
        ({"error": {"code": 500, "message": "x", "status": "INTERNAL"}}, Fault.SERVER),
        (chunk({"text": "x"}), Fault.TRUNCATED),
    ],
)
def test_a_200_that_is_no_answer(body, fault):
    answer = PROVIDER.reply(json.dumps(body).encode())
    assert isinstance(answer, t.Failure) and answer.fault is fault


def error(code: int, status: str, message: str = "m", details: object = ()) -> bytes:
    return json.dumps({"error": {"code": code, "message": message, "status": status, "details": details}}).encode()


RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17s"}


def quota(name: str) -> dict:
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaMetric": "m", "quotaId": name}]}


PLAN = "You exceeded your current quota, please check your plan and billing details."
FAILURES = [
    (400, error(400, "INVALID_ARGUMENT", "Invalid JSON payload"), Fault.BAD_REQUEST, None),
    (400, error(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."), Fault.AUTH, None),
    (400, error(400, "INVALID_ARGUMENT", "x", [{"reason": "API_KEY_INVALID"}]), Fault.AUTH, None),
    (
        400,
        error(400, "INVALID_ARGUMENT", "The input token count (9) exceeds the maximum number of tokens allowed (8)."),
        Fault.CONTEXT_LENGTH,
        None,
    ),
    (400, error(400, "FAILED_PRECONDITION", "User location is not supported for the API use."), Fault.AUTH, None),
    (400, error(400, "FAILED_PRECONDITION", "Please enable billing on your project"), Fault.QUOTA_EXHAUSTED, None),
    (401, error(401, "UNAUTHENTICATED"), Fault.AUTH, None),
    (403, error(403, "PERMISSION_DENIED"), Fault.AUTH, None),
    (404, error(404, "NOT_FOUND", "models/x is not found"), Fault.MODEL_UNAVAILABLE, None),
    (429, error(429, "RESOURCE_EXHAUSTED", PLAN, [quota("GenerateRequestsPerMinute"), RETRY_INFO]), Fault.RATE_LIMITED, 17.0),
    (429, error(429, "RESOURCE_EXHAUSTED", PLAN, [quota("GenerateRequestsPerDayPerProject"), RETRY_INFO]), Fault.QUOTA_EXHAUSTED, 17.0),
    (429, error(429, "RESOURCE_EXHAUSTED", "Spend limit of the last 10 minutes reached"), Fault.QUOTA_EXHAUSTED, None),
    (429, error(429, "RESOURCE_EXHAUSTED", PLAN, ["odd", {"violations": 7}, RETRY_INFO]), Fault.RATE_LIMITED, 17.0),
    (429, error(429, "RESOURCE_EXHAUSTED", PLAN, {"odd": 1}), Fault.RATE_LIMITED, None),
    (429, b"[" + error(429, "RESOURCE_EXHAUSTED", PLAN, [RETRY_INFO]) + b"]", Fault.RATE_LIMITED, 17.0),
    (500, error(500, "INTERNAL"), Fault.SERVER, None),
    (502, b"<html>Bad Gateway</html>", Fault.SERVER, None),
    (503, error(503, "UNAVAILABLE", "The model is overloaded. Please try again later."), Fault.OVERLOADED, None),
    (503, error(503, "service_unavailable"), Fault.OVERLOADED, None),
    (504, error(504, "DEADLINE_EXCEEDED"), Fault.TIMEOUT, None),
    (301, b"", Fault.REDIRECT, None),
    (413, b"", Fault.BAD_REQUEST, None),
]


@pytest.mark.parametrize(("status", "body", "fault", "wait_s"), FAILURES)
def test_the_table_of_errors(status, body, fault, wait_s):
    failure = PROVIDER.failure(status, [], body, 0)
    assert (failure.fault, failure.status, failure.retry_after_s, failure.phase) == (fault, status, wait_s, "headers")
    assert failure.message and "<" not in failure.message


def test_the_header_wins_over_the_detail():
    body = error(429, "RESOURCE_EXHAUSTED", "m", [RETRY_INFO])
    assert PROVIDER.failure(429, [(b"retry-after", b"3")], body, 0).retry_after_s == 3


@settings(max_examples=200, deadline=None)
@given(status=st.integers(100, 599), body=st.binary(max_size=200))
def test_no_error_body_is_too_odd(status, body):
    assert PROVIDER.failure(status, [(b"retry-after", body)], body, 0).status == status


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = [
    "candidates",
    "content",
    "parts",
    "text",
    "finishReason",
    "functionCall",
    "args",
    "usageMetadata",
    "error",
    "promptFeedback",
    "index",
]
WILD = st.dictionaries(
    st.sampled_from(NAMES), JSON | st.lists(st.dictionaries(st.sampled_from(NAMES), JSON, max_size=3), max_size=2), max_size=5
)


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
SEALED = st.lists(st.builds(lambda text, seal: t.Reasoning(text, signature=seal, origin=ORIGIN), TEXT, TEXT), max_size=2)
OPEN = st.lists(TEXT.map(lambda text: t.Reasoning(text, origin=ORIGIN)), max_size=1)
ARGUMENTS = st.dictionaries(TEXT, st.integers() | TEXT | st.none(), max_size=2).map(lambda value: msgspec.json.encode(value).decode())
CALLS = st.lists(st.builds(t.ToolCall, TEXT, TEXT, ARGUMENTS, st.none() | TEXT), max_size=3)
REASONS = {"STOP": "stop", "MAX_TOKENS": "length", "SAFETY": "content_filter", "MALFORMED_FUNCTION_CALL": "error"}


def choice_of(sealed, last, text, calls, native) -> t.Choice:
    if not (sealed or last or text or calls):
        native = "STOP"  # an error with nothing said is a failure, no answer
    reason = "tool_calls" if native == "STOP" and calls else REASONS[native]
    return t.Choice((*sealed, *last, *text, *calls), reason, native)


CHOICES = st.builds(choice_of, SEALED, OPEN, st.lists(TEXT.map(t.Text), max_size=1), CALLS, st.sampled_from(sorted(REASONS)))
USAGES = st.builds(lambda plain, read, thought, said: t.Usage(plain + read, read, 0, thought + said, thought), *[st.integers(0, 10**6)] * 4)
REPLIES = st.builds(
    lambda id_, model, choices, usage: t.Reply(id_, model, tuple(choices), usage),
    TEXT,
    TEXT,
    st.lists(CHOICES, min_size=1, max_size=2),
    USAGES,
)


def part_json(part: t.Part) -> dict:
    match part:
        case t.Text():
            return {"text": part.text}
        case t.ToolCall():
            call = {"functionCall": {"id": part.id, "name": part.name, "args": msgspec.Raw(part.arguments.encode())}}
            return call | ({"thoughtSignature": part.signature} if part.signature else {})
        case t.Reasoning():
            return {"text": part.text, "thought": True} | ({"thoughtSignature": part.signature} if part.signature else {})
    raise AssertionError(part)


def usage_json(usage: t.Usage) -> dict:
    return {
        "promptTokenCount": usage.input_tokens,
        "cachedContentTokenCount": usage.cached_tokens,
        "candidatesTokenCount": usage.output_tokens - usage.reasoning_tokens,
        "thoughtsTokenCount": usage.reasoning_tokens,
    }


def head(reply: t.Reply) -> dict:
    return {"responseId": reply.id, "modelVersion": reply.model}


def rendered_whole(reply: t.Reply) -> bytes:
    candidates = [
        {"index": index, "content": {"parts": [part_json(part) for part in choice.parts]}, "finishReason": choice.native_finish}
        for index, choice in enumerate(reply.choices)
    ]
    return msgspec.json.encode(head(reply) | {"candidates": candidates, "usageMetadata": usage_json(reply.usage)})


def pieces(part: t.Part, at: int) -> list[dict]:
    """What is text may come in two; a signature comes with the last of it."""
    whole = part_json(part)
    if "text" not in whole or not 0 < at < len(whole["text"]):
        return [whole]
    first = {name: value for name, value in whole.items() if name != "thoughtSignature"} | {"text": whole["text"][:at]}
    return [first, whole | {"text": whole["text"][at:]}]


def rendered_stream(reply: t.Reply, at: int) -> bytes:
    chunks = []
    for index, choice in enumerate(reply.choices):
        for part in choice.parts:
            for piece in pieces(part, at):
                chunks.append({"candidates": [{"index": index, "content": {"parts": [piece]}}]})
        chunks.append({"candidates": [{"index": index, "finishReason": choice.native_finish}]})
    chunks[-1]["usageMetadata"] = usage_json(reply.usage)
    return b"".join(b"data: " + msgspec.json.encode(head(reply) | body) + b"\r\n\r\n" for body in chunks)


@settings(max_examples=150, deadline=None)
@given(reply=REPLIES, at=st.integers(0, 12), cuts=st.lists(st.integers(0, 4000), max_size=6))
def test_a_stream_cut_anywhere_is_the_whole_answer(reply, at, cuts):
    stream = rendered_stream(reply, at)
    edges = [0, *sorted(cut % len(stream) for cut in cuts), len(stream)]
    decoder, reader = Decoder(), PROVIDER.reader()
    deltas = [delta for begin, stop in pairwise(edges) for seen in decoder.feed(stream[begin:stop]) for delta in reader.feed(seen)]
    deltas += reader.eof()
    assert deltas[-1] == t.Ended()
    assert fold(deltas) == PROVIDER.reply(rendered_whole(reply)) == reply
