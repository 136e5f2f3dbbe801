"""Anthropic Messages, provider side: its stream, its whole answers and its errors, as neutral values.

Decides what each event means and what each error is a fault of. Knows nothing of sockets, retries or money; the request is made in
`anthropic_request`. Event and field names as typed in the anthropic SDK 2.12; the error table follows
https://platform.claude.com/docs/en/api/errors (read 2026-11).

A whole answer is read as the stream that would have spelt it, so that both ways give one value. Not carried, because no neutral
name exists: citations and the blocks of server-side tools (search, code execution). They are passed over, never an error.
"""

import re
from typing import Final

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
    FinishReason,
    ReasoningDelta,
    RefusalDelta,
    Reply,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageDelta,
)
from waypost.dialects import anthropic_request
from waypost.dialects.anthropic_request import WIRE
from waypost.dialects.contract import Headers, ProviderSide, StreamReader
from waypost.dialects.retry_after import retry_after_s
from waypost.dialects.scrub import scrub

_NULL: Final = Raw(b"null")
_FINISH: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "pause_turn": "pause",
    "refusal": "refusal",
}
_EVENTS = frozenset(
    {"message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta", "message_stop", "ping", "error"}
)
_BLOCKS = frozenset({"text", "tool_use", "thinking", "redacted_thinking"})
_DELTAS = frozenset({"text_delta", "input_json_delta", "thinking_delta", "signature_delta"})


class _Block(Struct):
    """A content block; of a block we do not know only `type` is read."""

    type: str
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: Raw = _NULL
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None


class _StopDetails(Struct):
    explanation: str | None = None


class _Piece(Struct):
    """`delta` of a content_block_delta or of a message_delta."""

    type: str | None = None
    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    signature: str | None = None
    stop_reason: str | None = None
    stop_details: _StopDetails | None = None


class _Message(Struct):
    id: str = ""
    model: str = ""
    content: list[Raw] = []
    stop_reason: str | None = None
    stop_details: _StopDetails | None = None
    usage: Raw = _NULL
    type: str = "message"
    error: Raw = _NULL


class _StreamEvent(Struct):
    type: str
    index: int = 0
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Piece | None = None
    usage: Raw = _NULL
    error: Raw = _NULL


class _Kind(Struct):
    type: str = ""


class _Kinds(_Kind):
    content_block: _Kind | None = None
    delta: _Kind | None = None


class _OutputDetails(Struct):
    thinking_tokens: int | None = None


class _Usage(Struct):
    input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    output_tokens: int | None = None
    output_tokens_details: _OutputDetails | None = None


class _Details(Struct):
    error_code: str | None = None


class _Error(Struct):
    type: str | None = None
    message: str | None = None
    details: Raw = _NULL  # read apart: other servers of this wire put anything here


class _ErrorBody(Struct):
    error: _Error


_event = msgspec.json.Decoder(_StreamEvent)
_kinds = msgspec.json.Decoder(_Kinds)
_message = msgspec.json.Decoder(_Message)
_block = msgspec.json.Decoder(_Block)
_kind = msgspec.json.Decoder(_Kind)
_usage = msgspec.json.Decoder(_Usage)
_details = msgspec.json.Decoder(_Details)
_error = msgspec.json.Decoder(_Error)
_error_body = msgspec.json.Decoder(_ErrorBody)


class _Tally:
    """Usage so far: every count is cumulative and may come in any of the two events, so the newest of each is kept."""

    def __init__(self) -> None:
        self._newest = _Usage()

    def add(self, raw: Raw) -> list[Delta]:
        """A UsageDelta, or nothing where usage is absent or unreadable: an answer is not refused for its bill."""
        try:
            seen = _usage.decode(raw)
        except (ValueError, RecursionError):
            return []
        for field in _Usage.__struct_fields__:
            if (value := getattr(seen, field)) is not None:
                setattr(self._newest, field, value)
        newest, details = self._newest, self._newest.output_tokens_details
        cached, written = newest.cache_read_input_tokens or 0, newest.cache_creation_input_tokens or 0
        return [
            UsageDelta(
                Usage(
                    input_tokens=(newest.input_tokens or 0) + cached + written,  # Anthropic's count leaves out both
                    cached_tokens=cached,
                    cache_write_tokens=written,
                    output_tokens=newest.output_tokens or 0,
                    reasoning_tokens=(details.thinking_tokens or 0) if details else 0,
                )
            )
        ]


