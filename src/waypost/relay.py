"""Relay: one attempt at a provider, from its first byte to the caller's last.

A Run is the sink of one HTTP exchange. A streamed answer goes through a Passage (bytes in, the caller's bytes out): what comes
before the commit is held, what comes after is written straight to the caller, and per chunk there is no task, no future, no
object. A whole answer is gathered and read once. A Run decides nothing: content, end and failure are told to its flight, which
asks the race. Only what a provider sends past the caller's own ceiling is cut here, because the caller would be billed for it.
"""

import time
from typing import Protocol

from msgspec import Struct

from waypost.core.tokens import estimate_output, lower_bound_output, plausible
from waypost.core.types import Failure, Fault, Leg, Part, Reasoning, Refusal, Reply, Text, ToolCall, Usage
from waypost.dialects.contract import Passage
from waypost.dialects.openai_whole import Glance, glance
from waypost.lane import Lane
from waypost.ports import Exchange, Headers, Loss, Responder

now_s = time.monotonic

EVENT_LINES = (b"data:", b"event:", b"id:", b"retry:", b":")
ERROR_BODY_BYTES = 256 * 1024  # of an error page, the rest says nothing
WHOLE_BODY_BYTES = 64 * 1024 * 1024
STREAM_BYTES = 50 * 1024 * 1024  # a stream whose ceiling nobody knows ends here
HELD_BYTES = 256 * 1024  # before the first content: role chunks, comments, nothing more
CEILING_SLACK = 16  # tokens; our count of theirs is a lower bound, this covers what they count beyond content
PIECE_BYTES = 1024  # near the ceiling a longer read is taken in pieces, so that a cut comes within a few tokens of it
RECEIVED_EVERY = 64  # content events between two notes of what a live stream has delivered

_PHASES = {"dns": "connect", "refused": "connect", "connect_timeout": "connect", "tls": "connect", "busy": "connect"}


class Flight(Protocol):
    """What a Run tells, on the event loop: `content` of a stream at most once, then one of `finished` and `failed`."""

    responder: Responder
    dialect: str
    prompt_tokens: int
    ceiling_tokens: int | None  # most tokens the caller asked for, over all choices
    safe_events: int  # so many are looked at singly only now and then

    @property
    def prompt_estimate(self) -> int: ...

    def content(self, run: "Run") -> None: ...
    def finished(self, run: "Run") -> None: ...
    def failed(self, run: "Run", failure: Failure) -> None: ...
    def received(self, run: "Run") -> None: ...


