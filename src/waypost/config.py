"""Config: one TOML file -> frozen Config, all errors at once, each with its path, the value seen and the fix.

Knows the file's grammar and nothing of models or providers: what a name means is checked in `world`, where the catalogue is.
Secrets are references ("env:NAME", "file:PATH", "none"), never values. `shared/reference.toml` of the design is the contract;
a copy stands in examples/reference.toml and every option here is described in docs/configuration.md (a test compares).
"""

import difflib
import hashlib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from waypost.core.types import Objective, Task, WireName

_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+: [\x20-\x7e\t]*")
Positive = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0)]
Amount = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]


class Server(Struct, frozen=True):
    host: str = "127.0.0.1"
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
    quirks: list[str] = []
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
    capabilities: list[str] | None = None
    quality: Share | None = None
    family: str | None = None


class When(Struct, frozen=True):
    task: Task | None = None
    min_prompt_tokens: Count | None = None
    max_prompt_tokens: Count | None = None
    capability: str | None = None
    tools: bool | None = None
    segment: str | None = None
    stream: bool | None = None
    format: Literal["text", "json_object", "json_schema"] | None = None


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
    usd: Annotated[float, Meta(gt=0)]
    per: Literal["total", "day", "week", "month"] = "total"


class Key(Struct, frozen=True):
    name: str
    key: str
    segment: str = ""
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


class Problem(Struct, frozen=True):
    """One thing wrong with the configuration. `seen` is the value as written, shortened; never a secret."""

    path: str
    seen: str
    fix: str

    def __str__(self) -> str:
        return f"{self.path}: {self.fix}" if not self.seen else f"{self.path} = {self.seen}: {self.fix}"


