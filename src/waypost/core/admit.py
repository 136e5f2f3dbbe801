"""Admit: may this key's request be sent now? Rates, budgets and concurrency, taken together or not at all.

Pure but for its own state: time comes in as `now_s` (monotonic, for rates) and `wall_ms` (Unix, for budget windows only). One owner,
no lock: a worker's event loop, or whoever leases shares to it. Everything is reserved at its worst case before the call and settled at
its true size after it, so that many requests at once cannot slip past a limit together: reserved + settled never exceeds it.

Rates are the generic cell rate algorithm (ITU-T I.371), kept as a debt that drains evenly, in whole numbers: refunds are exact. An idle
key may spend one minute's allowance at once; from then on it gets its limit per minute, evenly.

Refusals follow OpenAI's API, whose SDKs know them: 429 with `rate_limit_exceeded` (wait) or with `insufficient_quota` (waiting will not
help; the edge adds `x-should-retry: false`). 402 would be truer for a spent budget, but no OpenAI client understands it.
"""

from math import inf
from typing import Literal

from msgspec import Struct

from waypost.core.faults import Refused
from waypost.core.types import NUSD_PER_USD, Usage

Per = Literal["total", "day", "week", "month"]

_NS = 1_000_000_000
_MINUTE_NS = 60 * _NS
_DAY_MS = 86_400_000
_WEEK_MS = 7 * _DAY_MS
_MONDAY_MS = 4 * _DAY_MS  # 1970-01-05, the first Monday
# In-flight requests hold what a new one would need; they settle within seconds, when is not known here.
_SOON_S = 1.0

_HEADER_NAMES = {
    what: (b"x-ratelimit-limit-" + what, b"x-ratelimit-remaining-" + what, b"x-ratelimit-reset-" + what)
    for what in (b"requests", b"tokens")
}


