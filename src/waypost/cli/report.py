"""waypost report: cost, tokens and latency from the ledger, and its rows one by one.

Reads only, beside a running gateway or after a dead one: rows that are still in the journal are laid over the table, so the figures are
whole right after kill -9. Of the configuration it reads nothing but `storage.url`, so a broken one does not hide the bill.
"""

import argparse
import csv
import json
import sys
import time
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TextIO

import apsw
from msgspec.structs import asdict

from waypost.adapters.memory import GROUPINGS, By, Total
from waypost.adapters.segments import pending
from waypost.adapters.sqlite import LedgerError, SqliteLedger, database_path
from waypost.core.types import NUSD_PER_USD, Attempt

HELP = "cost, tokens and latency by model, provider and segment"
EXAMPLE = "waypost report --since 24h --by model"

DEFAULT_GROUPINGS: tuple[By, ...] = ("model", "provider", "segment")
ATTEMPT_COLUMNS = (
    *("request_id", "attempt", "at", "key", "segment", "route", "model", "provider", "outcome"),
    *("input_tokens", "cached_tokens", "output_tokens", "usage_source", "cost_nusd", "ttft_ms", "total_ms"),
)
Cell = str | int | float | None


def arguments(parser: argparse.ArgumentParser) -> None:
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--db", metavar="FILE", type=Path, help="the ledger (default: storage.url of the configuration, else waypost.db)")
    place.add_argument(
        "--config", metavar="FILE", type=Path, help="configuration that names the ledger (default: waypost.toml if there is one)"
    )
    parser.add_argument("--format", choices=("table", "json", "csv"), default="table")
    parser.add_argument("--attempts", action="store_true", help="one row per attempt instead of sums")
    parser.add_argument("--by", choices=GROUPINGS[1:], help="one table by this (default: model, provider and segment)")
    parser.add_argument("--since", metavar="WHEN", default="", help="30m, 24h, 7d, or an ISO 8601 time (UTC unless it says otherwise)")


def run(args: argparse.Namespace) -> int:
    """0: printed, if only that there is nothing; 1: no ledger to read."""
    try:
        path = args.db or _configured(args.config)
        since_ms = _since_ms(args.since, now_ms=time.time_ns() // 1_000_000)
        unfed = pending(path)  # before the ledger: see there
        ledger = SqliteLedger(path, read_only=True)
    except (LedgerError, ValueError, OSError, apsw.Error) as error:
        print(f"waypost report: {error}", file=sys.stderr)
        if isinstance(error, LedgerError):
            print("Name the ledger by --db FILE, or start `waypost serve` and send a request.", file=sys.stderr)
        return 1
    try:
        ledger.overlay(unfed)
        if args.attempts:
            _print_attempts(ledger.attempts(since_ms=since_ms), args.format, sys.stdout)
        else:
            groupings: tuple[By, ...] = (args.by,) if args.by else DEFAULT_GROUPINGS
            total = next(iter(ledger.totals(since_ms=since_ms)), Total(""))
            sums: dict[By, list[Total]] = {by: ledger.totals(by, since_ms=since_ms) for by in groupings}
            _SUMS_AS[args.format](total, sums, str(path))
    finally:
        ledger.close()
    return 0


def _configured(config: Path | None) -> Path:
    file = config or Path("waypost.toml")
    if config is None and not file.exists():
        return Path("waypost.db")
    try:
        url = tomllib.loads(file.read_text(encoding="utf-8")).get("storage", {}).get("url", "sqlite:waypost.db")
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{file}: {error}") from error
    return database_path(str(url))


def _since_ms(since: str, *, now_ms: int) -> int:
    if not since:
        return 0
    units = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
    if since[:-1].isdecimal() and since[-1] in units:
        return now_ms - timedelta(**{units[since[-1]]: int(since[:-1])}) // timedelta(milliseconds=1)
    try:
        moment = datetime.fromisoformat(since)
    except ValueError:
        raise ValueError(f"--since {since!r} is no time; write 30m, 24h, 7d or 2026-11-01T08:00") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


# --- sums ------------------------------------------------------------------------------------------------------------


def _sums_as_tables(total: Total, sums: dict[By, list[Total]], path: str) -> None:
    if not total.attempts:
        print(f"The ledger {path} has no attempts in this period. Send a request through the gateway, or widen --since.")
        return
    print(_summary(total))
    for by, lines in sums.items():
        print()
        _print_table([by.upper(), *_SUM_HEADINGS], [[line.label or "(none)", *_sum_cells(line)] for line in lines], left=1, out=sys.stdout)


_SUM_HEADINGS = ("COST", "REQUESTS", "ATTEMPTS", "ERRORS", "INPUT", "CACHED", "OUTPUT", "TTFT P50", "P99", "TOTAL P50", "P99")


def _sum_cells(line: Total) -> list[str]:
    cost = _cost(line)
    counts = (line.requests, line.attempts, line.errors, line.input_tokens, line.cached_tokens, line.output_tokens)
    times = (line.ttft_p50_ms, line.ttft_p99_ms, line.total_p50_ms, line.total_p99_ms)
    return [cost, *(f"{count:,}" for count in counts), *map(_time, times)]


def _cost(line: Total) -> str:
    """An unknown price is never shown as zero: `unknown`, or what is known and how many attempts are missing from it."""
    if not line.unknown_prices:
        return dollars(line.cost_nusd)
    if line.unknown_prices == line.attempts:
        return "unknown"
    return f"{dollars(line.cost_nusd)} + {line.unknown_prices:,} unknown"


def _summary(total: Total) -> str:
    parts = [
        f"{_cost(total)} for {total.requests:,} requests, {total.attempts:,} attempts, {total.errors:,} errors",
        f"{total.input_tokens:,} input tokens ({total.cached_tokens:,} cached), {total.output_tokens:,} output tokens",
    ]
    if total.ttft_p50_ms is not None:
        parts.append(f"first token p50 {_time(total.ttft_p50_ms)}, p99 {_time(total.ttft_p99_ms)}")
    if total.total_p50_ms is not None:
        parts.append(f"whole answer p50 {_time(total.total_p50_ms)}, p99 {_time(total.total_p99_ms)}")
    if total.estimated:
        parts.append(f"usage estimated for {total.estimated:,} attempts ({100 * total.estimated / total.attempts:.1f} %)")
    if total.unknown_prices:
        parts.append(f"price unknown for {total.unknown_prices:,} attempts: set it under [[models]] in the configuration")
    return "\n".join(parts)


def _sums_as_json(total: Total, sums: dict[By, list[Total]], path: str) -> None:
    document: dict[str, Any] = {"database": path, "total": asdict(total)}
    document |= {f"by_{by}": [asdict(line) for line in lines] for by, lines in sums.items()}
    print(json.dumps(document, indent=2))


def _sums_as_csv(total: Total, sums: dict[By, list[Total]], path: str) -> None:
    del path
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["by", *Total.__struct_fields__])
    for by, lines in {"all": [total], **sums}.items():
        writer.writerows([by, *asdict(line).values()] for line in lines)


