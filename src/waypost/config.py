"""Config: one TOML file -> frozen Config, all errors at once, each with its path, the value seen and the fix.

Knows the file's grammar and nothing of models or providers: what a name means is checked in `world`, where the catalogue is.
Secrets are references ("env:NAME", "file:PATH", "none"), never values; a problem shows no value that might be one. The contract
is examples/reference.toml, and every option here is described in docs/configuration.md (tests compare).
"""

import hashlib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from waypost import grammar
from waypost.core import price
from waypost.core.types import Objective, Task, WireName
from waypost.grammar import ConfigError, Problem

_FRAMING = frozenset({"host", "content-length", "transfer-encoding", "connection", "expect", "te", "trailer", "upgrade"})
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+: [\x20-\x7e\t]*")
Positive = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0)]
Amount = Annotated[float, Meta(ge=0, le=1e12)]
Share = Annotated[float, Meta(ge=0, le=1)]
Word = Annotated[str, Meta(min_length=1)]
Segment = Annotated[str, Meta(max_length=128, pattern=r"^[\w.:@/-]*$")]  # as callers may name one in x-waypost-segment
Capability = Literal["tools", "json_schema", "json_object", "vision", "audio", "pdf", "reasoning", "prefill", "web_search"]
Format = Literal["text", "json_object", "json_schema"]
# What dialects and gateway act on, then what is only noted: catalog/providers.toml says what each means.
Quirk = Literal[
    "no_stream_options",
    "max_completion_tokens_only",
    "reasoning_field",
    "anthropic-2026-10-21",
    "strips_strict",
    "name_only_on_tool",
    "no_empty_assistant",
    "no_tool_choice_required",
    "one_system_message",
    "no_done_marker",
    "hidden_reasoning",
    "reasoning_content_replay",
    "thinking_default_on",
    "responses_for_pro",
    "error_in_200",
    "empty_choices",
    "keep_alive_comments",
    "bearer_expires",
]


class Server(Struct, frozen=True):
    host: Word = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 4000
    workers: Annotated[int, Meta(ge=1, le=256)] = 1
    max_body_mb: Annotated[float, Meta(gt=0, le=1024)] = 32
    drain_s: Amount = 600
    content_logging: bool = False
    tls_cert: str | None = None
    tls_key: str | None = None


class Storage(Struct, frozen=True):
    url: str = "sqlite:waypost.db"
    redis: str | None = None


class Telemetry(Struct, frozen=True):
    prometheus: bool = True
    otlp: list[dict[str, str]] = []


class Provider(Struct, frozen=True):
    wire: WireName | None = None
    base_url: str | None = None
    api_key: str | None = None
    auth: Literal["bearer", "x-api-key", "x-goog-api-key", "api-key", "none"] | None = None
    headers: dict[str, str] = {}
    rename: dict[str, str] = {}
    drop: list[str] = []
    quirks: list[Quirk] = []
    http2: bool | None = None
    connections: Positive | None = None
    prewarm: Count | None = None
    failure_domain: str | None = None
    hourly_usd: Amount | None = None
    trains_on_data: bool | None = None
    zero_retention: bool | None = None
    max_in_flight: Positive | None = None


class Model(Struct, frozen=True):
    name: str
    upstream: str | None = None
    input_usd_per_mtok: Amount | None = None
    cached_input_usd_per_mtok: Amount | None = None
    cache_write_usd_per_mtok: Amount | None = None
    output_usd_per_mtok: Amount | None = None
    batch_input_usd_per_mtok: Amount | None = None
    batch_output_usd_per_mtok: Amount | None = None
    context_tokens: Positive | None = None
    max_output_tokens: Positive | None = None
    capabilities: list[Capability] | None = None
    quality: Share | None = None
    family: str | None = None


class When(Struct, frozen=True):
    task: Task | None = None
    min_prompt_tokens: Count | None = None
    max_prompt_tokens: Count | None = None
    capability: Capability | None = None
    tools: bool | None = None
    segment: Segment | None = None
    stream: bool | None = None
    format: Format | None = None


class Rule(Struct, frozen=True):
    use: list[str]
    when: When = When()


class Route(Struct, frozen=True):
    objective: Objective = "balanced"
    min_quality: Share | None = None
    max_ttft_ms: Positive | None = None
    candidates: list[str] = []
    order: list[str] = []
    weights: dict[str, Amount] = {}
    rules: list[Rule] = []
    cascade: bool = False


class Timeouts(Struct, frozen=True):
    connect_ms: Positive = 2000
    first_token_ms: Positive = 10000
    idle_ms: Positive = 20000
    total_ms: Positive = 600000
    stream_upstream: Literal["auto", "always", "never"] = "auto"


