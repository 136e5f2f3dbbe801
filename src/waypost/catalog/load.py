"""Catalog: facts about providers and models, read on first use from two files of this package.

`providers.toml` is written by hand, `models.jsonl` by `tools/build_catalog.py` from two public price lists. Nothing is read at
import; a provider's models are decoded when one of them is asked for, the whole list only for a search by bare name. Knows
nothing of the configuration, of credentials or of which model is good: a catalogue says what exists and what it costs.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from functools import cached_property
from hashlib import blake2s
from pkgutil import get_data
from typing import Any, Literal

import msgspec
from msgspec import Struct

from waypost.catalog.family import family_of
from waypost.catalog.nearest import Nearest
from waypost.core.types import ModelCard, Price, PriceStep, ProviderCard, WireName

_Nusd = int | None
_PLACEHOLDER = re.compile(r"\{([A-Z0-9_|]+)(?:=([^{}]*))?\}")
_SOURCES = {"g": ("genai-prices",), "l": ("litellm",), "gl": ("genai-prices", "litellm")}  # the first gave the price


class Source(Struct, frozen=True):
    """Where the data comes from; `date` is the `as_of` of the prices taken from it."""

    version: str
    date: str
    licence: str
    copyright: str
    url: str


class Header(Struct, frozen=True):
    format: Literal[1]
    built: str
    sources: dict[str, Source]
    providers: int
    models: int


class _Section(Struct, frozen=True):
    provider: str
    strip: str = ""
    pages: tuple[str, ...] = ()


class _Row(Struct, frozen=True, array_like=True):
    """One line of models.jsonl; trailing absent values are left out there."""

    upstream: str
    mode: str
    context: int | None = None
    max_output: int | None = None
    input: _Nusd = None
    cached: _Nusd = None
    write: _Nusd = None
    output: _Nusd = None
    batch_input: _Nusd = None
    batch_output: _Nusd = None
    capabilities: str = ""
    family: str = ""
    deprecated_on: str | None = None
    origin: str = "l"
    page: int | None = None
    steps: tuple[PriceStep, ...] = ()


class _ProviderTable(Struct, frozen=True, forbid_unknown_fields=True):
    """One table of providers.toml; its head explains the keys."""

    display: str
    wire: WireName
    base_url: str
    source: str
    auth: Literal["bearer", "x-api-key", "x-goog-api-key", "api-key", "none"] = "bearer"
    key_env: tuple[str, ...] = ()
    headers: dict[str, str] = {}
    rename: dict[str, str] = {}
    drop: frozenset[str] = frozenset()
    quirks: frozenset[str] = frozenset()
    failure_domain: str = ""
    trains_on_data: bool = False
    zero_retention: bool = False
    aliases: tuple[str, ...] = ()
    strip: str = ""
    prices: dict[str, Any] = {}  # for tools/build_catalog.py


def _read(name: str) -> bytes:
    data = get_data("waypost.catalog", name)  # as zip-safe as importlib.resources, whose import costs 8 ms CPU
    assert data is not None  # None is for loaders that hold no data: not how a wheel is installed
    return data


def fold(name: str) -> str:
    """Spelling of a provider's name that ignores case, "-", "_", "." and blanks."""
    return name.lower().replace("-", "").replace("_", "").replace(".", "").replace(" ", "")


def fill(card: ProviderCard, env: Mapping[str, str]) -> tuple[ProviderCard, tuple[str, ...]]:
    """The card with `{NAME}` in its base_url replaced from `env`, and the names that are missing ("A or B" for `{A|B}`).

    With a name missing the card comes back as it was. A trailing slash of a value is dropped, so that an endpoint may be given
    either way.
    """
    missing: list[str] = []

    def value(found: re.Match[str]) -> str:
        names = found[1].split("|")
        given = next((env[name].strip() for name in names if env.get(name, "").strip()), found[2])
        if given is None:
            missing.append(" or ".join(names))
            return ""
        return given.rstrip("/")

    base_url = _PLACEHOLDER.sub(value, card.base_url)
    if missing or base_url == card.base_url:
        return card, tuple(dict.fromkeys(missing))
    return msgspec.structs.replace(card, base_url=base_url), ()


