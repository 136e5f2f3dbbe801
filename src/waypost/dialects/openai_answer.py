"""OpenAI chat completions, answers: whole replies, stream chunks and errors as the openai SDK reads them.

Decides how neutral deltas, usage, cost and faults look in this dialect. Knows no provider. Shapes after the openai SDK 3.54
(`types/chat`); `cost`, `native_finish_reason`, `reasoning_details` and `error_type` after OpenRouter's documentation, 2026-08.
"""

from typing import assert_never

import msgspec
from msgspec import Raw

from waypost.core.faults import FAULTS, Refused
from waypost.core.price import usd
from waypost.core.types import (
    Begun,
    Choice,
    Delta,
    Ended,
    Failed,
    Failure,
    Fault,
    Finish,
    Part,
    Reasoning,
    ReasoningDelta,
    Refusal,
    RefusalDelta,
    Reply,
    Text,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
    UsageDelta,
)
from waypost.dialects.contract import CostOf
from waypost.dialects.openai_prompt import FORMATS

Json = dict[str, object]

DONE = b"data: [DONE]\n\n"
_FORMAT_OF = {wire: name for name, wire in FORMATS.items()}
_FINISH = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "refusal": "content_filter",  # as Anthropic's own OpenAI endpoint says it
    "pause": "stop",
    "error": "error",
}
# The provider's own words reach the caller only where they speak of the caller's request; elsewhere they speak of our account.
_CALLERS_FAULT = frozenset({Fault.BAD_REQUEST, Fault.CONTEXT_LENGTH, Fault.CONTENT_FILTER})
_PUBLIC = {
    Fault.CANCELLED: "The gateway is stopping and the answer was cut off; what was sent is not complete. Try again.",
    Fault.RATE_LIMITED: "The model's provider limits the rate. Try again later.",
    Fault.OVERLOADED: "The model's provider is overloaded. Try again later.",
    Fault.SERVER: "The model's provider failed. Try again or choose another model.",
    Fault.TRANSPORT: "The model's provider could not be reached. Try again or choose another model.",
    Fault.TIMEOUT: "The model's provider did not answer in time.",
    Fault.TRUNCATED: "The answer was cut off by the model's provider before its end; what was sent is not complete.",
    Fault.MALFORMED: "The model's provider sent an answer that cannot be read.",
    Fault.QUOTA_EXHAUSTED: "The gateway's quota with the model's provider is used up. Tell the gateway's operator.",
    Fault.AUTH: "The model's provider refuses the gateway's credential. Tell the gateway's operator.",
    Fault.MODEL_UNAVAILABLE: "The model is not available at its provider. Choose another model.",
    Fault.REDIRECT: "The model's provider answered with a redirect, which is never followed.",
}
_CODES = {  # finer than OpenRouter's error_type: truncated is the caller's to know
    Fault.TRUNCATED: "upstream_truncated",
    Fault.QUOTA_EXHAUSTED: "upstream_quota_exhausted",
    Fault.AUTH: "upstream_auth",
    Fault.MODEL_UNAVAILABLE: "upstream_model_unavailable",
    Fault.CONTEXT_LENGTH: "context_length_exceeded",  # what clients compare with, whatever the provider calls it
    Fault.CANCELLED: "gateway_stopping",
}
_encode = msgspec.json.Encoder().encode


def decimal_usd(nusd: int) -> bytes:
    """Nano-dollars as a JSON number of dollars, exact: no float is involved."""
    return usd(nusd).encode()


