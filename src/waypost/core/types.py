"""Vocabulary: the values that every layer speaks. No behaviour beyond tiny projections, no clock, no I/O.

Units stand in names (`_s`, `_ms`, `_tokens`, `_nusd`). Money is integer nano-dollars: no float touches a ledger.
`None` means absent, never "default". Structs are frozen where they cross a border; the few mutable ones say so.
"""

from enum import StrEnum
from typing import Literal

from msgspec import Raw, Struct
from msgspec.json import Decoder as JsonDecoder

NUSD_PER_USD = 1_000_000_000
WireName = Literal["openai-chat", "openai-responses", "anthropic-messages", "gemini"]
UsageSource = Literal["reported", "estimated", "impossible"]


class Usage(Struct, frozen=True, omit_defaults=True):
    """Token counts of one attempt. `input_tokens` includes cached reads and writes; `output_tokens` includes reasoning."""

    input_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    source: UsageSource = "reported"


class PriceStep(Struct, frozen=True, array_like=True):
    """Prices of the whole request when its input exceeds `above_tokens`. `None`: as below the step."""

    above_tokens: int
    input_nusd_per_mtok: int | None = None
    cached_input_nusd_per_mtok: int | None = None
    cache_write_nusd_per_mtok: int | None = None
    output_nusd_per_mtok: int | None = None


class Price(Struct, frozen=True):
    """Integer nano-dollars per million tokens (exact for every published price). `None`: unknown, never zero."""

    input_nusd_per_mtok: int | None = None
    output_nusd_per_mtok: int | None = None
    cached_input_nusd_per_mtok: int | None = None
    cache_write_nusd_per_mtok: int | None = None
    batch_input_nusd_per_mtok: int | None = None
    batch_output_nusd_per_mtok: int | None = None
    steps: tuple[PriceStep, ...] = ()  # by rising `above_tokens`


class ModelCard(Struct, frozen=True):
    """Facts of one model at one provider. `name` is what callers write: provider/model."""

    name: str
    provider: str
    upstream: str
    price: Price = Price()
    context_tokens: int | None = None
    max_output_tokens: int | None = None
    capabilities: frozenset[str] = frozenset()  # tools json_schema json_object vision audio pdf reasoning prefill web_search
    quality: float | None = None  # prior 0..1
    mode: str = "chat"  # chat | embedding | rerank | moderation | image | audio
    family: str = ""  # equivalence class across providers, e.g. "llama-3.3-70b-instruct"
    deprecated_on: str | None = None  # ISO date
    source: str = ""  # where the facts come from
    as_of: str = ""  # ISO date of the facts


class ProviderCard(Struct, frozen=True):
    """A provider as data: where it is, how it is spoken to, what is odd about it."""

    name: str
    wire: WireName
    base_url: str
    auth: str = "bearer"  # bearer | x-api-key | x-goog-api-key | api-key | none
    key_env: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    rename: tuple[tuple[str, str], ...] = ()  # caller's parameter -> provider's parameter
    drop: frozenset[str] = frozenset()  # parameters the provider refuses; dropped and reported
    quirks: frozenset[str] = frozenset()  # closed vocabulary, see catalog/providers.toml
    failure_domain: str = ""  # "" = the provider itself
    trains_on_data: bool = False  # data policy: excluded by data_collection = "deny"
    zero_retention: bool = False
    http2: bool = False
    connections: int = 1024
    prewarm: int = 0
    hourly_usd: float | None = None
    display: str = ""
    source: str = ""


class Deployment(Struct, frozen=True):
    """A model at a provider: the unit of health and price. The credential lives elsewhere, so this may be logged."""

    model: ModelCard
    provider: ProviderCard

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def failure_domain(self) -> str:
        return self.provider.failure_domain or self.provider.name


# --- the prompt, neutral ---------------------------------------------------------------------------------------------


class Text(Struct, frozen=True, tag=True):
    text: str
    cache_control: Raw | None = None


class Image(Struct, frozen=True, tag=True):
    """Either `url` (http or https) or `data` (base64) with `media_type`."""

    url: str | None = None
    data: str | None = None
    media_type: str | None = None
    detail: str | None = None
    cache_control: Raw | None = None


class Audio(Struct, frozen=True, tag=True):
    data: str
    format: str


class Document(Struct, frozen=True, tag=True):
    """A PDF or text file: `data` base64, or `url`, or a provider's `file_id`."""

    data: str | None = None
    url: str | None = None
    file_id: str | None = None
    media_type: str | None = None
    name: str | None = None
    cache_control: Raw | None = None


class ToolCall(Struct, frozen=True, tag=True):
    """`arguments` is the JSON text as the model wrote it. `signature` must be replayed with it (Gemini thought signatures)."""

    id: str
    name: str
    arguments: str
    signature: str | None = None


class ToolResult(Struct, frozen=True, tag=True):
    call_id: str
    parts: "tuple[Text | Image | Document, ...]"
    is_error: bool = False
    name: str | None = None
    cache_control: Raw | None = None


