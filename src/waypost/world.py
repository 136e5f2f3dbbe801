"""World: what a configuration means. Names resolved against the catalogue, secrets read, routes expanded; immutable once built.

A reload builds a new World and swaps it whole; requests in flight finish on the old one. Nothing here touches a socket.
Every problem of meaning is found at once, with those of grammar; what merely lacks a key is switched off with a warning.
"""

import fnmatch
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from waypost import config as cf
from waypost import grammar, reach
from waypost.catalog import tiers
from waypost.catalog.load import Catalog, fill, fold
from waypost.config import Config, ConfigError, Problem
from waypost.core import price
from waypost.core.admit import Per
from waypost.core.faults import Refused
from waypost.core.route import Route, Rule, When, Wish, split_suffix
from waypost.core.types import Call, Deployment, ModelCard, Price, ProviderCard
from waypost.endpoint import Endpoint, credential, endpoint, is_sendable, overlay

_DEPTH = 8  # routes may name routes this deep
_REMEMBERED = 20_000  # callers invent names; the memory of them is bounded
_NAMELESS = re.compile(r"models\[\d+\]")  # a model whose name is missing
Meant = tuple[Wish, Route | None, list[tuple[Deployment, int]]]


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


class World:
    """One configuration, understood. `deployment(name)`, `named(name)` and `resolve(call)` work lazily; the rest are tables.

    A provider goes by the name it is configured under, whatever the catalogue calls it: [providers.google] serves
    "google/gemini-2.5-flash", which callers may also spell "gemini/gemini-2.5-flash".
    """

    def __init__(self, config: Config, catalog: Catalog, *, today: str = "") -> None:
        self.config = config
        self.catalog = catalog
        self.today = today  # ISO date; "": retirement is not judged
        self.fingerprint = f"{cf.fingerprint(config)}-{catalog.fingerprint[:8]}"
        self.sources: dict[str, str] = {}  # every configured provider, on or off -> its name in the catalogue
        self.own: frozenset[str] = frozenset()  # those the user defines whole: of them the catalogue knows nothing
        self.providers: dict[str, ProviderCard] = {}  # those that are on
        self.endpoints: dict[str, Endpoint] = {}
        self.routes: dict[str, Route] = {}
        self.aliases: dict[str, str] = dict(config.aliases)
        self.callers: dict[bytes, Caller] = {}
        self.warnings: list[str] = []
        self.has_default_auto = False  # `auto` was not configured but made from the providers that are on
        self._deployments: dict[str, Deployment | None] = {}

    # --- models --------------------------------------------------------------------------------------------------------

    def deployment(self, name: str) -> Deployment | None:
        """The live deployment callers write as provider/model, or None. Its own name may be spelt otherwise."""
        if name not in self._deployments:
            if len(self._deployments) >= _REMEMBERED:
                self._deployments.clear()
            self._deployments[name] = self._find(name)
        return self._deployments[name]

    def _find(self, name: str) -> Deployment | None:
        home = self.home(name.partition("/")[0])
        card = self.card(name)
        if home not in self.providers or card is None:
            return None
        return Deployment(model=self._priced(card), provider=self.providers[home])

    def home(self, slug: str) -> str:
        """The configured provider that a spelling means, those that are on first; "" when none is meant."""
        if slug in self.sources:
            return slug
        known = self.catalog.provider(slug)
        meant = [name for name, source in self.sources.items() if known is not None and source == known.name]
        return next((name for name in meant if name in self.providers), meant[0] if meant else "")

    def card(self, name: str) -> ModelCard | None:
        """The card of a configured provider's model, on or off, under the provider's configured name.

        Any model of a provider of which no model is known is taken at the caller's word: local servers serve what they like.
        """
        slug, _, rest = name.partition("/")
        home = self.home(slug)
        if not home or not rest:
            return None
        source = self.sources[home]
        found = self.catalog.model(f"{source}/{rest}")
        if found is not None:
            return _labelled(found, home)
        if self.is_open(home):
            return ModelCard(name=f"{home}/{rest}", provider=home, upstream=rest, source="named by the caller")
        return None

    def is_open(self, home: str) -> bool:
        """Whether any name is taken for a model of this provider."""
        return not self.catalog.models(self.sources[home])

    def cards(self, home: str) -> list[ModelCard]:
        """Every model known of a configured provider that has not been retired, under its configured name."""
        return [_labelled(card, home) for card in self.catalog.models(self.sources[home]) if not tiers.retired(card, self.today)]

    def _priced(self, card: ModelCard) -> ModelCard:
        """A server paid by the hour serves tokens for nothing, unless the user priced the model."""
        hourly = self.providers[card.provider].hourly_usd
        if hourly is None or card.price != Price():
            return card
        return msgspec.structs.replace(card, price=Price(0, 0, 0, 0, 0, 0))

    def named(self, bare: str) -> tuple[Deployment, ...]:
        """Every live deployment of a model written without its provider, e.g. "gpt-4o-mini"; retired ones only if no other is left."""
        names = [_labelled(card, home).name for card in self.catalog.named(bare) for home in self._homes(card)]
        found = [d for name in dict.fromkeys(names) if (d := self.deployment(name)) is not None]
        return tuple([d for d in found if not tiers.retired(d.model, self.today)] or found)

    def _homes(self, card: ModelCard) -> list[str]:
        known = self.catalog.provider(card.provider)
        source = card.provider if known is None else known.name
        return [name for name in self.providers if self.sources[name] == source]

    def chat_models(self) -> list[Deployment]:
        """Every live chat deployment the catalogue knows, for /v1/models and the default route."""
        names = [card.name for home in self.providers for card in self.cards(home) if card.mode == "chat"]
        return [d for name in names if (d := self.deployment(name)) is not None]

    def nearest(self, wish: str) -> tuple[str, ...]:
        """Up to three names that do exist here and look like `wish`, the likest first."""
        import difflib

        wish = wish[:200]
        own = [*self.routes, *self.aliases, *(m.name for m in self.config.models if self.deployment(m.name) is not None)]
        close = difflib.get_close_matches(wish, own, 3, 0.5)
        found = [d for name in self.catalog.nearest(wish, 12) if (d := self.deployment(name)) is not None]
        live = [d.name for d in found if not tiers.retired(d.model, self.today)]
        likeness = {name: difflib.SequenceMatcher(None, name, wish).ratio() for name in [*close, *live]}
        return tuple(sorted(likeness, key=lambda name: -likeness[name]))[:3] or tuple(own[:3])

    # --- what a call means -----------------------------------------------------------------------------------------------

    def resolve(self, call: Call, caller: Caller) -> Meant:
        """The wish behind `model` and `models`, with every deployment it may mean and its place in the caller's list.

        Raises Refused: a missing or unknown name, one this caller may not use, a route of which nobody is on.
        """
        names = [call.model, *(m for m in call.fallback_models if m != call.model)] if call.model else list(call.fallback_models)
        if not names:
            names = ["auto"]
            if "auto" not in self.routes and "auto" not in self.aliases:
                raise Refused(400, "missing_model", "`model` is missing; name a model as provider/model or a route", param="model")
        wish, route, found = self._mean(names[0], caller)
        for group, name in enumerate(names[1:], start=1):
            _, _, more = self._mean(name, caller)
            held = {d.name for d, _ in found}
            found += [(d, group) for d, _ in more if d.name not in held]
        return wish, route, found

    def _mean(self, asked: str, caller: Caller) -> Meant:
        exact = self.deployment(asked) if "/" in asked else None
        name, suffix = (asked, "") if exact is not None else split_suffix(asked)
        target = self.aliases.get(name, name)
        if not caller.allows(name) and not caller.allows(target):
            may = ", ".join(caller.patterns)
            message = f"This key may not use {name[:200]!r}; it may use {may}."
            raise Refused(403, "model_not_allowed", message, param="model", error_type="permission_denied")
        route = self.routes.get(target)
        if route is not None:
            live = [d for n in route.candidates if (d := self.deployment(n)) is not None]
            if not live:
                message = f"Route {target!r} has no model whose provider is switched on."
                raise Refused(503, "no_live_model", message, error_type="provider_unavailable")
            return Wish("route", target, suffix), route, [(d, 0) for d in live]
        pinned = exact or self.deployment(target)
        if pinned is not None:
            return Wish("pin", pinned.name, suffix), None, [(pinned, 0)]
        served = self.named(target) if "/" not in target else ()
        if served:
            return Wish("models", target, suffix), None, [(d, 0) for d in served]
        raise self._unknown(asked)

    def _unknown(self, name: str) -> Refused:
        near = self.nearest(name)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        known = self.catalog.model(name) is not None or bool("/" not in name and self.catalog.named(name))
        if known and self.home(name.partition("/")[0]) not in self.providers:
            message = f"The model {name[:200]!r} exists, but no provider that serves it is switched on here.{hint}"
        else:
            message = f"The model {name[:200]!r} does not exist here.{hint} GET /v1/models lists what does."
        return Refused(404, "model_not_found", message, param="model", error_type="not_found")


