"""Gemini generateContent, provider side: its stream, its whole answers and its errors, as neutral values.

Decides what each chunk means and what each error is a fault of. Knows nothing of sockets, retries or money; the request is made in
`gemini_request`. Fields as typed in the google-genai SDK 3.4; errors after
https://ai.google.dev/gemini-api/docs/troubleshooting (read 2026-11) and google.rpc's error details.

There is no terminal marker: a stream is whole when it ends after a finish reason, which may stand in any chunk (older models put
it in each), so `Finish` is held back until the end. A whole answer is a stream of one chunk. Not carried, because no neutral name
exists: generated media, executed code, grounding and citations. They are passed over, never an error.
"""

import re
from typing import Final

import msgspec
from msgspec import Raw, Struct

from waypost.core.fold import Fold
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
    Reply,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageDelta,
)
from waypost.dialects import gemini_request
from waypost.dialects.contract import Headers, ProviderSide, StreamReader
from waypost.dialects.gemini_request import WIRE
from waypost.dialects.retry_after import duration_s, retry_after_s
from waypost.dialects.scrub import scrub

_NULL: Final = Raw(b"null")
_FINISH: dict[str, FinishReason] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "CONTINUATION": "pause",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "LANGUAGE": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "MODEL_ARMOR": "content_filter",
    "ESCALATION": "content_filter",
    "PUP_LIMITED_DISABLED": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
    "IMAGE_OTHER": "error",
    "NO_IMAGE": "error",
    "MALFORMED_FUNCTION_CALL": "error",
    "MALFORMED_RESPONSE": "error",
    "UNEXPECTED_TOOL_CALL": "error",
    "TOO_MANY_TOOL_CALLS": "error",
    "MISSING_THOUGHT_SIGNATURE": "error",
    "OTHER": "error",
}
_UNSPECIFIED = "FINISH_REASON_UNSPECIFIED"  # proto's zero: as good as absent


class _FunctionCall(Struct):
    name: str | None = None
    id: str | None = None
    args: Raw = _NULL


class _Part(Struct, rename="camel"):
    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: _FunctionCall | None = None


class _Content(Struct):
    parts: list[_Part] | None = None


class _Candidate(Struct, rename="camel"):
    content: _Content | None = None
    finish_reason: str | None = None
    index: int | None = None


class _PromptFeedback(Struct, rename="camel"):
    block_reason: str | None = None


class _Chunk(Struct, rename="camel"):
    candidates: list[_Candidate] | None = None
    prompt_feedback: _PromptFeedback | None = None
    usage_metadata: Raw = _NULL
    model_version: str | None = None
    response_id: str | None = None
    error: Raw = _NULL


class _Usage(Struct, rename="camel"):
    prompt_token_count: int | None = None
    cached_content_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int | None = None
    tool_use_prompt_token_count: int | None = None


class _Violation(Struct, rename="camel"):
    quota_id: str | None = None


class _Detail(Struct, rename="camel"):
    """Any google.rpc detail: ErrorInfo has `reason`, RetryInfo `retryDelay`, QuotaFailure `violations`."""

    reason: str | None = None
    retry_delay: str | None = None
    violations: list[_Violation] | None = None


class _Error(Struct):
    code: int | str | None = None
    message: str | None = None
    status: str | None = None
    details: Raw = _NULL  # read apart, one by one: their types are open


class _ErrorBody(Struct):
    error: _Error


_chunk = msgspec.json.Decoder(_Chunk)
_usage = msgspec.json.Decoder(_Usage)
_error = msgspec.json.Decoder(_Error)
_error_body = msgspec.json.Decoder(_ErrorBody)
_error_bodies = msgspec.json.Decoder(list[_ErrorBody])
_raws = msgspec.json.Decoder(list[Raw])
_detail = msgspec.json.Decoder(_Detail)


class _Choice:
    """What must be remembered of one candidate between chunks."""

    __slots__ = ("block", "calls", "finish", "open")

    def __init__(self) -> None:
        self.block = 0  # number of the next or open reasoning block
        self.open = False
        self.calls = 0
        self.finish: str | None = None

    def shut(self) -> None:
        self.block += self.open
        self.open = False


