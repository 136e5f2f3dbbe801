"""waypost models: what the catalogue knows, one line a model. Decides how facts are shown; knows none of them."""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from msgspec.structs import asdict

from waypost.catalog.load import Catalog
from waypost.core.types import NUSD_PER_USD, ModelCard

HELP = "list models with context, limits, prices and capabilities"
EXAMPLE = "waypost models sonnet --capability tools --max-input-price 3"

UNKNOWN = "unknown"
HEADINGS = ("model", "context", "output", "$in/M", "$cached", "$out/M", "can", "as of")
LETTERS = {  # the column "can", so that a line fits 100 columns
    "tools": "t",
    "json_schema": "s",
    "vision": "v",
    "audio": "a",
    "pdf": "d",
    "reasoning": "r",
    "prefill": "p",
    "web_search": "w",
}
LEGEND = "can: " + " ".join(f"{letter}={name}" for name, letter in LETTERS.items()) + "; $ per million tokens"
CAPABILITIES = (*LETTERS, "json_object")
NAME_WIDTH = 30  # at least; longer names push their line, none is cut: a cut name cannot be copied


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("filter", nargs="*", help="words that the name must contain, all of them")
    parser.add_argument("--provider", metavar="NAME", help="models of this provider only (aliases work: bedrock, google, ...)")
    parser.add_argument(
        "--capability", metavar="NAME", action="append", default=[], choices=CAPABILITIES, help=f"{', '.join(CAPABILITIES)}. {LEGEND}"
    )
    parser.add_argument("--max-input-price", metavar="USD", type=_price, help="at most this many USD per million input tokens")
    parser.add_argument("--json", action="store_true", help="one JSON object a line: every fact with source and date")
    parser.add_argument("--count", action="store_true", help="count models and providers, and those with context and price")


def run(args: argparse.Namespace) -> int:
    """0: something was printed; 1: nothing matches; 2: no such provider."""
    try:
        return _run(args, Catalog.load())
    except BrokenPipeError:  # `waypost models | head`: not an error, and nothing more to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(args: argparse.Namespace, catalog: Catalog) -> int:
    if args.provider is not None and catalog.provider(args.provider) is None:
        known = ", ".join(sorted(card.name for card in catalog.providers()))
        print(f"waypost models: no provider {args.provider!r}; known: {known}", file=sys.stderr)
        return 2
    found = chosen(
        catalog.models(args.provider), words=args.filter, capabilities=args.capability, max_input_nusd_per_mtok=args.max_input_price
    )
    if args.count:
        print(counted(found, catalog))
    elif not found:
        print(_nothing(args, catalog), file=sys.stderr)
    elif args.json:
        sys.stdout.writelines(json.dumps(facts(card)) + "\n" for card in found)
    else:
        watched = sys.stdout.isatty()  # a pipe gets one line a model and nothing else
        lines = table(found, columns=shutil.get_terminal_size((100, 24)).columns if watched else 100)
        sys.stdout.writelines(line + "\n" for line in ([*lines, LEGEND] if watched else lines[1:]))
    sys.stdout.flush()
    return 0 if found else 1


def chosen(
    cards: Iterable[ModelCard], *, words: Sequence[str], capabilities: Sequence[str], max_input_nusd_per_mtok: int | None
) -> list[ModelCard]:
    """The cards that pass every filter. An unknown price passes no price filter."""
    wanted, lowered = frozenset(capabilities), [word.lower() for word in words]

    def passes(card: ModelCard) -> bool:
        price = card.price.input_nusd_per_mtok
        return (
            wanted <= card.capabilities
            and (max_input_nusd_per_mtok is None or (price is not None and price <= max_input_nusd_per_mtok))
            and all(word in card.name.lower() for word in lowered)
        )

    return [card for card in cards if passes(card)]


def counted(cards: Sequence[ModelCard], catalog: Catalog) -> str:
    full = [card for card in cards if card.context_tokens is not None and card.price.input_nusd_per_mtok is not None]
    sources = ", ".join(f"{name} {source.version} ({source.date})" for name, source in catalog.header.sources.items())
    return (
        f"{len(cards)} models of {_providers(cards)} providers\n"
        f"{len(full)} models of {_providers(full)} providers with context and price\n"
        f"{len(catalog.providers())} providers known; data: {sources}"
    )


def _providers(cards: Sequence[ModelCard]) -> int:
    return len({card.provider for card in cards})


def table(cards: Sequence[ModelCard], *, columns: int) -> list[str]:
    """Aligned lines of at most `columns` characters wherever the name leaves room, heading first."""
    rows = [HEADINGS, *(_cells(card) for card in cards)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(HEADINGS))]
    rest = sum(widths[1:]) + 2 * len(widths[1:])
    widths[0] = min(widths[0], max(NAME_WIDTH, columns - rest))
    return [_line(row, widths) for row in rows]


def _line(row: tuple[str, ...], widths: Sequence[int]) -> str:
    return "  ".join(_aligned(cell, width, at) for at, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()


def _aligned(cell: str, width: int, at: int) -> str:
    return cell.ljust(width) if at in (0, 6, 7) else cell.rjust(width)


def _cells(card: ModelCard) -> tuple[str, ...]:
    price = card.price
    known = price.input_nusd_per_mtok is not None
    return (
        card.name,
        tokens(card.context_tokens),
        tokens(card.max_output_tokens),
        usd(price.input_nusd_per_mtok) or UNKNOWN,
        usd(price.cached_input_nusd_per_mtok) or ("-" if known else UNKNOWN),
        usd(price.output_nusd_per_mtok) or ("-" if known and card.mode in ("embedding", "rerank") else UNKNOWN),
        _can(card),
        card.as_of,
    )


def _can(card: ModelCard) -> str:
    if card.mode != "chat":
        return card.mode
    return "".join(letter for name, letter in LETTERS.items() if name in card.capabilities) or "-"


def tokens(count: int | None) -> str:
    """Exact where it is short, else in thousands or millions: 8192, 128k, 1.05M."""
    if count is None:
        return UNKNOWN
    if count < 10_000:
        return str(count)
    return f"{count / 1000:.0f}k" if count < 1_000_000 else f"{count / 1_000_000:.3g}M"


def usd(nusd: int | None) -> str:
    """Dollars with two to four decimals, exact below a hundredth of a cent; "" when unknown. `--json` has every digit."""
    if nusd is None:
        return ""
    exact = Decimal(nusd) / NUSD_PER_USD
    shown = exact.quantize(Decimal("0.0001")) if nusd >= NUSD_PER_USD // 10_000 else exact
    whole, _, decimals = f"{shown:f}".partition(".")
    return f"{whole}.{decimals.rstrip('0'):0<2}"


def facts(card: ModelCard) -> dict[str, Any]:
    prices = asdict(card.price) | {"steps": [asdict(step) for step in card.price.steps]}
    return asdict(card) | {"price": prices, "capabilities": sorted(card.capabilities)}


def _price(text: str) -> int:
    try:
        amount = Decimal(text)
        if 0 <= amount <= 1_000_000_000:
            return int(amount * NUSD_PER_USD)
    except ArithmeticError:  # no number, or NaN compared
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not an amount in USD, such as 0.5")


def _nothing(args: argparse.Namespace, catalog: Catalog) -> str:
    near = catalog.nearest("-".join(args.filter)) if args.filter else ()
    hint = f"nearest names: {', '.join(near)}" if near else "drop a filter, or see `waypost models --count`"
    return f"waypost models: nothing matches; {hint}"