def _labelled(card: ModelCard, home: str) -> ModelCard:
    """The card under the name its provider is configured by."""
    name = f"{home}/{card.name.partition('/')[2]}"
    return card if (card.name, card.provider) == (name, home) else msgspec.structs.replace(card, name=name, provider=home)


# --- from a configuration to a world -----------------------------------------------------------------------------------------


def read(path: Path | None, catalog: Catalog, env: Mapping[str, str], *, today: str = "") -> World:
    """The world of a file; of the environment alone when there is none. Raises ConfigError with every problem, grammar and meaning."""
    if path is None:
        return build(Config(), catalog, env, today=today)
    config, problems = cf.survey(path)
    if problems and config == Config():
        raise ConfigError(problems)  # nothing could be read: what it would have meant is not known
    world, more = examine(config, catalog, env, today=today, broken=tuple([p.path for p in problems]))
    problems = grammar.joined(problems, more)
    if problems:
        raise ConfigError(problems)
    return world


def build(config: Config, catalog: Catalog, env: Mapping[str, str], *, today: str = "") -> World:
    """Raises ConfigError with every problem of meaning at once. `today`: ISO date, by which models count as retired."""
    world, problems = examine(config, catalog, env, today=today)
    if problems:
        raise ConfigError(problems)
    return world


