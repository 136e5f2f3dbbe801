"""Render: an answer on the Gemini generateContent wire. Shapes after the SDK's types (google-genai 3.4.0). Pure.

No sentinel: the stream ends with the chunk that carries `finishReason`. Usage rides on every chunk, cumulative, and
`candidatesTokenCount` excludes thoughts.
"""

from typing import Any

import msgspec

from waypost.sim import texts
from waypost.sim.answers import Answer, Called, Score
from waypost.sim.asks import Ask
from waypost.sim.render_chat import HOLE, encode, sse, template

FINISHES = {"stop": "STOP", "length": "MAX_TOKENS", "tool": "STOP", "filter": "SAFETY", "refusal": "STOP"}


def usage(answer: Answer, output: int) -> dict[str, int]:
    if answer.usage == "zero":
        return {"promptTokenCount": 0, "candidatesTokenCount": 0, "totalTokenCount": 0}
    thoughts = min(output, answer.reasoning_tokens)
    told = {
        "promptTokenCount": answer.prompt_tokens,
        "candidatesTokenCount": output - thoughts,
        "totalTokenCount": answer.prompt_tokens + output,
    }
    if thoughts:
        told["thoughtsTokenCount"] = thoughts
    if answer.cached_tokens:
        told["cachedContentTokenCount"] = answer.cached_tokens
    return told


def _chunk(ask: Ask, answer: Answer, parts: list[dict[str, Any]] | None, *, finish: str | None = None, output: int) -> dict[str, Any]:
    candidate: dict[str, Any] = {"index": 0}
    if parts is not None:
        candidate["content"] = {"role": "model", "parts": parts}
    if finish is not None:
        candidate["finishReason"] = finish
    body: dict[str, Any] = {"candidates": [candidate]}
    if answer.usage != "none":
        body["usageMetadata"] = usage(answer, output)
    return {**body, "modelVersion": ask.model, "responseId": answer.id}


def _call(call: Called) -> dict[str, Any]:
    return {"functionCall": {"name": call.name, "args": _parsed(call.arguments)}, "thoughtSignature": texts.checksum(call.arguments)}


def _parsed(arguments: str) -> Any:
    try:
        return msgspec.json.decode(arguments)
    except msgspec.DecodeError:
        return {}


def stream(ask: Ask, answer: Answer) -> Score:
    body: list[tuple[bytes, int]] = []
    for part, text in (({"text": HOLE, "thought": True}, answer.reasoning), ({"text": HOLE}, answer.text)):
        for piece in texts.pieces(text):
            before, after = template(_chunk(ask, answer, [part], output=len(body) + 1))
            body.append((before + encode(piece) + after, 1))
    said = len(body)
    for call in answer.calls:  # whole, never in fragments
        said += 1 + texts.count(call.arguments)
        body.append((sse(_chunk(ask, answer, [_call(call)], output=said)), 1 + texts.count(call.arguments)))
    last = _chunk(ask, answer, None, finish=FINISHES[answer.finish], output=answer.output_tokens)
    odd: dict[str, Any] = {"candidates": [], "modelVersion": ask.model, "responseId": answer.id}
    return Score(
        opening=[],
        body=body,
        finish=[],
        usage=[],
        done=[sse(last)] if answer.says_finish else [],
        blank=sse(odd),
        unknown=sse({**odd, "novelty": {"a": 1}}),
        ping=b": ping\n\n",
    )


def whole(ask: Ask, answer: Answer, *, empty_choices: bool = False) -> bytes:
    parts: list[dict[str, Any]] = []
    if answer.reasoning:
        parts.append({"text": answer.reasoning, "thought": True})
    if answer.text:
        parts.append({"text": answer.text})
    parts += [_call(call) for call in answer.calls]
    finish = FINISHES[answer.finish] if answer.says_finish else None
    body = _chunk(ask, answer, parts or None, finish=finish, output=answer.output_tokens)
    return encode({**body, "candidates": []} if empty_choices else body)


def blocked(ask: Ask) -> bytes:
    """A blocked prompt: 200, no candidates, the reason in `promptFeedback`."""
    used = {"promptTokenCount": ask.prompt_tokens, "totalTokenCount": ask.prompt_tokens}
    return encode({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": used, "modelVersion": ask.model})
