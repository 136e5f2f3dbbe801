"""Render: an answer on the Anthropic messages wire. Shapes after the SDK's types (anthropic 2.12.0). Pure.

`input_tokens` here excludes cached reads and writes, as the provider counts; the sum is the prompt.
"""

from typing import Any

import msgspec

from waypost.sim import texts
from waypost.sim.answers import Answer, Score
from waypost.sim.asks import Ask
from waypost.sim.render_chat import HOLE, encode, sse, template

FINISHES = {"stop": "end_turn", "length": "max_tokens", "tool": "tool_use", "filter": "refusal", "refusal": "refusal"}


def seal(thinking: str) -> str:
    """The signature that must come back with the thinking; `strict-thinking` checks it."""
    return f"sim-{texts.checksum(thinking)}"


def _input_usage(answer: Answer) -> dict[str, int]:
    if answer.usage == "zero":
        return {"input_tokens": 0, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}
    return {
        "input_tokens": answer.prompt_tokens - answer.cached_tokens - answer.cache_write_tokens,
        "cache_read_input_tokens": answer.cached_tokens,
        "cache_creation_input_tokens": answer.cache_write_tokens,
    }


def _finish(answer: Answer) -> str | None:
    if not answer.says_finish:
        return None
    return "stop_sequence" if answer.stop_hit is not None else FINISHES[answer.finish]


def stream(ask: Ask, answer: Answer) -> Score:
    begun: dict[str, Any] = {
        "id": f"msg_{answer.id}",
        "type": "message",
        "role": "assistant",
        "model": ask.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }
    if answer.usage != "none":
        begun["usage"] = {**_input_usage(answer), "output_tokens": 0 if answer.usage == "zero" else 1}
    last: dict[str, Any] = {"type": "message_delta", "delta": {"stop_reason": _finish(answer), "stop_sequence": answer.stop_hit}}
    if answer.usage != "none":
        last["usage"] = {"output_tokens": 0 if answer.usage == "zero" else answer.output_tokens}
    return Score(
        opening=[sse({"type": "message_start", "message": begun}, "message_start")],
        body=_body(answer),
        finish=[sse(last, "message_delta")] if answer.says_finish else [],
        usage=[],
        done=[sse({"type": "message_stop"}, "message_stop")],
        blank=sse({"type": "ping"}, "ping"),
        unknown=sse({"type": "novelty", "novelty": {"a": 1}}, "novelty"),
        ping=sse({"type": "ping"}, "ping"),
    )


def _body(answer: Answer) -> list[tuple[bytes, int]]:
    body: list[tuple[bytes, int]] = []
    index = 0
    if answer.reasoning:
        body.append((_start(index, {"type": "thinking", "thinking": "", "signature": ""}), 0))
        body += _deltas(index, {"type": "thinking_delta", "thinking": HOLE}, answer.reasoning)
        signed = {"type": "content_block_delta", "index": index, "delta": {"type": "signature_delta", "signature": seal(answer.reasoning)}}
        body.append((sse(signed, "content_block_delta"), 0))
        body.append((_stop(index), 0))
        index += 1
    if answer.text:
        body.append((_start(index, {"type": "text", "text": ""}), 0))
        body += _deltas(index, {"type": "text_delta", "text": HOLE}, answer.text)
        body.append((_stop(index), 0))
        index += 1
    for call in answer.calls:
        body.append((_start(index, {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}), 1))
        body += _deltas(index, {"type": "input_json_delta", "partial_json": HOLE}, call.arguments)
        body.append((_stop(index), 0))
        index += 1
    return body


def _start(index: int, block: dict[str, Any]) -> bytes:
    return sse({"type": "content_block_start", "index": index, "content_block": block}, "content_block_start")


def _stop(index: int) -> bytes:
    return sse({"type": "content_block_stop", "index": index}, "content_block_stop")


def _deltas(index: int, delta: dict[str, Any], text: str) -> list[tuple[bytes, int]]:
    before, after = template({"type": "content_block_delta", "index": index, "delta": delta}, "content_block_delta")
    return [(before + encode(piece) + after, 1) for piece in texts.pieces(text)]


def whole(ask: Ask, answer: Answer, *, empty_choices: bool = False) -> bytes:
    content: list[dict[str, Any]] = []
    if answer.reasoning:
        content.append({"type": "thinking", "thinking": answer.reasoning, "signature": seal(answer.reasoning)})
    if answer.text:
        content.append({"type": "text", "text": answer.text})
    for call in answer.calls:
        content.append({"type": "tool_use", "id": call.id, "name": call.name, "input": _parsed(call.arguments)})
    body: dict[str, Any] = {
        "id": f"msg_{answer.id}",
        "type": "message",
        "role": "assistant",
        "model": ask.model,
        "content": [] if empty_choices else content,
        "stop_reason": _finish(answer),
        "stop_sequence": answer.stop_hit,
    }
    if answer.usage != "none":
        body["usage"] = {**_input_usage(answer), "output_tokens": 0 if answer.usage == "zero" else answer.output_tokens}
    return encode(body)


def _parsed(arguments: str) -> Any:
    """Arguments cut at max_tokens are no JSON: the provider gives what it has as an empty object."""
    try:
        return msgspec.json.decode(arguments)
    except msgspec.DecodeError:
        return {}
