"""OpenAI to OpenAI: a provider's bytes relayed to the caller, and what is seen in them on the way.

Decides what may pass: whole events only, none that is malformed or an error, and none after it. Changes nothing except that the usage
chunk is withheld from callers who did not ask for it and carries `cost` for those who did, and that a missing [DONE] is added for
a provider known to send none. Knows no socket: bytes in, bytes out, about 1 us for the common read of one whole event.
"""

from typing import Any

import msgspec
from msgspec import Raw, Struct

from waypost.core.sse import Frames, SseOverflow, event_of
from waypost.core.types import Call, Failure, Fault, Usage
from waypost.dialects.contract import CostOf
from waypost.dialects.openai_answer import DONE, usage_json
from waypost.dialects.openai_failure import failure_in_200
from waypost.dialects.openai_prompt import NULL
from waypost.dialects.openai_reader import BROKEN, UsageJson, usage_of
from waypost.dialects.openai_whole import rebuilt, spliced


class _Function(Struct, gc=False):
    arguments: str | dict[str, Raw] | None = None


class _ToolCall(Struct, gc=False):
    function: _Function | None = None


class _Words(Struct, gc=False):
    content: str | list[Raw] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(Struct, gc=False):
    delta: _Words | None = None
    finish_reason: str | None = None
    index: int | None = None
    usage: Raw = NULL


