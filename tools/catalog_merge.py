"""Merge genai-prices and LiteLLM's price list into one list of models per provider, and say where they disagree.

Rules, in the order in which they are applied:

1. A model enters from LiteLLM's list, which names what the provider takes as `model`. Where that list has (next to) none of a
   provider (`adds = true` in providers.toml), models of genai-prices enter too, if it states their context window: it keeps
   retired models for old bills, and those without a window are mostly such. Modes kept: chat, responses, embedding, rerank, moderation.
2. Price: genai-prices wins where it lists this very name, because its prices are decimals reviewed by hand, with dates and
   variants, while LiteLLM's are community-edited floats. Where it matches by prefix or pattern only, LiteLLM's entry wins and
   genai-prices fills what is missing, provided that both agree on input and output.
3. Context window: equal, or genai-prices' where it is LiteLLM's input plus output limit (the same fact told two ways); else
   LiteLLM's, which lists it for nearly every model while genai-prices, a price list, has it for some.
4. Output limit, capabilities, mode and retirement date: LiteLLM. A model only in genai-prices gets the capabilities that all
   LiteLLM entries of its family share.
5. Zero is not a price: a model that costs nothing for input and output is "unknown", unless its name ends with `:free`.
6. Rows of one provider whose names differ only in case are one model.
"""

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Context, Decimal
from pathlib import Path
from typing import Any, NamedTuple

from catalog_genai import GenaiModel, GenaiProvider, matches, names_exactly

from waypost.catalog.family import family_of

MODES = {"chat": "chat", "responses": "responses", "embedding": "embedding", "rerank": "rerank", "moderation": "moderation"}
CAPABILITIES = {
    "supports_function_calling": ("tools",),
    # Who enforces a schema also answers in JSON without one.
    "supports_response_schema": ("json_schema", "json_object"),
    "supports_native_structured_output": ("json_schema", "json_object"),
    "supports_vision": ("vision",),
    "supports_audio_input": ("audio",),
    "supports_pdf_input": ("pdf",),
    "supports_reasoning": ("reasoning",),
    "supports_assistant_prefill": ("prefill",),
    "supports_web_search": ("web_search",),
}
COSTS = ("input_cost_per_token", "cache_read_input_token_cost", "cache_creation_input_token_cost", "output_cost_per_token")
BATCHES = ("input_cost_per_token_batches", "output_cost_per_token_batches")
ABOVE = re.compile(r"_above_(\d+)k_tokens$")
# Price classes by size that LiteLLM lists as if they were models; fine-tuned templates.
PSEUDO = re.compile(r"^(fireworks-ai-|together-ai-|ft:|container$)")
# What genai-prices lists beside text models, and what it lists that embeds or reranks.
NOT_TEXT = re.compile(
    r"whisper|tts|ocr|image|flux|dall|orpheus|transcri|speech|voice|audio|sonic|video|live|realtime|guard|clef|m2m|indic|distilbert|bart-",
    re.I,
)
EMBEDS = re.compile(r"embed|\bbge-|/bge-|gte-|voyage-(?!.*rerank)|e5-|m3-retrieval", re.I)

Nusd = int | None
Price = tuple[Nusd, Nusd, Nusd, Nusd]  # input, cached read, cache write, output
NO_PRICE: Price = (None, None, None, None)


class Provider(NamedTuple):
    name: str
    genai: str
    litellm: tuple[str, ...]
    adds: bool
    modes: frozenset[str]
    strip: str


class Conflict(NamedTuple):
    name: str
    field: str
    genai: object
    litellm: object
    took: str


@dataclass
class Model:
    upstream: str
    mode: str
    family: str
    price: Price = NO_PRICE
    batch: tuple[Nusd, Nusd] = (None, None)
    tiers: tuple[tuple[int, Price], ...] = ()
    context: int | None = None
    max_output: int | None = None
    capabilities: set[str] = field(default_factory=lambda: set[str]())
    deprecated_on: str | None = None
    origin: str = ""  # g: genai-prices, l: LiteLLM, gl: price from genai-prices, other facts from LiteLLM
    page: str = ""


def read_providers(path: Path) -> list[Provider]:
    providers: list[Provider] = []
    for name, table in tomllib.loads(path.read_text()).items():
        prices = table.get("prices", {})
        modes = frozenset(prices.get("modes", MODES.values()))
        strip = table.get("strip", "")
        providers.append(Provider(name, prices.get("genai", ""), tuple(prices.get("litellm", ())), prices.get("adds", False), modes, strip))
    return providers


def merge(
    providers: list[Provider], genai: dict[str, GenaiProvider], litellm: dict[str, dict[str, Any]]
) -> tuple[dict[str, list[Model]], list[Conflict]]:
    listed: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for key, entry in litellm.items():
        listed.setdefault(entry.get("litellm_provider", ""), []).append((key, entry))
    conflicts: list[Conflict] = []
    merged: dict[str, list[Model]] = {}
    for provider in providers:
        models = from_litellm(provider, [pair for source in provider.litellm for pair in listed.get(source, [])])
        for source in (name for name in sorted(genai) if is_named(provider.genai, name)):
            host = source.partition("_")[2]
            combine(provider, models, genai[source], host, conflicts)
        merged[provider.name] = [model for model in models.values() if model.mode in provider.modes]
    share_capabilities(merged)
    return merged, conflicts


