"""Memory: the reference semantics of journal and ledger, in plain lists; the double that tests use.

Whatever the durable ledger answers, this one answers too: one contract suite (tests/adapters) runs on both. It forgets
everything when the process ends, so it is no store for production. Percentiles interpolate linearly, as SQLite's percentile() does.
"""

from collections import defaultdict
from collections.abc import Iterator
from math import floor
from typing import Literal, get_args

from msgspec import Struct
from msgspec.structs import replace

from waypost.core.types import Attempt, Decision

By = Literal["all", "model", "provider", "segment", "key", "route"]
GROUPINGS: tuple[By, ...] = get_args(By)

# Latency is that of answers a provider gave: not of failures (they flatter or frighten), not of cache hits (they flatter).
ANSWERED = frozenset({"ok", "length_cut"})
ERRORS = frozenset({"failed", "interrupted"})


class Total(Struct, frozen=True):
    """One line of a report. `requests` counts each request once per line, however many attempts it made there."""

    label: str
    requests: int = 0
    attempts: int = 0
    errors: int = 0  # attempts that failed or were interrupted
    unknown_prices: int = 0  # attempts whose cost is unknown: not in cost_nusd, never counted as zero
    estimated: int = 0  # attempts whose usage the provider did not report, or reported impossibly
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    cost_nusd: int = 0
    ttft_p50_ms: float | None = None
    ttft_p99_ms: float | None = None
    total_p50_ms: float | None = None
    total_p99_ms: float | None = None


def interrupted(attempt: Attempt, cost_nusd: int | None) -> Attempt:
    """The row of an attempt whose worker died: the provider may bill it, so it costs `cost_nusd` and is labelled an estimate."""
    return replace(attempt, outcome="interrupted", usage=replace(attempt.usage, source="estimated"), cost_nusd=cost_nusd)


class MemoryLedger:
    """Implements `ports.Journal` and the ledger's queries."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, int], tuple[Attempt, int | None]] = {}
        self._rows: dict[tuple[str, int], Attempt] = {}
        self._decisions: dict[str, Decision] = {}

    def opened(self, attempt: Attempt, worst_case_nusd: int | None) -> None:
        self._open[attempt.request_id, attempt.attempt] = (attempt, worst_case_nusd)

    def received(self, attempt: Attempt) -> None:
        if (attempt.request_id, attempt.attempt) in self._open:
            self._open[attempt.request_id, attempt.attempt] = (attempt, attempt.cost_nusd)

    def settled(self, attempt: Attempt, decision: Decision | None) -> None:
        self._open.pop((attempt.request_id, attempt.attempt), None)
        self._rows.setdefault((attempt.request_id, attempt.attempt), attempt)
        if decision is not None:
            self._decisions.setdefault(attempt.request_id, decision)

    def close(self) -> None:
        """What is still open is interrupted, as after a crash."""
        for attempt, cost_nusd in list(self._open.values()):
            self.settled(interrupted(attempt, cost_nusd), None)

    def attempts(self, *, since_ms: int = 0) -> Iterator[Attempt]:
        """Oldest first."""
        rows = (row for row in self._rows.values() if row.at_ms >= since_ms)
        yield from sorted(rows, key=lambda row: (row.at_ms, row.request_id, row.attempt))

    def totals(self, by: By = "all", *, since_ms: int = 0) -> list[Total]:
        """Dearest first, then by label."""
        groups: dict[str, list[Attempt]] = defaultdict(list)
        for row in self.attempts(since_ms=since_ms):
            groups["" if by == "all" else str(getattr(row, by))].append(row)
        lines = [_total(label, rows) for label, rows in groups.items()]
        return sorted(lines, key=lambda line: (-line.cost_nusd, line.label))

    def spent(self, key: str, since_ms: int) -> int:
        """Known cost of all attempts of `key` dispatched at or after `since_ms`."""
        return sum(row.cost_nusd or 0 for row in self.attempts(since_ms=since_ms) if row.key == key)

    def decision(self, request_id: str) -> Decision | None:
        return self._decisions.get(request_id)


def _total(label: str, rows: list[Attempt]) -> Total:
    answered = [row for row in rows if row.outcome in ANSWERED]
    ttft = sorted(row.ttft_ms for row in answered if row.ttft_ms is not None)
    total = sorted(row.total_ms for row in answered)
    return Total(
        label=label,
        requests=len({row.request_id for row in rows}),
        attempts=len(rows),
        errors=sum(row.outcome in ERRORS for row in rows),
        unknown_prices=sum(row.cost_nusd is None for row in rows),
        estimated=sum(row.usage.source != "reported" for row in rows),
        input_tokens=sum(row.usage.input_tokens for row in rows),
        cached_tokens=sum(row.usage.cached_tokens for row in rows),
        output_tokens=sum(row.usage.output_tokens for row in rows),
        cost_nusd=sum(row.cost_nusd or 0 for row in rows),
        ttft_p50_ms=percentile(ttft, 50),
        ttft_p99_ms=percentile(ttft, 99),
        total_p50_ms=percentile(total, 50),
        total_p99_ms=percentile(total, 99),
    )


def percentile(ascending: list[float], share: float) -> float | None:
    """`share` in percent, interpolated linearly between neighbours; None of nothing."""
    if not ascending:
        return None
    place = (len(ascending) - 1) * share / 100
    low = floor(place)
    if low + 1 >= len(ascending):
        return ascending[-1]
    return ascending[low] + (ascending[low + 1] - ascending[low]) * (place - low)
