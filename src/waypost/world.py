"""World: what a configuration means. Names resolved against the catalogue, secrets read, routes expanded; immutable once built.

A reload builds a new World and swaps it whole; requests in flight finish on the old one. Nothing here touches a socket.
Every problem of meaning is found at once; what merely lacks a key is switched off with a warning.
"""

import fnmatch
import hashlib
from collections.abc import Mapping

import msgspec
from msgspec import Struct

from waypost import config as cf
from waypost.catalog.load import Catalog, fill
from waypost.config import Config, ConfigError, Problem
from waypost.core import price
from waypost.core.admit import Per
from waypost.core.route import Route, Rule, When
from waypost.core.types import Deployment, ModelCard, Price, ProviderCard

_DEPTH = 8  # routes may name routes this deep


class Caller(Struct, frozen=True):
    """Who asks. `name` stands in the ledger's key column; "" is the anonymous caller of an open gateway."""

    name: str = ""
    segment: str = ""
    patterns: tuple[str, ...] = ("*",)
    budget_nusd: int | None = None
    budget_per: Per = "total"
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None

    @property
    def is_limited(self) -> bool:
        limits = (self.budget_nusd, self.requests_per_minute, self.tokens_per_minute, self.concurrency)
        return any(limit is not None for limit in limits)

    def allows(self, name: str) -> bool:
        return self.patterns == ("*",) or any(fnmatch.fnmatchcase(name, p) for p in self.patterns)


class Endpoint(Struct, frozen=True):
    """Where a provider is and how we sign: the credential is bound to this origin and goes nowhere else."""

    origin: str
    path: str  # prefix before the dialect's own path
    headers: tuple[tuple[bytes, bytes], ...]  # content type, credential, configured extras
    credential: str  # opaque name of the credential in the health memory, never the secret
    max_in_flight: int | None = None


class World:
    """One configuration, understood. `deployment(name)` and `named(name)` resolve lazily; everything else is a table."""

    def __init__(self, config: Config, catalog: Catalog) -> None:
        self.config = config
        self.catalog = catalog
        self.fingerprint = f"{cf.fingerprint(config)}-{catalog.fingerprint[:8]}"
        self.providers: dict[str, ProviderCard] = {}
        self.endpoints: dict[str, Endpoint] = {}
        self.routes: dict[str, Route] = {}
        self.aliases: dict[str, str] = dict(config.aliases)
        self.callers: dict[bytes, Caller] = {}
        self.warnings: list[str] = []
        self._deployments: dict[str, Deployment | None] = {}

    def deployment(self, name: str) -> Deployment | None:
        """The live deployment callers write as provider/model, or None."""
        if name not in self._deployments:
            if len(self._deployments) > 20_000:  # callers invent names; the memory of them is bounded
                self._deployments.clear()
            self._deployments[name] = self._find(name)
        return self._deployments[name]

    def _find(self, name: str) -> Deployment | None:
        slug, _, rest = name.partition("/")
        provider = self.providers.get(slug) or self.providers.get(self._fold(slug))
        if provider is None or not rest:
            return None
        card = self.catalog.model(f"{provider.name}/{rest}")
        if card is None and not self.catalog.models(provider.name):
            card = ModelCard(name=f"{provider.name}/{rest}", provider=provider.name, upstream=rest, source="named by the caller")
        return None if card is None else Deployment(model=self._priced(card), provider=provider)

    def _fold(self, slug: str) -> str:
        known = self.catalog.provider(slug)
        return known.name if known else slug

    def _priced(self, card: ModelCard) -> ModelCard:
        """A server paid by the hour serves tokens for nothing, unless the user priced the model."""
        hourly = self.providers[card.provider].hourly_usd
        if hourly is None or card.price != Price():
            return card
        return msgspec.structs.replace(card, price=Price(0, 0, 0, 0, 0, 0))

    def named(self, bare: str) -> tuple[Deployment, ...]:
        """Every live deployment of a model written without its provider, e.g. "gpt-4o-mini"."""
        found = [self.deployment(card.name) for card in self.catalog.named(bare) if card.provider in self.providers]
        return tuple(d for d in found if d is not None)

    def chat_models(self) -> list[Deployment]:
        """Every live chat deployment the catalogue knows, for /v1/models and the default route."""
        cards = [card for name in self.providers for card in self.catalog.models(name) if card.mode == "chat"]
        found = [self.deployment(card.name) for card in cards]
        return [d for d in found if d is not None]

    def nearest(self, wish: str) -> tuple[str, ...]:
        """Names that do exist here and look like `wish`; routes first."""
        import difflib

        own = [*self.routes, *self.aliases, *(m.name for m in self.config.models)]
        close = difflib.get_close_matches(wish, own, 3, 0.5)
        live = [n for n in self.catalog.nearest(wish, 12) if n.split("/", 1)[0] in self.providers]
        return tuple(dict.fromkeys([*close, *live]))[:3] or tuple(own[:3])