class _Data:
    """The two files. One instance per process serves all catalogues derived from it; what was decoded stays."""

    def __init__(self) -> None:
        self._cards: dict[str, dict[str, ModelCard]] = {}
        self._rows: dict[str, dict[str, _Row]] = {}
        self._sections: dict[str, _Section] = {}

    @cached_property
    def toml(self) -> bytes:
        return _read("providers.toml")

    @cached_property
    def text(self) -> bytes:
        return _read("models.jsonl")

    @cached_property
    def header(self) -> Header:
        return msgspec.json.decode(self.text[: self.text.index(b"\n")], type=Header)

    @cached_property
    def parts(self) -> dict[str, bytes]:
        """The undecoded lines of each provider, its own line first."""
        parts = self.text.split(b'\n{"provider":"')[1:]
        return {part[: part.index(b'"')].decode(): b'{"provider":"' + part for part in parts}

    @cached_property
    def tables(self) -> dict[str, _ProviderTable]:
        return msgspec.convert(tomllib.loads(self.toml.decode()), dict[str, _ProviderTable])

    def rows(self, provider: str) -> dict[str, _Row]:
        """The provider's rows by casefolded upstream name; {} for a provider without models."""
        if provider not in self._rows:
            self._rows[provider] = self._decode(provider)
        return self._rows[provider]

    def _decode(self, provider: str) -> dict[str, _Row]:
        section = self.parts.get(provider)
        if section is None:
            return {}
        head, _, lines = section.partition(b"\n")
        self._sections[provider] = msgspec.json.decode(head, type=_Section)
        rows = msgspec.json.decode(b"[" + lines.rstrip().replace(b"]\n[", b"],\n[") + b"]", type=list[_Row])
        return {row.upstream.casefold(): row for row in rows}

    def card(self, provider: str, key: str) -> ModelCard:
        """The card of the row under `key`; made once."""
        cards = self._cards.setdefault(provider, {})
        if key not in cards:
            cards[key] = self._card(provider, self.rows(provider)[key])
        return cards[key]

    def _card(self, provider: str, row: _Row) -> ModelCard:
        section = self._sections[provider]
        sources = _SOURCES[row.origin]
        words = [f"{name} {self.header.sources[name].version}" for name in sources]
        if row.page is not None:
            words.append(section.pages[row.page])
        return ModelCard(
            name=f"{provider}/{row.upstream.removeprefix(section.strip)}",
            provider=provider,
            upstream=row.upstream,
            price=Price(row.input, row.output, row.cached, row.write, row.batch_input, row.batch_output, row.steps),
            context_tokens=row.context,
            max_output_tokens=row.max_output,
            capabilities=frozenset(row.capabilities.split()),
            mode=row.mode,
            family=row.family,
            deprecated_on=row.deprecated_on,
            source="; ".join(words),
            as_of=self.header.sources[sources[0]].date,
        )