class Bucket:
    """A rate per minute. Amounts are whole requests or tokens."""

    __slots__ = ("_at_ns", "_debt", "_limit_text", "_most", "_per_ms", "limit")

    def __init__(self, limit: int) -> None:
        """Starts with a full minute's allowance. `limit` > 0 per minute."""
        self.limit = limit
        self._limit_text = b"%d" % limit
        self._debt = 0  # in amounts x _MINUTE_NS; drains by `limit` each nanosecond
        self._most = limit * _MINUTE_NS
        self._per_ms = limit * 1_000_000
        self._at_ns = 0

    def fits(self, ask: int, now_s: float) -> bool:
        """Changes nothing but the clock's hand."""
        self._drain(now_s)
        return self._debt + ask * _MINUTE_NS <= self._most

    def take(self, ask: int) -> None:
        """What just fitted."""
        self._debt += ask * _MINUTE_NS

    def wait_s(self, ask: int) -> float:
        """Of what just did not fit: the seconds until it would; infinite when it never will."""
        return inf if ask > self.limit else (self._debt + ask * _MINUTE_NS - self._most) / self.limit / _NS

    def reserve(self, ask: int, now_s: float) -> float | None:
        """Take `ask` and return None, or change nothing and return the seconds to wait (infinite when it never fits)."""
        if not self.fits(ask, now_s):
            return self.wait_s(ask)
        self.take(ask)
        return None

    def settle(self, reserved: int, actual: int) -> None:
        """Refund or charge the difference. A charge may go past the limit; then later asks wait for it."""
        debt = self._debt + (actual - reserved) * _MINUTE_NS
        self._debt = debt if debt > 0 else 0

    def remaining(self, now_s: float) -> int:
        self._drain(now_s)
        return max(0, self.limit - -(-self._debt // _MINUTE_NS))

    def headers(self, what: bytes) -> list[tuple[bytes, bytes]]:
        limit_name, left_name, reset_name = _HEADER_NAMES[what]
        debt = self._debt
        left = (self._most - debt) // _MINUTE_NS
        reset_ms = -(-debt // self._per_ms)
        return [(limit_name, self._limit_text), (left_name, b"%d" % left if left > 0 else b"0"), (reset_name, _duration(reset_ms))]

    def full_s(self, now_s: float) -> float:
        """Seconds until the whole allowance is there again."""
        self._drain(now_s)
        return self._debt / self.limit / _NS

    def _drain(self, now_s: float) -> None:
        now_ns = int(now_s * _NS)
        if now_ns > self._at_ns:  # a clock that steps back drains nothing, and nothing twice
            debt = self._debt - (now_ns - self._at_ns) * self.limit
            self._debt = debt if debt > 0 else 0
            self._at_ns = now_ns


class Budget:
    """Money per calendar window (UTC; weeks begin on Monday), in nano-dollars.

    A hold belongs to the window in which it was taken, as its ledger row does (`at_ms` is the time of dispatch): what settles after
    midnight is yesterday's. Windows only go forward: a wall clock that steps back reopens nothing.
    """

    __slots__ = ("_ends_ms", "limit_nusd", "per", "reserved_nusd", "spent_nusd", "starts_ms")

    def __init__(self, limit_nusd: int, *, per: Per, wall_ms: int, spent_nusd: int = 0) -> None:
        """`spent_nusd`: what the ledger holds since `window(per, wall_ms)[0]`."""
        self.limit_nusd = limit_nusd
        self.per: Per = per
        self.spent_nusd = spent_nusd
        self.reserved_nusd = 0
        self.starts_ms, self._ends_ms = window(per, wall_ms)

    def turn(self, wall_ms: int) -> None:
        """Open the next window if its time has come."""
        if self._ends_ms is not None and wall_ms >= self._ends_ms:
            self.starts_ms, self._ends_ms = window(self.per, wall_ms)
            self.spent_nusd = self.reserved_nusd = 0

    def fits(self, ask_nusd: int) -> bool:
        return self.spent_nusd + self.reserved_nusd + ask_nusd <= self.limit_nusd

    def reserve(self, ask_nusd: int, wall_ms: int) -> bool:
        """Take `ask_nusd` for the window of `wall_ms`, or change nothing and say False."""
        if self._ends_ms is not None and wall_ms >= self._ends_ms:
            self.turn(wall_ms)
        if self.spent_nusd + self.reserved_nusd + ask_nusd > self.limit_nusd:
            return False
        self.reserved_nusd += ask_nusd
        return True

    def settle(self, reserved_nusd: int, actual_nusd: int, starts_ms: int) -> None:
        """Replace a reservation made in the window that began at `starts_ms` by the truth.

        The truth may exceed the reservation (a provider ignored max_tokens); it is booked all the same, and the next ask is refused.
        """
        if starts_ms == self.starts_ms:
            self.reserved_nusd -= reserved_nusd
            self.spent_nusd += actual_nusd

    def ends_in_s(self, wall_ms: int) -> float | None:
        """Seconds until the window ends; None: never."""
        return None if self._ends_ms is None else max(0, self._ends_ms - wall_ms) / 1000


def window(per: Per, wall_ms: int) -> tuple[int, int | None]:
    """Start and end in Unix milliseconds of the UTC calendar window that holds `wall_ms`; `total` never ends."""
    if per == "total":
        return 0, None
    if per == "day":
        start = wall_ms - wall_ms % _DAY_MS
        return start, start + _DAY_MS
    if per == "week":
        start = wall_ms - (wall_ms - _MONDAY_MS) % _WEEK_MS
        return start, start + _WEEK_MS
    months = _months_before(wall_ms // _DAY_MS)
    return _first_day(months) * _DAY_MS, _first_day(months + 1) * _DAY_MS


# Months are counted from March of year 0, so that the leap day ends a year and month lengths follow a line. After Howard Hinnant,
# "chrono-Compatible Low-Level Date Algorithms"; `datetime` is not for the core, which has no clock.
_EPOCH_DAY = 719_468  # days from 0000-03-01 to 1970-01-01


def _months_before(day: int) -> int:
    """The month that holds `day` (days since 1970-01-01)."""
    era, of_era = divmod(day + _EPOCH_DAY, 146_097)
    year = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    return (era * 400 + year) * 12 + (5 * of_year + 2) // 153


def _first_day(months: int) -> int:
    """The first day of a month, in days since 1970-01-01."""
    year, month = divmod(months, 12)
    return 365 * year + year // 4 - year // 100 + year // 400 + (153 * month + 2) // 5 - _EPOCH_DAY


class Hold(Struct):
    """What one admitted request holds until it is settled. Mutable: `is_open` turns False once."""

    tokens: int
    nusd: int
    budget_starts_ms: int
    is_open: bool = True


class State(Struct, frozen=True):
    """Where a key stands, for headers and pages. None: no such limit."""

    requests_limit: int | None
    requests_remaining: int | None
    requests_reset_s: float | None
    tokens_limit: int | None
    tokens_remaining: int | None
    tokens_reset_s: float | None
    budget_nusd: int | None
    spent_nusd: int | None
    reserved_nusd: int | None
    in_flight: int
    concurrency: int | None


class Account:
    """All limits of one key. Each may be absent."""

    __slots__ = ("_budget", "_concurrency", "_in_flight", "_requests", "_tokens", "name")

    def __init__(
        self,
        name: str,
        *,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        concurrency: int | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.name = name
        self._requests = None if requests_per_minute is None else Bucket(requests_per_minute)
        self._tokens = None if tokens_per_minute is None else Bucket(tokens_per_minute)
        self._concurrency = concurrency
        self._budget = budget
        self._in_flight = 0

    def admit(self, ask_tokens: int, worst_case_nusd: int | None, *, now_s: float, wall_ms: int) -> Hold:
        """Reserve the worst case of one request; every Hold must be settled once. O(1).

        Raises Refused, having changed nothing: the first limit that does not fit, its state, and when it will. `worst_case_nusd` None
        (price unknown) is refused only where there is a budget to keep.
        """
        requests, tokens, budget = self._requests, self._tokens, self._budget
        if self._concurrency is not None and self._in_flight >= self._concurrency:
            raise self._too_many_in_flight(self._concurrency)
        if requests is not None and not requests.fits(1, now_s):
            raise self._too_fast("requests", requests, 1, now_s)
        if tokens is not None and not tokens.fits(ask_tokens, now_s):
            raise self._too_fast("tokens", tokens, ask_tokens, now_s)
        if budget is not None:
            if worst_case_nusd is None:
                raise self._unknown_price()
            if not budget.reserve(worst_case_nusd, wall_ms):
                raise self._over_budget(budget, worst_case_nusd, wall_ms)
        if requests is not None:
            requests.take(1)
        if tokens is not None:
            tokens.take(ask_tokens)
        self._in_flight += 1
        return Hold(ask_tokens, worst_case_nusd or 0, 0 if budget is None else budget.starts_ms)

    def extend(self, hold: Hold, nusd: int | None, *, wall_ms: int) -> bool:
        """Reserve more for a request in flight: a retry, a hedge, a longer stream. False, having changed nothing, if it does not fit.

        A hold that is settled, or whose window has ended, is not extended: the cost would belong to no window that could be kept.
        """
        if self._budget is None:
            return True
        self._budget.turn(wall_ms)
        if nusd is None or not hold.is_open or hold.budget_starts_ms != self._budget.starts_ms or not self._budget.reserve(nusd, wall_ms):
            return False
        hold.nusd += nusd
        return True

    def settle(self, hold: Hold, usage: Usage | None, cost_nusd: int | None) -> None:
        """Replace the reservation by the truth. None (usage or cost not known) keeps the worst case. A second call does nothing.

        Nothing billed: `Usage()` and 0.
        """
        if not hold.is_open:
            return
        hold.is_open = False
        self._in_flight -= 1
        if self._tokens is not None and usage is not None:
            self._tokens.settle(hold.tokens, usage.input_tokens + usage.output_tokens)
        if self._budget is not None:
            self._budget.settle(hold.nusd, hold.nusd if cost_nusd is None else cost_nusd, hold.budget_starts_ms)

    def state(self, *, now_s: float, wall_ms: int) -> State:
        requests, tokens, budget = self._requests, self._tokens, self._budget
        if budget is not None:
            budget.turn(wall_ms)
        return State(
            requests_limit=requests and requests.limit,
            requests_remaining=requests and requests.remaining(now_s),
            requests_reset_s=requests and requests.full_s(now_s),
            tokens_limit=tokens and tokens.limit,
            tokens_remaining=tokens and tokens.remaining(now_s),
            tokens_reset_s=tokens and tokens.full_s(now_s),
            budget_nusd=budget and budget.limit_nusd,
            spent_nusd=budget and budget.spent_nusd,
            reserved_nusd=budget and budget.reserved_nusd,
            in_flight=self._in_flight,
            concurrency=self._concurrency,
        )

    def headers(self) -> list[tuple[bytes, bytes]]:
        """OpenAI's headers (platform.openai.com/docs/guides/rate-limits), as of the last admission, for the limits that exist."""
        headers: list[tuple[bytes, bytes]] = []
        if self._requests is not None:
            headers += self._requests.headers(b"requests")
        if self._tokens is not None:
            headers += self._tokens.headers(b"tokens")
        return headers

    # --- the refusals ------------------------------------------------------------------------------------------------

    def _too_many_in_flight(self, limit: int) -> Refused:
        message = f"Key {self.name!r} has {self._in_flight} requests in flight; its limit is {limit}. Wait for one to end."
        return Refused(429, "concurrency_limit_exceeded", message, error_type="rate_limit_exceeded", retry_after_s=_SOON_S)

    def _too_fast(self, what: str, bucket: Bucket, ask: int, now_s: float) -> Refused:
        code, wait_s = "rate_limit_exceeded", bucket.wait_s(ask)
        if wait_s == inf:
            message = (
                f"This request asks for {ask} {what}; key {self.name!r} may use {bucket.limit} a minute, so it can never fit. Ask for less."
            )
            return Refused(429, code, message, error_type=code)
        message = (
            f"Key {self.name!r} may use {bucket.limit} {what} a minute; {bucket.remaining(now_s)} are left and this request needs {ask}. "
            f"It will fit in {wait_s:.3g} s."
        )
        return Refused(429, code, message, error_type=code, retry_after_s=wait_s)

    def _unknown_price(self) -> Refused:
        message = f"Key {self.name!r} has a budget, and the price of the model is unknown. Ask for a model with a price, or configure one."
        return Refused(400, "unknown_price", message, param="model")

    def _over_budget(self, budget: Budget, ask_nusd: int, wall_ms: int) -> Refused:
        state = (
            f"Key {self.name!r} has a budget of {_usd(budget.limit_nusd)} ({budget.per}): {_usd(budget.spent_nusd)} spent, "
            f"{_usd(budget.reserved_nusd)} held by requests in flight; this one may cost {_usd(ask_nusd)}."
        )
        if budget.spent_nusd + ask_nusd <= budget.limit_nusd:
            message = f"{state} It may fit when those have ended."
            return Refused(429, "budget_held", message, error_type="rate_limit_exceeded", retry_after_s=_SOON_S)
        ends_in_s = budget.ends_in_s(wall_ms) if ask_nusd <= budget.limit_nusd else None
        hope = "It cannot fit." if ends_in_s is None else f"The budget is renewed in {ends_in_s:.0f} s."
        return Refused(429, "insufficient_quota", f"{state} {hope}", error_type="payment_required", retry_after_s=ends_in_s)


def _duration(ms: int) -> bytes:
    """As OpenAI writes it: 17ms, 1.2s, 6m0s."""
    if ms < 1000:
        return b"%dms" % ms
    if ms < 60_000:
        return b"%gs" % (ms / 1000)
    return b"%dm%ds" % divmod(ms // 1000, 60)


def _usd(nusd: int) -> str:
    """Exact to the nano-dollar, without trailing zeros beyond cents; integers only."""
    whole, part = divmod(abs(nusd), NUSD_PER_USD)
    digits = f"{part:09d}".rstrip("0").ljust(2, "0")
    return f"{'-' if nusd < 0 else ''}${whole}.{digits}"
