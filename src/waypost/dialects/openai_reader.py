"""OpenAI dialect, answers of providers: chunks and whole bodies to neutral deltas.

Decides what the many servers mean that speak it: `reasoning` or `reasoning_content`, Mistral's thinking parts, usage inside a choice,
tool calls without ids, errors inside a 200. A whole answer is read as the deltas it would have been streamed as, so both ways fold to
the same Reply. Knows no transport and no caller. Terminal marker: [DONE]; of
a provider known to send none (quirk), a clean end after every choice has finished.
"""

from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct

from waypost.core.fold import fold
from waypost.core.sse import Event
from waypost.core.types import (
    Begun,
    Delta,
    Ended,
    Failed,
    Failure,
    Fault,
    Finish,
    ReasoningDelta,
    RefusalDelta,
    Reply,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageDelta,
)
from waypost.dialects.openai_failure import failure_in_200
from waypost.dialects.openai_prompt import FORMATS, NULL, Detail

HERE = "openai-chat"
Reason = Literal["stop", "length", "tool_calls", "content_filter", "refusal", "pause", "error"]
_REASONS: dict[str, Reason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "max_tokens": "length",
    "model_length": "length",  # Mistral
    "sensitive": "content_filter",  # Zhipu
    "tool_use": "tool_calls",
}
# Finish reasons that say the provider gave up: the answer is not whole.
BROKEN = {"error": Fault.SERVER, "insufficient_system_resource": Fault.OVERLOADED, "network_error": Fault.SERVER, "abort": Fault.TRUNCATED}
_Number = int | float | None


class _PromptDetails(Struct, gc=False):
    cached_tokens: _Number = None
    cache_write_tokens: _Number = None
    cache_creation_tokens: _Number = None


class _CompletionDetails(Struct, gc=False):
    reasoning_tokens: _Number = None


class UsageJson(Struct, gc=False):
    prompt_tokens: _Number = None
    completion_tokens: _Number = None
    total_tokens: _Number = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None
    prompt_cache_hit_tokens: _Number = None  # DeepSeek
    cached_tokens: _Number = None  # Moonshot


def usage_of(read: UsageJson | None) -> Usage | None:
    """Usage in our terms, as reported: whether it can be true is judged by `core.tokens.plausible`. None when nothing was counted."""
    if read is None or (read.prompt_tokens is None and read.completion_tokens is None):
        return None
    prompt, completion = _count(read.prompt_tokens), _count(read.completion_tokens)
    details, thoughts = read.prompt_tokens_details, read.completion_tokens_details
    reasoning = _count(thoughts.reasoning_tokens) if thoughts is not None and thoughts.reasoning_tokens else 0
    if reasoning > 0 and _count(read.total_tokens) == prompt + completion + reasoning:
        completion += reasoning  # some servers (xAI) count reasoning beside the completion; their own total tells
    cached = (details.cached_tokens if details is not None else None) or read.prompt_cache_hit_tokens or read.cached_tokens
    written = (details.cache_write_tokens or details.cache_creation_tokens) if details is not None else None
    return Usage(prompt, _count(cached) if cached else 0, _count(written) if written else 0, completion, reasoning)


def _count(number: _Number) -> int:
    return int(number) if number is not None and abs(number) < 2**53 else 0


class _Function(Struct, gc=False):
    name: str | None = None
    arguments: str | dict[str, Raw] | None = None


class _Google(Struct, gc=False):
    thought_signature: str | None = None


class _Extra(Struct, gc=False):
    google: _Google | None = None