def examine(
    config: Config, catalog: Catalog, env: Mapping[str, str], *, today: str = "", broken: tuple[str, ...] = ()
) -> tuple[World, list[Problem]]:
    """The world as far as it can be built, and every problem of meaning. `broken`: places whose grammar failed; what only follows
    from them is not told again."""
    problems: list[Problem] = []
    own = {name: overlay(name, entry, None) for name, entry in config.providers.items() if _is_own(name, entry, catalog)}
    catalog = catalog.override(providers=own.values())
    cards = [card for model in config.models if (card := _card(model, catalog)) is not None]
    world = World(config, catalog.override(cards), today=today)
    world.own = frozenset(own)
    _providers(world, env, problems)
    _models(world, problems, broken)
    _Expander(world, problems, broken).routes()
    if "auto" not in world.routes and "auto" not in world.aliases:
        _default_auto(world)
    _Expander(world, problems, broken).aliases()
    _callers(world, env, problems)
    problems += reach.unreachable(world, broken)
    return world, problems


def _is_own(name: str, entry: cf.Provider, catalog: Catalog) -> bool:
    """Whether the user defines the provider whole. One under the catalogue's own name for it stays that provider, elsewhere."""
    known = catalog.provider(name)
    return entry.wire is not None and entry.base_url is not None and (known is None or fold(known.name) != fold(name))


def _card(model: cf.Model, catalog: Catalog) -> ModelCard | None:
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
        base,
        name=model.name,
        price=msgspec.structs.replace(base.price, steps=() if prices else base.price.steps, **prices),
        source="configuration",
        **changes,
    )


# --- providers, models -------------------------------------------------------------------------------------------------------


def _providers(world: World, env: Mapping[str, str], problems: list[Problem]) -> None:
    config, spelt = world.config, dict[str, str]()
    if not config.providers:  # no provider configured: the keys in the environment decide
        for card in world.catalog.providers():
            if any(env.get(v, "").strip() for v in card.key_env):
                _provider(world, card.name, cf.Provider(), env, problems)
    for name, entry in config.providers.items():
        other = spelt.setdefault(fold(name), name)
        if other != name:
            problems.append(
                Problem(f"providers.{name}", "", f"cannot be told from providers.{other}: case, - and _ do not count; rename one")
            )
            continue
        _provider(world, name, entry, env, problems)