class Reasoning(Struct, frozen=True, tag=True):
    """`text` readable thoughts, `signature` the provider's seal, `redacted` opaque data. Replayed only to `origin`'s wire."""

    text: str = ""
    signature: str | None = None
    redacted: str | None = None
    origin: str = ""  # wire name that produced it


class Refusal(Struct, frozen=True, tag=True):
    text: str


Part = Text | Image | Audio | Document | ToolCall | ToolResult | Reasoning | Refusal
Role = Literal["system", "user", "assistant"]


class Message(Struct, frozen=True):
    """Tool results stand as ToolResult parts in a user message. Developer messages are system messages."""

    role: Role
    parts: tuple[Part, ...]
    name: str | None = None


class Tool(Struct, frozen=True):
    name: str
    description: str | None = None
    parameters: Raw | None = None  # JSON Schema
    strict: bool | None = None
    cache_control: Raw | None = None


class ToolChoice(Struct, frozen=True):
    mode: Literal["auto", "none", "required", "named"]
    name: str | None = None


class ResponseFormat(Struct, frozen=True):
    kind: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema: Raw | None = None
    strict: bool | None = None
    description: str | None = None


class Prompt(Struct, frozen=True):
    """What the caller asks, free of dialect. `extra` holds top-level fields no neutral name exists for."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    n: int = 1
    reasoning_effort: str | None = None  # none minimal low medium high xhigh max
    reasoning_budget_tokens: int | None = None
    user: str | None = None
    extra: dict[str, Raw] = {}


_fields_of = JsonDecoder(dict[str, Raw]).decode


class Call(Struct):
    """The parsed request. `body` keeps it as sent; `fields` gives every top-level field as sent, read when somebody asks.

    Never changed after it was made, but for that reading and for a closer count of its prompt.
    """

    dialect: WireName
    model: str
    body: bytes
    steers: bool = False  # holds fields that speak to the gateway (ours, OpenRouter's) and must not be sent on
    stream: bool = False
    max_output_tokens: int | None = None
    n: int = 1
    include_usage: bool = False  # the caller wants the usage chunk of a stream
    fallback_models: tuple[str, ...] = ()  # OpenRouter `models`
    prompt_tokens: int = 0  # estimate, upper-leaning
    turns: int = 1
    tools: int = 0
    modalities: frozenset[str] = frozenset()  # vision audio pdf
    format_kind: str = "text"  # text | json_object | json_schema
    forced_tool: bool = False
    reasoning: bool = False  # caller asks for reasoning
    read: dict[str, Raw] | None = None

    @property
    def fields(self) -> dict[str, Raw]:
        if self.read is None:
            self.read = _fields_of(self.body)
        return self.read


# --- demand, decision ------------------------------------------------------------------------------------------------

Objective = Literal["cost", "latency", "quality", "balanced"]
Task = Literal["chat", "code", "summarize", "classify", "extract", "translate", "math", "reasoning", "creative"]


class Bounds(Struct, frozen=True):
    """What the answer must satisfy; the tighter of caller's and configured bounds."""

    deadline_s: float | None = None
    max_cost_nusd: int | None = None
    min_quality: float | None = None
    max_ttft_s: float | None = None
    only: frozenset[str] | None = None  # provider slugs or deployment names
    ignore: frozenset[str] = frozenset()
    order: tuple[str, ...] = ()
    allow_fallbacks: bool = True
    require_parameters: bool = False
    data_collection_deny: bool = False
    zero_retention: bool = False
    sort: Literal["price", "throughput", "latency"] | None = None
    max_input_nusd_per_mtok: int | None = None
    max_output_nusd_per_mtok: int | None = None


UNBOUND = Bounds()  # of a request that binds nothing; compared by identity


class Need(Struct, frozen=True):
    """The judged demand of a call: measured facts and the task, with the reasons in words."""

    task: Task
    prompt_tokens: int
    expected_output_tokens: int
    capabilities: frozenset[str]
    reasons: tuple[str, ...] = ()
    confidence: float = 0.0


class Prediction(Struct, frozen=True):
    """What is expected of one deployment for one call. `None`: not known yet."""

    deployment: str
    cost_nusd: int | None = None
    ttft_s: float | None = None
    total_s: float | None = None
    quality: float | None = None


class Rejection(Struct, frozen=True):
    deployment: str
    # context_length modality tools json_schema parameters max_price max_cost unknown_price data_policy not_allowed ignored quality
    # latency deprecated
    code: str
    reason: str


class Leg(Struct, frozen=True):
    """One step of a plan. Clocks are relative to the leg's own start."""

    deployment: str
    connect_s: float
    first_token_s: float
    idle_s: float
    hedge_after_s: float | None = None


class Plan(Struct, frozen=True):
    legs: tuple[Leg, ...]
    total_s: float
    attempts: int = 3