class ConfigError(Exception):
    """Every problem of a configuration at once."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(p) for p in problems))
        self.problems = problems


def load(path: Path) -> Config:
    """Read a file. Raises ConfigError with all problems of grammar and range."""
    try:
        text = path.read_bytes().decode()
    except OSError as e:
        raise ConfigError([Problem(str(path), "", f"cannot be read: {e.strerror}; give an existing file with --config")]) from e
    except UnicodeDecodeError as e:
        raise ConfigError([Problem(str(path), "", f"is not UTF-8 (byte {e.start}); save it as UTF-8")]) from e
    return parse(text, name=path.name)


def parse(text: str, *, name: str = "config") -> Config:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise ConfigError([Problem(name, "", f"is not valid TOML: {e}")]) from e
    problems: list[Problem] = []
    config = _read(table, Config, "", problems)
    problems += _rules(config)
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


# --- reading a table into a struct, collecting every problem -------------------------------------------------------------


def _read(table: Any, into: type[Struct], path: str, problems: list[Problem]) -> Any:
    """`table` as `into`, noting every problem below `path`; a broken value falls back to its default so that the later checks
    still see the rest. None when a required value is missing or broken. Nested structs, lists and maps of structs are walked."""
    if not isinstance(table, dict):
        problems.append(Problem(path, _shown(path, table), "must be a table ([section] or { key = value })"))
        return None
    entries = cast("dict[str, Any]", table)
    fields = {f.name: f for f in msgspec.structs.fields(into)}
    at = f"{path}." if path else ""
    values: dict[str, Any] = {}
    for key, value in entries.items():
        field = fields.get(key)
        if field is None:
            problems.append(Problem(f"{at}{key}", _shown(key, value), _unknown(key, list(fields))))
            continue
        before = len(problems)
        read = _value(value, field.type, f"{at}{key}", problems)
        if read is not None or len(problems) == before:
            values[key] = read
    for name, field in fields.items():
        if field.required and name not in entries:
            problems.append(Problem(f"{at}{name}", "", "is missing"))
    return into(**values) if all(f.name in values for f in fields.values() if f.required) else None


def _value(value: Any, kind: Any, path: str, problems: list[Problem]) -> Any:
    inner = next((a for a in (kind, *get_args(kind)) if isinstance(a, type) and issubclass(a, Struct)), None)
    if inner is not None and value is not None:
        if get_origin(kind) is list and isinstance(value, list):
            items = cast("list[Any]", value)
            read = [_read(item, inner, f"{path}[{_label(item, i)}]", problems) for i, item in enumerate(items)]
            return [r for r in read if r is not None]
        if get_origin(kind) is dict and isinstance(value, dict):
            table = cast("dict[str, Any]", value)
            named = {name: _read(item, inner, f"{path}.{name}", problems) for name, item in table.items()}
            return {name: item for name, item in named.items() if item is not None}
        return _read(value, inner, path, problems)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as e:
        where, _, inside = str(e).partition(" - at `$")
        problems.append(Problem(path + inside.rstrip("`"), _shown(path, value), where[0].lower() + where[1:]))
        return None


def _label(item: Any, index: int) -> str:
    name = cast("dict[str, Any]", item).get("name") if isinstance(item, dict) else None
    return name if isinstance(name, str) else str(index)


def _shown(path: str, value: Any) -> str:
    """The value as the user wrote it, short; anything that may be a secret is not shown."""
    if path.rsplit(".", 1)[-1] in ("key", "api_key") and isinstance(value, str) and not value.startswith(("env:", "file:")):
        return "(not shown)"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _unknown(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, 1)
    return f"unknown option; did you mean `{close[0]}`?" if close else f"unknown option; known here: {', '.join(sorted(known))}"


# --- rules between fields -------------------------------------------------------------------------------------------------


def _rules(config: Config) -> list[Problem]:
    problems: list[Problem] = []
    problems += _secrets(config) + _later(config) + _duplicates(config)
    server = config.server
    if (server.tls_cert is None) != (server.tls_key is None):
        problems.append(Problem("server.tls_cert", "", "tls_cert and tls_key go together: give both or none"))
    if not config.storage.url.startswith("sqlite:") or config.storage.url == "sqlite:":
        problems.append(
            Problem("storage.url", repr(config.storage.url.split("@")[-1]), 'this version stores in SQLite: write "sqlite:waypost.db"')
        )
    for name, provider in config.providers.items():
        problems += _provider(f"providers.{name}", name, provider)
    for model in config.models:
        if "/" not in model.name.strip("/"):
            problems.append(Problem(f"models[{model.name}].name", repr(model.name), "write provider/model, as callers will"))
    for name, route in config.routes.items():
        problems += _route(f"routes.{name}", name, route)
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
        problems.append(Problem(f"{path}.base_url", repr(url), "write http://host[:port]/path or https://..."))
    elif url is not None and ("?" in url or "#" in url or "@" in url.split("://", 1)[1].split("/")[0]):
        problems.append(Problem(f"{path}.base_url", "", "no query, fragment or user in a base URL; a key goes to api_key"))
    bad = [n for n, v in provider.headers.items() if not _HEADER.fullmatch(f"{n}: {v}")]
    problems += [Problem(f"{path}.headers.{n}", "", "not a valid HTTP header") for n in bad]
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
    low, high = when.min_prompt_tokens, when.max_prompt_tokens
    if low is not None and high is not None and low > high:
        problems.append(Problem(f"{path}.when", f"{low}..{high}", "can never fire: min_prompt_tokens is above max_prompt_tokens"))
    shadow = next((i for i, e in enumerate(earlier) if _implied(e.when, when)), None)
    if shadow is not None:
        problems.append(
            Problem(path, "", f"can never fire: rule {shadow} before it matches whenever this one does; order the narrow rule first")
        )
    return problems


def _implied(earlier: When, later: When) -> bool:
    """Whether `earlier` matches every call that `later` matches."""
    for field in When.__struct_fields__:
        want, has = getattr(earlier, field), getattr(later, field)
        if want is None:
            continue
        if has is None:
            return False
        if field == "min_prompt_tokens":
            if has < want:
                return False
        elif field == "max_prompt_tokens":
            if has > want:
                return False
        elif has != want:
            return False
    return True