class Catalog:
    """Providers and models as known, with the user's own cards on top. Cheap to make; reads on first use.

    Where several cards are returned, the user's come first, then the others in the order of providers.toml: vendors before clouds,
    clouds before hosts, hosts before routers.
    """

    def __init__(self, data: _Data, models: tuple[ModelCard, ...] = (), providers: tuple[ProviderCard, ...] = ()) -> None:
        self._data = data
        self._own_providers = {fold(card.name): card for card in providers}
        self._own_models = {self._key(card): card for card in models}

    @classmethod
    def load(cls) -> "Catalog":
        return cls(_data)

    def override(self, models: Iterable[ModelCard] = (), providers: Iterable[ProviderCard] = ()) -> "Catalog":
        """A catalogue with these cards on top: a card replaces the known one of the same name, whole.

        A model card without a family gets the one its upstream name tells, so that it can stand in for its equals.
        """
        told = (card if card.family else msgspec.structs.replace(card, family=family_of(card.upstream)) for card in models)
        return Catalog(self._data, (*self._own_models.values(), *told), (*self._own_providers.values(), *providers))

    # --- providers ------------------------------------------------------------------------------------------------------

    def provider(self, name: str) -> ProviderCard | None:
        """By name or alias; case, "-" and "_" do not matter."""
        own = self._own_providers.get(fold(name))
        if own is not None:
            return own
        slug = self._slugs.get(fold(name))
        return None if slug is None else self._own_providers.get(fold(slug)) or self._known_providers[slug]

    def providers(self) -> tuple[ProviderCard, ...]:
        known = [card for name, card in self._known_providers.items() if fold(name) not in self._own_providers]
        return (*self._own_providers.values(), *known)

    @cached_property
    def _slugs(self) -> dict[str, str]:
        return {fold(spelling): name for name, table in self._data.tables.items() for spelling in (name, *table.aliases)}

    @cached_property
    def _known_providers(self) -> dict[str, ProviderCard]:
        return {name: _provider_card(name, table) for name, table in self._data.tables.items()}

    # --- models ---------------------------------------------------------------------------------------------------------

    def model(self, name: str) -> ModelCard | None:
        """By `provider/model`: the user's card, else the known one; case does not matter.

        A name without `-latest` finds the one with it and the other way round; no other name is guessed.
        """
        prefix, slash, upstream = name.partition("/")
        if not slash or not upstream:
            return None
        slug = self._slug(prefix)
        spellings = (upstream, upstream + "-latest", upstream.removesuffix("-latest"))
        for spelling in spellings:
            found = self._own_models.get((fold(slug), spelling.casefold()))
            if found is not None:
                return found
        strip = self._strip(slug)
        rows = self._data.rows(slug)
        keys = (candidate.casefold() for spelling in spellings for candidate in (spelling, strip + spelling))
        return next((self._data.card(slug, key) for key in keys if key in rows), None)

    def models(self, provider: str | None = None) -> tuple[ModelCard, ...]:
        """All models, or those of one provider."""
        wanted = [self._slug(provider)] if provider is not None else list(self._data.tables)
        own = [card for (slug, _), card in self._own_models.items() if provider is None or slug == fold(wanted[0])]
        known = [self._data.card(slug, key) for slug in wanted for key in self._data.rows(slug)]
        return (*own, *(card for card in known if self._key(card) not in self._own_models))

    def named(self, bare: str) -> tuple[ModelCard, ...]:
        """Every card named `bare` here or upstream, then those where it follows a vendor path ("meta-llama/...")."""
        key = bare.casefold()
        found = [self._card_at(place) for place in self._places.get(key, ())]
        return tuple(sorted(found, key=lambda card: (self._key(card) not in self._own_models, card.upstream.casefold() != key)))

    def family(self, card: ModelCard) -> tuple[ModelCard, ...]:
        """The same model at other providers, by the family of its name and its mode; () when the name tells none."""
        if not card.family:
            return ()
        places = self._families.get((card.family, card.mode), ())
        return tuple(found for found in map(self._card_at, places) if found.provider != card.provider)

    def nearest(self, name: str, k: int = 3) -> tuple[str, ...]:
        """Up to `k` names that a misspelt one may have meant, best first: `provider/model`."""
        prefix, slash, rest = name.partition("/")
        if slash and self.provider(prefix) is not None:
            slug = self._slug(prefix)
            return Nearest(card.name for card in self.models(slug)).find(f"{slug}/{rest}", k)
        return self._nearest.find(name, k)

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hex digits that change when any fact does."""
        digest = blake2s(self._data.text, digest_size=6)
        digest.update(self._data.toml)
        digest.update(msgspec.json.encode([list(self._own_models.values()), list(self._own_providers.values())], order="deterministic"))
        return digest.hexdigest()

    @property
    def header(self) -> Header:
        """Versions, dates and licences of the sources."""
        return self._data.header

    def _slug(self, prefix: str) -> str:
        """The name behind a spelling; a provider of the user's own is never taken for an alias."""
        own = self._own_providers.get(fold(prefix))
        return own.name if own is not None else self._slugs.get(fold(prefix), prefix)

    def _key(self, card: ModelCard) -> tuple[str, str]:
        """Where a card lies among the user's: provider, and what follows it in the name that callers write."""
        return fold(self._slug(card.provider)), card.name.partition("/")[2].casefold()

    def _strip(self, slug: str) -> str:
        table = self._data.tables.get(slug)
        return table.strip if table is not None else ""

    def _card_at(self, place: tuple[str, str]) -> ModelCard:
        slug, key = place
        return self._own_models.get((fold(slug), key)) or self._data.card(slug, key)

    @cached_property
    def _all_places(self) -> list[tuple[tuple[str, str], str, str, str]]:
        """(place, upstream, family, mode) of every model, the user's first; no card is made."""
        own = [(place, card.upstream, card.family, card.mode) for place, card in self._own_models.items()]
        known = [
            ((slug, key), row.upstream, row.family, row.mode)
            for slug in self._data.tables
            for key, row in self._data.rows(slug).items()
            if not self._own_models or (fold(slug), self._shown(slug, key)) not in self._own_models
        ]
        return own + known

    def _shown(self, slug: str, key: str) -> str:
        return key.removeprefix(self._strip(slug).casefold())

    @cached_property
    def _places(self) -> dict[str, list[tuple[str, str]]]:
        places: dict[str, list[tuple[str, str]]] = {}
        for place, upstream, _, _ in self._all_places:
            whole = upstream.casefold()
            for bare in {whole, whole.rsplit("/", 1)[-1], place[1]}:
                places.setdefault(bare, []).append(place)
        return places

    @cached_property
    def _families(self) -> dict[tuple[str, str], list[tuple[str, str]]]:
        families: dict[tuple[str, str], list[tuple[str, str]]] = {}
        for place, _, family, mode in self._all_places:
            families.setdefault((family, mode), []).append(place)
        return families

    @cached_property
    def _nearest(self) -> Nearest:
        known = self._all_places[len(self._own_models) :]
        own = [card.name for card in self._own_models.values()]
        return Nearest([*own, *(f"{slug}/{upstream.removeprefix(self._strip(slug))}" for (slug, _), upstream, _, _ in known)])


def _provider_card(name: str, table: _ProviderTable) -> ProviderCard:
    return ProviderCard(
        name=name,
        wire=table.wire,
        base_url=table.base_url,
        auth=table.auth,
        key_env=table.key_env,
        headers=tuple(table.headers.items()),
        rename=tuple(table.rename.items()),
        drop=table.drop,
        quirks=table.quirks,
        failure_domain=table.failure_domain,
        trains_on_data=table.trains_on_data,
        zero_retention=table.zero_retention,
        display=table.display,
        source=table.source,
    )


_data = _Data()
