"""SSE: bytes of an event stream to events, whatever the split.

Decides where lines and events end. Knows nothing of JSON, models or sockets. Follows the WHATWG algorithm ("event stream
interpretation", https://html.spec.whatwg.org/multipage/server-sent-events.html): only CR, LF and CRLF end a line, so that
U+2028 inside data stays data; `id` and `retry` are ignored because nobody here reconnects.
"""

import re

from msgspec import Struct

MAX_PENDING_BYTES = 10 * 1024 * 1024 + 65536  # a 10 MiB line (inline images) with its envelope; more is an attack or a bug
_BOM = b"\xef\xbb\xbf"
# A blank line, where the end of its own line ending is certain: a CR that ends the buffer may be half of a CRLF.
_BORDER = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r(?=[^\n]))")
_LINE_ENDS = re.compile(rb"(?:\n|\r\n|\r(?=[^\n]))+")


class Event(Struct, frozen=True):
    """One event: `event` is its name (b"" when none was sent), `data` its data lines joined with LF."""

    event: bytes
    data: bytes


class SseOverflow(Exception):
    """An event grew past the decoder's bound without ending."""


class Decoder:
    """Incremental decoder; one per stream. Total cost is linear in the bytes fed, also for one byte at a time."""

    __slots__ = ("_after_cr", "_between", "_data", "_fresh", "_held", "_line", "_max_bytes", "_name")

    def __init__(self, *, max_bytes: int = MAX_PENDING_BYTES) -> None:
        self._max_bytes = max_bytes
        self._line = bytearray()  # the unfinished last line
        self._data: list[bytes] = []  # data lines of the unfinished event
        self._held = 0  # bytes in `_data`
        self._name = b""
        self._after_cr = False  # the last byte was CR: a LF now belongs to it
        self._fresh = True  # no line seen yet: a BOM may stand there
        self._between = False  # past the start and exactly between two events: the fast path may be tried

    @property
    def pending(self) -> int:
        """Bytes held of an event that has not ended."""
        return len(self._line) + self._held

    @property
    def unfinished(self) -> bool:
        """Whether the stream stands inside an event or a line. At EOF such an event is discarded, as the standard says."""
        return bool(self._line or self._data)

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that `chunk` completes. Raises SseOverflow when more than `max_bytes` wait for their end."""
        # The common read is one whole event of one data line: then nothing else is left to interpret.
        if (
            self._between
            and chunk.startswith(b"data: ")
            and chunk.endswith(b"\n\n")
            and chunk.find(b"\n", 6) == len(chunk) - 2
            and b"\r" not in chunk
        ):
            return [Event(b"", chunk[6:-2])]
        return self._feed_any(chunk)

    def _feed_any(self, chunk: bytes) -> list[Event]:
        if self._after_cr and chunk:
            self._after_cr = False
            if chunk[0] == 0x0A:
                chunk = chunk[1:]
        end = max(chunk.rfind(b"\n"), chunk.rfind(b"\r")) + 1
        if not end:
            self._line += chunk
            self._between = self._between and not chunk
            self._check()
            return []
        text = bytes(self._line) + chunk[:end] if self._line else chunk[:end]
        self._line = bytearray(chunk[end:])
        self._after_cr = text.endswith(b"\r") and not self._line  # only the very last byte's partner may still come
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if self._fresh:
            self._fresh = False
            text = text.removeprefix(_BOM)
        events = self._lines(text[:-1].split(b"\n"))
        self._between = not (self._after_cr or self._line or self._data or self._name)
        self._check()
        return events

    def _lines(self, lines: list[bytes]) -> list[Event]:
        events: list[Event] = []
        for line in lines:
            if not line:
                if self._data:
                    events.append(Event(self._name, self._data[0] if len(self._data) == 1 else b"\n".join(self._data)))
                    self._data, self._held = [], 0
                self._name = b""  # an event without data is dropped, its name with it
                continue
            field, _, value = line.partition(b":")
            if field == b"data":
                self._data.append(value[1:] if value.startswith(b" ") else value)
                self._held += len(line)
            elif field == b"event":
                self._name = value[1:] if value.startswith(b" ") else value
        return events

    def _check(self) -> None:
        if self.pending > self._max_bytes:
            raise SseOverflow(f"an event of the stream exceeds {self._max_bytes} bytes")


class Frames:
    """Cuts a stream into raw frames, an event or comment each with its blank line, for relaying bytes unchanged.

    Joined frames and `rest` are the input, whatever the split.
    """

    __slots__ = ("_held", "_max_bytes")

    def __init__(self, *, max_bytes: int = MAX_PENDING_BYTES) -> None:
        self._held = bytearray()
        self._max_bytes = max_bytes

    @property
    def pending(self) -> int:
        return len(self._held)

    @property
    def rest(self) -> bytes:
        """The bytes of the frame that has not ended."""
        return bytes(self._held)

    def feed(self, chunk: bytes) -> list[bytes]:
        """The frames that `chunk` completes. Raises SseOverflow when more than `max_bytes` wait for their end."""
        held = self._held
        seek = max(len(held) - 3, 0)  # a border may have begun in the last three bytes, CR LF CR
        held += chunk
        frames: list[bytes] = []
        start = 0
        while True:
            if blank := _LINE_ENDS.match(held, start):  # blank lines between events, kept alive with them
                frames.append(bytes(held[start : blank.end()]))
                start = blank.end()
            border = _BORDER.search(held, max(seek, start))
            if border is None:
                break
            frames.append(bytes(held[start : border.end()]))
            start = border.end()
        del held[:start]
        if len(held) > self._max_bytes:
            raise SseOverflow(f"an event of the stream exceeds {self._max_bytes} bytes")
        return frames

    def flush(self) -> list[bytes]:
        """At EOF: the frames whose end waited for the byte after a CR."""
        frames = self.feed(b"x")  # any byte but LF settles it
        del self._held[-1:]
        return frames


def event_of(frame: bytes) -> Event | None:
    """The event in one frame; None for a comment, a blank line or an event without data."""
    events = Decoder().feed(frame)
    return events[0] if events else None