class _Reader:
    """One stream. After Ended or Failed nothing more is said."""

    def __init__(self) -> None:
        self._tally = _Tally()
        self._closed = False
        self._content = self._stopped = False
        self._calls: dict[int, tuple[int, bytes]] = {}  # open block -> position, and the input that stands if none is streamed
        self._thoughts: dict[int, int] = {}  # open block -> reasoning block
        self._call_count = self._thought_count = 0

    def feed(self, event: Event) -> list[Delta]:
        if self._closed:
            return []
        try:
            seen = _event.decode(event.data)
        except (ValueError, RecursionError):
            return [] if _unknown(event) else self._fail(_failure(Fault.MALFORMED, "an event of the stream is not readable", self._phase))
        return self._read(seen)

    def eof(self) -> list[Delta]:
        if self._closed:
            return []
        return self._fail(_failure(Fault.TRUNCATED, "the stream ended without message_stop", "end"))

    @property
    def _phase(self) -> str:
        return "stream" if self._content else "first_token"

    def _fail(self, failure: Failure) -> list[Delta]:
        self._closed = True
        return [Failed(failure)]

    def _read(self, seen: _StreamEvent) -> list[Delta]:
        match seen.type:
            case "content_block_delta" if seen.delta is not None:
                return self._piece(seen.index, seen.delta)
            case "content_block_start" if seen.content_block is not None:
                return self.open(seen.index, seen.content_block)
            case "content_block_stop":
                return self.close(seen.index)
            case "message_start" if seen.message is not None:
                return self.begin(seen.message)
            case "message_delta":
                piece = seen.delta or _Piece()
                self._stopped = self._stopped or piece.stop_reason is not None
                return [*self._tally.add(seen.usage), *_finish(piece.stop_reason, piece.stop_details)]
            case "message_stop":
                if not (self._content or self._stopped):
                    return self._fail(_failure(Fault.MALFORMED, "the answer is empty", "end"))
                self._closed = True
                return [Ended()]
            case "error":
                return self._fail(_in_band(seen.error, self._phase))
            case _:
                return []

    def begin(self, message: _Message) -> list[Delta]:
        return [Begun(message.id, message.model), *self._tally.add(message.usage)]

    def open(self, index: int, block: _Block) -> list[Delta]:
        """A block begins; what it already holds counts (whole answers, and servers that do not stream every kind)."""
        match block.type:
            case "text":
                return self._said(TextDelta(block.text)) if block.text else []
            case "tool_use":
                position = self._call_count
                self._call_count += 1
                self._calls[index] = (position, bytes(block.input))
                return self._said(ToolCallDelta(position, id=block.id or f"call_{position}", name=block.name or ""))
            case "thinking":
                number = self._think(index)
                if not (block.thinking or block.signature):
                    return []
                return self._said(ReasoningDelta(block.thinking or "", block.signature or None, block=number, origin=WIRE))
            case "redacted_thinking":
                return self._said(ReasoningDelta(redacted=block.data, block=self._think(index), origin=WIRE))
            case _:
                return []

    def close(self, index: int) -> list[Delta]:
        self._thoughts.pop(index, None)
        position, whole = self._calls.pop(index, (0, b""))
        if not whole:
            return []
        return [ToolCallDelta(position, arguments="{}" if whole == b"null" else whole.decode())]

    def _piece(self, index: int, piece: _Piece) -> list[Delta]:
        match piece.type:
            case "text_delta" if piece.text:
                return self._said(TextDelta(piece.text))
            case "input_json_delta" if piece.partial_json and index in self._calls:
                position, _ = self._calls[index]
                self._calls[index] = (position, b"")
                return self._said(ToolCallDelta(position, arguments=piece.partial_json))
            case "thinking_delta" if piece.thinking:
                return self._said(ReasoningDelta(piece.thinking, block=self._think(index), origin=WIRE))
            case "signature_delta" if piece.signature:
                return self._said(ReasoningDelta(signature=piece.signature, block=self._think(index), origin=WIRE))
            case _:
                return []

    def _think(self, index: int) -> int:
        if index not in self._thoughts:
            self._thoughts[index] = self._thought_count
            self._thought_count += 1
        return self._thoughts[index]

    def _said(self, delta: Delta) -> list[Delta]:
        self._content = True
        return [delta]


def _unknown(event: Event) -> bool:
    """Whether an event that does not fit is of a kind we need not know (the versioning policy announces new ones)."""
    try:
        if _kind.decode(event.data).type not in _EVENTS:
            return True
        kinds = _kinds.decode(event.data)
    except (ValueError, RecursionError):
        return False
    block, delta = kinds.content_block, kinds.delta
    if block is not None and block.type not in _BLOCKS:
        return True
    return kinds.type == "content_block_delta" and delta is not None and delta.type not in _DELTAS


def _finish(reason: str | None, details: _StopDetails | None) -> list[Delta]:
    if reason is None:
        return []
    deltas: list[Delta] = []
    if details is not None and details.explanation:
        deltas.append(RefusalDelta(details.explanation))
    deltas.append(Finish(_FINISH.get(reason, "stop"), native=reason))
    return deltas


