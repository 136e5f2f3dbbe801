"""Faults: one table of what each fault means, who may retry, what health learns and what the caller sees.

    fault              same target  elsewhere  health     bill       caller sees
    rate_limited       no           yes        patience   none       429
    overloaded         once         yes        box        none       503
    server             once         yes        box        none       502
    transport          once         yes        box        none       502
    timeout            no           yes        box (x2)   estimate   504
    truncated          no           yes        box        received   502
    malformed          no           yes        box        received   502
    quota_exhausted    no           yes        credential none       402 (503 to callers: the key is ours, not theirs)
    auth               no           yes        credential none       503 (our credential failed, never the caller's 401)
    bad_request        no           no         none       none       400
    context_length     no           larger     none       none       400
    model_unavailable  no           yes        model      none       503
    content_filter     no           no         none       reported   400
    redirect           no           yes        box        none       502
    cancelled          no           no         none       received   499

The names follow OpenRouter's published error vocabulary where it has one (docs read 2026-08); the classes are
`providers/failures.md` section 1. `elsewhere` is only ever used before the commit point.
"""

from msgspec import Struct

from waypost.core.types import Fault


class FaultRule(Struct, frozen=True):
    retry_same: int  # how many times on the same deployment
    elsewhere: str  # yes | no | larger (a larger context window only)
    health: str  # box | credential | patience | model | none
    strikes: float  # weight of one fault in the box memory
    bill: str  # none | estimate | received
    status: int  # HTTP status the caller sees
    error_type: str  # OpenRouter's stable error_type, used in every dialect
    openai_type: str  # the OpenAI dialect's `type`
    anthropic_type: str


FAULTS: dict[Fault, FaultRule] = {
    Fault.RATE_LIMITED: FaultRule(0, "yes", "patience", 0.0, "none", 429, "rate_limit_exceeded", "rate_limit_error", "rate_limit_error"),
    Fault.OVERLOADED: FaultRule(1, "yes", "box", 1.0, "none", 503, "provider_overloaded", "server_error", "overloaded_error"),
    Fault.SERVER: FaultRule(1, "yes", "box", 1.0, "none", 502, "provider_unavailable", "server_error", "api_error"),
    Fault.TRANSPORT: FaultRule(1, "yes", "box", 1.0, "none", 502, "provider_unavailable", "server_error", "api_error"),
    Fault.TIMEOUT: FaultRule(0, "yes", "box", 2.0, "estimate", 504, "timeout", "server_error", "timeout_error"),
    Fault.TRUNCATED: FaultRule(0, "yes", "box", 1.0, "received", 502, "provider_unavailable", "server_error", "api_error"),
    Fault.MALFORMED: FaultRule(0, "yes", "box", 1.0, "received", 502, "provider_unavailable", "server_error", "api_error"),
    Fault.QUOTA_EXHAUSTED: FaultRule(0, "yes", "credential", 0.0, "none", 503, "provider_unavailable", "server_error", "api_error"),
    Fault.AUTH: FaultRule(0, "yes", "credential", 0.0, "none", 503, "provider_unavailable", "server_error", "api_error"),
    Fault.BAD_REQUEST: FaultRule(0, "no", "none", 0.0, "none", 400, "invalid_request", "invalid_request_error", "invalid_request_error"),
    Fault.CONTEXT_LENGTH: FaultRule(
        0, "larger", "none", 0.0, "none", 400, "context_length_exceeded", "invalid_request_error", "invalid_request_error"
    ),
    Fault.MODEL_UNAVAILABLE: FaultRule(0, "yes", "model", 0.0, "none", 503, "provider_unavailable", "server_error", "api_error"),
    Fault.CONTENT_FILTER: FaultRule(
        0, "no", "none", 0.0, "received", 400, "content_policy_violation", "invalid_request_error", "invalid_request_error"
    ),
    Fault.REDIRECT: FaultRule(0, "yes", "box", 1.0, "none", 502, "provider_unavailable", "server_error", "api_error"),
    Fault.CANCELLED: FaultRule(0, "no", "none", 0.0, "received", 499, "unmapped", "server_error", "api_error"),
}


class Refused(Exception):
    """The gateway's own answer to a request it will not send: rendered in the caller's dialect at the edge.

    `code` is a short machine word, `param` the field at fault, `fix` what the caller can do. Raised before any provider is
    called, so nothing is billed.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        error_type: str = "invalid_request",
        retry_after_s: float | None = None,
        excluded: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.error_type = error_type
        self.retry_after_s = retry_after_s
        self.excluded = excluded  # (deployment, reason) of the nearest candidates