class Hedge(Struct, frozen=True):
    enabled: bool = False
    quantile: Annotated[float, Meta(gt=0, lt=1)] = 0.95
    max_share: Share = 0.05


class Retries(Struct, frozen=True):
    budget_ratio: Share = 0.2
    attempts: Annotated[int, Meta(ge=1, le=10)] = 3
    hedge: Hedge = Hedge()


class ExactCache(Struct, frozen=True):
    enabled: bool = False
    ttl_s: Positive = 86400
    max_mb: Positive = 256


class SemanticCache(Struct, frozen=True):
    enabled: bool = False
    max_error: Share = 0.01
    ttl_s: Positive = 86400
    embedder: str = "builtin"


class Cache(Struct, frozen=True):
    exact: ExactCache = ExactCache()
    semantic: SemanticCache = SemanticCache()


class Context(Struct, frozen=True):
    mode: Literal["off", "auto"] = "off"
    window_tokens: Positive = 4000
    summary_tokens: Positive = 1000
    summarizer: str = "extractive"


class Auth(Struct, frozen=True):
    required: bool = False


class Budget(Struct, frozen=True):
    usd: Annotated[float, Meta(gt=0, le=1e9)]
    per: Literal["total", "day", "week", "month"] = "total"


class Key(Struct, frozen=True):
    name: Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")]  # stands in ledger and reports
    key: str
    segment: Segment = ""
    models: tuple[str, ...] = ("*",)
    budget: Budget | None = None
    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None
    concurrency: Positive | None = None


class Config(Struct, frozen=True):
    server: Server = Server()
    storage: Storage = Storage()
    telemetry: Telemetry = Telemetry()
    providers: dict[str, Provider] = {}
    models: list[Model] = []
    routes: dict[str, Route] = {}
    aliases: dict[str, str] = {}
    timeouts: Timeouts = Timeouts()
    retries: Retries = Retries()
    cache: Cache = Cache()
    context: Context = Context()
    auth: Auth = Auth()
    keys: list[Key] = []


def load(path: Path) -> Config:
    """Read a file. Raises ConfigError with all problems of grammar and range."""
    return _whole(*survey(path))


def parse(text: str, *, name: str = "config") -> Config:
    """Raises ConfigError with all problems of grammar and range."""
    return _whole(*examine(text, name=name))


def survey(path: Path) -> tuple[Config, list[Problem]]:
    """Read what can be read of a file, and say what cannot."""
    try:
        return examine(path.read_bytes().decode(), name=path.name)
    except OSError as e:
        return Config(), [Problem(str(path), "", f"cannot be read: {e.strerror}; give an existing file with --config")]
    except UnicodeDecodeError as e:
        return Config(), [Problem(str(path), "", f"is not UTF-8 (byte {e.start}); save it as UTF-8")]


def examine(text: str, *, name: str = "config") -> tuple[Config, list[Problem]]:
    """The readable part of a configuration and every problem of grammar and range."""
    try:
        table = tomllib.loads(text.removeprefix("\ufeff"))
    except (tomllib.TOMLDecodeError, RecursionError) as e:
        return Config(), [Problem(name, "", f"is not valid TOML: {e}")]
    problems: list[Problem] = []
    config = grammar.read(table, Config, "", problems)
    return config, grammar.joined(problems, _rules(config))


def _whole(config: Config, problems: list[Problem]) -> Config:
    if problems:
        raise ConfigError(problems)
    return config


def fingerprint(config: Config) -> str:
    """A short hash of the configuration: part of every decision record, so that a replay knows what it ran under."""
    return hashlib.sha256(msgspec.json.encode(config, order="sorted")).hexdigest()[:12]


def secret(reference: str, env: Mapping[str, str]) -> tuple[str | None, str]:
    """The value behind "env:NAME" or "file:PATH"; (None, why) when there is none. "none" gives ("", "")."""
    kind, _, name = reference.partition(":")
    if reference == "none":
        return "", ""
    if kind == "env":
        value = env.get(name, "").strip()
        return (value, "") if value else (None, f"the variable {name} is not set")
    try:
        value = Path(name).expanduser().read_text().strip()
    except (OSError, UnicodeDecodeError) as e:
        return None, f"the file {name} cannot be read ({type(e).__name__})"
    return (value, "") if value else (None, f"the file {name} is empty")


# --- rules between fields -------------------------------------------------------------------------------------------------


