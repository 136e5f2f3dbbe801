"""OpenAI dialect, failures: what an error of any provider that speaks it means.

Decides the Fault from code, type, message and status, in this order, because the same status means opposite things (429: "wait
2 s" or "never, until somebody pays"). Pure tables; never raises. Sources: developers.openai.com/docs/guides/error-codes, Azure,
DeepSeek, Mistral, OpenRouter (docs errors-and-debugging), Alibaba Model Studio (error-code) pages and SDKs, read 2026-11.
"""

import re

import msgspec
from msgspec import Raw, Struct

from waypost.core.types import Failure, Fault
from waypost.dialects.contract import Headers
from waypost.dialects.retry_after import duration_s, reset_s, retry_after_s
from waypost.dialects.scrub import scrub

_CODES: dict[Fault, str] = {
    Fault.QUOTA_EXHAUSTED: """insufficient_quota credit_balance_exhausted organization_spend_limit_exceeded project_spend_limit_exceeded
        organization_usage_limit_exceeded billing_hard_limit_reached billing_not_active insufficient_balance payment_required
        arrearage quota_exceeded""",
    Fault.CONTEXT_LENGTH: "context_length_exceeded token_limit_exceeded context_window_exceeded",
    Fault.CONTENT_FILTER: """content_filter content_policy_violation responsibleaipolicyviolation datainspectionfailed
        data_inspection_failed refusal content_moderation""",
    Fault.AUTH: """invalid_api_key invalidapikey authentication authentication_error permission_denied permission_error accessdenied
        access_denied account_deactivated unsupported_country_region_territory organization_on_hold""",
    Fault.MODEL_UNAVAILABLE: "model_not_found modelnotfound model_deprecated model_unavailable_upstream deploymentnotfound no_endpoints",
    Fault.OVERLOADED: """server_is_overloaded overloaded_error provider_overloaded service_unavailable service_unavailable_error
        engine_overloaded capacity_exhausted temporarily_unavailable""",
    Fault.RATE_LIMITED: """rate_limit_exceeded rate_limit_error throttling throttling.ratequota throttling.allocationquota
        too_many_requests requests_limit_exceeded tokens_limit_exceeded""",
    Fault.TIMEOUT: "timeout timeout_error request_timeout",
    Fault.SERVER: "server_error internal_error internal_server_error internalerror provider_unavailable server api_error",
}
_BY_CODE = {code: fault for fault, codes in _CODES.items() for code in codes.split()}

# Messages, for providers whose code says nothing. Only consulted for statuses under which the fault occurs.
_CONTEXT = re.compile(
    r"(?i)maximum context length|context (?:length|window)|(?:prompt|input) is too long|exceeds? the (?:maximum|available|model'?s) "
    r"(?:context|number of tokens|input)|too many (?:input )?tokens|max_model_len"
)
_QUOTA = re.compile(
    r"(?i)allocated quota exceeded|insufficient balance|credit balance is too low|exceeded your current quota|spend(?:ing)? limit"
)
_PLAN_QUOTA = re.compile(r"(?i)\b(?:hour|day|week|month)\w* allocated quota exceeded")
_KEY = re.compile(r"(?i)api[ _-]?key (?:not valid|is invalid|expired)|invalid api[ _-]?key|incorrect api key")
_MODEL = re.compile(
    r"(?i)model[ _]not[ _](?:exist|found)|model\b.{0,200}\b(?:does not exist|not found|not available|no longer|decommissioned|deprecated)"
    r"|not a valid model|no endpoints found|unknown model|deployment .{0,100}does not exist"
)
_TRY_AGAIN = re.compile(r"(?i)(?:try again|retry) (?:in|after) ((?:\d+(?:\.\d+)?(?:ms|s|m|h))+)")

