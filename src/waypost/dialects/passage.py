"""Passage between dialects: a provider's stream read as deltas, and either written anew for the caller or gathered whole.

Decides nothing about formats: the reader knows one, the encoder the other. Counts what was generated, keeps the terminal marker
back in `tail`, and stops at the first failure. Same-dialect streams do not come here: their bytes are relayed.
"""

from waypost.core.fold import Fold
from waypost.core.sse import Decoder, Event, SseOverflow
from waypost.core.types import (
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
from waypost.dialects.contract import Encoder, StreamReader


class Translation:
    """Passage from one dialect to another. Mutable; one per attempt."""

    def __init__(self, reader: StreamReader, encoder: Encoder) -> None:
        self.content_events = 0
        self.content_bytes = 0
        self.finished = False
        self.failure: Failure | None = None
        self.usage: Usage | None = None
        self.tail = b""
        self._reader = reader
        self._encoder = encoder
        self._decoder = Decoder()
        self._seen: set[int] = {0}
        self._ended: set[int] = set()

    def feed(self, chunk: bytes) -> bytes:
        if self.finished or self.failure is not None:
            return b""
        try:
            events = self._decoder.feed(chunk)
        except SseOverflow as overflow:
            self.failure = Failure(Fault.MALFORMED, str(overflow), "stream" if self.content_events else "first_token")
            return b""
        return b"".join(map(self._event, events))

    def end(self) -> bytes:
        if self.finished or self.failure is not None:
            return b""
        return self._take(self._reader.eof())

    def cut(self, usage: Usage) -> bytes:
        if self.finished:
            return b""
        self.finished = True
        self.usage = usage
        ends: list[Delta] = [Finish("length", index=index) for index in sorted(self._seen - self._ended)]
        return b"".join(map(self._encoder.encode, [*ends, UsageDelta(usage), Ended()]))

    def _event(self, event: Event) -> bytes:
        return self._take(self._reader.feed(event))

    def _take(self, deltas: list[Delta]) -> bytes:
        out: list[bytes] = []
        for delta in deltas:
            if self.finished or self.failure is not None:
                break
            match delta:
                case Failed():
                    self.failure = delta.failure
                case Ended():
                    self.finished = True
                    self.tail = self._encoder.encode(delta)
                case _:
                    self._note(delta)
                    out.append(self._encoder.encode(delta))
        return b"".join(out)

    def _note(self, delta: Delta) -> None:
        match delta:
            case TextDelta() | ReasoningDelta() | RefusalDelta():
                self._seen.add(delta.index)
                self._content(delta.text)
            case ToolCallDelta():
                self._seen.add(delta.index)
                self.content_events += 1
                self.content_bytes += len(delta.arguments)
            case Finish():
                self._ended.add(delta.index)
            case UsageDelta():
                self.usage = delta.usage
            case _:
                pass

    def _content(self, text: str) -> None:
        if text:
            self.content_events += 1
            self.content_bytes += len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


class Gather(Translation):
    """A stream taken whole, for a caller who does not stream: `feed` gives nothing, `reply` everything at the end."""

    def __init__(self, reader: StreamReader) -> None:
        self._folding = _Folding()
        super().__init__(reader, self._folding)

    @property
    def reply(self) -> Reply:
        """What was gathered so far; whole once `finished`."""
        return self._folding.fold.reply()


class _Folding:
    """An Encoder that keeps instead of writing."""

    def __init__(self) -> None:
        self.fold = Fold()

    def encode(self, delta: Delta) -> bytes:
        self.fold.add(delta)
        return b""
