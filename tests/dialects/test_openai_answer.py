"""OpenAI chat answers as the official SDK reads them."""

import json
from collections.abc import Iterable
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from openai import APIError, OpenAI, Stream
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai_double import replies

from waypost.core.faults import Refused
from waypost.core.fold import Fold, unfold
from waypost.core.sse import Decoder
from waypost.core.types import (
    Begun,
    Choice,
    Delta,
    Ended,
    Failure,
    Fault,
    Finish,
    Reasoning,
    ReasoningDelta,
    Reply,
    Text,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageDelta,
)
from waypost.dialects.openai_answer import ChunkEncoder, decimal_usd, error_event, render
from waypost.dialects.openai_chat import CALLER, parse
from waypost.dialects.openai_prompt import prompt
from waypost.dialects.openai_reader import Reader
from waypost.dialects.openai_reader import reply as read_whole


def encoded(deltas: Iterable[Delta], *, include_usage: bool = True, cost_nusd: int | None = 1_500_000) -> bytes:
    encoder = ChunkEncoder(request_id="req_1", model="p/m", cost_of=lambda _: cost_nusd, include_usage=include_usage)
    return b"".join(map(encoder.encode, deltas))


def chunks(stream: bytes) -> list[ChatCompletionChunk]:
    found = [event.data for event in Decoder().feed(stream)]
    assert found.pop() == b"[DONE]"
    for data in found:
        assert json.loads(data).keys() >= {"id", "object", "created", "model", "choices"}
    return [ChatCompletionChunk.model_validate_json(data) for data in found]


ANSWER: list[Delta] = [
    Begun("up", "m", 1700000000),
    ReasoningDelta("hm", origin="anthropic-messages"),
    ReasoningDelta(signature="sig", origin="anthropic-messages"),
    TextDelta("Hel"),
    TextDelta("lo"),
    ToolCallDelta(0, "c1", "f", ""),
    ToolCallDelta(0, arguments='{"a":1}', signature="seal"),
    Finish("tool_calls", "tool_use"),
    UsageDelta(Usage(10, 4, 0, 5, 2)),
    Ended(),
]


def test_a_stream_reads_in_the_sdk() -> None:
    found = chunks(encoded(ANSWER))
    assert found[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in found if c.choices) == "Hello"
    calls = [call for c in found if c.choices for call in c.choices[0].delta.tool_calls or []]
    assert (calls[0].id, calls[0].type, calls[0].index) == ("c1", "function", 0)
    assert calls[1].function is not None
    assert calls[1].function.arguments == '{"a":1}'
    assert found[-2].choices[0].finish_reason == "tool_calls"
    last = found[-1]
    assert last.choices == []
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens, last.usage.total_tokens) == (10, 5, 15)
    assert last.usage.model_dump()["cost"] == 0.0015
    assert {c.id for c in found} == {"req_1"}
    assert {c.created for c in found} == {1700000000}


def test_usage_goes_only_to_those_who_asked() -> None:
    found = chunks(encoded(ANSWER, include_usage=False))
    assert all(c.choices for c in found)


def test_an_unknown_cost_is_left_out() -> None:
    assert b'"cost"' not in encoded(ANSWER, cost_nusd=None)


def test_a_client_that_replays_the_streamed_message_keeps_the_seals() -> None:
    message: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": [], "reasoning_details": []}
    for found in chunks(encoded(ANSWER)):
        delta = found.choices[0].delta.model_dump() if found.choices else {}
        message["content"] += delta.get("content") or ""
        message["reasoning_details"] += delta.get("reasoning_details") or []
    replayed = prompt(parse(json.dumps({"messages": [message]}).encode()))
    assert replayed.messages[0].parts[0] == Reasoning("hm", "sig", None, "anthropic-messages")


@settings(max_examples=60, deadline=None)
@given(replies)
def test_what_we_write_is_what_we_read_whole_or_streamed(reply: Reply) -> None:
    whole = read_whole(render(reply, request_id=reply.id, model=reply.model, cost_nusd=7))
    assert whole == reply
    encoder = ChunkEncoder(request_id=reply.id, model=reply.model, cost_of=lambda _: 7, include_usage=True)
    reader, folding = Reader(), Fold()
    for event in Decoder().feed(b"".join(map(encoder.encode, unfold(reply)))):
        for delta in reader.feed(event):
            folding.add(delta)
    assert folding.reply() == reply


@settings(max_examples=40, deadline=None)
@given(replies)
def test_a_whole_answer_reads_in_the_sdk(reply: Reply) -> None:
    found = ChatCompletion.model_validate_json(render(reply, request_id="r", model="p/m", cost_nusd=1))
    assert (found.id, found.model, len(found.choices)) == ("r", "p/m", len(reply.choices))


def test_estimated_usage_says_so() -> None:
    body = json.loads(
        render(
            Reply("i", "m", (Choice((Text("a"),), "stop"),), Usage(1, output_tokens=1, source="estimated")),
            request_id="r",
            model="m",
            cost_nusd=0,
        )
    )
    assert body["usage"]["source"] == "estimated"
    assert body["usage"]["cost"] == 0


@pytest.mark.parametrize(
    ("nusd", "text"),
    [(0, b"0"), (1, b"0.000000001"), (1_500_000, b"0.0015"), (10**9, b"1"), (12_345_678_901, b"12.345678901"), (-5, b"-0.000000005")],
)
def test_money_is_written_exactly(nusd: int, text: bytes) -> None:
    assert decimal_usd(nusd) == text


def test_an_error_event_makes_the_sdk_raise() -> None:
    body = encoded(ANSWER[:4]) + error_event(Failure(Fault.TRUNCATED, "cut"))
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body))
    client = OpenAI(api_key="k", base_url="http://gateway.test/v1", http_client=httpx2.Client(transport=transport), max_retries=0)
    stream = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}], stream=True)
    assert isinstance(stream, Stream)
    with pytest.raises(APIError, match="cut off"):
        list(stream)


def test_a_refusal_names_field_and_code() -> None:
    body = CALLER.refusal(Refused(400, "invalid_type", "`n`: wrong", param="n"), request_id="r")
    assert json.loads(body)["error"] == {
        "message": "`n`: wrong",
        "type": "invalid_request_error",
        "param": "n",
        "code": "invalid_type",
        "error_type": "invalid_request",
    }