_STATUS: dict[int, Fault] = {
    400: Fault.BAD_REQUEST,
    401: Fault.AUTH,
    402: Fault.QUOTA_EXHAUSTED,
    403: Fault.AUTH,
    404: Fault.BAD_REQUEST,  # a route that is not there; a model that is not there is recognised by its words
    405: Fault.BAD_REQUEST,
    408: Fault.TIMEOUT,
    409: Fault.SERVER,  # lock conflict; the openai SDK retries it too
    410: Fault.MODEL_UNAVAILABLE,
    424: Fault.SERVER,
    429: Fault.RATE_LIMITED,
    498: Fault.OVERLOADED,  # Groq: flex tier capacity exceeded
    499: Fault.SERVER,
    503: Fault.OVERLOADED,
    529: Fault.OVERLOADED,
}
_WORDS = {
    Fault.RATE_LIMITED: "the provider limits the rate",
    Fault.OVERLOADED: "the provider is overloaded",
    Fault.AUTH: "the provider refuses the credential",
    Fault.QUOTA_EXHAUSTED: "the provider's quota is used up",
    Fault.REDIRECT: "the provider answers with a redirect, which is never followed",
}
# A code decides only within these statuses where one word has two meanings; elsewhere it decides alone.
_UNRETRYABLE = frozenset({Fault.QUOTA_EXHAUSTED, Fault.CONTEXT_LENGTH, Fault.CONTENT_FILTER, Fault.AUTH, Fault.MODEL_UNAVAILABLE})


class Reason(Struct, frozen=True):
    """What an error body says, whatever its shape. `hint` is OpenRouter's `metadata.error_type`."""

    message: str = ""
    type: str = ""
    code: str = ""
    param: str | None = None
    inner: str = ""  # Azure's innererror.code
    hint: str = ""
    limit_source: str = ""  # OpenRouter
    moderated: bool = False  # OpenRouter's moderation metadata is there
    html: bool = False


def failure(status: int, headers: Headers, body: bytes, now_ms: int) -> Failure:
    """Classify a non-200 answer."""
    reason = read_reason(body)
    fault = _fault(status, reason)
    wait_s = retry_after_s(headers, now_ms)
    if fault is Fault.QUOTA_EXHAUSTED and status == 402 and (wait_s is not None or reason.limit_source == "openrouter_in_flight_budget"):
        fault = Fault.RATE_LIMITED  # OpenRouter's in-flight budget: a 402 that is worth waiting for
    if fault is Fault.RATE_LIMITED and wait_s is None:
        hint = _TRY_AGAIN.search(reason.message)
        wait_s = (duration_s(hint[1]) if hint else None) or reset_s(headers)
    return _failure(fault, reason, phase="headers", status=status, wait_s=wait_s)


def failure_in_200(error: bytes | Raw, *, phase: str, hint: str = "") -> Failure:
    """Classify an `error` value that came in the body or the stream of a 200. Its own code may be an HTTP status."""
    reason = _reason_of(bytes(error))
    status = int(reason.code) if reason.code.isdecimal() and len(reason.code) == 3 else 0
    if hint and not (reason.code or reason.type):
        reason = msgspec.structs.replace(reason, type=hint)
    retry = _TRY_AGAIN.search(reason.message)
    return _failure(_fault(status, reason), reason, phase=phase, status=200, wait_s=duration_s(retry[1]) if retry else None)