class _Reader:
    """One stream. After Ended or Failed nothing more is said."""

    def __init__(self) -> None:
        self._closed = False
        self._content = False
        self._id: str | None = None
        self._choices: dict[int, _Choice] = {}

    def feed(self, event: Event) -> list[Delta]:
        if self._closed:
            return []
        try:
            chunk = _chunk.decode(event.data)
        except (ValueError, RecursionError):
            return self._fail(Failure(Fault.MALFORMED, "a chunk of the stream is not readable", phase=self._phase))
        return self.read(chunk)

    def eof(self) -> list[Delta]:
        if self._closed:
            return []
        if not self._choices or any(choice.finish is None for choice in self._choices.values()):
            return self._fail(Failure(Fault.TRUNCATED, "the stream ended without a finish reason", phase="end"))
        if not self._content and (broken := self._broken()):
            return self._fail(
                Failure(Fault.MALFORMED, f"the model's answer could not be used: {scrub(broken)}", phase="end", code=scrub(broken))
            )
        self._closed = True
        return [*(_finish(choice, index) for index, choice in sorted(self._choices.items())), Ended()]

    def _broken(self) -> str | None:
        """The finish reason of a candidate that failed, e.g. for a malformed call. With nothing said, another try may do better."""
        reasons = (choice.finish or "" for choice in self._choices.values())
        return next((reason for reason in reasons if _FINISH.get(reason) == "error"), None)

    @property
    def _phase(self) -> str:
        return "stream" if self._content else "first_token"

    def _fail(self, failure: Failure) -> list[Delta]:
        self._closed = True
        return [Failed(failure)]

    def read(self, chunk: _Chunk) -> list[Delta]:
        if chunk.error != _NULL:
            return self._fail(_in_band(chunk.error, self._phase))
        deltas: list[Delta] = []
        if self._id is None and (chunk.response_id or chunk.model_version or chunk.candidates):
            self._id = chunk.response_id or ""
            deltas.append(Begun(self._id, chunk.model_version or ""))
        for candidate in chunk.candidates or ():
            self._candidate(candidate, deltas)
        deltas += _usage_delta(chunk.usage_metadata)
        blocked = chunk.prompt_feedback.block_reason if chunk.prompt_feedback else None
        if blocked and not self._choices:
            deltas += self._fail(_blocked(blocked))
        return deltas

    def _candidate(self, candidate: _Candidate, deltas: list[Delta]) -> None:
        index = candidate.index or 0
        choice = self._choices.setdefault(index, _Choice())
        for part in (candidate.content.parts if candidate.content else None) or ():
            said = self._part(part, choice, index)
            self._content = self._content or bool(said)
            deltas += said
        if candidate.finish_reason and candidate.finish_reason != _UNSPECIFIED:
            choice.finish = candidate.finish_reason

    def _part(self, part: _Part, choice: _Choice, index: int) -> list[Delta]:
        if part.function_call is not None:
            choice.shut()
            return [self._call(part.function_call, part.thought_signature, choice, index)]
        if part.thought:
            return self._thought(part, choice, index)
        deltas: list[Delta] = []
        if part.text:
            choice.shut()
            deltas.append(TextDelta(part.text, index=index))
        if part.thought_signature:  # a seal on plain text: kept as a block of its own, to be replayed
            choice.shut()
            deltas.append(ReasoningDelta(signature=part.thought_signature, block=choice.block, index=index, origin=WIRE))
            choice.block += 1
        return deltas

    def _thought(self, part: _Part, choice: _Choice, index: int) -> list[Delta]:
        """Neighbouring thoughts are one block; a signature closes it."""
        if not (part.text or part.thought_signature):
            return []
        choice.open = True
        delta = ReasoningDelta(part.text or "", part.thought_signature or None, block=choice.block, index=index, origin=WIRE)
        if part.thought_signature:
            choice.shut()
        return [delta]

    def _call(self, call: _FunctionCall, signature: str | None, choice: _Choice, index: int) -> Delta:
        """Arguments come whole. Older models give no ids; ours hold the answer's id, so that turns of a conversation differ."""
        position = choice.calls
        choice.calls += 1
        call_id = call.id or "_".join(["call", *filter(None, [self._id]), str(position)])
        arguments = "{}" if call.args == _NULL else bytes(call.args).decode()
        return ToolCallDelta(position, id=call_id, name=call.name or "", arguments=arguments, signature=signature or None, index=index)


def _finish(choice: _Choice, index: int) -> Finish:
    native = choice.finish or ""
    reason = _FINISH.get(native, "stop")
    return Finish("tool_calls" if reason == "stop" and choice.calls else reason, native=native, index=index)


def _usage_delta(raw: Raw) -> list[Delta]:
    """Nothing where usage is absent or unreadable: an answer is not refused for its bill."""
    if raw == _NULL:
        return []
    try:
        seen = _usage.decode(raw)
    except (ValueError, RecursionError):
        return []
    thoughts = seen.thoughts_token_count or 0
    return [
        UsageDelta(
            Usage(
                input_tokens=(seen.prompt_token_count or 0) + (seen.tool_use_prompt_token_count or 0),
                cached_tokens=seen.cached_content_token_count or 0,
                output_tokens=(seen.candidates_token_count or 0) + thoughts,  # Gemini counts thoughts apart
                reasoning_tokens=thoughts,
            )
        )
    ]


def _blocked(reason: str) -> Failure:
    return Failure(Fault.CONTENT_FILTER, f"the provider blocked the prompt: {scrub(reason)}", phase="first_token", code=scrub(reason))


def _reply(body: bytes) -> Reply | Failure:
    try:
        chunk = _chunk.decode(body)
    except (ValueError, RecursionError):
        return Failure(Fault.MALFORMED, "the answer is not readable", phase="end")
    reader, folding = _Reader(), Fold()
    for delta in [*reader.read(chunk), *reader.eof()]:
        folding.add(delta)
    if not chunk.candidates and folding.failure is not None and folding.failure.fault is Fault.TRUNCATED:
        return Failure(Fault.MALFORMED, "the answer is empty", phase="end")
    return folding.failure or folding.reply()