class ChunkEncoder:
    """Encoder of `openai-chat`: one `chat.completion.chunk` event a delta, usage and [DONE] at the end."""

    __slots__ = ("_cost_of", "_created", "_head", "_id", "_include_usage", "_model", "_opened", "_usage")

    def __init__(self, *, request_id: str, model: str, cost_of: CostOf, include_usage: bool) -> None:
        self._id, self._model = request_id, model
        self._cost_of = cost_of
        self._include_usage = include_usage
        self._created = 0
        self._head = b""
        self._opened: set[int] = set()
        self._usage: Usage | None = None

    def encode(self, delta: Delta) -> bytes:
        match delta:
            case TextDelta():
                return self._delta(delta.index, {"content": delta.text}) if delta.text else self._open(delta.index)
            case ReasoningDelta():
                return self._delta(delta.index, _reasoning_delta(delta))
            case ToolCallDelta():
                return self._delta(delta.index, {"tool_calls": [_call_delta(delta)]})
            case RefusalDelta():
                return self._delta(delta.index, {"refusal": delta.text})
            case Finish():
                return self._open(delta.index) + self._chunk([_choice(delta.index, {}, finish=delta)])
            case Begun():
                self._created = delta.created or self._created
                return self._open(0)
            case UsageDelta():
                self._usage = delta.usage
                return b""
            case Ended():
                return self._last() + DONE
            case Failed():
                return b""  # the gateway decides what a failure looks like: see error_event
            case _:
                assert_never(delta)

    def _open(self, index: int) -> bytes:
        if index in self._opened:
            return b""
        self._opened.add(index)
        return self._chunk([_choice(index, {"role": "assistant", "content": ""})])

    def _delta(self, index: int, fields: Json) -> bytes:
        return self._open(index) + self._chunk([_choice(index, fields)])

    def _chunk(self, choices: list[Json]) -> bytes:
        if not self._head:
            head = {"id": self._id, "object": "chat.completion.chunk", "created": self._created, "model": self._model}
            self._head = b"data: " + _encode(head)[:-1] + b',"choices":'
        return self._head + _encode(choices) + b"}\n\n"

    def _last(self) -> bytes:
        if not self._include_usage or self._usage is None:
            return b""
        empty = self._chunk([])
        return empty[: -len(b"}\n\n")] + b',"usage":' + usage_json(self._usage, self._cost_of(self._usage)) + b"}\n\n"


def render(reply: Reply, *, request_id: str, model: str, cost_nusd: int | None) -> bytes:
    """A whole `chat.completion`."""
    body: Json = {
        "id": request_id,
        "object": "chat.completion",
        "created": reply.created or 0,
        "model": model,
        "choices": [_whole(choice, index) for index, choice in enumerate(reply.choices)],
    }
    if reply.usage is not None:
        body["usage"] = Raw(usage_json(reply.usage, cost_nusd))
    return _encode(body)


def usage_json(usage: Usage, cost_nusd: int | None) -> bytes:
    """The dialect's usage object. `cost` in dollars only when known; `source` only when the provider did not report it."""
    prompt_details: Json = {"cached_tokens": usage.cached_tokens}
    if usage.cache_write_tokens:
        prompt_details["cache_write_tokens"] = usage.cache_write_tokens
    body: Json = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": prompt_details,
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }
    if cost_nusd is not None:
        body["cost"] = Raw(decimal_usd(cost_nusd))
    if usage.source != "reported":
        body["source"] = usage.source
    return _encode(body)


# --- errors -----------------------------------------------------------------------------------------------------------


def refusal(refused: Refused) -> bytes:
    """Body for a request the gateway itself refused."""
    kind = "invalid_request_error" if 400 <= refused.status < 500 and refused.status != 429 else "server_error"
    kind = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(refused.status, kind)
    return _error(refused.message, kind, refused.param, refused.code, refused.error_type)


def error(failure: Failure) -> tuple[int, bytes]:
    """Status and body for a failed request. A caller's own 4xx keeps the provider's status and reason."""
    rule = FAULTS[failure.fault]
    status = failure.status if failure.fault is Fault.BAD_REQUEST and failure.status in (404, 405, 413, 415, 422) else rule.status
    return status or rule.status, _failure_body(failure)


def error_event(failure: Failure) -> bytes:
    """The last event of a stream that broke: the openai SDK raises APIError on an `error` object in a data event."""
    return b"data: " + _failure_body(failure) + b"\n\n"


def _failure_body(failure: Failure) -> bytes:
    rule = FAULTS[failure.fault]
    own = failure.fault in _CALLERS_FAULT
    message = failure.message if own else _PUBLIC.get(failure.fault, "The request failed.")
    code = _CODES.get(failure.fault) or (own and failure.code) or rule.error_type
    return _error(message, rule.openai_type, failure.param if own else None, code, rule.error_type)


