"""Errors: how each provider words a failure, as a status with a body and as an event inside a 200.

A table per way of speaking, (status, variant) -> what stands in the body; anything not in the table gets the plain form of its
status. Sources are the ones of docs/simulator.md, section "Errors". Pure: the wall clock comes in for HTTP dates.
"""

from datetime import UTC, datetime
from email.utils import formatdate
from typing import Any, Literal

from msgspec import Struct

from waypost.sim.render_chat import encode, sse
from waypost.sim.scripts import Script

Headers = list[tuple[str, str]]
Speech = Literal["openai", "responses", "azure", "anthropic", "gemini", "mistral", "openrouter", "deepseek", "qwen", "vllm"]
VARIANTS = ("quota", "context", "moderation", "arrears", "slow-down", "in-flight")
HTML = b"<html><head><title>%d</title></head><body><center><h1>%d Bad Gateway</h1></center><hr><center>cloudflare</center></body></html>"


class Problem(Struct, frozen=True):
    """A failure before the stream: what goes on the wire."""

    status: int
    headers: Headers
    body: bytes


# (type, code, message). Sources: developers.openai.com/docs/guides/error-codes; api-docs.deepseek.com error codes;
# docs.claude.com/en/api/errors; ai.google.dev/gemini-api/docs/troubleshooting; alibabacloud.com model-studio/error-code; read 2026-11.
_Row = tuple[str | None, str | int | None, str]
_OPENAI: dict[tuple[int, str], _Row] = {
    (400, ""): ("invalid_request_error", None, "Invalid value for 'temperature': expected a number between 0 and 2."),
    (400, "context"): (
        "invalid_request_error",
        "context_length_exceeded",
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
    ),
    (400, "moderation"): ("invalid_request_error", "content_policy_violation", "Your request was rejected by the safety system."),
    (401, ""): ("invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    (402, ""): ("unknown_error", "invalid_request_error", "Insufficient Balance"),
    (403, ""): ("invalid_request_error", "unsupported_country_region_territory", "Country, region, or territory not supported."),
    (404, ""): ("invalid_request_error", "model_not_found", "The model does not exist or you do not have access to it."),
    (409, ""): ("invalid_request_error", "conflict", "The resource is locked by another request."),
    (413, ""): ("invalid_request_error", "request_too_large", "Request body is too large."),
    (422, ""): ("invalid_request_error", "invalid_parameters", "Unprocessable parameters."),
    (429, ""): ("requests", "rate_limit_exceeded", "Rate limit reached for requests per min (RPM): Limit 3, Used 3, Requested 1."),
    (429, "quota"): (
        "insufficient_quota",
        "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing details.",
    ),
    (429, "slow-down"): ("rate_limit_error", "slow_down", "Slow down: your traffic grew too fast."),
    (500, ""): ("server_error", None, "The server had an error while processing your request."),
    (503, ""): ("service_unavailable_error", "server_is_overloaded", "The server is overloaded or not ready yet."),
    (503, "slow-down"): ("service_unavailable_error", "slow_down", "Slow Down"),
}
_QWEN: dict[tuple[int, str], _Row] = _OPENAI | {
    (400, ""): ("invalid_request_error", "InvalidParameter", "Range of input length should be [1, 6000]"),
    (400, "arrears"): ("Arrearage", "Arrearage", "Access denied, please make sure your account is in good standing."),
    (400, "moderation"): ("data_inspection_failed", "data_inspection_failed", "Input data may contain inappropriate content."),
    (401, ""): ("invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    (403, ""): ("AccessDenied", "AccessDenied", "Access denied."),
    (429, ""): ("limit_requests", "Throttling.RateQuota", "You exceeded your current requests list."),
    (429, "quota"): ("insufficient_quota", "Throttling.AllocationQuota", "month allocated quota exceeded."),
    (500, ""): ("internal_error", "InternalError", "An internal error has occured, please try again later."),
}
_VLLM: dict[tuple[int, str], _Row] = {
    (400, ""): ("BadRequestError", 400, "temperature must be non-negative"),
    (400, "context"): ("BadRequestError", 400, "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens."),
    (404, ""): ("NotFoundError", 404, "The model does not exist."),
    (500, ""): ("InternalServerError", 500, "EngineCore encountered an issue."),
}
_ANTHROPIC: dict[tuple[int, str], _Row] = {
    (400, ""): ("invalid_request_error", None, "temperature: range: 0..1"),
    (400, "context"): ("invalid_request_error", None, "prompt is too long: 201000 tokens > 200000 maximum"),
    (400, "arrears"): ("invalid_request_error", None, "You have reached your specified workspace API usage limits."),
    (401, ""): ("authentication_error", None, "invalid x-api-key"),
    (402, ""): ("billing_error", None, "There is an issue with your billing or payment information."),
    (403, ""): ("permission_error", None, "Your API key does not have permission to use the specified resource."),
    (404, ""): ("not_found_error", None, "model: the requested model could not be found"),
    (409, ""): ("conflict_error", None, "The request conflicts with another one."),
    (413, ""): ("request_too_large", None, "Request exceeds the maximum allowed number of bytes."),
    (429, ""): ("rate_limit_error", None, "This request would exceed your organization's rate limit."),
    (429, "quota"): ("rate_limit_error", "enforced_spend_limit_reached", "You have reached your monthly spend limit."),
    (429, "slow-down"): ("rate_limit_error", "ramp_limit_exceeded", "Your usage increased too quickly."),
    (500, ""): ("api_error", None, "Internal server error"),
    (504, ""): ("timeout_error", None, "Request timed out."),
    (529, ""): ("overloaded_error", None, "Overloaded"),
}
_GEMINI: dict[tuple[int, str], _Row] = {
    (400, ""): ("INVALID_ARGUMENT", None, "Invalid value at 'generation_config.temperature'."),
    (400, "context"): ("INVALID_ARGUMENT", None, "The input token count (1100000) exceeds the maximum number of tokens allowed (1048576)."),
    (400, "arrears"): ("FAILED_PRECONDITION", None, "User location is not supported or billing is not enabled."),
    (401, ""): ("UNAUTHENTICATED", None, "API keys are not supported by this API."),
    (403, ""): ("PERMISSION_DENIED", None, "Permission denied on resource project."),
    (404, ""): ("NOT_FOUND", None, "models/x is not found for API version v1beta."),
    (429, ""): ("RESOURCE_EXHAUSTED", None, "Quota exceeded for metric: generate_requests_per_minute, limit: 10."),
    (429, "quota"): (
        "RESOURCE_EXHAUSTED",
        "GenerateRequestsPerDayPerProjectPerModel",
        "You exceeded your current quota, limit: 250 per day.",
    ),
    (500, ""): ("INTERNAL", None, "An internal error has occurred."),
    (503, ""): ("UNAVAILABLE", None, "The model is overloaded. Please try again later."),
    (504, ""): ("DEADLINE_EXCEEDED", None, "The request did not finish in time."),
}
_MISTRAL: dict[tuple[int, str], _Row] = {
    (400, ""): ("invalid_request_error", None, "Invalid model parameters."),
    (400, "context"): (
        "invalid_request_error",
        "3051",
        "Prompt contains 40000 tokens, too large for model with 32768 maximum context length.",
    ),
    (401, ""): ("authentication_error", None, "Unauthorized"),
    (422, ""): ("invalid_request_error", None, "Input should be less than or equal to 1.5"),
    (429, ""): ("rate_limit_error", "1300", "Rate limit exceeded"),
}
_OPENROUTER: dict[tuple[int, str], _Row] = {
    (400, ""): ("invalid_request", None, "temperature: expected a number"),
    (400, "context"): ("context_length_exceeded", None, "This endpoint's maximum context length is 8192 tokens."),
    (402, ""): ("payment_required", None, "Insufficient credits."),
    (402, "in-flight"): ("payment_required", None, "In-flight requests exceed your remaining budget."),
    (403, ""): ("content_policy_violation", None, "Input was flagged by moderation."),
    (429, ""): ("rate_limit_exceeded", None, "Rate limit exceeded."),
    (502, ""): ("provider_unavailable", None, "Provider returned error"),
    (503, ""): ("provider_unavailable", None, "No provider meets the routing requirements."),
    (529, ""): ("provider_overloaded", None, "Provider overloaded."),
}
_TABLES: dict[str, dict[tuple[int, str], _Row]] = {
    "openai": _OPENAI,
    "responses": _OPENAI,
    "azure": _OPENAI,
    "deepseek": _OPENAI,
    "qwen": _QWEN,
    "vllm": _VLLM,
    "anthropic": _ANTHROPIC,
    "gemini": _GEMINI,
    "mistral": _MISTRAL,
    "openrouter": _OPENROUTER,
}
_PLAIN_TYPE = {"anthropic": "api_error", "gemini": "UNKNOWN", "vllm": "InternalServerError", "openrouter": "provider_unavailable"}


def speech(dialect: str, flavour: str) -> Speech:
    if dialect == "anthropic-messages":
        return "anthropic"
    if dialect == "gemini":
        return "gemini"
    if flavour in ("azure", "deepseek", "mistral", "openrouter", "qwen", "vllm"):
        return flavour  # type: ignore[return-value]
    return "responses" if dialect == "openai-responses" else "openai"


def _row(said: Speech, status: int, variant: str) -> _Row:
    table = _TABLES[said]
    plain: _Row = (
        _PLAIN_TYPE.get(said, "server_error" if status >= 500 else "invalid_request_error"),
        None,
        f"The simulator answers {status}.",
    )
    return table.get((status, variant)) or table.get((status, "")) or plain


def body(said: Speech, status: int, variant: str = "", *, request_id: str, message: str | None = None, param: str | None = None) -> bytes:
    """The error body. `message` replaces the table's."""
    kind, code, text = _row(said, status, variant)
    return encode(_shape(said, status, variant, kind, code, message or text, param, request_id))


def _shape(
    said: Speech, status: int, variant: str, kind: str | None, code: str | int | None, text: str, param: str | None, request_id: str
) -> Any:
    match said:
        case "anthropic":
            error: dict[str, Any] = {"type": kind, "message": text}
            if code is not None:
                error["details"] = {"error_code": code}
            return {"type": "error", "error": error, "request_id": request_id}
        case "gemini":
            return {"error": {"code": status, "message": text, "status": kind, "details": _google_details(status, code)}}
        case "mistral":
            return {"object": "error", "message": text, "type": kind, "param": param, "code": code}
        case "openrouter":
            metadata: dict[str, Any] = {"error_type": kind}
            if status == 403:
                metadata |= {"reasons": ["violence"], "flagged_input": "…", "provider_name": "Simulator", "model_slug": "sim/ok"}
            if variant == "in-flight":
                metadata["limit_source"] = "openrouter_in_flight_budget"
            return {"error": {"code": status, "message": text, "metadata": metadata}}
        case "azure":
            if variant == "moderation":
                inner = {
                    "code": "ResponsibleAIPolicyViolation",
                    "content_filter_result": {"violence": {"filtered": True, "severity": "high"}},
                }
                return {
                    "error": {
                        "message": text,
                        "type": None,
                        "param": "prompt",
                        "code": "content_filter",
                        "status": 400,
                        "innererror": inner,
                    }
                }
            return {"error": {"code": code if status == 400 and code else str(status), "message": text}}
        case _:
            return {"error": {"message": text, "type": kind, "param": param, "code": code}}


def _google_details(status: int, code: str | int | None) -> list[dict[str, Any]]:
    if status != 429:
        return []
    if code is not None:
        return [{"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": code}]}]
    return [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17s"}]


def event(said: Speech, *, request_id: str) -> bytes:
    """The error as it comes inside a 200 stream."""
    match said:
        case "anthropic":
            return sse({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}, "request_id": request_id}, "error")
        case "responses":
            return sse(
                {"type": "error", "code": "server_error", "message": "The server had an error.", "param": None, "sequence_number": 0},
                "error",
            )
        case "openrouter":
            error = {"code": 502, "message": "Provider disconnected", "metadata": {"error_type": "provider_unavailable"}}
            choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "error"}
            return sse({"id": request_id, "object": "chat.completion.chunk", "error": error, "choices": [choice]})
        case _:
            return b"data: %s\n\n" % body(said, 503 if said == "gemini" else 500, request_id=request_id)


