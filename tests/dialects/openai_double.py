"""A small OpenAI server's pen: one Reply written whole or as a stream, for the fidelity laws. Test double, not collected."""

import json
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from waypost.core.types import Choice, Reasoning, Refusal, Reply, Text, ToolCall, Usage

_text = st.text(min_size=1, max_size=12)
_calls = st.builds(ToolCall, id=_text, name=_text, arguments=st.text(max_size=12))
usages = st.builds(
    lambda prompt, cached, output, reasoning: Usage(prompt + cached, cached, 0, output + reasoning, reasoning),
    st.integers(0, 99), st.integers(0, 9), st.integers(1, 99), st.integers(0, 9),
)  # fmt: skip


@st.composite
def _choices(draw: st.DrawFn) -> Choice:
    thoughts = [Reasoning(draw(_text), origin="openai-chat")] if draw(st.booleans()) else []
    text = [Text(draw(_text))] if draw(st.booleans()) else []
    refusal = [Refusal(draw(_text))] if draw(st.booleans()) else []
    calls = draw(st.lists(_calls, max_size=3))
    finish = "tool_calls" if calls else draw(st.sampled_from(["stop", "length", "content_filter"]))
    return Choice(parts=(*thoughts, *text, *refusal, *calls), finish=finish, native_finish=finish)


replies = st.builds(
    Reply,
    id=_text,
    model=_text,
    choices=st.lists(_choices(), min_size=1, max_size=2).map(tuple),
    usage=usages,
    created=st.integers(1, 2_000_000_000),
)


def usage_of(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def whole(reply: Reply, *, thoughts: str = "reasoning_content") -> bytes:
    choices = []
    for index, choice in enumerate(reply.choices):
        message: dict[str, Any] = {"role": "assistant", "content": None}
        for part in choice.parts:
            match part:
                case Text():
                    message["content"] = part.text
                case Reasoning():
                    message[thoughts] = part.text
                case Refusal():
                    message["refusal"] = part.text
                case ToolCall():
                    call = {"id": part.id, "type": "function", "function": {"name": part.name, "arguments": part.arguments}}
                    message.setdefault("tool_calls", []).append(call)
                case _:
                    raise AssertionError(part)
        choices.append({"index": index, "message": message, "finish_reason": choice.finish})
    head = {"id": reply.id, "object": "chat.completion", "created": reply.created, "model": reply.model}
    return json.dumps(head | {"choices": choices, "usage": usage_of(reply.usage or Usage())}).encode()


def pieces(text: str) -> list[str]:
    return [text[i : i + 3] for i in range(0, len(text), 3)] or [""]


def events(reply: Reply, *, thoughts: str = "reasoning_content", usage_in_choice: bool = False) -> list[bytes]:
    """The stream's events, usage chunk last; without [DONE]."""
    head = {"id": reply.id, "object": "chat.completion.chunk", "created": reply.created, "model": reply.model}
    out: list[dict[str, Any]] = []

    def chunk(index: int, delta: dict[str, Any], finish: str | None = None, **more: Any) -> None:
        out.append(head | {"choices": [{"index": index, "delta": delta, "finish_reason": finish, **more}]})

    for index, choice in enumerate(reply.choices):
        chunk(index, {"role": "assistant", "content": ""})
        position = 0
        for part in choice.parts:
            if isinstance(part, ToolCall):
                first = {"index": position, "id": part.id, "type": "function", "function": {"name": part.name, "arguments": ""}}
                chunk(index, {"tool_calls": [first]})
                for piece in pieces(part.arguments):
                    chunk(index, {"tool_calls": [{"index": position, "function": {"arguments": piece}}]})
                position += 1
            elif isinstance(part, Text | Reasoning | Refusal):
                name = {Text: "content", Reasoning: thoughts, Refusal: "refusal"}[type(part)]
                for piece in pieces(part.text):
                    chunk(index, {name: piece})
        usage = {"usage": usage_of(reply.usage or Usage())} if usage_in_choice else {}
        chunk(index, {}, choice.finish, **usage)
    if not usage_in_choice:
        out.append(head | {"choices": [], "usage": usage_of(reply.usage or Usage())})
    return [b"data: " + json.dumps(event).encode() + b"\n\n" for event in out]


DONE = b"data: [DONE]\n\n"


@st.composite
def splits(draw: st.DrawFn, text: bytes) -> list[bytes]:
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=25)))
    edges = [0, *cuts, len(text)]
    return [text[a:b] for a, b in pairwise(edges)]