def _provider(world: World, name: str, entry: cf.Provider, env: Mapping[str, str], problems: list[Problem]) -> None:
    path = f"providers.{name}"
    known = world.catalog.provider(name)
    world.sources[name] = name if known is None else known.name
    if known is None:
        missing = [w for w, v in (("wire", entry.wire), ("base_url", entry.base_url)) if v is None]
        near = reach.near(name, [card.name for card in world.catalog.providers()])
        problems.append(Problem(path, "", f"is not a provider of the catalogue{near}; one of your own needs {' and '.join(missing)}"))
        return
    card = known if name in world.own else overlay(name, entry, known)
    if card.wire == "openai-responses":
        problems.append(Problem(f"{path}.wire", repr(card.wire), "is not spoken to providers in this version; use openai-chat"))
        return
    card, lacking = fill(card, env)
    if lacking:
        world.warnings.append(f"{path} is off: the variable {' and '.join(lacking)} is not set (it is part of its address)")
        return
    secret, why = credential(card, entry, env)
    if secret is None:
        world.warnings.append(f"{path} is off: {why}")
        return
    if not is_sendable(secret):
        fix = "the key holds characters that no header can carry; check the variable or file"
        problems.append(Problem(f"{path}.api_key", "(not shown)", fix))
        return
    world.providers[name] = card
    world.endpoints[name] = endpoint(card, secret, entry)


def _models(world: World, problems: list[Problem], broken: tuple[str, ...]) -> None:
    for model in world.config.models:
        slug = model.name.split("/", 1)[0]
        path = f"models[{model.name}].name"
        if not world.home(slug) and "providers" not in broken and f"providers.{slug}" not in broken:
            if world.catalog.provider(slug) is None:
                near = reach.near(slug, [*world.config.providers, *(card.name for card in world.catalog.providers())])
                problems.append(Problem(path, repr(model.name), f"names no provider{near}; add [providers.{slug}] or correct it"))
            else:
                world.warnings.append(f"models[{model.name}] is not used: its provider is not switched on")


# --- routes, aliases -------------------------------------------------------------------------------------------------------