def problem(said: Speech, script: Script, *, status: int, request_id: str, wall_s: float) -> Problem:
    """The answer to `fail-<status>` with its details."""
    variant = next((name for name in VARIANTS if name in script), "")
    headers = _retry_headers(said, script, status, wall_s)
    if "in-flight" in script and "ra" not in script:
        headers.append(("Retry-After", "1"))
    if "bare" in script:
        return Problem(status, headers, b"")
    if "html" in script:
        return Problem(status, [*headers, ("Content-Type", "text/html; charset=UTF-8")], HTML % (status, status))
    typed = [*headers, ("Content-Type", "application/json")]
    return Problem(status, typed, body(said, status, variant, request_id=request_id))


def _retry_headers(said: Speech, script: Script, status: int, wall_s: float) -> Headers:
    headers: Headers = []
    if "ra" in script:
        headers.append(("Retry-After", f"{script.number('ra'):g}"))
    if "ms" in script:
        headers.append(("retry-after-ms", f"{script.number('ms'):g}"))
    if "date" in script:
        headers.append(("Retry-After", formatdate(wall_s + 2, usegmt=True)))
    if "garbage" in script:
        headers.append(("Retry-After", "soon, perhaps"))
    if "negative" in script:
        headers.append(("Retry-After", "-1"))
    if status == 429 and "quota" not in script:
        headers += _rate_headers(said, wall_s)
    return headers