def build(config: Config, catalog: Catalog, env: Mapping[str, str]) -> World:
    """Raises ConfigError with every problem of meaning at once."""
    problems: list[Problem] = []
    cards = [card for model in config.models if (card := _card(model, config, catalog)) is not None]
    world = World(config, catalog.override(cards) if cards else catalog)
    _providers(world, env, problems)
    known = set(config.providers) | {p.name for p in catalog.providers()}
    for model in config.models:
        if model.name.split("/", 1)[0] not in known:
            problems.append(
                Problem(f"models[{model.name}].name", repr(model.name), "names no provider; add [providers.NAME] or correct it")
            )
    _routes(world, problems)
    _aliases(world, problems)
    _callers(world, env, problems)
    if problems:
        raise ConfigError(problems)
    return world


def _card(model: cf.Model, config: Config, catalog: Catalog) -> ModelCard | None:
    """The user's facts over the catalogue's: what the user wrote wins, field by field."""
    provider, _, rest = model.name.partition("/")
    if not rest:
        return None
    base = catalog.model(model.name) or ModelCard(name=model.name, provider=provider, upstream=rest)
    usd = {
        "input_nusd_per_mtok": model.input_usd_per_mtok,
        "cached_input_nusd_per_mtok": model.cached_input_usd_per_mtok,
        "cache_write_nusd_per_mtok": model.cache_write_usd_per_mtok,
        "output_nusd_per_mtok": model.output_usd_per_mtok,
        "batch_input_nusd_per_mtok": model.batch_input_usd_per_mtok,
        "batch_output_nusd_per_mtok": model.batch_output_usd_per_mtok,
    }
    prices = {k: price.parse_usd(v) for k, v in usd.items() if v is not None}
    facts = {
        "upstream": model.upstream,
        "context_tokens": model.context_tokens,
        "max_output_tokens": model.max_output_tokens,
        "capabilities": frozenset(model.capabilities) if model.capabilities is not None else None,
        "quality": model.quality,
        "family": model.family,
    }
    changes = {k: v for k, v in facts.items() if v is not None}
    return msgspec.structs.replace(
        base, name=model.name, price=msgspec.structs.replace(base.price, **prices), source="configuration", **changes
    )


# --- providers -------------------------------------------------------------------------------------------------------------


def _providers(world: World, env: Mapping[str, str], problems: list[Problem]) -> None:
    config = world.config
    if config.providers:
        for name, entry in config.providers.items():
            _provider(world, name, entry, env, problems)
        return
    for card in world.catalog.providers():  # no provider configured: the keys in the environment decide
        if any(env.get(v, "").strip() for v in card.key_env):
            _provider(world, card.name, cf.Provider(), env, problems)