# Errors: the status string where there is one that says something (UNKNOWN does not), else the HTTP status; details, then words, where one
# status means several things.

_BY_NAME = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
_FAULT = {
    401: Fault.AUTH,
    402: Fault.QUOTA_EXHAUSTED,
    403: Fault.AUTH,
    404: Fault.MODEL_UNAVAILABLE,
    408: Fault.TIMEOUT,
    409: Fault.SERVER,
    410: Fault.MODEL_UNAVAILABLE,
    429: Fault.RATE_LIMITED,
    499: Fault.SERVER,
    503: Fault.OVERLOADED,
    504: Fault.TIMEOUT,
    529: Fault.OVERLOADED,
}
_KEY = re.compile(r"api key (?:not valid|not found|expired)|api_key_invalid|please renew the api key", re.I)
_LONG = re.compile(r"input token count|exceeds the maximum number of (?:input )?tokens|context (?:window|length)", re.I)
_UNPAID = re.compile(r"spend|prepa(?:id|yment)|credits? (?:are|is) depleted|billing account", re.I)
_BILLING = re.compile(r"billing|free tier|quota", re.I)


class _Hints(Struct):
    reasons: list[str] = []
    retry_after_s: float | None = None
    per_day: bool = False


def classify(status: int, name: str, message: str, *, reasons: list[str], per_day: bool) -> Fault:
    """The fault of an error; `name` is the status string, `reasons` those of its ErrorInfo details."""
    status = _BY_NAME.get(name.upper(), status)
    if 300 <= status < 400:
        return Fault.REDIRECT
    if status == 400:
        return _of_bad_request(name.upper(), message, reasons)
    if status == 429 and (per_day or _UNPAID.search(message)):
        return Fault.QUOTA_EXHAUSTED  # "check your plan and billing" stands in every 429 of theirs and means nothing
    return _FAULT.get(status, Fault.SERVER if status >= 500 or status < 400 else Fault.BAD_REQUEST)


def _of_bad_request(name: str, message: str, reasons: list[str]) -> Fault:
    if "API_KEY_INVALID" in reasons or _KEY.search(message):
        return Fault.AUTH
    if name == "FAILED_PRECONDITION":  # the country, or nobody pays
        return Fault.QUOTA_EXHAUSTED if _BILLING.search(message) else Fault.AUTH
    return Fault.CONTEXT_LENGTH if _LONG.search(message) else Fault.BAD_REQUEST


def _http_failure(status: int, headers: Headers, body: bytes, now_ms: int) -> Failure:
    return _described(_read_error(body), status, phase="headers", wait_s=retry_after_s(headers, now_ms))


def _read_error(body: bytes) -> _Error:
    """The error of a body; streams asked for without `alt=sse` answer with a list of one."""
    try:
        return _error_body.decode(body).error
    except (ValueError, RecursionError):
        pass
    try:
        bodies = _error_bodies.decode(body)
    except (ValueError, RecursionError):
        return _Error()
    return bodies[0].error if bodies else _Error()


def _in_band(raw: Raw, phase: str) -> Failure:
    try:
        error = _error.decode(raw)
    except (ValueError, RecursionError):
        error = _Error()
    status = error.code if isinstance(error.code, int) else _BY_NAME.get((error.status or "").upper(), 500)
    return _described(error, status, phase=phase, wait_s=None)


def _described(error: _Error, status: int, *, phase: str, wait_s: float | None) -> Failure:
    hints = _hints(error.details)
    name, message = error.status or "", error.message or ""
    return Failure(
        fault=classify(status, name, message, reasons=hints.reasons, per_day=hints.per_day),
        message=scrub(message) or f"the provider answered {status}",
        phase=phase,
        status=status,
        code=next(iter(hints.reasons), "") or name or None,
        retry_after_s=wait_s if wait_s is not None else hints.retry_after_s,
    )


def _hints(details: Raw) -> _Hints:
    hints = _Hints()
    try:
        raws = _raws.decode(details)
    except (ValueError, RecursionError):
        return hints
    for raw in raws:
        try:
            detail = _detail.decode(raw)
        except (ValueError, RecursionError):
            continue
        if detail.reason:
            hints.reasons.append(scrub(detail.reason))
        if detail.retry_delay:
            hints.retry_after_s = duration_s(detail.retry_delay)
        hints.per_day = hints.per_day or any("PerDay" in (violation.quota_id or "") for violation in detail.violations or ())
    return hints


class _Provider:
    dispatch = staticmethod(gemini_request.dispatch)
    reply = staticmethod(_reply)
    failure = staticmethod(_http_failure)

    def reader(self, quirks: frozenset[str] = frozenset()) -> StreamReader:
        return _Reader()


PROVIDER: ProviderSide = _Provider()
