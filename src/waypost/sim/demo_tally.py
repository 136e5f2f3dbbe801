"""Tally: the demo's numbers, all of them taken from Outcomes, from what callers heard, from the ledger and from the simulator's bill.

Nothing is estimated here. Amounts are integer nano-dollars; the comparison prices the same tokens at the frontier's price.
"""

from collections import Counter, deque
from collections.abc import Iterable

from msgspec import Struct

from waypost.core import price
from waypost.core.types import Attempt, Outcome, Price
from waypost.sim.demo_caller import Heard
from waypost.sim.records import Record

LATEST = 5000  # first tokens that p50 and p99 are taken from: more than a story has
RECENT_S = 10.0  # the window of the rates and quantiles shown per model


class Seen(Struct, frozen=True):
    """One attempt, as the moving window needs it."""

    at_s: float
    ok: bool
    ttft_ms: float | None


class Served:
    """What one deployment did."""

    __slots__ = ("cost_nusd", "failed", "ok", "recent")

    def __init__(self) -> None:
        self.cost_nusd = self.failed = self.ok = 0
        self.recent: deque[Seen] = deque()

    def window(self, now_s: float) -> list[Seen]:
        while self.recent and self.recent[0].at_s < now_s - RECENT_S:
            self.recent.popleft()
        return list(self.recent)


class Tally:
    """`observe` takes Outcomes, `hear` what callers got."""

    def __init__(self, models: Iterable[str], frontier: Price) -> None:
        self.served = {name: Served() for name in models}
        self.frontier = frontier
        self.failovers = self.hedges = 0
        self.cost_nusd = self.frontier_nusd = self.tokens = 0
        self.heard: Counter[str] = Counter()
        self.troubles: Counter[str] = Counter()  # of callers who got nothing
        self.ttfts_s: deque[float] = deque(maxlen=LATEST)

    def observe(self, outcome: Outcome, now_s: float) -> None:
        self.failovers += failed_over(outcome)
        self.hedges += any(a.outcome == "hedge_lost" for a in outcome.attempts)
        for attempt in outcome.attempts:
            self._attempt(attempt, now_s)

    def _attempt(self, attempt: Attempt, now_s: float) -> None:
        served = self.served.setdefault(attempt.model, Served())
        ok = attempt.outcome == "ok"
        served.ok += ok
        served.failed += attempt.outcome == "failed"
        served.recent.append(Seen(now_s, ok, attempt.ttft_ms if attempt.stream else None))
        served.cost_nusd += attempt.cost_nusd or 0
        self.cost_nusd += attempt.cost_nusd or 0
        self.frontier_nusd += price.cost(attempt.usage, self.frontier) or 0
        self.tokens += attempt.usage.input_tokens + attempt.usage.output_tokens

    def hear(self, heard: Heard) -> None:
        self.heard[heard.verdict] += 1
        if heard.verdict in ("refused", "broken"):
            self.troubles[heard.error] += 1
        if heard.ttft_s is not None:
            self.ttfts_s.append(heard.ttft_s)

    @property
    def silent(self) -> int:
        return self.heard["silent"]


def failed_over(outcome: Outcome) -> bool:
    """Somebody failed and somebody else answered."""
    return any(a.outcome == "failed" for a in outcome.attempts) and any(a.outcome == "ok" for a in outcome.attempts)


def quantile(values: Iterable[float], q: float) -> float | None:
    """Nearest rank; None of nothing."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(q * len(ranked)))] if ranked else None


# --- the ledger against the bill -----------------------------------------------------------------------------------------


class Broken(Struct, frozen=True):
    """Sums of attempts that ended before the provider reported usage: cut streams, hedges that lost."""

    attempts: int
    prompt_tokens: int
    output_tokens: int


class Check(Struct, frozen=True):
    """Tokens by our ledger and by the providers' own count. What is `broken` was estimated, and is compared apart."""

    ledger_tokens: int
    billed_tokens: int
    unknown_rows: int  # in the ledger, but no provider generated such an answer
    unpaid_answers: int  # generated, but the ledger has no row for them
    broken: Broken  # as the ledger has it
    truth: Broken  # as the simulator generated and sent it

    @property
    def is_exact(self) -> bool:
        return self.ledger_tokens == self.billed_tokens and not self.unknown_rows and not self.unpaid_answers


def check(ledger: Iterable[Attempt], bill: Iterable[Record]) -> Check:
    """Each row with reported usage must have its answer, by provider and to the token; of the rest only the simulator knows the truth."""
    rows = [row for row in ledger if row.usage.input_tokens + row.usage.output_tokens]
    reported = [(row.provider, row.usage.input_tokens, row.usage.output_tokens) for row in rows if row.usage.source == "reported"]
    estimated = [row.usage for row in rows if row.usage.source != "reported"]
    unmatched = Counter(reported)
    rest: list[Record] = []
    billed_tokens = 0
    for record in bill:
        if not record.is_billed:
            continue
        place = (record.provider, record.prompt_tokens, record.output_tokens)
        if unmatched[place]:
            unmatched[place] -= 1
            billed_tokens += record.prompt_tokens + record.output_tokens
        else:
            rest.append(record)
    unpaid = max(0, len(rest) - len(estimated))
    return Check(
        ledger_tokens=sum(prompt + output for _, prompt, output in reported),
        billed_tokens=billed_tokens,
        unknown_rows=unmatched.total(),
        unpaid_answers=unpaid,
        broken=Broken(len(estimated), sum(u.input_tokens for u in estimated), sum(u.output_tokens for u in estimated)),
        truth=Broken(len(rest), sum(r.prompt_tokens for r in rest), sum(r.output_tokens for r in rest)),
    )
