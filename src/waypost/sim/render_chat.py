"""Render: an answer on the OpenAI chat wire, with the habits of those who speak it their own way.

Chunks, whole bodies, embeddings. Shapes after the vendors' SDK types (openai 3.54.0) and docs/simulator.md. Pure.
"""

import math
import random
from typing import Any

import msgspec

from waypost.sim import texts
from waypost.sim.answers import Answer, Called, Score
from waypost.sim.asks import Ask

encode = msgspec.json.encode
HOLE = "\0"  # stands where a piece will go; its JSON is unmistakable
_HOLE_JSON = encode(HOLE)
ALWAYS_USAGE = {"deepseek", "mistral", "openrouter"}  # report usage in streams unasked
USAGE_WITH_FINISH = {"deepseek", "mistral"}  # ... in the chunk that carries the finish reason
HIDES_REASONING = {"azure"}  # counts it, never shows it
FINISHES = {"stop": "stop", "length": "length", "tool": "tool_calls", "filter": "content_filter", "refusal": "stop"}


def sse(value: Any, event: str = "") -> bytes:
    name = f"event: {event}\n".encode() if event else b""
    return b"%sdata: %s\n\n" % (name, encode(value))


def template(value: Any, event: str = "") -> tuple[bytes, bytes]:
    """The frame before and after the JSON string that replaces HOLE: so that a piece costs one concatenation."""
    before, after = sse(value, event).split(_HOLE_JSON)
    return before, after


def usage(ask: Ask, answer: Answer) -> dict[str, Any]:
    if answer.usage == "zero":
        return {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    told: dict[str, Any] = {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": answer.prompt_tokens + answer.output_tokens,
        "prompt_tokens_details": {"cached_tokens": answer.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": answer.reasoning_tokens},
    }
    if ask.flavour == "deepseek":
        told["prompt_cache_hit_tokens"] = answer.cached_tokens
        told["prompt_cache_miss_tokens"] = answer.prompt_tokens - answer.cached_tokens
    if ask.flavour == "openrouter":
        told["cost"] = round((answer.prompt_tokens + 3 * answer.output_tokens) * 1e-6, 9)
    return told


def _reasoning_field(flavour: str) -> str:
    return "reasoning" if flavour == "openrouter" else "reasoning_content"


def stream(ask: Ask, answer: Answer) -> Score:
    head = {"id": f"chatcmpl-{answer.id}", "object": "chat.completion.chunk", "created": answer.created, "model": ask.model}
    if ask.flavour == "openrouter":
        head["provider"] = "Simulator"

    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

    body: list[tuple[bytes, int]] = []
    if ask.flavour in HIDES_REASONING:
        body += [(b"", 1)] * answer.reasoning_tokens
    else:
        body += _pieces(chunk({_reasoning_field(ask.flavour): HOLE}), answer.reasoning)
    body += _pieces(chunk({"refusal" if answer.finish == "refusal" else "content": HOLE}), answer.text)
    for i, call in enumerate(answer.calls):
        opened = {"index": i, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
        body.append((sse(chunk({"tool_calls": [opened]})), 1))
        body += _pieces(chunk({"tool_calls": [{"index": i, "function": {"arguments": HOLE}}]}), call.arguments)

    last: dict[str, Any] = chunk({}, FINISHES[answer.finish])
    wants_usage = (ask.include_usage or ask.flavour in ALWAYS_USAGE) and answer.usage != "none"
    in_choice = answer.usage == "in-choice" or ask.flavour in USAGE_WITH_FINISH
    if wants_usage and in_choice:
        last["usage"] = usage(ask, answer)
    empty: dict[str, Any] = {**head, "choices": []}
    prompt_filter: dict[str, Any] = {**empty, "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}]}
    opening = [sse(prompt_filter)] if ask.flavour == "azure" else []
    return Score(
        opening=[*opening, sse(chunk({"role": "assistant", "content": ""}))],
        body=body,
        finish=[sse(last)] if answer.says_finish else [],
        usage=[sse({**empty, "usage": usage(ask, answer)})] if wants_usage and not in_choice else [],
        done=[b"data: [DONE]\n\n"],
        blank=sse(prompt_filter),
        unknown=sse({**empty, "object": "chat.completion.novelty", "novelty": {"a": 1}}, "novelty"),
        ping=b": ping\n\n",
    )


def _pieces(chunk: dict[str, Any], text: str) -> list[tuple[bytes, int]]:
    if not text:
        return []
    before, after = template(chunk)
    return [(before + encode(piece) + after, 1) for piece in texts.pieces(text)]


def whole(ask: Ask, answer: Answer, *, empty_choices: bool = False) -> bytes:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text or None}
    if answer.finish == "refusal":
        message |= {"content": None, "refusal": answer.text}
    if answer.reasoning and ask.flavour not in HIDES_REASONING:
        message[_reasoning_field(ask.flavour)] = answer.reasoning
    if answer.calls:
        message["tool_calls"] = [_called(call) for call in answer.calls]
    choice = {"index": 0, "message": message, "finish_reason": FINISHES[answer.finish] if answer.says_finish else None}
    body: dict[str, Any] = {
        "id": f"chatcmpl-{answer.id}",
        "object": "chat.completion",
        "created": answer.created,
        "model": ask.model,
        "choices": [] if empty_choices else [choice],
    }
    if answer.usage != "none":
        body["usage"] = usage(ask, answer)
    return encode(body)


def _called(call: Called) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def embeddings(ask: Ask) -> bytes:
    """Unit vectors, each a function of its text alone: equal texts lie on each other."""
    inputs = ask.prompt.split("\x1e")[1:]
    rows = [{"object": "embedding", "index": i, "embedding": _vector(text, ask.dimensions)} for i, text in enumerate(inputs)]
    used = {"prompt_tokens": ask.prompt_tokens, "total_tokens": ask.prompt_tokens}
    return encode({"object": "list", "data": rows, "model": ask.model, "usage": used})


def _vector(text: str, dimensions: int) -> list[float]:
    dice = random.Random(texts.checksum(text))
    raw = [dice.gauss(0.0, 1.0) for _ in range(dimensions)]
    norm = math.sqrt(sum(x * x for x in raw)) or 1.0
    return [round(x / norm, 6) for x in raw]