def _provider(world: World, name: str, entry: cf.Provider, env: Mapping[str, str], problems: list[Problem]) -> None:
    path = f"providers.{name}"
    known = world.catalog.provider(name)
    if known is None and (entry.wire is None or entry.base_url is None):
        missing = [w for w, v in (("wire", entry.wire), ("base_url", entry.base_url)) if v is None]
        problems.append(Problem(path, "", f"is not a provider of the catalogue, so it needs {' and '.join(missing)}"))
        return
    card = _overlay(name, entry, known)
    if card.wire == "openai-responses":
        problems.append(Problem(f"{path}.wire", repr(card.wire), "is not spoken to providers in this version; use openai-chat"))
        return
    card, lacking = fill(card, env)
    if lacking:
        world.warnings.append(f"{path} is off: the variable {' and '.join(lacking)} is not set (it is part of its address)")
        return
    secret, why = _key(card, entry, env)
    if secret is None:
        world.warnings.append(f"{path} is off: {why}")
        return
    if any(ord(c) < 33 or ord(c) > 126 for c in secret):
        problems.append(
            Problem(f"{path}.api_key", "(not shown)", "the key holds characters that no header can carry; check the variable or file")
        )
        return
    world.providers[name] = card
    world.endpoints[name] = _endpoint(card, secret, entry)


def _overlay(name: str, entry: cf.Provider, known: ProviderCard | None) -> ProviderCard:
    base = known or ProviderCard(name=name, wire=entry.wire or "openai-chat", base_url=entry.base_url or "", auth=_usual_auth(entry.wire))
    facts = {
        "wire": entry.wire,
        "base_url": entry.base_url,
        "auth": entry.auth,
        "http2": entry.http2,
        "connections": entry.connections,
        "prewarm": entry.prewarm,
        "failure_domain": entry.failure_domain,
        "hourly_usd": entry.hourly_usd,
        "trains_on_data": entry.trains_on_data,
        "zero_retention": entry.zero_retention,
    }
    changes = {k: v for k, v in facts.items() if v is not None}
    return msgspec.structs.replace(
        base,
        name=name,
        headers=(*base.headers, *entry.headers.items()),
        rename=(*base.rename, *entry.rename.items()),
        drop=base.drop | frozenset(entry.drop),
        quirks=base.quirks | frozenset(entry.quirks),
        **changes,
    )


def _usual_auth(wire: str | None) -> str:
    return {"anthropic-messages": "x-api-key", "gemini": "x-goog-api-key"}.get(wire or "", "bearer")


def _key(card: ProviderCard, entry: cf.Provider, env: Mapping[str, str]) -> tuple[str | None, str]:
    if entry.api_key is not None:
        return cf.secret(entry.api_key, env)
    if card.auth == "none" or not card.key_env:
        return "", ""
    found = next((env[v].strip() for v in card.key_env if env.get(v, "").strip()), None)
    return found, f"none of {', '.join(card.key_env)} is set"


def _endpoint(card: ProviderCard, secret: str, entry: cf.Provider) -> Endpoint:
    scheme, _, rest = card.base_url.partition("://")
    host, slash, path = rest.partition("/")
    headers: list[tuple[bytes, bytes]] = [(b"content-type", b"application/json"), (b"accept-encoding", b"identity")]
    if secret:
        name, value = ("authorization", f"Bearer {secret}") if card.auth in ("bearer", "none") else (card.auth, secret)
        headers.append((name.encode(), value.encode()))
    headers += [(n.lower().encode(), v.encode()) for n, v in card.headers]
    sign = hashlib.sha256(f"{card.name}:{secret}".encode()).hexdigest()[:8] if secret else "none"
    return Endpoint(f"{scheme}://{host}", (slash + path).rstrip("/"), tuple(headers), f"{card.name}:{sign}", entry.max_in_flight)


# --- routes, aliases -------------------------------------------------------------------------------------------------------