def _reply(body: bytes) -> Reply | Failure:
    try:
        message = _message.decode(body)
        blocks = [block for raw in message.content if (block := _known_block(raw)) is not None]
    except (ValueError, RecursionError):
        return _failure(Fault.MALFORMED, "the answer is not readable", "end")
    if message.type == "error" or message.error != _NULL:
        return _in_band(message.error, "first_token")
    reader = _Reader()
    begun = reader.begin(message)
    said = [delta for index, block in enumerate(blocks) for delta in (*reader.open(index, block), *reader.close(index))]
    if not said and message.stop_reason is None:
        return _failure(Fault.MALFORMED, "the answer is empty", "end")
    return fold([*begun, *said, *_finish(message.stop_reason, message.stop_details)])


def _known_block(raw: Raw) -> _Block | None:
    try:
        return _block.decode(raw)
    except ValueError:
        if _kind.decode(raw).type in _BLOCKS:
            raise
        return None


# Errors. The type decides; where one type means several things, the detail code, then (the vendor asks not to, but gives nothing
# else) the words of the message.

_STATUS = {  # of an error inside a 200
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
_FAULT = {
    400: Fault.BAD_REQUEST,
    401: Fault.AUTH,
    402: Fault.QUOTA_EXHAUSTED,
    403: Fault.AUTH,
    404: Fault.MODEL_UNAVAILABLE,
    408: Fault.TIMEOUT,
    409: Fault.SERVER,
    410: Fault.MODEL_UNAVAILABLE,
    429: Fault.RATE_LIMITED,
    503: Fault.OVERLOADED,
    529: Fault.OVERLOADED,
}
_CODES = (  # `details.error_code`, anthropic SDK 2.12 types/shared
    (re.compile(r"spend_limit_reached|billing"), Fault.QUOTA_EXHAUSTED),
    (re.compile(r"organization_on_hold|cmek_|_not_supported$|not_authorized"), Fault.AUTH),
    (re.compile(r"ramp_limit_exceeded"), Fault.RATE_LIMITED),
    (re.compile(r"request_body_"), Fault.BAD_REQUEST),
)
_WORDS = (  # (statuses, words, fault)
    (
        (400, 413),
        re.compile(r"prompt is too long|exceeds? (?:the )?(?:context|maximum context)|input is too long|context window", re.I),
        Fault.CONTEXT_LENGTH,
    ),
    ((400, 403, 429), re.compile(r"credit balance|spend(?:ing)? limit|usage limits?\b", re.I), Fault.QUOTA_EXHAUSTED),
    ((400, 403, 500), re.compile(r"content filtering policy", re.I), Fault.CONTENT_FILTER),
)


def classify(status: int, kind: str, code: str, message: str) -> Fault:
    """The fault of an error. `kind` and `code` may be "" where the body was not the API's (an edge answered)."""
    if 300 <= status < 400:
        return Fault.REDIRECT
    for pattern, fault in _CODES:
        if code and pattern.search(code):
            return fault
    for statuses, words, fault in _WORDS:
        if status in statuses and words.search(message):
            return fault
    if kind == "overloaded_error":
        return Fault.OVERLOADED
    return _FAULT.get(status, Fault.SERVER if status >= 500 or status < 400 else Fault.BAD_REQUEST)


def _http_failure(status: int, headers: Headers, body: bytes, now_ms: int) -> Failure:
    try:
        error = _error_body.decode(body).error
    except (ValueError, RecursionError):
        error = _Error()
    wait_s = retry_after_s(headers, now_ms)
    return _described(error, status, phase="headers", retry_after_s=wait_s)


def _in_band(raw: Raw, phase: str) -> Failure:
    """An error inside a 200: its type stands for the status that could not be sent any more."""
    try:
        error = _error.decode(raw)
    except (ValueError, RecursionError):
        error = _Error()
    return _described(error, _STATUS.get(error.type or "", 500), phase=phase)


def _described(error: _Error, status: int, *, phase: str, retry_after_s: float | None = None) -> Failure:
    kind, message = error.type or "", error.message or ""
    try:
        code = _details.decode(error.details).error_code or ""
    except (ValueError, RecursionError):
        code = ""
    return Failure(
        fault=classify(status, kind, code, message),
        message=scrub(message) or f"the provider answered {status}",
        phase=phase,
        status=status,
        code=code or kind or None,
        retry_after_s=retry_after_s,
    )


def _failure(fault: Fault, message: str, phase: str) -> Failure:
    return Failure(fault=fault, message=message, phase=phase)


class _Provider:
    dispatch = staticmethod(anthropic_request.dispatch)
    reply = staticmethod(_reply)
    failure = staticmethod(_http_failure)

    def reader(self, quirks: frozenset[str] = frozenset()) -> StreamReader:
        return _Reader()


PROVIDER: ProviderSide = _Provider()