class _Expander:
    """Names in a route -> deployment names; routes may name routes, bounded in depth, cycles refused."""

    def __init__(self, world: World, problems: list[Problem], broken: tuple[str, ...]) -> None:
        self.world, self.problems, self.broken = world, problems, broken

    def routes(self) -> None:
        for name, entry in self.world.config.routes.items():
            self._route(f"routes.{name}", name, entry)

    def _route(self, path: str, name: str, entry: cf.Route) -> None:
        candidates = self.all(f"{path}.candidates", entry.candidates, (name,))
        order = self.all(f"{path}.order", entry.order, (name,))
        weights: dict[str, float] = {}
        for wish, weight in entry.weights.items():
            found = self.one(f"{path}.weights", wish, (name,))
            for deployment in found:
                weights[deployment] = weights.get(deployment, 0.0) + weight / len(found)
        rules = tuple(
            Rule(when=When(**{f: getattr(r.when, f) for f in cf.When.__struct_fields__}), use=tuple(used))
            for i, r in enumerate(entry.rules)
            if (used := self.all(f"{path}.rules[{i}].use", r.use, (name,)))
        )
        everyone = dict.fromkeys([*candidates, *order, *weights, *(u for r in rules for u in r.use)])
        if not everyone:
            self.world.warnings.append(f"{path} has no live model: calls for it are answered 503 until a provider is switched on")
        self.world.routes[name] = Route(
            name=name,
            objective=entry.objective,
            min_quality=entry.min_quality,
            max_ttft_s=None if entry.max_ttft_ms is None else entry.max_ttft_ms / 1000,
            candidates=tuple(everyone),
            order=tuple(order),
            weights=tuple(weights.items()),
            rules=rules,
        )

    def all(self, path: str, names: list[str], trail: tuple[str, ...]) -> list[str]:
        return list(dict.fromkeys(d for name in names for d in self.one(path, name, trail)))

    def one(self, path: str, name: str, trail: tuple[str, ...]) -> list[str]:
        """The deployments a name means here. One that nobody serves is a problem; one whose provider is off, a warning."""
        world = self.world
        if name in world.config.routes:
            return self._nested(path, name, trail)
        found = world.deployment(name)
        served = [found] if found is not None else list(world.named(name)) if "/" not in name else []
        for deployment in served:
            if tiers.retired(deployment.model, world.today):
                world.warnings.append(f"{path} names {name}, which its provider retired on {deployment.model.deprecated_on}")
        if served:
            return [d.name for d in served]
        if self._is_off(name):
            world.warnings.append(f"{path} leaves out {name}: its provider is off")
        elif not self._is_shaky(name):
            self.problems.append(Problem(path, repr(name), self._fix(name)))
        return []

    def _nested(self, path: str, name: str, trail: tuple[str, ...]) -> list[str]:
        if name in trail:
            self.problems.append(Problem(path, repr(name), f"routes name each other in a circle: {' -> '.join((*trail, name))}"))
            return []
        if len(trail) >= _DEPTH:
            self.problems.append(Problem(path, repr(name), f"routes nest deeper than {_DEPTH}: {' -> '.join((*trail, name))}"))
            return []
        inner = self.world.config.routes[name]
        used = [u for rule in inner.rules for u in rule.use]
        return self.all(path, [*inner.order, *inner.candidates, *inner.weights, *used], (*trail, name))

    def _is_off(self, name: str) -> bool:
        """Whether a key would be enough to make this name work: its provider is configured (or none is, and keys decide)."""
        world = self.world
        if "/" in name:
            home = world.home(name.partition("/")[0])
            return world.card(name) is not None if home else not world.config.providers and world.catalog.model(name) is not None
        cards = world.catalog.named(name)
        return any(not world.config.providers or world.home(card.provider) for card in cards)

    def _is_shaky(self, name: str) -> bool:
        """Whether the name may be fine once the grammar is."""
        places = ("providers", f"providers.{name.partition('/')[0]}", "models", "routes", f"routes.{name}")
        return any(b in places or _NAMELESS.match(b) for b in self.broken)

    def _fix(self, name: str) -> str:
        world = self.world
        slug = name.partition("/")[0]
        if name in world.config.aliases:
            return f"is an alias; name what it stands for: {world.config.aliases[name]!r}"
        if "/" in name and not world.home(slug) and world.catalog.model(name) is not None:
            return f"its provider is not configured; add [providers.{slug}]"
        return f"no provider serves it; nearest known: {', '.join(world.nearest(name)) or 'none'}"

    def aliases(self) -> None:
        world = self.world
        for name, target in world.config.aliases.items():
            seen = [name]
            while target in world.config.aliases and target not in seen:
                seen.append(target)
                target = world.config.aliases[target]
            path = f"aliases.{name}"
            if target in seen:
                self.problems.append(Problem(path, repr(target), f"aliases name each other in a circle: {' -> '.join([*seen, target])}"))
            elif target not in world.routes:
                self.one(path, target, ())
            world.aliases[name] = target


def _default_auto(world: World) -> None:
    """`auto` where nobody wrote it. Without any eligible model it stands empty, so that a call says what is missing."""
    choices: dict[str, tiers.Tiers] = {}
    for home in world.providers:
        cards = world.cards(home)
        chosen = tiers.declared(cards) if home in world.own else tiers.tiers(cards, today=world.today)
        if chosen is not None:
            choices[home] = chosen
    world.routes["auto"] = tiers.auto(choices)
    world.has_default_auto = True


# --- callers ---------------------------------------------------------------------------------------------------------------


def _callers(world: World, env: Mapping[str, str], problems: list[Problem]) -> None:
    for key in world.config.keys:
        path = f"keys[{key.name}]"
        secret, why = cf.secret(key.key, env) if key.key.startswith(("env:", "file:")) else (None, "its key is not named rightly")
        if secret is None:
            world.warnings.append(f"{path} is off: {why}")
            continue
        if not is_sendable(secret):
            fix = "the key holds characters that no header can carry; check the variable or file"
            problems.append(Problem(f"{path}.key", "(not shown)", fix))
        digest = hashlib.sha256(secret.encode()).digest()
        if digest in world.callers:
            same = world.callers[digest].name
            problems.append(Problem(f"{path}.key", "(not shown)", f"is the same secret as that of key {same}; give each its own"))
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
    if world.config.auth.required and world.config.keys and not world.callers:
        world.warnings.append("auth.required is true and every key is off: nobody can call")