class _ToolCall(Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None
    extra_content: _Extra | None = None


class _Part(Struct, gc=False):
    type: str = "text"
    text: str | None = None
    thinking: list[dict[str, Any]] | str | None = None


class _Words(Struct):
    """`delta` of a chunk or `message` of a whole answer."""

    content: str | list[_Part] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: list[Detail] | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None
    function_call: _Function | None = None


class _Choice(Struct):
    index: int | None = None
    delta: _Words | None = None
    message: _Words | None = None
    finish_reason: str | None = None
    usage: UsageJson | None = None  # Moonshot


class _Answer(Struct):
    """A chunk or a whole answer; the types are as loose as servers are."""

    id: str | int | None = None
    model: str | None = None
    created: int | float | None = None
    choices: list[_Choice] | None = None
    usage: UsageJson | None = None
    error: Raw = NULL


_answer_of = msgspec.json.Decoder(_Answer).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Reader:
    """StreamReader of `openai-chat`. Mutable; one per attempt."""

    __slots__ = ("_begun", "_content", "_ends_bare", "_finished", "_id", "_over", "_positions", "_seen")

    def __init__(self, *, ends_bare: bool = False) -> None:
        """`ends_bare`: the provider is known to send no [DONE] (quirk `no_done_marker`): a finish and a clean end are enough."""
        self._ends_bare = ends_bare
        self._begun = False
        self._content = False  # some generated text was seen: failures are then of the phase "stream"
        self._over = False
        self._id = ""
        self._seen: set[int] = set()
        self._finished: set[int] = set()
        self._positions: dict[int, dict[int, str]] = {}  # choice -> position -> id of its tool calls

    def feed(self, event: Event) -> list[Delta]:
        if self._over or not event.data.strip():
            return []
        if event.data.startswith(b"[DONE]"):
            return self._done()
        try:
            answer = _answer_of(event.data)
        except _UNREADABLE as error:
            return self._fail(Failure(Fault.MALFORMED, f"a stream event cannot be read: {_place(error)}", self._phase))
        if event.event == b"error" and _is_absent(answer.error):
            return self._fail(failure_in_200(event.data, phase=self._phase))
        return self.read(answer)

    def eof(self) -> list[Delta]:
        if self._over:
            return []
        if self._ends_bare and self._seen and self._seen == self._finished:
            self._over = True
            return [Ended()]
        return self._fail(
            Failure(Fault.TRUNCATED, "the stream ended before its terminal marker", "end" if self._content else "first_token")
        )

    def read(self, answer: _Answer) -> list[Delta]:
        """Deltas of one chunk, or of a whole answer."""
        if not _is_absent(answer.error):
            return self._fail(failure_in_200(answer.error, phase=self._phase))
        deltas: list[Delta] = []
        if not self._begun and (answer.id or answer.model):  # Azure's first chunk has neither
            self._begun, self._id = True, str(answer.id or "")
            deltas.append(Begun(self._id, answer.model or "", int(answer.created) if answer.created else None))
        usage = usage_of(answer.usage)
        for choice in answer.choices or ():
            if choice.finish_reason in BROKEN:
                fault = BROKEN[choice.finish_reason]
                return deltas + self._fail(
                    Failure(fault, f"the provider gave up: {choice.finish_reason}", self._phase, code=choice.finish_reason)
                )
            deltas += self._choice(choice)
            usage = usage or usage_of(choice.usage)
        if usage is not None:
            deltas.append(UsageDelta(usage))
        return deltas

    @property
    def _phase(self) -> str:
        return "stream" if self._content else "first_token"

    def _fail(self, failure: Failure) -> list[Delta]:
        self._over = True
        return [Failed(failure)]

    def _done(self) -> list[Delta]:
        if not self._seen:
            return self._fail(Failure(Fault.MALFORMED, "the stream ended without a single choice", "first_token"))
        self._over = True
        return [Ended()]

    def _choice(self, choice: _Choice) -> list[Delta]:
        index = choice.index or 0
        self._seen.add(index)
        words = choice.delta or choice.message
        if choice.message is not None:
            for at, call in enumerate(choice.message.tool_calls or ()):
                call.index = at  # a whole answer lists its calls; only pieces of a stream need matching by id
        deltas = self._words(words, index) if words else []
        self._content = self._content or bool(deltas)
        native = choice.finish_reason
        if native and index not in self._finished:
            self._finished.add(index)
            reason = _REASONS.get(native.lower(), "stop")
            if reason == "stop" and self._positions.get(index):
                reason = "tool_calls"  # several servers say stop after a tool call; other dialects would not run the tool
            deltas.append(Finish(reason, native, index))
        return deltas

    def _words(self, words: _Words, index: int) -> list[Delta]:
        deltas: list[Delta] = list(_thoughts(words, index))
        content = words.content
        if isinstance(content, str):
            if content:
                deltas.append(TextDelta(content, index))
        else:
            deltas += [_part(part, index) for part in content or () if part.text or part.thinking]
        if words.refusal:
            deltas.append(RefusalDelta(words.refusal, index))
        for call in words.tool_calls or ():
            deltas.append(self._call(call, index))
        if words.function_call is not None:
            deltas.append(self._call(_ToolCall(index=0, function=words.function_call), index))
        return deltas

    def _call(self, call: _ToolCall, index: int) -> ToolCallDelta:
        positions = self._positions.setdefault(index, {})
        position = call.index if call.index is not None else _next_position(positions, call.id)
        function = call.function or _Function()
        arguments = function.arguments
        if not isinstance(arguments, str):
            arguments = msgspec.json.encode(arguments).decode() if arguments else ""
        google = call.extra_content.google if call.extra_content else None
        first = position not in positions
        if first:
            positions[position] = call.id or f"call_{self._id}_{index}_{position}"  # ids must differ across turns
        return ToolCallDelta(
            position=position,
            id=positions[position] if first else None,
            name=(function.name or "") if first else None,
            arguments=arguments,
            signature=google.thought_signature if google else None,
            index=index,
        )


def reply(body: bytes) -> Reply | Failure:
    """A whole 200 answer. Blank lines before the JSON are keep-alives (DeepSeek)."""
    if not body.strip():
        return Failure(Fault.MALFORMED, "the provider answered 200 with an empty body", "end", 200)
    try:
        answer = _answer_of(body)
    except _UNREADABLE as error:
        kind = "an HTML page" if body.lstrip()[:1] == b"<" else f"a body that cannot be read: {_place(error)}"
        return Failure(Fault.MALFORMED, f"the provider answered 200 with {kind}", "end", 200)
    if not answer.choices and _is_absent(answer.error):
        flat = failure_in_200(body, phase="end")  # Mistral and DashScope write errors without a wrapper
        return flat if flat.code else Failure(Fault.MALFORMED, "the provider answered 200 without a choice", "end", 200)
    mute = [choice for choice in answer.choices or () if choice.message is None and choice.delta is None]
    if any(choice.finish_reason != "content_filter" for choice in mute) and _is_absent(answer.error):
        return Failure(Fault.MALFORMED, "the provider answered 200 with a choice that holds no message", "end", 200)
    deltas = Reader().read(answer)
    failed = next((delta for delta in deltas if isinstance(delta, Failed)), None)
    return msgspec.structs.replace(failed.failure, phase="end", status=200) if failed else fold(deltas)


def _is_absent(error: Raw) -> bool:
    return bytes(error) in (b"null", b"{}", b'""', b"false")


def _place(error: Exception) -> str:
    """Where and why, without quoting the text itself."""
    return str(error)[:200] if isinstance(error, msgspec.DecodeError) else type(error).__name__


def _next_position(positions: dict[int, str], call_id: str | None) -> int:
    """A tool call without an index: a known or missing id continues, a new id opens the next position."""
    if positions and (call_id is None or call_id in positions.values()):
        return next((at for at, known in positions.items() if known == call_id), max(positions))
    return len(positions)


def _thoughts(words: _Words, index: int) -> list[ReasoningDelta]:
    """OpenRouter sends the same text as `reasoning` and in `reasoning_details`: the details win where they hold text."""
    details = words.reasoning_details or []
    deltas = [
        ReasoningDelta(
            detail.text or detail.summary or "",
            detail.signature,
            detail.data,
            block=detail.index if detail.index is not None else at,
            index=index,
            origin=FORMATS.get(detail.format or "", HERE),
        )
        for at, detail in enumerate(details)
    ]
    plain = words.reasoning_content or words.reasoning
    if plain and not any(delta.text for delta in deltas):
        deltas.insert(0, ReasoningDelta(plain, index=index, origin=HERE))
    return deltas


def _part(part: _Part, index: int) -> Delta:
    """Mistral sends content as parts while it thinks."""
    if part.thinking is None:
        return TextDelta(part.text or "", index)
    pieces = [part.thinking] if isinstance(part.thinking, str) else [str(piece.get("text", "")) for piece in part.thinking]
    return ReasoningDelta("".join(pieces), index=index, origin=HERE)