def is_named(pattern: str, name: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


# --- LiteLLM -----------------------------------------------------------------------------------------------------------------


def from_litellm(provider: Provider, entries: Iterable[tuple[str, dict[str, Any]]]) -> dict[str, Model]:
    """Models by casefolded upstream name; of two spellings the one with more facts stays."""
    models: dict[str, Model] = {}
    for key, entry in entries:
        upstream = upstream_of(provider, key, entry["litellm_provider"])
        mode = mode_of(entry)
        if upstream is None or mode is None:
            continue
        model = litellm_model(upstream, mode, entry)
        seen = models.get(upstream.casefold())
        if seen is None or facts(model) > facts(seen):
            models[upstream.casefold()] = model
    return models


def facts(model: Model) -> int:
    return sum(value is not None for value in (*model.price, *model.batch, model.context, model.max_output)) + len(model.capabilities)


def upstream_of(provider: Provider, key: str, litellm_provider: str) -> str | None:
    """What the provider takes as `model`, or None for keys that are no model of it."""
    prefix = litellm_provider.removesuffix("_converse").partition("-")[0] if litellm_provider.startswith("vertex") else litellm_provider
    prefix = prefix.removesuffix("-embedding-models").removesuffix("_chat").removesuffix("_converse")
    name = key.removeprefix(prefix + "/")
    if PSEUDO.search(name):
        return None
    if provider.name in ("azure", "bedrock", "bedrock-mantle") and "/" in name:
        return None  # regional prices of the same models
    if provider.name == "vertex" and not name.startswith("gemini"):
        return None
    if provider.strip and "/" not in name:
        return provider.strip + name
    return name


def mode_of(entry: dict[str, Any]) -> str | None:
    endpoints = entry.get("supported_endpoints") or []
    mode = MODES.get(entry.get("mode", ""))
    if mode == "chat" and endpoints and "/v1/chat/completions" not in endpoints and "/v1/batch" not in endpoints:
        return "responses" if "/v1/responses" in endpoints else None
    return mode


def litellm_model(upstream: str, mode: str, entry: dict[str, Any]) -> Model:
    steps = entry.get("tiered_pricing") or []
    steps = [step for step in steps if "range" in step]
    price = litellm_price(entry if entry.get(COSTS[0]) is not None or not steps else steps[0])
    if is_free(price) and not upstream.endswith(":free"):
        price = NO_PRICE
    tiers = tuple((int(step["range"][0]), litellm_price(step)) for step in steps if step["range"][0]) or litellm_tiers(entry, price)
    batch = (nusd_per_token(entry.get(BATCHES[0])), nusd_per_token(entry.get(BATCHES[1])))
    return Model(
        upstream,
        mode,
        family_of(upstream),
        price,
        batch if price[0] is not None else (None, None),
        tiers if price[0] is not None else (),
        whole(entry.get("max_input_tokens")) or whole(entry.get("max_tokens")),
        whole(entry.get("max_output_tokens")) if mode in ("chat", "responses") else None,
        {name for flag, names in CAPABILITIES.items() if entry.get(flag) is True for name in names},
        iso_date(entry.get("deprecation_date")),
        "l",
        str(entry.get("source") or "").split()[0] if str(entry.get("source") or "").startswith("http") else "",
    )


def litellm_price(costs: dict[str, Any]) -> Price:
    read, cached, write, output = (nusd_per_token(costs.get(name)) for name in COSTS)
    return (read, cached or None, write or None, output)  # a cache price of 0 stands for "not priced apart"


def litellm_tiers(entry: dict[str, Any], base: Price) -> tuple[tuple[int, Price], ...]:
    starts = sorted({int(found[1]) for key in entry if (found := ABOVE.search(key)) and key[: found.start()] in COSTS})
    tiers: list[tuple[int, Price]] = []
    for start in starts:
        above = litellm_price({name: entry.get(f"{name}_above_{start}k_tokens") for name in COSTS})
        last = tiers[-1][1] if tiers else base
        read, cached, write, output = (new if new is not None else old for new, old in zip(above, last, strict=True))
        tiers.append((start * 1000, (read, cached, write, output)))
    return tuple(tiers)


def nusd_per_token(cost: Decimal | int | str | None) -> Nusd:
    """USD per token, written as a float by its source, to nano-USD per million tokens.

    Twelve significant digits are kept: what follows them (4.0000000000000003e-07) is float noise, no list price needs it.
    """
    if cost is None or isinstance(cost, str):
        return None
    return nusd(Context(prec=12).create_decimal(cost) * 1_000_000)


def nusd(usd_per_mtok: Decimal | None) -> Nusd:
    if usd_per_mtok is None or usd_per_mtok < 0:
        return None
    return int((usd_per_mtok * 1_000_000_000).to_integral_value(ROUND_HALF_EVEN))


def is_free(price: Price) -> bool:
    return not price[0] and not price[3]


def whole(value: Any) -> int | None:
    return int(value) if isinstance(value, (int, Decimal)) and value > 0 else None


def iso_date(value: Any) -> str | None:
    return value if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", value) else None


# --- genai-prices ------------------------------------------------------------------------------------------------------------


def combine(provider: Provider, models: dict[str, Model], source: GenaiProvider, host: str, conflicts: list[Conflict]) -> None:
    """Lay the prices of one genai-prices provider over `models`, in place; add its own models where its ids are names."""
    batches = {model.id.removesuffix(":batch"): model.price for model in source.models if model.id.endswith(":batch")}
    for model in models.values():
        exact = next(
            (listed for listed in source.models if names_exactly(listed.match, model.upstream) or listed.id == model.upstream), None
        )
        loose = exact or next((listed for listed in source.models if matches(listed.match, model.upstream)), None)
        if loose is not None:
            lay_over(f"{provider.name}/{model.upstream}", model, loose, exact is not None, conflicts)
    if not provider.adds:
        return
    for listed in source.models:
        upstream = f"{listed.id}:{host}" if host else listed.id
        mode = "embedding" if EMBEDS.search(listed.id) else "rerank" if "rerank" in listed.id else "chat"
        priced_by_token = listed.price[0] is not None and (listed.price[3] is not None or mode != "chat")
        kept = listed.context is not None and priced_by_token and not listed.id.endswith(":batch") and not NOT_TEXT.search(listed.id)
        if not kept or upstream.casefold() in models:
            continue
        models[upstream.casefold()] = genai_model(upstream, mode, listed, batches.get(listed.id), source.page)


def genai_model(upstream: str, mode: str, listed: GenaiModel, batch: Any, page: str) -> Model:
    price = genai_price(listed.price)
    known = not is_free(price) or upstream.endswith(":free")
    read, output = (batch[0], batch[3]) if batch is not None else listed.batch
    half = (nusd(read), nusd(output))
    return Model(
        upstream,
        mode,
        family_of(listed.id),
        price if known else NO_PRICE,
        half if known else (None, None),
        genai_tiers(listed) if known else (),
        context=listed.context,
        origin="g",
        page=page,
    )


def genai_price(price: Iterable[Decimal | None]) -> Price:
    read, cached, write, output = (nusd(value) for value in price)
    return (read, cached or None, write or None, output)


def genai_tiers(listed: GenaiModel) -> tuple[tuple[int, Price], ...]:
    return tuple((start, genai_price(price)) for start, price in listed.tiers)


def lay_over(name: str, model: Model, listed: GenaiModel, exact: bool, conflicts: list[Conflict]) -> None:
    price = genai_price(listed.price)
    ours = (model.price[0], model.price[3] or None)
    theirs = (price[0], price[3] or None)
    agree = ours == theirs
    if not is_free(price) and price[0] is not None:
        unpriced = model.price[0] is None
        if not agree and not unpriced:
            took = "genai-prices" if exact else "litellm (genai-prices matches by pattern only)"
            conflicts.append(Conflict(name, "in/out per Mtok", usd(theirs), usd(ours), took))
        if agree:
            read, cached, write, output = (new if new is not None else old for new, old in zip(price, model.price, strict=True))
            model.price = (read, cached, write, output)
            fill_batch(model, listed)
            model.tiers = genai_tiers(listed) or model.tiers
            model.origin = "gl"
        elif exact:
            model.price, model.batch, model.tiers, model.origin = price, (None, None), genai_tiers(listed), "gl"
            fill_batch(model, listed)
    if exact or agree:
        lay_context(name, model, listed, conflicts)


def fill_batch(model: Model, listed: GenaiModel) -> None:
    half = (nusd(listed.batch[0]), nusd(listed.batch[1]))
    model.batch = half if half[0] is not None else model.batch


def lay_context(name: str, model: Model, listed: GenaiModel, conflicts: list[Conflict]) -> None:
    ours, theirs = model.context, listed.context
    if theirs is None or theirs == ours:
        return
    if ours is None or theirs == ours + (model.max_output or 0):
        model.context = theirs
        return
    conflicts.append(Conflict(name, "context", theirs, ours, "litellm"))


def usd(pair: tuple[Nusd, Nusd]) -> str:
    return "/".join("-" if value is None else f"{Decimal(value) / 1_000_000_000:f}" for value in pair)


def share_capabilities(merged: dict[str, list[Model]]) -> None:
    shared: dict[str, set[str]] = {}
    for models in merged.values():
        for model in models:
            if model.family and "l" in model.origin and model.capabilities:
                known = shared.get(model.family)
                shared[model.family] = model.capabilities & known if known is not None else set(model.capabilities)
    for models in merged.values():
        for model in models:
            if model.origin == "g":
                model.capabilities = shared.get(model.family, set())