def _rules(config: Config) -> list[Problem]:
    problems: list[Problem] = []
    problems += _secrets(config) + _later(config) + _duplicates(config)
    server = config.server
    if (server.tls_cert is None) != (server.tls_key is None):
        problems.append(Problem("server.tls_cert", "", "tls_cert and tls_key go together: give both or none"))
    scheme, _, file = config.storage.url.partition(":")
    if scheme != "sqlite" or not file or file.startswith(":"):
        problems.append(
            Problem("storage.url", repr(f"{scheme[:20]}:..."), 'this version stores in a SQLite file: write "sqlite:waypost.db"')
        )
    for name, provider in config.providers.items():
        problems += _provider(f"providers.{name}", name, provider)
    for model in config.models:
        if "/" not in model.name.strip("/"):
            problems.append(Problem(f"models[{model.name}].name", repr(model.name), "write provider/model, as callers will"))
    for name, route in config.routes.items():
        problems += _route(f"routes.{name}", name, route)
    for name in (*config.routes, *config.aliases):
        if name.endswith((":floor", ":nitro", ":exacto")):
            kind = "routes" if name in config.routes else "aliases"
            problems.append(
                Problem(f"{kind}.{name}", "", "can never be asked for: callers' suffixes :floor, :nitro and :exacto are cut off first")
            )
    for key in config.keys:
        problems += _key(f"keys[{key.name}]", key, server.workers)
    if config.auth.required and not config.keys:
        problems.append(Problem("auth.required", "true", "no key is configured, so nobody could call: add [[keys]] or set it to false"))
    return problems


def _secrets(config: Config) -> list[Problem]:
    named = [(f"providers.{n}.api_key", p.api_key) for n, p in config.providers.items()] + [
        (f"keys[{k.name}].key", k.key) for k in config.keys
    ]
    fix = 'secrets are named, never written: use "env:NAME" or "file:PATH"'
    bad = [
        Problem(path, "(not shown)", fix)
        for path, ref in named
        if ref is not None and ref != "none" and not ref.startswith(("env:", "file:"))
    ]
    empty = [Problem(path, repr(ref), "names nothing after the colon") for path, ref in named if ref in ("env:", "file:")]
    keyless = [Problem(f"keys[{k.name}].key", "'none'", "a caller's key cannot be none") for k in config.keys if k.key == "none"]
    return bad + empty + keyless


def _later(config: Config) -> list[Problem]:
    """Options of the contract whose machinery comes in a later version are refused when switched on, never ignored."""
    off = {
        "server.content_logging": config.server.content_logging,
        "cache.semantic.enabled": config.cache.semantic.enabled,
        "context.mode": config.context.mode != "off",
        "telemetry.otlp": bool(config.telemetry.otlp),
        "storage.redis": config.storage.redis is not None,
        **{f"routes.{n}.cascade": r.cascade for n, r in config.routes.items()},
    }
    return [Problem(path, "", "is not available in this version; switch it off") for path, on in off.items() if on]


def _duplicates(config: Config) -> list[Problem]:
    problems: list[Problem] = []
    for section, names in (("models", [m.name for m in config.models]), ("keys", [k.name for k in config.keys])):
        problems += [Problem(f"{section}[{n}]", "", "is defined twice; keep one") for n in sorted({n for n in names if names.count(n) > 1})]
    problems += [Problem(f"aliases.{n}", "", "a route has the same name; rename one") for n in config.aliases if n in config.routes]
    references = [k.key for k in config.keys]
    problems += [
        Problem(f"keys[{k.name}].key", k.key, "two keys read the same secret; the second could never be reached")
        for i, k in enumerate(config.keys)
        if k.key in references[:i]
    ]
    return problems


def _provider(path: str, name: str, provider: Provider) -> list[Problem]:
    problems: list[Problem] = []
    if "/" in name or not name:
        problems.append(Problem(path, repr(name), "a provider's name has no slash"))
    url = provider.base_url
    if url is not None and not (url.startswith(("http://", "https://")) and len(url.split("://", 1)[1].strip("/")) > 0):
        problems.append(Problem(f"{path}.base_url", grammar.shown("base_url", url), "write http://host[:port]/path or https://..."))
    elif url is not None and ("?" in url or "#" in url or "@" in url.split("://", 1)[1].split("/")[0]):
        problems.append(Problem(f"{path}.base_url", "", "no query, fragment or user in a base URL; a key goes to api_key"))
    for header, value in provider.headers.items():
        if header.lower() in _FRAMING:
            problems.append(Problem(f"{path}.headers.{header}", "", "is set by the connection itself; remove it"))
        elif not _HEADER.fullmatch(f"{header}: {value}") or ":" in header:
            problems.append(Problem(f"{path}.headers.{header}", "", "is no HTTP header: letters, digits and dashes, then printable ASCII"))
    most = provider.connections
    if most is not None and provider.prewarm is not None and provider.prewarm > most:
        problems.append(Problem(f"{path}.prewarm", str(provider.prewarm), f"is more than connections = {most}; lower it"))
    return problems