class Run(Struct, eq=False):
    """One attempt. `passage` is None when a whole answer was asked for; `whole` gathers whatever is not the expected stream."""

    flight: Flight
    number: int
    leg: Leg
    lane: Lane
    passage: Passage | None
    started_s: float
    wall_ms: int
    dropped: tuple[str, ...] = ()
    exchange: Exchange | None = None
    status: int = 0
    headers: Headers = []
    byte_at_s: float = 0.0
    content_at_s: float = 0.0
    ttft_s: float | None = None
    body_bytes: int = 0
    events: int = 0
    held: list[bytes] = []
    held_bytes: int = 0
    committed: bool = False
    over: bool = False
    is_cut: bool = False
    ending: bytes = b""  # of a stream that we ended ourselves
    copy: list[bytes] | None = None  # of what went to the caller, for the cache
    copied_bytes: int = 0
    whole: list[bytes] | None = None
    whole_usage: Usage | None = None
    reply: Reply | Glance | None = None  # a whole answer, as far as it had to be understood

    # --- the sink of the exchange --------------------------------------------------------------------------------------

    def head(self, status: int, headers: Headers) -> None:
        self.byte_at_s = now_s()
        self.status = status
        if self.passage is None or status != 200 or not _is_event_stream(headers):
            self.headers = headers
            self.whole = []

    def data(self, chunk: bytes, framed: bytes = b"") -> None:
        if self.over:
            return
        passage = self.passage
        if self.whole is not None or passage is None:
            if self.whole or passage is None or self.status != 200 or not chunk.lstrip(b"\xef\xbb\xbf \r\n").startswith(EVENT_LINES):
                self._gather(chunk)
                return
            self.whole = None  # events, whatever their label says
        if len(chunk) > PIECE_BYTES and self._may_pass_ceiling(passage, chunk):
            for at in range(0, len(chunk), PIECE_BYTES):
                self.data(chunk[at : at + PIECE_BYTES])
            return
        out = passage.feed(chunk)
        self.byte_at_s = now = now_s()
        self.body_bytes += len(chunk)
        events = passage.content_events
        if events != self.events:
            if framed and out is chunk and self.copy is None and events % RECEIVED_EVERY and events <= self.flight.safe_events:
                self.events = events  # the common chunk of a stream: one event more, nothing else to know
                self.content_at_s = now
                self.flight.responder.write(out, framed)
                return
            if self._content(out, events, now):
                return
        elif out:
            self._give(out)
        if passage.failure is not None:
            self._fail(passage.failure)
        elif passage.finished:
            self._finish()

    def end(self) -> None:
        if self.over:
            return
        if self.whole is not None:
            self._read_whole(b"".join(self.whole))
            return
        passage = self.passage
        if passage is None:
            self._fail(Failure(Fault.SERVER, "the provider's answer had no head"))
            return
        out = passage.end()
        if passage.content_events != self.events:
            if self._content(out, passage.content_events, now_s()):
                return
        elif out:
            self._give(out)
        if passage.failure is not None:
            self._fail(passage.failure)
        else:
            self._finish()

    def lost(self, loss: Loss) -> None:
        if self.over:
            return
        phase = _PHASES.get(loss.kind) or self.phase
        if self.status == 200:
            message = f"the provider's answer broke off ({loss.kind})"
            self._fail(Failure(Fault.TRUNCATED, message, phase=phase, status=200))
        elif loss.kind == "too_large":
            self._fail(Failure(Fault.SERVER, "the provider's answer has too large a head", phase=phase))
        else:
            self._fail(Failure(Fault.TRANSPORT, f"no answer from the provider: {loss.kind}", code=loss.kind, phase=phase, sent=loss.sent))

    # --- the flight's side ---------------------------------------------------------------------------------------------

    def commit(self) -> None:
        """From now on bytes go straight to the caller; what was held goes first."""
        self.committed = True
        if self.exchange is not None:
            self.exchange.takes_frames = True
        if self.held:
            self.flight.responder.write(b"".join(self.held))
            self.held = []

    def stop(self) -> None:
        """Close the exchange at once. Nothing is told any more."""
        self.over = True
        self.held = []
        if self.exchange is not None:
            self.exchange.cancel()

    @property
    def phase(self) -> str:
        return "stream" if self.events else "first_token" if self.status == 200 else "headers"

    @property
    def total_s(self) -> float:
        return now_s() - self.started_s

    def usage(self) -> Usage:
        """What the provider reported, if it can be; else an estimate that says why."""
        passage, flight = self.passage, self.flight
        streamed = passage is not None and self.whole is None
        reported = passage.usage if passage is not None and streamed else self.whole_usage
        events, size = (passage.content_events, passage.content_bytes) if passage is not None and streamed else (0, 0)
        if passage is not None and streamed and (self.is_cut or not passage.finished):
            return self._partial(reported, estimate_output(events, size))
        if reported is not None and (streamed or reported.output_tokens) and self._is_possible(reported, events, size):
            return reported
        if not streamed:  # how much a whole answer said is counted only where that decides
            size = self._said_bytes()
            if reported is not None and self._is_possible(reported, 0, size):
                return reported
        source = "estimated" if reported is None else "impossible"
        return Usage(flight.prompt_estimate, output_tokens=self._capped(estimate_output(events, size)), source=source)

    def _is_possible(self, reported: Usage, events: int, size: int) -> bool:
        ceiling, prompt = self.flight.ceiling_tokens, self.flight.prompt_tokens
        return plausible(reported, content_events=events, content_bytes=size, max_output_tokens=ceiling, prompt_tokens=prompt)

    def _said_bytes(self) -> int:
        """What a whole answer said, in bytes, for an estimate: its words and its tool calls."""
        read = self.lane.side.reply(self.reply.body) if isinstance(self.reply, Glance) else self.reply
        if not isinstance(read, Reply):
            return 0
        return sum(_said(part) for choice in read.choices for part in choice.parts)

    def _partial(self, reported: Usage | None, output: int) -> Usage:
        """Of an answer that did not end: the prompt as reported where it was (Anthropic says it first), the output as received."""
        if reported is None or not reported.input_tokens:
            return Usage(self.flight.prompt_estimate, output_tokens=self._capped(output), source="estimated")
        output = self._capped(max(output, reported.output_tokens))
        return Usage(reported.input_tokens, reported.cached_tokens, reported.cache_write_tokens, output, source="estimated")

    def _capped(self, output: int) -> int:
        ceiling = self.flight.ceiling_tokens
        return output if ceiling is None or output < ceiling else ceiling

    # --- within --------------------------------------------------------------------------------------------------------

    def _content(self, out: bytes, events: int, now: float) -> bool:
        """New content came. True when this run is over by it."""
        first = self.events == 0
        self.content_at_s = now
        if first:
            self.ttft_s = now - self.started_s
            if out:
                self._keep(out)  # content of any size: what is bounded is what comes without any
            self.events = events
            self.flight.content(self)
            if self.over:
                return True
        else:
            if events // RECEIVED_EVERY != self.events // RECEIVED_EVERY:
                self.events = events
                self.flight.received(self)
            self.events = events
            if out:
                self._give(out)
        return self._is_past_ceiling() and self._cut()

    def _keep(self, out: bytes) -> None:
        if self.copy is not None:
            self.copy.append(out)
            self.copied_bytes += len(out)
        self.held.append(out)

    def _give(self, out: bytes) -> None:
        if not self.committed:
            self._keep(out)
            self.held_bytes += len(out)
            if self.held_bytes > HELD_BYTES:
                message = f"the provider sent {HELD_BYTES} bytes without any content"
                self._fail(Failure(Fault.MALFORMED, message, phase="first_token", status=200))
            return
        if self.copy is not None:
            self.copy.append(out)
            self.copied_bytes += len(out)
        self.flight.responder.write(out)

    def _may_pass_ceiling(self, passage: Passage, chunk: bytes) -> bool:
        ceiling = self.flight.ceiling_tokens
        if ceiling is None:
            return False
        events = chunk.count(b"data:")  # a single one cannot be taken in pieces
        return events > 1 and (passage.content_events + events > ceiling or passage.content_bytes + len(chunk) > 12 * ceiling)

    def _is_past_ceiling(self) -> bool:
        """Whether the provider generated surely more than the caller allows: a lower bound of its tokens over 1.1 x the ceiling."""
        passage, ceiling = self.passage, self.flight.ceiling_tokens
        if passage is None or passage.finished or passage.failure is not None:
            return False
        if ceiling is None:
            return self.body_bytes > STREAM_BYTES
        return lower_bound_output(passage.content_events, passage.content_bytes) > ceiling * 1.1 + CEILING_SLACK

    def _cut(self) -> bool:
        """End the answer as the provider should have ended it: finish reason `length`, and a bill bounded by the ceiling."""
        passage = self.passage
        if passage is None:
            return False
        self.is_cut = True
        self.ending = passage.cut(self.usage())
        if self.exchange is not None:
            self.exchange.cancel()
        self._finish()
        return True

    def _gather(self, chunk: bytes) -> None:
        self.byte_at_s = now_s()
        if self.whole is None:
            self.whole = []
        self.whole.append(chunk)
        self.body_bytes += len(chunk)
        if self.status != 200 and self.body_bytes > ERROR_BODY_BYTES:
            self._read_whole(b"".join(self.whole)[:ERROR_BODY_BYTES])
            if self.exchange is not None:
                self.exchange.cancel()
        elif self.body_bytes > WHOLE_BODY_BYTES:
            self._fail(Failure(Fault.SERVER, f"the provider's answer is larger than {WHOLE_BODY_BYTES} bytes", status=self.status))

    def _read_whole(self, body: bytes) -> None:
        if self.status != 200:
            self._fail(self.lane.side.failure(self.status, self.headers, body, self.wall_ms))
            return
        if _value_of(self.headers, b"content-encoding") not in (b"identity", b""):
            self._fail(Failure(Fault.MALFORMED, "the provider's answer is compressed although that was not asked for", status=200))
            return
        body = body.removeprefix(b"\xef\xbb\xbf")  # a byte order mark is no part of JSON (RFC 8259, 8.1)
        self.whole = [body]
        failure = self._understand(body)
        if failure is not None:
            self._fail(failure)
            return
        self.ttft_s = now_s() - self.started_s
        self.events = 1
        self._finish()

    def _understand(self, body: bytes) -> Failure | None:
        """In the caller's own dialect a glance is enough; any other answer, or one that must be told as a stream, is read."""
        read = glance(body) if self.passage is None and self.lane.wire == self.flight.dialect else self.lane.side.reply(body)
        if isinstance(read, Failure):
            return read
        self.reply = read
        self.whole_usage = read.usage
        return None

    def _finish(self) -> None:
        """Complete. The exchange may still end by itself, which keeps its connection for the next call."""
        if not self.over:
            self.over = True
            self.flight.finished(self)

    def _fail(self, failure: Failure) -> None:
        if self.over:
            return
        self.over = True
        self.held = []
        if self.exchange is not None:
            self.exchange.cancel()
        self.flight.failed(self, self.lane.endpoint.redact(failure))


def _said(part: Part) -> int:
    if isinstance(part, Text | Reasoning | Refusal):
        return len(part.text.encode("utf-8", "replace"))
    return len(part.arguments) + len(part.name) if isinstance(part, ToolCall) else 0


def _is_event_stream(headers: Headers) -> bool:
    return _value_of(headers, b"content-type").startswith(b"text/event-stream")


def _value_of(headers: Headers, name: bytes) -> bytes:
    """In lower case; empty without such a header."""
    size = len(name)
    for known, value in headers:
        if len(known) == size and known.lower() == name:
            return value.lower()
    return b""
