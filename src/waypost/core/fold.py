"""Fold: neutral stream events to one whole Reply, and back.

Decides the normal form of an answer: in each choice first the reasoning blocks by number, then one text, one refusal, and the
tool calls by position. Every dialect builds its whole answers through `fold`, so that a streamed and a whole answer are the
same value. Law: `fold(unfold(reply)) == reply` for every reply in normal form. Knows no dialect.
"""

from collections.abc import Iterable
from typing import assert_never, cast

from msgspec import Struct, field

from waypost.core.types import (
    Begun,
    Choice,
    Delta,
    Ended,
    Failed,
    Failure,
    Finish,
    FinishReason,
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


class _Call(Struct):
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list[str])
    signature: str | None = None


class _Block(Struct):
    text: list[str] = field(default_factory=list[str])
    signature: str | None = None
    redacted: str | None = None
    origin: str = ""


class _Choice(Struct):
    text: list[str] = field(default_factory=list[str])
    refusal: list[str] = field(default_factory=list[str])
    blocks: dict[int, _Block] = field(default_factory=dict[int, _Block])
    calls: dict[int, _Call] = field(default_factory=dict[int, _Call])
    finish: str | None = None
    native: str = ""


class Fold:
    """Collects deltas. Mutable; one per answer. Pieces are joined once, so the cost is linear in the text."""

    __slots__ = ("_begun", "_choices", "ended", "failure", "usage")

    def __init__(self) -> None:
        self._begun: Begun | None = None
        self._choices: dict[int, _Choice] = {}
        self.usage: Usage | None = None
        self.failure: Failure | None = None
        self.ended = False

    def add(self, delta: Delta) -> None:
        match delta:
            case TextDelta():
                self._choice(delta.index).text.append(delta.text)
            case ReasoningDelta():
                self._reason(delta)
            case ToolCallDelta():
                self._call(delta)
            case RefusalDelta():
                self._choice(delta.index).refusal.append(delta.text)
            case Finish():
                choice = self._choice(delta.index)
                choice.finish, choice.native = delta.reason, delta.native
            case Begun():
                self._begun = self._begun or delta
            case UsageDelta():
                self.usage = delta.usage
            case Failed():
                self.failure = self.failure or delta.failure
            case Ended():
                self.ended = True
            case _:
                assert_never(delta)

    def reply(self) -> Reply:
        """The answer so far, in normal form. Choices no delta named between named ones stand empty."""
        begun = self._begun or Begun(id="", model="")
        count = max(self._choices, default=-1) + 1
        choices = tuple(_close(self._choices.get(index, _Choice())) for index in range(count))
        return Reply(id=begun.id, model=begun.model, choices=choices, usage=self.usage, created=begun.created)

    def _choice(self, index: int) -> _Choice:
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = _Choice()
        return choice

    def _reason(self, delta: ReasoningDelta) -> None:
        block = self._choice(delta.index).blocks.setdefault(delta.block, _Block())
        block.text.append(delta.text)
        block.signature = delta.signature or block.signature
        block.redacted = delta.redacted or block.redacted
        block.origin = delta.origin or block.origin

    def _call(self, delta: ToolCallDelta) -> None:
        call = self._choice(delta.index).calls.setdefault(delta.position, _Call())
        call.id = call.id or delta.id or ""  # some servers repeat id and name in every chunk
        call.name = call.name or delta.name or ""
        call.arguments.append(delta.arguments)
        call.signature = delta.signature or call.signature


def fold(deltas: Iterable[Delta]) -> Reply:
    """The Reply that `deltas` spell."""
    folding = Fold()
    for delta in deltas:
        folding.add(delta)
    return folding.reply()


def unfold(reply: Reply) -> list[Delta]:
    """The deltas of a whole answer, terminal marker included; for a caller who streams what was not streamed to us."""
    deltas: list[Delta] = [Begun(id=reply.id, model=reply.model, created=reply.created)]
    for index, choice in enumerate(reply.choices):
        deltas += _unfold_parts(choice.parts, index)
        if choice.finish is not None:
            deltas.append(Finish(reason=cast(FinishReason, choice.finish), native=choice.native_finish, index=index))
    if reply.usage is not None:
        deltas.append(UsageDelta(reply.usage))
    deltas.append(Ended())
    return deltas


def _unfold_parts(parts: tuple[Part, ...], index: int) -> list[Delta]:
    if not parts:
        return [TextDelta("", index=index)]  # an empty choice is still a choice
    deltas: list[Delta] = []
    block = position = 0
    for part in parts:
        match part:
            case Text():
                deltas.append(TextDelta(part.text, index=index))
            case Reasoning():
                deltas.append(ReasoningDelta(part.text, part.signature, part.redacted, block=block, index=index, origin=part.origin))
                block += 1
            case Refusal():
                deltas.append(RefusalDelta(part.text, index=index))
            case ToolCall():
                deltas.append(ToolCallDelta(position, part.id, part.name, part.arguments, part.signature, index=index))
                position += 1
            case _:
                pass  # no delta exists for media and tool results: models do not stream them through neutral dialects
    return deltas


def _close(choice: _Choice) -> Choice:
    parts: list[Part] = []
    for _, block in sorted(choice.blocks.items()):
        text = "".join(block.text)
        if text or block.signature or block.redacted:
            parts.append(Reasoning(text, block.signature, block.redacted, block.origin))
    if text := "".join(choice.text):
        parts.append(Text(text))
    if refusal := "".join(choice.refusal):
        parts.append(Refusal(refusal))
    for _, call in sorted(choice.calls.items()):
        parts.append(ToolCall(call.id, call.name, "".join(call.arguments), call.signature))
    return Choice(parts=tuple(parts), finish=choice.finish, native_finish=choice.native)
