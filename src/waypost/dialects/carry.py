"""Carry: what the translations of a Prompt share when something cannot be carried over.

Decides which parameters a provider's card takes out before any translation, how a part is named in `dropped`, and what kind of
media a base64 text holds. Knows no wire format.
"""

import msgspec
from msgspec import Raw

from waypost.core.types import Audio, Document, Image, Part, Prompt, Reasoning, Refusal, Text, ToolCall, ToolResult

_NULL = Raw(b"null")

# Caller's parameter -> fields of Prompt and the value that means "not asked for".
_UNSET: dict[str, dict[str, object]] = {
    "temperature": {"temperature": None},
    "top_p": {"top_p": None},
    "top_k": {"top_k": None},
    "stop": {"stop": ()},
    "seed": {"seed": None},
    "presence_penalty": {"presence_penalty": None},
    "frequency_penalty": {"frequency_penalty": None},
    "n": {"n": 1},
    "user": {"user": None},
    "tool_choice": {"tool_choice": None},
    "parallel_tool_calls": {"parallel_tool_calls": None},
    "response_format": {"response_format": None},
    "reasoning_effort": {"reasoning_effort": None},
    "reasoning": {"reasoning_effort": None, "reasoning_budget_tokens": None},
}
_NAMES: dict[type[Part], str] = {
    Text: "text",
    Image: "image",
    Audio: "audio",
    Document: "document",
    ToolCall: "tool_call",
    ToolResult: "tool_result",
    Reasoning: "reasoning",
    Refusal: "refusal",
}
# First bytes of a file as base64 spells them: GIF8, PNG, JPEG, RIFF (WebP among images), %PDF.
_MAGIC = {"R0lGOD": "image/gif", "iVBORw": "image/png", "/9j/": "image/jpeg", "UklGR": "image/webp", "JVBERi": "application/pdf"}


def without(prompt: Prompt, refused: frozenset[str]) -> tuple[Prompt, tuple[str, ...]]:
    """`prompt` less the parameters that its provider refuses, and the names of those the caller had set. A null is not set."""
    dropped: list[str] = []
    changes: dict[str, object] = {}
    for name in sorted(refused):
        unset = _UNSET.get(name, {})
        if any(getattr(prompt, field) != value for field, value in unset.items()) or prompt.extra.get(name, _NULL) != _NULL:
            dropped.append(name)
            changes |= unset
    extra = {name: value for name, value in prompt.extra.items() if name not in refused and value != _NULL}
    if not changes and len(extra) == len(prompt.extra):
        return prompt, ()
    return msgspec.structs.replace(prompt, extra=extra, **changes), tuple(dropped)


def part_name(part: Part) -> str:
    return _NAMES[type(part)]


def media_type_of(data: str) -> str | None:
    """The media type that base64 `data` begins like; None when it is none we know."""
    return next((media_type for magic, media_type in _MAGIC.items() if data.startswith(magic)), None)
