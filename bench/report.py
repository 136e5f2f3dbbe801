"""Report: from the runs of one session to figures, ratios to nginx, and a verdict on each target. Pure.

A ratio is the median, over the repeats, of Waypost / nginx within one repeat: what slows the machine slows both.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from memory import Held, Start

Run = Mapping[str, float]  # one scenario of one target in one repeat
Repeat = Mapping[str, Mapping[str, Run]]  # target -> scenario -> Run
TARGETS = ("direct", "nginx", "waypost")


@dataclass(frozen=True)
class Row:
    """One line of the table. `figures`: direct, nginx, waypost; `judged` is compared with `limit` (at most)."""

    name: str
    unit: str
    figures: tuple[float | None, float | None, float | None]
    judged: float | None = None
    judged_as: str = ""  # "x nginx", "ms over nginx", or the unit
    limit: float | None = None
    is_wrong: bool = False  # answers were wrong or the load was not what it should be, so the figure says nothing

    @property
    def verdict(self) -> str:
        if self.is_wrong:
            return "VOID"
        if self.limit is None:
            return ""
        if self.judged is None:
            return "not measured"
        return "reached" if self.judged <= self.limit else "MISSED"


@dataclass(frozen=True)
class Measure:
    """Where a figure is found and how it is judged."""

    name: str
    unit: str
    scenario: str
    of: Callable[[Run], float]
    added: bool = False  # judged by the difference to nginx, in ms, instead of the ratio
    limit: float | None = None


MEASURES = (
    Measure("requests per second, 64 connections", "", "max", lambda r: r["rps"]),
    Measure("CPU per request, 64 connections", "µs", "max", lambda r: r["us_per_request"], limit=3.5),
    Measure("CPU per chunk, 512 paced streams", "µs", "paced512", lambda r: r["us_per_event"], limit=1.5),
    Measure("chunks per second, 512 paced streams", "", "paced512", lambda r: r["events_per_s"]),
    Measure("a stream of 980 ms took, 512 streams (p50)", "ms", "paced512", lambda r: r["p50"] / 1000),
    Measure("latency p50, 1 connection", "ms", "c1", lambda r: r["p50"] / 1000, added=True, limit=0.3),
    Measure("latency p99, 1 connection", "ms", "c1", lambda r: r["p99"] / 1000, added=True),
    Measure("time to first event p50, 1 stream", "ms", "ttft", lambda r: r["ttft_p50"] / 1000, added=True),
    Measure("time to first text p50, 1 stream", "ms", "ttft", lambda r: r["second_p50"] / 1000, added=True),
)


def middle(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def compare(measure: Measure, repeats: Sequence[Repeat]) -> Row:
    def of(repeat: Repeat, target: str) -> float | None:
        run = repeat.get(target, {}).get(measure.scenario)
        return measure.of(run) if run and run["ok"] else None

    figures = [middle([v for r in repeats if (v := of(r, name)) is not None]) for name in TARGETS]
    pairs = [(ours, theirs) for r in repeats if (ours := of(r, "waypost")) is not None and (theirs := of(r, "nginx"))]
    judged = middle([ours - theirs if measure.added else ours / theirs for ours, theirs in pairs])
    return Row(
        measure.name,
        measure.unit,
        (figures[0], figures[1], figures[2]),
        judged=judged,
        judged_as="ms over nginx" if measure.added else "x nginx",
        limit=measure.limit,
        is_wrong=any(run["is_wrong"] for r in repeats for runs in r.values() if (run := runs.get(measure.scenario))),
    )


def rows(repeats: Sequence[Repeat], *, held: Mapping[str, Held], start: Start | None, import_ms: float | None) -> list[Row]:
    table = [compare(measure, repeats) for measure in MEASURES] if repeats else []

    def own(name: str, unit: str, value: float, *, limit: float | None = None, is_wrong: bool = False) -> None:
        table.append(Row(name, unit, (None, None, value), value, unit, limit, is_wrong))

    for key, title, limit in (("live", "live streams", 16), ("silent", "callers who never read", 256)):
        if key in held:
            own(f"memory each, {held[key].count:,} {title}", "KiB", held[key].kib_each, limit=limit, is_wrong=bool(held[key].problems))
    if import_ms is not None:
        own("CPU to import the gateway", "ms", import_ms, limit=150)
    if start is not None:
        own("CPU of `waypost serve` until it listens", "ms", start.cpu_ms)
        own("resident memory, idle", "MB", start.idle.rss_kib / 1024, limit=60)
        own("proportional memory (PSS), idle", "MB", start.idle.pss_kib / 1024)
    return table


# --- text -----------------------------------------------------------------------------------------------------------------

HEAD = ("", *TARGETS, "compared", "target", "verdict")


def number(value: float | None) -> str:
    if value is None:
        return "–"
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def cells(row: Row) -> tuple[str, ...]:
    name = f"{row.name}, {row.unit}" if row.unit else row.name
    is_own = row.figures[1] is None and row.judged_as not in ("x nginx", "ms over nginx")
    compared = "" if row.judged is None or is_own else f"{number(row.judged)} {row.judged_as}"
    target = "" if row.limit is None else f"<= {row.limit:g}" + ("" if not is_own else f" {row.unit}")
    return (name, *map(number, row.figures), compared, target, row.verdict)


def as_text(table: Sequence[Row]) -> str:
    lines = [HEAD, *map(cells, table)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in (0, 6) else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def as_markdown(table: Sequence[Row]) -> str:
    lines = [HEAD, ("---", *("--:",) * 5, "---"), *map(cells, table)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def as_record(table: Sequence[Row]) -> list[dict[str, Any]]:
    return [asdict(row) | {"verdict": row.verdict} for row in table]