_SUMS_AS = {"table": _sums_as_tables, "json": _sums_as_json, "csv": _sums_as_csv}


# --- attempts --------------------------------------------------------------------------------------------------------


def _print_attempts(attempts: Iterator[Attempt], form: str, out: TextIO) -> None:
    rows = map(_attempt_cells, attempts)
    match form:
        case "csv":
            writer = csv.writer(out, lineterminator="\n")
            writer.writerow(ATTEMPT_COLUMNS)
            writer.writerows(rows)
        case "json":
            opening = "[\n"
            for row in rows:
                out.write(opening + json.dumps(dict(zip(ATTEMPT_COLUMNS, row, strict=True))))
                opening = ",\n"
            out.write("[]\n" if opening == "[\n" else "\n]\n")
        case _:
            cells = [
                ["unknown" if cell is None and name == "cost_nusd" else cell for name, cell in zip(ATTEMPT_COLUMNS, row, strict=True)]
                for row in rows
            ]
            if not cells:
                out.write("No attempts in this period.\n")
                return
            _print_table(ATTEMPT_COLUMNS, cells, left=9, out=out)


def _attempt_cells(row: Attempt) -> list[Cell]:
    """In the order of ATTEMPT_COLUMNS. `cost_nusd` is empty when the price is unknown."""
    u = row.usage
    return [
        *(row.request_id, row.attempt, _iso(row.at_ms), row.key, row.segment, row.route, row.model, row.provider, row.outcome),
        *(u.input_tokens, u.cached_tokens, u.output_tokens, u.source, row.cost_nusd),
        *(None if row.ttft_ms is None else round(row.ttft_ms, 3), round(row.total_ms, 3)),
    ]


# --- how things are written ------------------------------------------------------------------------------------------


def _print_table(headings: Sequence[str], rows: Iterable[Sequence[Cell]], *, left: int, out: TextIO) -> None:
    """The first `left` columns begin at their left edge, numbers end at their right."""
    lines = [list(headings), *([_plain(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (
            f"{cell:<{width}}" if place < left else f"{cell:>{width}}" for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        out.write("  ".join(cells).rstrip() + "\n")


def _plain(cell: Cell) -> str:
    """Segments come from callers: no escape sequence of theirs may reach a terminal."""
    text = "" if cell is None else str(cell)
    return text if text.isprintable() else "".join(letter if letter.isprintable() else "?" for letter in text)


def dollars(nusd: int) -> str:
    """Cents from a dollar upward, else to the micro-dollar, rounded half up; integers all the way."""
    unit, digits = (10_000_000, 2) if abs(nusd) >= NUSD_PER_USD else (1_000, 6)
    steps = (abs(nusd) + unit // 2) // unit
    whole, part = divmod(steps, 10**digits)
    return f"{'-' if nusd < 0 else ''}${whole:,}.{part:0{digits}d}"


def _time(ms: float | None) -> str:
    if ms is None:
        return "-"
    return f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:.2f} s"


def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