class _Chunk(Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: Raw = NULL
    error: Raw = NULL


class _Envelope(Struct, gc=False):
    id: Any = None
    created: Any = None
    model: Any = None


_chunk_of = msgspec.json.Decoder(_Chunk).decode
_fields_of = msgspec.json.Decoder(dict[str, Raw]).decode
_usage_of = msgspec.json.Decoder(UsageJson | None).decode
_envelope_of = msgspec.json.Decoder(_Envelope).decode
_encode = msgspec.json.Encoder().encode
_PLAIN = bytes(set(range(0x20, 0x7F)) - set(b'"\\'))  # characters that stand for themselves in a JSON string
_NOTHING = frozenset({b"null", b"{}", b'""', b"false"})
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class OpenAIPassage:
    """Passage of `openai-chat` to itself. Mutable; one per attempt."""

    __slots__ = (
        "_after",
        "_around",
        "_before",
        "_clean",
        "_cost_of",
        "_ended",
        "_ends_bare",
        "_first",
        "_frames",
        "_include_usage",
        "_seen",
        "_tries",
        "_usage_frame",
        "content_bytes",
        "content_events",
        "failure",
        "finished",
        "tail",
        "usage",
    )

    def __init__(self, call: Call, *, cost_of: CostOf, ends_bare: bool = False) -> None:
        """`ends_bare` as in `openai_reader.Reader`."""
        self._ends_bare = ends_bare
        self.content_events = 0
        self.content_bytes = 0
        self.finished = False
        self.failure: Failure | None = None
        self.usage: Usage | None = None
        self.tail = b""
        self._include_usage = call.include_usage
        self._cost_of = cost_of
        self._frames = Frames()
        self._clean = True  # live and exactly between two frames: the fast path may be tried
        self._first = b""  # the first event, for the envelope of a cut
        self._seen: set[int] = set()  # choices
        self._ended: set[int] = set()  # choices that gave their finish reason
        self._usage_frame = b""
        self._before = self._after = b"data: "
        self._around = 1 << 60  # nothing learned yet: no read is as long
        self._tries = 4  # to learn; the first events often carry the role or a usage of their own

    def feed(self, chunk: bytes) -> bytes:
        if self._clean and chunk.startswith(self._before) and chunk.endswith(self._after):
            size = len(chunk) - self._around
            if size > 0 and not chunk[len(self._before) : -len(self._after)].translate(None, _PLAIN):
                self.content_events += 1
                self.content_bytes += size
                return chunk
        # The common read is one whole event of one data line; it needs no framing and is returned as it is.
        if self._clean and chunk[:6] == b"data: " and chunk.find(b"\n", 6) == len(chunk) - 2 and chunk[-1:] == b"\n" and b"\r" not in chunk:
            return self._event(chunk, chunk[6:-2])
        if self.finished or self.failure is not None:
            return b""
        try:
            frames = self._frames.feed(chunk)
        except SseOverflow as overflow:
            return self._fail(Fault.MALFORMED, str(overflow))
        self._clean = not self._frames.pending
        return self._relay(frames)

    def end(self) -> bytes:
        if self.finished or self.failure is not None:
            return b""
        out = self._relay(self._frames.flush())
        if self.finished or self.failure is not None:
            return out
        if self._frames.rest.strip().replace(b" ", b"").startswith(b"data:[DONE]"):
            return out + self._done(DONE)  # the marker is there, only its blank line is not
        if self._ends_bare and self._seen and self._seen == self._ended:
            return out + self._done(DONE)
        self._clean = False
        phase = "end" if self.content_events else "first_token"
        self.failure = Failure(Fault.TRUNCATED, "the stream ended before its terminal marker", phase)
        return out

    def cut(self, usage: Usage) -> bytes:
        """Finish chunks for the choices still open, usage if asked for, [DONE]; in the envelope the provider began with."""
        if self.finished:
            return b""
        self._clean, self.finished = False, True
        opening = self._opening()
        ends = [
            {"index": index, "delta": Raw(b"{}"), "logprobs": None, "finish_reason": "length"}
            for index in sorted((self._seen or {0}) - self._ended)
        ]
        return b"".join(opening + _encode([end]) + b"}\n\n" for end in ends) + self.tail_with(usage)

    def tail_with(self, usage: Usage) -> bytes:
        """The stream's end with our own usage, where the provider gave none or one that cannot be."""
        if not self._include_usage:
            return DONE
        return self._opening() + b'[],"usage":' + usage_json(usage, self._cost_of(usage)) + b"}\n\n" + DONE

    def _opening(self) -> bytes:
        """A chunk up to its choices, in the envelope the provider began with."""
        envelope = _envelope_of(self._first) if self._first else _Envelope()
        head = {"id": envelope.id or "", "object": "chat.completion.chunk", "created": envelope.created or 0, "model": envelope.model or ""}
        return b"data: " + _encode(head)[:-1] + b',"choices":'

    def _relay(self, frames: list[bytes]) -> bytes:
        out: list[bytes] = []
        for frame in frames:
            event = event_of(frame)
            if event is None or not event.data.strip():
                out.append(frame)  # comments and blank lines keep the caller's connection alive too
                continue
            out.append(self._event(frame, event.data, named_error=event.event == b"error"))
            if self.finished or self.failure is not None:
                break
        return b"".join(out)

    def _event(self, frame: bytes, data: bytes, *, named_error: bool = False) -> bytes:
        """What of one event goes to the caller now."""
        try:
            chunk = _chunk_of(data)
        except _UNREADABLE as error:
            if data.startswith(b"[DONE]"):
                return self._done(frame)
            return frame if not data.strip() else self._fail(Fault.MALFORMED, f"a stream event cannot be read: {str(error)[:200]}")
        if chunk.error is not NULL and bytes(chunk.error) not in _NOTHING:
            return self._refuse(failure_in_200(chunk.error, phase=self._phase))
        if named_error:
            return self._refuse(failure_in_200(data, phase=self._phase))
        if not self._first:
            self._first = data
        choices = chunk.choices
        if not choices:
            return self._without_choices(frame, data, chunk.usage)
        ends = False
        for choice in choices:
            index = choice.index or 0
            if index not in self._seen:
                self._seen.add(index)
            words = choice.delta
            if words is not None:
                self._count(words)
                if self._tries and words.content.__class__ is str and words.content:
                    self._learn(frame)
            if choice.finish_reason is not None:
                if choice.finish_reason in BROKEN:
                    return self._fail(BROKEN[choice.finish_reason], f"the provider gave up: {choice.finish_reason}")
                self._ended.add(index)
                ends = True
            if choice.usage is not NULL:
                self._use(choice.usage)
        if chunk.usage is NULL or bytes(chunk.usage) == b"null":
            return frame
        self._use(chunk.usage)
        return self._priced(frame, data, chunk.usage) if ends and self._include_usage else frame

    def _learn(self, frame: bytes) -> None:
        """Remember what stands before and after the content of this event, if nothing but content can be in such an event.

        Servers write all events of a stream alike. A later read with the same `before` and `after`, and between them only printable ASCII
        without quote and backslash, is the same JSON with another content string: decoding it could find no error, no finish, no usage
        and no second event. The probe proves that the place found is the content that the decoder reads.
        """
        self._tries -= 1
        mark = b'"content":"' if b'"content":"' in frame else b'"content": "'
        at = frame.find(mark) + len(mark)
        end = frame.find(b'"', at)
        before, after = frame[:at], frame[end:]
        if at < len(mark) or end < 0 or before[:6] != b"data: " or b"\n" in before or after.find(b"\n") != len(after) - 2:
            return
        try:
            probe = _chunk_of(before[6:] + b"probe" + after[:-2])
        except _UNREADABLE:
            return
        plain = _Chunk(choices=[_Choice(delta=_Words(content="probe"), index=probe.choices[0].index if probe.choices else None)])
        if probe == plain and b"\r" not in frame:
            self._before, self._after, self._around, self._tries = before, after, len(before) + len(after), 0

    def _count(self, words: _Words) -> None:
        content = words.content or words.reasoning_content or words.reasoning or words.refusal
        if content:
            self.content_events += 1
            if isinstance(content, str):
                self.content_bytes += len(content) if content.isascii() else len(content.encode("utf-8", "surrogatepass"))
            else:
                self.content_bytes += sum(len(memoryview(part)) for part in content)
        if words.tool_calls:
            self.content_events += 1
            for call in words.tool_calls:
                arguments = call.function.arguments if call.function else None
                self.content_bytes += len(arguments) if isinstance(arguments, str) else 0

    def _without_choices(self, frame: bytes, data: bytes, usage: Raw) -> bytes:
        """The usage chunk goes to the tail or nowhere: callers who did not ask index `choices[0]` and would crash on it."""
        if bytes(usage) in _NOTHING:
            return frame  # Azure's filter annotations
        self._use(usage)
        self._usage_frame = self._priced(frame, data, usage) if self._include_usage else b""
        return b""

    def _use(self, raw: Raw) -> None:
        try:
            self.usage = usage_of(_usage_of(raw)) or self.usage
        except _UNREADABLE:
            pass  # usage in an unknown shape is no usage: the bill is estimated and says so

    def _priced(self, frame: bytes, data: bytes, usage: Raw) -> bytes:
        cost = self._cost_of(self.usage) if self.usage is not None else None
        if cost is None:
            return frame
        priced = spliced(frame, usage, cost)
        return priced if priced is not None else b"data: " + rebuilt(data, usage, cost) + b"\n\n"

    def _done(self, frame: bytes) -> bytes:
        self._clean = False
        if not self._seen:
            return self._fail(Fault.MALFORMED, "the stream ended without a single choice")
        self.finished = True
        self.tail = self._usage_frame + frame
        return b""

    @property
    def _phase(self) -> str:
        return "stream" if self.content_events else "first_token"

    def _fail(self, fault: Fault, message: str) -> bytes:
        return self._refuse(Failure(fault, message, self._phase))

    def _refuse(self, failure: Failure) -> bytes:
        self._clean, self.failure = False, failure
        return b""