class Decision(Struct, frozen=True):
    """Why this plan: enough to explain it and to replay it offline to the same plan. Holds no prompt text."""

    wish: str
    route: str  # "" when pinned
    rule: str  # "" when no rule matched
    chosen: str
    propensity: float
    need: Need
    predictions: tuple[Prediction, ...]
    rejected: tuple[Rejection, ...]
    order: tuple[str, ...]
    reasons: tuple[str, ...]
    objective: Objective
    draw: float  # the random number in [0, 1) that was used
    config: str  # fingerprint of configuration and catalogue
    inputs: Raw = Raw(b"null")  # JSON of what it was made from beside configuration and draw; written and read by core.replay


# --- what happened ---------------------------------------------------------------------------------------------------


class Fault(StrEnum):
    """What went wrong, named by what can be done about it; `core.faults` has the table."""

    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    SERVER = "server"
    TRANSPORT = "transport"
    TIMEOUT = "timeout"
    TRUNCATED = "truncated"
    MALFORMED = "malformed"
    QUOTA_EXHAUSTED = "quota_exhausted"
    AUTH = "auth"
    BAD_REQUEST = "bad_request"
    CONTEXT_LENGTH = "context_length"
    MODEL_UNAVAILABLE = "model_unavailable"
    CONTENT_FILTER = "content_filter"
    REDIRECT = "redirect"
    CANCELLED = "cancelled"


class Failure(Struct, frozen=True):
    """One fault with what the provider said of it. `message` never holds a key, a prompt or a host of ours."""

    fault: Fault
    message: str
    phase: str = "headers"  # connect | headers | first_token | stream | end
    status: int | None = None
    code: str | None = None  # provider's own code or type
    param: str | None = None
    retry_after_s: float | None = None
    deadline_bound: bool = False  # a clock cut short by the request's own deadline: no strike against the deployment
    sent: bool = True  # False: certainly no byte of the request reached the provider


AttemptOutcome = Literal["ok", "failed", "cancelled", "hedge_lost", "caller_left", "length_cut", "interrupted", "cache"]


class Attempt(Struct, frozen=True, omit_defaults=True):
    """One durable row. Times: `at_ms` wall clock at dispatch; `ttft_ms`, `total_ms` from dispatch."""

    request_id: str
    attempt: int  # 1, 2, ...; unique with request_id
    at_ms: int
    key: str
    segment: str
    route: str
    model: str  # provider/model
    provider: str
    outcome: AttemptOutcome
    fault: str = ""
    status: int = 0
    usage: Usage = Usage()
    cost_nusd: int | None = None  # None: price unknown
    ttft_ms: float | None = None
    total_ms: float = 0.0
    stream: bool = False
    task: str = ""
    config: str = ""


class Outcome(Struct, frozen=True):
    """The one record of a request. Headers, logs, metrics, bill and learning are projections of it."""

    request_id: str
    at_ms: int
    key: str
    segment: str
    status: int
    decision: Decision | None
    attempts: tuple[Attempt, ...]
    cache: str = "miss"
    dropped: tuple[str, ...] = ()
    overhead_ms: float = 0.0
    error: str = ""


# --- stream events, neutral ------------------------------------------------------------------------------------------


class Begun(Struct, frozen=True, tag=True):
    id: str
    model: str
    created: int | None = None


class TextDelta(Struct, frozen=True, tag=True):
    text: str
    index: int = 0  # choice


class ReasoningDelta(Struct, frozen=True, tag=True):
    """`block` numbers reasoning blocks; a signature or redacted payload may come alone."""

    text: str = ""
    signature: str | None = None
    redacted: str | None = None
    block: int = 0
    index: int = 0
    origin: str = ""


class RefusalDelta(Struct, frozen=True, tag=True):
    text: str
    index: int = 0


class ToolCallDelta(Struct, frozen=True, tag=True):
    """`position` numbers the calls of a choice. The first delta of a call carries id and name."""

    position: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    signature: str | None = None
    index: int = 0


FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "refusal", "pause", "error"]


class Finish(Struct, frozen=True, tag=True):
    """`reason` in the neutral set; `native` as the provider wrote it."""

    reason: FinishReason
    native: str = ""
    index: int = 0


class UsageDelta(Struct, frozen=True, tag=True):
    """Cumulative: the newest replaces the older."""

    usage: Usage


class Failed(Struct, frozen=True, tag=True):
    failure: Failure


class Ended(Struct, frozen=True, tag=True):
    """The dialect's terminal marker was seen."""


Delta = Begun | TextDelta | ReasoningDelta | RefusalDelta | ToolCallDelta | Finish | UsageDelta | Failed | Ended


class Choice(Struct, frozen=True):
    parts: tuple[Part, ...]
    finish: str | None = None
    native_finish: str = ""


class Reply(Struct, frozen=True):
    """The fold of Deltas, or a whole decoded answer: both ways give the same value (a law under test)."""

    id: str
    model: str
    choices: tuple[Choice, ...]
    usage: Usage | None = None
    created: int | None = None