def _error(message: str, kind: str, param: str | None, code: str | None, error_type: str) -> bytes:
    return _encode({"error": {"message": message, "type": kind, "param": param, "code": code, "error_type": error_type}})


# --- pieces -----------------------------------------------------------------------------------------------------------


def _choice(index: int, delta: Json, finish: Finish | None = None) -> Json:
    choice: Json = {"index": index, "delta": delta, "logprobs": None, "finish_reason": _FINISH[finish.reason] if finish else None}
    if finish and finish.native and finish.native != choice["finish_reason"]:
        choice["native_finish_reason"] = finish.native
    return choice


def _call_delta(delta: ToolCallDelta) -> Json:
    function: Json = {"arguments": delta.arguments}
    call: Json = {"index": delta.position, "function": function}
    if delta.name is not None:
        function["name"] = delta.name
    if delta.id is not None:
        call |= {"id": delta.id, "type": "function"}
    if delta.signature is not None:
        call["extra_content"] = {"google": {"thought_signature": delta.signature}}
    return call


def _reasoning_delta(delta: ReasoningDelta) -> Json:
    """`reasoning_content` for readers; `reasoning_details` beside it where the wire of origin seals its thoughts, for replay.

    The openai SDK joins list entries of one `index` and concatenates their strings, hence one text piece or one seal an entry.
    """
    fields: Json = {"reasoning_content": delta.text} if delta.text else {}
    detail = _detail(delta.text, delta.signature, delta.redacted, delta.origin, delta.block)
    if detail is not None:
        fields["reasoning_details"] = [detail]
    return fields


def _detail(text: str, signature: str | None, redacted: str | None, origin: str, block: int) -> Json | None:
    if not (signature or redacted or origin in _FORMAT_OF):
        return None
    detail: Json = (
        {"index": block, "type": "reasoning.encrypted", "data": redacted} if redacted else {"index": block, "type": "reasoning.text"}
    )
    if text:
        detail["text"] = text
    if signature:
        detail["signature"] = signature
    if (signature or redacted) and origin in _FORMAT_OF:
        detail["format"] = _FORMAT_OF[origin]  # once a block, because strings are concatenated
    return detail


def _whole(choice: Choice, index: int) -> Json:
    message: Json = {"role": "assistant", "content": _joined(choice.parts, Text), "refusal": _joined(choice.parts, Refusal)}
    thoughts = [part for part in choice.parts if isinstance(part, Reasoning)]
    if text := "".join(part.text for part in thoughts):
        message["reasoning_content"] = text
    if any(part.signature or part.redacted or part.origin in _FORMAT_OF for part in thoughts):
        message["reasoning_details"] = [reasoning_detail(part, at) for at, part in enumerate(thoughts)]
    if calls := [_call(part) for part in choice.parts if isinstance(part, ToolCall)]:
        message["tool_calls"] = calls
    finish = _FINISH.get(choice.finish or "stop", "stop")
    whole: Json = {"index": index, "message": message, "logprobs": None, "finish_reason": finish}
    if choice.native_finish and choice.native_finish != finish:
        whole["native_finish_reason"] = choice.native_finish
    return whole


def reasoning_detail(part: Reasoning, at: int) -> Json:
    """A block as an entry of `reasoning_details`, sealed or not."""
    entry: Json = {"index": at, "type": "reasoning.encrypted" if part.redacted else "reasoning.text"}
    entry |= {"data": part.redacted} if part.redacted else {}
    entry |= {"text": part.text} if part.text else {}
    entry |= {"signature": part.signature} if part.signature else {}
    return entry | ({"format": _FORMAT_OF[part.origin]} if part.origin in _FORMAT_OF else {})


def _joined(parts: tuple[Part, ...], kind: type[Text] | type[Refusal]) -> str | None:
    texts = [part.text for part in parts if isinstance(part, kind)]
    return "".join(texts) if texts else None


def _call(part: ToolCall) -> Json:
    call: Json = {"id": part.id, "type": "function", "function": {"name": part.name, "arguments": part.arguments}}
    if part.signature is not None:
        call["extra_content"] = {"google": {"thought_signature": part.signature}}
    return call
