"""What an error of an OpenAI-dialect provider means: one row a documented or observed failure."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from waypost.core.faults import FAULTS
from waypost.core.types import Failure, Fault
from waypost.dialects.openai_answer import error, error_event
from waypost.dialects.openai_failure import failure, failure_in_200
from waypost.dialects.retry_after import duration_s, reset_s, retry_after_s
from waypost.dialects.scrub import scrub

NOW_MS = 1_795_413_600_000  # 2026-11-23 06:00:00 UTC
HTML = b"<!DOCTYPE html><html><body>Bad gateway</body></html>"


def openai(message: str = "m", kind: str | None = None, code: Any = None, param: str | None = None, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code, **more}}


TABLE: list[tuple[int, Any, Fault]] = [
    # OpenAI
    (400, openai("bad", "invalid_request_error", None, "tools"), Fault.BAD_REQUEST),
    (400, openai("too long", "invalid_request_error", "context_length_exceeded", "messages"), Fault.CONTEXT_LENGTH),
    (401, openai("Incorrect API key", "invalid_request_error", "invalid_api_key"), Fault.AUTH),
    (403, openai("Country not supported", "request_forbidden", "unsupported_country_region_territory"), Fault.AUTH),
    (404, openai("The model `x` does not exist", "invalid_request_error", "model_not_found"), Fault.MODEL_UNAVAILABLE),
    (404, openai("Invalid URL (POST /v1/chat)", "invalid_request_error"), Fault.BAD_REQUEST),
    (409, openai("lock"), Fault.SERVER),
    (413, openai("too large"), Fault.BAD_REQUEST),
    (422, openai("unprocessable"), Fault.BAD_REQUEST),
    (429, openai("Rate limit reached for RPM", "requests", "rate_limit_exceeded"), Fault.RATE_LIMITED),
    (429, openai("Slow down", "rate_limit_error", "slow_down"), Fault.RATE_LIMITED),
    (429, openai("check your plan", "insufficient_quota", "insufficient_quota"), Fault.QUOTA_EXHAUSTED),
    (429, openai("m", "insufficient_quota", "project_spend_limit_exceeded"), Fault.QUOTA_EXHAUSTED),
    (429, openai("m", "rate_limit_error", "credit_balance_exhausted"), Fault.QUOTA_EXHAUSTED),
    (429, openai("m", "x", "organization_spend_limit_exceeded"), Fault.QUOTA_EXHAUSTED),
    (429, openai("m", "x", "organization_usage_limit_exceeded"), Fault.QUOTA_EXHAUSTED),
    (500, openai("m", "server_error"), Fault.SERVER),
    (503, openai("m", "service_unavailable_error", "server_is_overloaded"), Fault.OVERLOADED),
    (503, openai("Slow Down", "server_error", "slow_down"), Fault.OVERLOADED),
    # Azure
    (429, openai("Requests have exceeded", None, "429"), Fault.RATE_LIMITED),
    (400, openai("filtered", None, "content_filter", "prompt", innererror={"code": "ResponsibleAIPolicyViolation"}), Fault.CONTENT_FILTER),
    (404, openai("The API deployment for this resource does not exist", None, "DeploymentNotFound"), Fault.MODEL_UNAVAILABLE),
    # DeepSeek
    (402, openai("Insufficient Balance", "unknown_error", "invalid_request_error"), Fault.QUOTA_EXHAUSTED),
    (400, openai("Model Not Exist", "invalid_request_error", "invalid_request_error"), Fault.MODEL_UNAVAILABLE),
    # Mistral: flat, and FastAPI's detail
    (
        400,
        {"object": "error", "message": "Invalid model: x is not a valid model", "type": "invalid_request_error", "code": "1500"},
        Fault.MODEL_UNAVAILABLE,
    ),
    (429, {"object": "error", "message": "Rate limit", "type": "rate_limit_error", "code": None}, Fault.RATE_LIMITED),
    (422, {"detail": [{"loc": ["body", "n"], "msg": "wrong", "input": "canary"}]}, Fault.BAD_REQUEST),
    # OpenRouter
    (402, {"error": {"code": 402, "message": "Insufficient credits"}}, Fault.QUOTA_EXHAUSTED),
    (402, {"error": {"code": 402, "message": "m", "metadata": {"limit_source": "openrouter_in_flight_budget"}}}, Fault.RATE_LIMITED),
    (403, {"error": {"code": 403, "message": "flagged", "metadata": {"reasons": ["x"], "flagged_input": "canary"}}}, Fault.CONTENT_FILTER),
    (404, {"error": {"code": 404, "message": "No endpoints found for x/y"}}, Fault.MODEL_UNAVAILABLE),
    (408, {"error": {"code": 408, "message": "timed out"}}, Fault.TIMEOUT),
    (524, {"error": {"code": 524, "message": "edge timeout"}}, Fault.SERVER),
    (529, {"error": {"code": 529, "message": "overloaded"}}, Fault.OVERLOADED),
    (400, {"error": {"code": 400, "message": "m", "metadata": {"error_type": "context_length_exceeded"}}}, Fault.CONTEXT_LENGTH),
    # Qwen
    (400, openai("Access denied, please make sure your account is in good standing", "Arrearage", "Arrearage"), Fault.QUOTA_EXHAUSTED),
    (400, {"code": "Arrearage", "message": "unpaid", "request_id": "r"}, Fault.QUOTA_EXHAUSTED),
    (400, openai("inappropriate", "data_inspection_failed", "DataInspectionFailed"), Fault.CONTENT_FILTER),
    (401, openai("bad key", "invalid_request_error", "InvalidApiKey"), Fault.AUTH),
    (429, openai("Requests throttled", "x", "Throttling.AllocationQuota"), Fault.RATE_LIMITED),
    (429, openai("week allocated quota exceeded", "x", "Throttling.AllocationQuota"), Fault.QUOTA_EXHAUSTED),
    # vLLM, also with its old flat body
    (
        400,
        openai("This model's maximum context length is 4096 tokens. However, you requested 9000", "BadRequestError", 400),
        Fault.CONTEXT_LENGTH,
    ),
    (400, {"object": "error", "message": "maximum context length is 4096", "type": "BadRequestError", "code": 400}, Fault.CONTEXT_LENGTH),
    (404, openai("The model `x` does not exist.", "NotFoundError", 404), Fault.MODEL_UNAVAILABLE),
    # Google's OpenAI endpoint answers with a list
    (
        400,
        [{"error": {"code": 400, "message": "API key not valid. Please pass a valid API key.", "status": "INVALID_ARGUMENT"}}],
        Fault.AUTH,
    ),
    # no JSON at all
    (502, HTML, Fault.SERVER),
    (503, HTML, Fault.OVERLOADED),
    (403, HTML, Fault.SERVER),
    (500, b"", Fault.SERVER),
    (404, {"detail": "Not Found"}, Fault.BAD_REQUEST),
    (301, b"", Fault.REDIRECT),
    (307, openai(), Fault.REDIRECT),
    (418, b"teapot", Fault.BAD_REQUEST),
    (400, {"error": "a plain string"}, Fault.BAD_REQUEST),
]


@pytest.mark.parametrize(("status", "document", "fault"), TABLE, ids=lambda value: str(value)[:60])
def test_each_failure_has_its_class(status: int, document: Any, fault: Fault) -> None:
    found = failure(status, [], document if isinstance(document, bytes) else json.dumps(document).encode(), NOW_MS)
    assert found.fault is fault
    assert found.status == status
    assert "canary" not in found.message
    assert "<" not in found.message


def test_the_providers_reason_is_kept() -> None:
    found = failure(400, [], json.dumps(openai("`n` must be 1", "invalid_request_error", "unsupported_value", "n")).encode(), NOW_MS)
    assert (found.message, found.code, found.param) == ("`n` must be 1", "unsupported_value", "n")
    status, answer = error(found)
    assert status == 400
    assert json.loads(answer)["error"] == {
        "message": "`n` must be 1",
        "type": "invalid_request_error",
        "param": "n",
        "code": "unsupported_value",
        "error_type": "invalid_request",
    }


@pytest.mark.parametrize(
    ("error_value", "fault"),
    [
        ({"message": "m", "code": 429}, Fault.RATE_LIMITED),
        ({"message": "m", "code": 502}, Fault.SERVER),
        ({"message": "m", "code": "429"}, Fault.RATE_LIMITED),
        ({"message": "m", "type": "overloaded_error"}, Fault.OVERLOADED),
        ({"message": "m", "code": "server_error", "metadata": {"error_type": "provider_overloaded"}}, Fault.SERVER),
        ({"message": "m", "code": "insufficient_quota"}, Fault.QUOTA_EXHAUSTED),
        ({"message": "m", "type": "invalid_request_error"}, Fault.BAD_REQUEST),
        ({"message": "m"}, Fault.SERVER),
        ("boom", Fault.SERVER),
        (["x"], Fault.SERVER),
    ],
)
def test_an_error_inside_a_200_is_classified_by_its_content(error_value: Any, fault: Fault) -> None:
    assert failure_in_200(json.dumps(error_value).encode(), phase="stream").fault is fault


@settings(max_examples=200)
@given(
    st.integers(100, 599),
    st.binary(max_size=40)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["error", "message", "code", "type", "detail", "metadata", "param", "loc", "msg"]), inner)
        ),
    ),
)
def test_no_body_breaks_the_classifier(status: int, document: Any) -> None:
    found = failure(status, [], document if isinstance(document, bytes) else json.dumps(document).encode(), NOW_MS)
    assert found.fault in FAULTS


# --- what the caller sees ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Fault.AUTH, Fault.QUOTA_EXHAUSTED, Fault.SERVER, Fault.RATE_LIMITED, Fault.TRUNCATED, Fault.TIMEOUT])
def test_what_a_provider_says_of_our_account_stays_with_us(fault: Fault) -> None:
    status, answer = error(Failure(fault, "org-canary at https://canary.internal", status=401, code="canary", param="canary"))
    assert b"canary" not in answer
    assert status == FAULTS[fault].status
    assert json.loads(answer)["error"]["type"] == FAULTS[fault].openai_type
    assert error_event(Failure(fault, "canary")) == b"data: " + answer + b"\n\n"


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-abcDEF123456",
        "sk-abc***********xyz1",
        "AIzaSyA1234567890",
        "Bearer abcdefghijkl",
        "gsk_abcdefgh123",
        "eyJhbGciOiJI.eyJzdWIi.sig",
    ],
)
def test_keys_are_scrubbed(secret: str) -> None:
    assert scrub(f"Incorrect API key provided: {secret} (see keys)") == "Incorrect API key provided: [redacted] (see keys)"


def test_a_key_in_any_field_of_an_error_is_scrubbed() -> None:
    key = "sk-canary-1234567890"
    told = failure(400, [], json.dumps(openai(f"your key {key}", "invalid_request_error", key, key)).encode(), now_ms=0)
    assert (told.fault, told.message, told.code, told.param) == (Fault.BAD_REQUEST, "your key [redacted]", "[redacted]", "[redacted]")


def test_scrubbing_is_bounded_and_leaves_words_alone() -> None:
    assert len(scrub("x" * 10**6)) == 1000
    assert scrub("ask-someone about task-management; see https://docs.x.ai") == "ask-someone about task-management; see https://docs.x.ai"
    assert scrub("at http://10.0.0.7:8080/v1?key=abc") == "at http://[host]/v1?[redacted]"


# --- Retry-After -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"Retry-After": "2"}, 2.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"x-ms-retry-after-ms": "20"}, 0.02),
        ({"retry-after": "Mon, 23 Nov 2026 06:00:10 GMT"}, 10.0),
        ({"retry-after": "Mon, 23 Nov 2026 05:00:00 GMT"}, 0.0),
        ({"retry-after": "3600"}, 3600.0),
        *[({"retry-after": text}, None) for text in ("-5", "inf", "nan", "1e9", "soon", "", "9" * 30, "٣")],
        ({}, None),
    ],
)
def test_retry_after_in_every_form(headers: dict[str, str], wait_s: float | None) -> None:
    assert retry_after_s([(name.encode(), value.encode("utf-8")) for name, value in headers.items()], NOW_MS) == wait_s


@settings(max_examples=200)
@given(st.binary(max_size=40))
def test_retry_after_is_never_negative_and_never_raises(value: bytes) -> None:
    wait_s = retry_after_s([(b"retry-after", value)], NOW_MS)
    assert wait_s is None or wait_s >= 0


@pytest.mark.parametrize(
    ("text", "seconds"), [("6s", 6), ("1m0.5s", 60.5), ("20ms", 0.02), ("17s", 17), ("1h2m", 3720), ("6", None), ("", None), ("-1s", None)]
)
def test_durations(text: str, seconds: float | None) -> None:
    assert duration_s(text) == seconds


def test_only_an_exhausted_limit_says_when_it_resets() -> None:
    limits = [("requests", "9", "1s"), ("tokens", "0", "6s"), ("other", "-1", "99s")]
    headers = [
        (f"x-ratelimit-{kind}-{name}".encode(), value.encode())
        for name, left, reset in limits
        for kind, value in (("remaining", left), ("reset", reset))
    ]
    assert reset_s(headers) == 6
    assert failure(429, headers, b"{}", NOW_MS).retry_after_s == 6


def test_the_message_tells_when_no_header_does() -> None:
    found = failure(429, [], json.dumps(openai("Please try again in 1m0.5s. Visit")).encode(), NOW_MS)
    assert found.retry_after_s == 60.5
