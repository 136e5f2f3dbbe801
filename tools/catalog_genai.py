"""Read genai-prices' data module as a syntax tree into plain values: prices on one day, per model, with how it is matched.

Knows only the shape of that module. A price that depends on the hour is taken at its dearest, because a budget must hold at
every hour; one that depends on the date is taken as of `on`. Their own rule is "the last active price wins".
"""

import ast
import datetime
import re
from decimal import Decimal
from typing import Any, NamedTuple

FIELDS = ("input_mtok", "cache_read_mtok", "cache_write_mtok", "output_mtok")
Prices = tuple[Decimal | None, Decimal | None, Decimal | None, Decimal | None]


class GenaiModel(NamedTuple):
    id: str
    match: dict[str, Any]
    context: int | None
    price: Prices  # USD per million tokens: input, cache read, cache write, output
    batch: tuple[Decimal | None, Decimal | None]  # input, output
    tiers: tuple[tuple[int, Prices], ...]  # above so many input tokens the whole request costs this


class GenaiProvider(NamedTuple):
    id: str
    models: tuple[GenaiModel, ...]
    page: str


def read_genai(source: str, *, on: str) -> dict[str, GenaiProvider]:
    """All providers by id, priced as of the ISO date `on`."""
    day = datetime.date.fromisoformat(on)
    tree = next(node for node in ast.parse(source).body if isinstance(node, ast.AnnAssign))
    assert tree.value is not None
    providers: dict[str, GenaiProvider] = {}
    for raw in value_of(tree.value):
        models = tuple(read_model(model, day) for model in raw["models"])
        providers[raw["id"]] = GenaiProvider(raw["id"], models, (raw.get("pricing_urls") or [""])[0])
    return providers


def value_of(node: ast.expr) -> Any:
    """A literal; a call `Kind(a=1)` becomes {"kind": "Kind", "a": 1}."""
    match node:
        case ast.Constant():
            return node.value
        case ast.List() | ast.Tuple():
            return [value_of(item) for item in node.elts]
        case ast.Dict():
            return {value_of(key): value_of(value) for key, value in zip(node.keys, node.values, strict=True) if key}
        case ast.Call(func=ast.Name(id="Decimal")):
            return Decimal(value_of(node.args[0]))
        case ast.Call(func=ast.Attribute(attr="date")):
            return datetime.date(*(value_of(item) for item in node.args))
        case ast.Call(func=ast.Attribute(attr=kind)):
            return kind  # datetime.time, datetime.timezone: the hour is not used
        case ast.Call(func=ast.Name(id=kind)):
            return {"kind": kind} | {item.arg: value_of(item.value) for item in node.keywords if item.arg}
        case ast.Attribute():
            return node.attr
        case _:
            raise ValueError(f"genai-prices data has a form this reader does not know: {ast.dump(node)[:200]}")


def read_model(raw: dict[str, Any], day: datetime.date) -> GenaiModel:
    price, tiers = priced(raw["prices"], day)
    batch = batch_price(raw.get("price_variants") or [], day)
    return GenaiModel(raw["id"], raw["match"], raw.get("context_window"), price, batch, tiers)


def priced(raw: Any, day: datetime.date) -> tuple[Prices, tuple[tuple[int, Prices], ...]]:
    if isinstance(raw, dict):
        return split_tiers(raw)
    current: dict[str, Any] = {}
    hourly: list[dict[str, Any]] = []
    for entry in raw:
        constraint = entry.get("constraint")
        if constraint is None or constraint["kind"] == "StartDateConstraint":
            if constraint is None or constraint["start_date"] <= day:
                current, hourly = entry["prices"], []
        else:
            hourly.append(entry["prices"])
    return split_tiers(max([current, *hourly], key=lambda prices: base_of(prices.get("input_mtok")) or Decimal(0)))


def base_of(price: Any) -> Decimal | None:
    return price["base"] if isinstance(price, dict) else price


def split_tiers(prices: dict[str, Any]) -> tuple[Prices, tuple[tuple[int, Prices], ...]]:
    """Base price and the steps above it; a field without a step of its own keeps its last price."""
    starts = sorted({tier["start"] for field in FIELDS if isinstance(prices.get(field), dict) for tier in prices[field]["tiers"]})
    tiers: list[tuple[int, Prices]] = []
    for start in starts:
        tiers.append((start, at_tier(prices, start)))
    return at_tier(prices, None), tuple(tiers)


def at_tier(prices: dict[str, Any], start: int | None) -> Prices:
    def one(field: str) -> Decimal | None:
        price = prices.get(field)
        if not isinstance(price, dict):
            return price
        reached = [tier["price"] for tier in price["tiers"] if start is not None and tier["start"] <= start]
        return reached[-1] if reached else price["base"]

    return (one(FIELDS[0]), one(FIELDS[1]), one(FIELDS[2]), one(FIELDS[3]))


def batch_price(variants: list[dict[str, Any]], day: datetime.date) -> tuple[Decimal | None, Decimal | None]:
    found: tuple[Decimal | None, Decimal | None] = (None, None)
    for variant in variants:
        constraint = variant.get("constraint")
        started = constraint is None or constraint.get("start_date", day) <= day
        if variant["when"] == {"processing": "batch"} and started:
            prices = variant["prices"]
            found = (base_of(prices.get("input_mtok")), base_of(prices.get("output_mtok")))
    return found


def names_exactly(clause: dict[str, Any], name: str) -> bool:
    """Does the clause list this very name? Prefix and pattern matches do not count."""
    match clause:
        case {"kind": "ClauseEquals", "equals": str(wanted)}:
            return wanted.lower() == name.lower()
        case {"kind": "ClauseOr", "or_": list(parts)}:
            return any(names_exactly(part, name) for part in parts)
        case _:
            return False


def matches(clause: dict[str, Any], name: str) -> bool:
    """genai-prices' own matching, used only to fill what is missing."""
    name = name.lower()
    match clause:
        case {"kind": "ClauseEquals", "equals": str(text)}:
            return name == text.lower()
        case {"kind": "ClauseStartsWith", "starts_with": str(text)}:
            return name.startswith(text.lower())
        case {"kind": "ClauseEndsWith", "ends_with": str(text)}:
            return name.endswith(text.lower())
        case {"kind": "ClauseContains", "contains": str(text)}:
            return text.lower() in name
        case {"kind": "ClauseRegex", "regex": str(text)}:
            return re.search(text, name) is not None
        case {"kind": "ClauseOr", "or_": list(parts)}:
            return any(matches(part, name) for part in parts)
        case {"kind": "ClauseAnd", "and_": list(parts)}:
            return all(matches(part, name) for part in parts)
        case _:
            raise ValueError(f"unknown match clause {clause}")