def _key(path: str, key: Key, workers: int) -> list[Problem]:
    problems: list[Problem] = []
    if not key.models:
        problems.append(Problem(f"{path}.models", "[]", 'allows nothing; name models and routes, or leave it out for ["*"]'))
    if key.budget is not None and price.parse_usd(key.budget.usd) == 0:
        problems.append(Problem(f"{path}.budget.usd", repr(key.budget.usd), "is less than a nano-dollar: no call fits; raise it"))
    limits = {"requests_per_minute": key.requests_per_minute, "tokens_per_minute": key.tokens_per_minute, "concurrency": key.concurrency}
    problems += [
        Problem(f"{path}.{name}", str(limit), f"is divided among server.workers = {workers}, and none may get less than 1; raise it")
        for name, limit in limits.items()
        if limit is not None and limit < workers
    ]
    return problems


def _route(path: str, name: str, route: Route) -> list[Problem]:
    problems: list[Problem] = []
    ways = [w for w, v in (("candidates", route.candidates), ("order", route.order), ("weights", route.weights)) if v]
    if not ways and not route.rules:
        problems.append(Problem(path, "", "has nobody to call: give candidates, order or weights"))
    if "order" in ways and "weights" in ways:
        problems.append(Problem(path, "", "order (plain failover) and weights (plain balancing) exclude each other: keep one"))
    if route.weights and not any(route.weights.values()):
        problems.append(Problem(f"{path}.weights", "", "every weight is 0: give one a positive weight"))
    if "/" in name:
        problems.append(Problem(path, repr(name), "a route's name has no slash (that would read as provider/model)"))
    for i, rule in enumerate(route.rules):
        problems += _rule(f"{path}.rules[{i}]", rule, route.rules[:i])
    return problems


def _rule(path: str, rule: Rule, earlier: list[Rule]) -> list[Problem]:
    problems: list[Problem] = []
    when = rule.when
    if not rule.use:
        problems.append(Problem(f"{path}.use", "[]", "names no model"))
    problems += [Problem(f"{path}.when", seen, f"can never fire: {why}") for seen, why in _contradictions(when)]
    shadow = next((i for i, e in enumerate(earlier) if _implied(e.when, when)), None)
    if shadow is not None:
        why = f"can never fire: rules[{shadow}] before it matches whenever this one does; put the narrower rule first"
        problems.append(Problem(path, "", why))
    return problems


def _contradictions(when: When) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    low, high = when.min_prompt_tokens, when.max_prompt_tokens
    if low is not None and high is not None and low > high:
        found.append((f"{low}..{high}", "min_prompt_tokens is above max_prompt_tokens"))
    if when.tools is False and when.capability == "tools":
        found.append(("tools = false", "the capability asked for is tools"))
    if when.capability in ("json_object", "json_schema") and when.format not in (None, when.capability):
        found.append((f"format = {when.format!r}", f"a call that needs {when.capability} has that format"))
    if when.capability in ("prefill", "web_search"):
        found.append(
            (
                f"capability = {when.capability!r}",
                "no call is judged to need it; known of calls: tools, json_schema, json_object, vision, audio, pdf, reasoning",
            )
        )
    return found


def _implied(earlier: When, later: When) -> bool:
    """Whether `earlier` matches every call that `later` matches."""
    low, high = earlier.min_prompt_tokens or 0, earlier.max_prompt_tokens
    inside = low <= (later.min_prompt_tokens or 0) and (
        high is None or (later.max_prompt_tokens is not None and later.max_prompt_tokens <= high)
    )
    return inside and _facts(earlier) <= _facts(later)


def _facts(when: When) -> set[tuple[str, object]]:
    """The conditions but for size, each fact spelled in one way: `tools = true` is the capability tools, a JSON format one too."""
    facts: set[tuple[str, object]] = {(name, value) for name in ("task", "segment", "stream") if (value := getattr(when, name)) is not None}
    if when.capability is not None:
        facts.add(("capability", when.capability))
    if when.tools is not None:
        facts.add(("capability", "tools") if when.tools else ("tools", False))
    if when.format is not None:
        facts.add(("format", "text") if when.format == "text" else ("capability", when.format))
    return facts