def read_reason(body: bytes) -> Reason:
    """The reason in an error body: OpenAI's wrapper, Mistral's flat object, FastAPI's `detail`, Google's list, HTML or nothing."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        text = body[:4096].decode("utf-8", "replace")
        html = "<html" in text[:1024].lower() or "<!doctype" in text[:1024].lower()
        return Reason(message="" if html else text, html=html)
    if isinstance(document, list) and document:
        document = document[0]  # pyright: ignore[reportUnknownVariableType]
    return _reason_of(msgspec.json.encode(document))


class _Details(Struct):
    """The union of all shapes; every field is text-like or ignored."""

    error: Raw = Raw()
    message: object = None
    msg: object = None
    type: object = None
    code: object = None
    status: object = None
    param: object = None
    detail: object = None
    metadata: object = None
    innererror: object = None
    error_type: object = None


def _reason_of(raw: bytes) -> Reason:
    try:
        outer = msgspec.json.decode(raw, type=_Details | str | None)
        inner = (
            msgspec.json.decode(outer.error, type=_Details | str | None) if isinstance(outer, _Details) and bytes(outer.error) else outer
        )
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return Reason(message=raw[:4096].decode("utf-8", "replace"))
    if isinstance(inner, str):
        return Reason(message=inner, code=_word(outer.code) if isinstance(outer, _Details) else "")
    if inner is None:
        inner = outer if isinstance(outer, _Details) else _Details()
    metadata, innererror = _table(inner.metadata), _table(inner.innererror)
    return Reason(
        message=_text(inner.message) or _text(inner.msg) or _detail(inner.detail),
        type=_word(inner.type),
        code=_word(inner.code) or _word(inner.status),
        param=_word(inner.param) or None,
        inner=_word(innererror.get("code")),
        hint=_word(metadata.get("error_type")) or _word(inner.error_type),
        limit_source=_word(metadata.get("limit_source")),
        moderated="flagged_input" in metadata,
    )


def _fault(status: int, reason: Reason) -> Fault:
    if 300 <= status < 400:
        return Fault.REDIRECT
    if reason.html and status not in (401, 413, 429, 503, 529):
        return Fault.SERVER  # the edge speaks, not the API
    named = [_BY_CODE[word] for word in _words(reason) if word in _BY_CODE]
    for fault in named:
        if fault in _UNRETRYABLE and not (fault is Fault.AUTH and status == 429):
            return fault
    if reason.moderated:
        return Fault.CONTENT_FILTER
    if (spoken := _spoken(status, reason)) is not None:
        return spoken
    by_status = _STATUS.get(status)
    if by_status is not None:
        return by_status
    if named:
        return named[0]
    if "slow_down" in _words(reason):
        return Fault.RATE_LIMITED
    if "invalid_request_error" in _words(reason) or "invalid_request" in _words(reason):
        return Fault.BAD_REQUEST
    return Fault.BAD_REQUEST if 400 <= status < 500 else Fault.SERVER


def _spoken(status: int, reason: Reason) -> Fault | None:
    """The fault that only the words of the message tell."""
    text = reason.message[:4096]
    if status in (0, 400, 403, 429) and _QUOTA.search(text) and (status != 429 or _PLAN_QUOTA.search(text) or "allocated" not in text):
        return Fault.QUOTA_EXHAUSTED
    if status in (0, 400, 413, 422, 500) and _CONTEXT.search(text):
        return Fault.CONTEXT_LENGTH
    if status in (400, 401) and _KEY.search(text):
        return Fault.AUTH
    if status in (400, 404, 422) and _MODEL.search(text):
        return Fault.MODEL_UNAVAILABLE
    return None


def _words(reason: Reason) -> list[str]:
    return [word.lower() for word in (reason.code, reason.inner, reason.hint, reason.type) if word]


def _failure(fault: Fault, reason: Reason, *, phase: str, status: int, wait_s: float | None) -> Failure:
    message = scrub(reason.message) or _WORDS.get(fault, f"the provider answers {status}" + (" with an HTML page" if reason.html else ""))
    code = reason.code if reason.code and not reason.code.isdecimal() else reason.type or reason.code
    param = scrub(reason.param)[:100] if reason.param else ""
    return Failure(fault, message, phase, status, scrub(code)[:100] or None, param or None, wait_s)


def _text(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None else msgspec.json.encode(value).decode()[:4096]


def _word(value: object) -> str:
    return value[:200] if isinstance(value, str) else str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


def _table(value: object) -> dict[str, object]:
    return msgspec.convert(value, dict[str, object], strict=False) if isinstance(value, dict) else {}


def _detail(value: object) -> str:
    """FastAPI's validation errors: [{loc, msg, type}]; `input`, which quotes the request, is left out."""
    if not isinstance(value, list):
        return _text(value)
    rows = msgspec.convert(value, list[object])
    return "; ".join(_located(row) for row in map(_table, rows[:5]))


def _located(row: dict[str, object]) -> str:
    place = row.get("loc")
    words = msgspec.convert(place, list[object]) if isinstance(place, list) else []
    return ".".join(str(word) for word in words[:10]) + ": " + _text(row.get("msg"))