def _rate_headers(said: Speech, wall_s: float) -> Headers:
    """What came with a 429: durations at OpenAI, timestamps at Anthropic, nonsense at Azure, nothing at the others."""
    if said in ("openai", "responses"):
        return [
            ("x-ratelimit-limit-requests", "3"),
            ("x-ratelimit-remaining-requests", "0"),
            ("x-ratelimit-reset-requests", "20ms"),
            ("x-ratelimit-limit-tokens", "90000"),
            ("x-ratelimit-remaining-tokens", "0"),
            ("x-ratelimit-reset-tokens", "1m0.5s"),
        ]
    if said == "azure":
        return [("x-ratelimit-limit-tokens", "-1"), ("x-ratelimit-remaining-tokens", "-1"), ("x-ratelimit-reset-tokens", "0")]
    if said == "anthropic":
        stamp = formatdate(wall_s + 2, usegmt=True)
        return [
            ("anthropic-ratelimit-requests-remaining", "0"),
            ("anthropic-ratelimit-requests-reset", _rfc3339(wall_s + 2)),
            ("date", stamp),
        ]
    if said == "mistral":
        return [("X-RateLimit-Remaining", "0")]
    return []


def _rfc3339(wall_s: float) -> str:
    return datetime.fromtimestamp(wall_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