def _routes(world: World, problems: list[Problem]) -> None:
    for name, entry in world.config.routes.items():
        path = f"routes.{name}"
        expand = _Expander(world, problems)
        candidates = expand.all(f"{path}.candidates", entry.candidates, (name,))
        order = expand.all(f"{path}.order", entry.order, (name,))
        weights = {
            d: w / len(found) for n, w in entry.weights.items() for found in [expand.one(f"{path}.weights", n, (name,))] for d in found
        }
        rules = tuple(
            Rule(when=When(**{f: getattr(r.when, f) for f in cf.When.__struct_fields__}), use=tuple(used))
            for i, r in enumerate(entry.rules)
            if (used := expand.all(f"{path}.rules[{i}].use", r.use, (name,)))
        )
        everyone = dict.fromkeys([*candidates, *order, *weights, *(u for r in rules for u in r.use)])
        if not everyone:
            world.warnings.append(f"{path} has no live model: calls for it are answered 503 until a provider is switched on")
        world.routes[name] = Route(
            name=name,
            objective=entry.objective,
            min_quality=entry.min_quality,
            max_ttft_s=None if entry.max_ttft_ms is None else entry.max_ttft_ms / 1000,
            candidates=tuple(everyone),
            order=tuple(order),
            weights=tuple(weights.items()),
            rules=rules,
        )


class _Expander:
    """Names in a route -> deployment names; routes may name routes, bounded in depth, cycles refused."""

    def __init__(self, world: World, problems: list[Problem]) -> None:
        self.world, self.problems = world, problems

    def all(self, path: str, names: list[str], trail: tuple[str, ...]) -> list[str]:
        return list(dict.fromkeys(d for name in names for d in self.one(path, name, trail)))

    def one(self, path: str, name: str, trail: tuple[str, ...]) -> list[str]:
        world = self.world
        if name in world.config.routes:
            if name in trail or len(trail) >= _DEPTH:
                why = (
                    f"routes name each other in a circle: {' -> '.join((*trail, name))}"
                    if name in trail
                    else f"routes nest deeper than {_DEPTH}"
                )
                self.problems.append(Problem(path, repr(name), why))
                return []
            inner = world.config.routes[name]
            return self.all(path, [*inner.order, *inner.candidates, *inner.weights], (*trail, name))
        if world.deployment(name) is not None:
            return [name]
        slug = name.split("/", 1)[0]
        if "/" not in name and (served := world.named(name)):
            return [d.name for d in served]
        off = slug in world.config.providers or world.catalog.model(name) is not None or ("/" not in name and world.catalog.named(name))
        if off and slug not in world.providers:
            world.warnings.append(f"{path} leaves out {name}: its provider is off")
            return []
        near = ", ".join(world.nearest(name)) or "none"
        self.problems.append(Problem(path, repr(name), f"no provider serves it; nearest known: {near}"))
        return []


def _aliases(world: World, problems: list[Problem]) -> None:
    for name, target in world.config.aliases.items():
        seen = [name]
        while target in world.aliases and target not in seen:
            seen.append(target)
            target = world.aliases[target]
        path = f"aliases.{name}"
        if target in seen:
            problems.append(Problem(path, repr(target), f"aliases name each other in a circle: {' -> '.join([*seen, target])}"))
        elif target not in world.routes and target != "auto":
            _Expander(world, problems).one(path, target, ())
        world.aliases[name] = target


def _callers(world: World, env: Mapping[str, str], problems: list[Problem]) -> None:
    for key in world.config.keys:
        path = f"keys[{key.name}]"
        for pattern in key.models:
            if any(c in pattern for c in "*?["):
                continue
            if pattern not in world.config.routes and pattern not in world.aliases and pattern != "auto":
                _Expander(world, problems).one(f"{path}.models", pattern, ())
        secret, why = cf.secret(key.key, env)
        if secret is None:
            world.warnings.append(f"{path} is off: {why}")
            continue
        digest = hashlib.sha256(secret.encode()).digest()
        if digest in world.callers:
            problems.append(
                Problem(f"{path}.key", "(not shown)", f"is the same secret as key {world.callers[digest].name}; give each its own")
            )
            continue
        world.callers[digest] = Caller(
            name=key.name,
            segment=key.segment,
            patterns=tuple(key.models),
            budget_nusd=None if key.budget is None else price.parse_usd(key.budget.usd),
            budget_per="total" if key.budget is None else key.budget.per,
            requests_per_minute=key.requests_per_minute,
            tokens_per_minute=key.tokens_per_minute,
            concurrency=key.concurrency,
        )
