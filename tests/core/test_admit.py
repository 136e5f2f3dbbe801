from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypost.core.admit import Account, Bucket, Budget, Hold, window
from waypost.core.faults import Refused
from waypost.core.types import Usage

NOON_MS = 1_793_880_000_000  # 2026-11-05T12:00:00Z, a Thursday
DAY_MS = 86_400_000


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def budget(limit_nusd: int, per: str = "day", wall_ms: int = NOON_MS, **more: int) -> Budget:
    return Budget(limit_nusd, per=per, wall_ms=wall_ms, **more)  # type: ignore[arg-type]


def admit(account: Account, tokens: int = 10, nusd: int | None = 10, now_s: float = 0.0, wall_ms: int = NOON_MS) -> Hold:
    return account.admit(tokens, nusd, now_s=now_s, wall_ms=wall_ms)


# --- buckets ---------------------------------------------------------------------------------------------------------


def test_an_idle_bucket_gives_one_minutes_allowance_then_its_rate():
    bucket = Bucket(60)
    assert [bucket.reserve(1, 0.0) for _ in range(60)] == [None] * 60
    assert bucket.reserve(1, 0.0) == pytest.approx(1.0)
    assert bucket.reserve(1, 1.0) is None
    assert bucket.reserve(1, 1.0) == pytest.approx(1.0)


def test_a_refused_ask_takes_nothing():
    bucket = Bucket(100)
    assert bucket.reserve(60, 0.0) is None
    assert bucket.reserve(60, 0.0) == pytest.approx(12.0)
    assert bucket.remaining(0.0) == 40


def test_an_ask_over_the_limit_never_fits():
    assert Bucket(100).reserve(101, 0.0) == float("inf")


def test_an_overrun_is_waited_for():
    bucket = Bucket(60)
    bucket.reserve(10, 0.0)
    bucket.settle(10, 90)
    assert bucket.remaining(0.0) == 0
    assert bucket.reserve(1, 0.0) == pytest.approx(31.0)


def test_a_clock_that_steps_back_neither_drains_nor_drains_twice():
    bucket = Bucket(60)
    for _ in range(60):
        bucket.reserve(1, 100.0)
    assert bucket.remaining(40.0) == 0
    assert bucket.remaining(100.0) == 0
    assert bucket.remaining(101.0) == 1


@given(limit=st.integers(1, 10**6), spent=st.integers(0, 10**6), ask=st.integers(0, 10**6), at=st.floats(0, 10**6))
def test_a_refund_is_exact(limit: int, spent: int, ask: int, at: float):
    bucket = Bucket(limit)
    bucket.reserve(min(spent, limit), at)
    before = bucket.remaining(at)
    if bucket.reserve(ask, at) is None:
        bucket.settle(ask, 0)
    assert bucket.remaining(at) == before


@given(limit=st.integers(1, 500), asks=st.lists(st.tuples(st.integers(0, 600), st.floats(0, 20)), max_size=60))
def test_no_span_of_time_admits_more_than_the_allowance_and_its_refill(limit: int, asks: list[tuple[int, float]]):
    bucket, now, admitted = Bucket(limit), 0.0, list[tuple[float, int]]()
    for ask, step in asks:
        now += step
        if bucket.reserve(ask, now) is None:
            admitted.append((now, ask))
    for first in range(len(admitted)):
        taken = 0
        for at, ask in admitted[first:]:
            taken += ask
            assert taken <= limit + limit * (at - admitted[first][0]) / 60 + 1e-6


@given(limit=st.integers(1, 500), used=st.integers(0, 500), ask=st.integers(1, 500))
def test_waiting_as_told_is_enough(limit: int, used: int, ask: int):
    bucket = Bucket(limit)
    bucket.reserve(min(used, limit), 0.0)
    wait_s = bucket.reserve(ask, 0.0)
    if wait_s is not None and wait_s != float("inf"):
        assert bucket.reserve(ask, wait_s + 1e-6) is None


# --- budgets ---------------------------------------------------------------------------------------------------------

WINDOWS = [
    ("day", "2026-11-05T12:00", "2026-11-05", "2026-11-06"),
    ("week", "2026-11-05T12:00", "2026-11-02", "2026-11-09"),
    ("week", "2026-11-02T00:00", "2026-11-02", "2026-11-09"),
    ("week", "2026-11-01T23:59", "2026-10-26", "2026-11-02"),
    ("month", "2026-11-30T23:59", "2026-11-01", "2026-12-01"),
    ("month", "2026-12-01T00:00", "2026-12-01", "2027-01-01"),
    ("month", "2028-02-29T12:00", "2028-02-01", "2028-03-01"),
]


@pytest.mark.parametrize(("per", "at", "starts", "ends"), WINDOWS)
def test_windows_follow_the_utc_calendar(per: str, at: str, starts: str, ends: str):
    assert window(per, ms(at)) == (ms(starts), ms(ends))  # type: ignore[arg-type]


@given(at=st.datetimes(datetime(1970, 1, 1), datetime(2400, 1, 1)))
def test_months_are_those_of_the_calendar(at: datetime):
    first = at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    after = first.replace(year=at.year + at.month // 12, month=at.month % 12 + 1)
    assert window("month", ms(at.isoformat())) == (ms(first.isoformat()), ms(after.isoformat()))


def test_a_total_never_ends():
    assert window("total", NOON_MS) == (0, None)


def test_the_next_window_starts_afresh_and_yesterdays_hold_settles_yesterday():
    b = budget(100)
    assert b.reserve(80, NOON_MS)
    starts = b.starts_ms
    assert b.reserve(100, NOON_MS + DAY_MS)
    b.settle(80, 80, starts)
    assert (b.spent_nusd, b.reserved_nusd) == (0, 100)


def test_a_wall_clock_that_steps_back_reopens_nothing():
    b = budget(100)
    b.reserve(100, NOON_MS + DAY_MS)
    assert not b.reserve(1, NOON_MS)
    assert not b.reserve(1, NOON_MS + DAY_MS)


def test_what_the_ledger_holds_counts_from_the_start():
    assert not budget(100, spent_nusd=95).reserve(6, NOON_MS)
    assert budget(100, spent_nusd=95).reserve(5, NOON_MS)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(("admit", "extend", "settle", "settle_again", "later")),
        st.integers(0, 60),
        st.integers(0, 100),
        st.integers(0, 2 * DAY_MS),
    ),
    max_size=80,
)


@given(limit=st.integers(0, 150), steps=STEPS, per=st.sampled_from(("total", "day", "week", "month")))
def test_reserved_and_settled_never_exceed_the_budget_under_any_interleaving(limit: int, steps: list[tuple[str, int, int, int]], per: str):
    b = budget(limit, per)
    account, wall_ms = Account("k", budget=b, concurrency=7), NOON_MS
    holds, paid = list[tuple[Hold, int]](), dict[int, int]()
    for step, nusd, share, later_ms in steps:
        if step == "admit":
            try:
                holds.append((admit(account, nusd=nusd, wall_ms=wall_ms), nusd))
            except Refused:
                pass
        elif step == "extend" and holds:
            hold, reserved = holds.pop(share % len(holds))
            holds.append((hold, reserved + nusd if account.extend(hold, nusd, wall_ms=wall_ms) else reserved))
        elif step == "later":
            wall_ms += later_ms - DAY_MS // 2  # sometimes backwards
        elif holds:
            hold, reserved = holds[share % len(holds)] if step == "settle_again" else holds.pop(share % len(holds))
            if hold.is_open:
                cost = reserved * share // 100
                paid[hold.budget_starts_ms] = paid.get(hold.budget_starts_ms, 0) + cost
                account.settle(hold, Usage(), cost)
        assert b.spent_nusd + b.reserved_nusd <= limit
        assert b.spent_nusd == paid.get(b.starts_ms, 0)
        assert b.reserved_nusd == sum(n for hold, n in holds if hold.is_open and hold.budget_starts_ms == b.starts_ms)
        assert all(total <= limit for total in paid.values())


# --- accounts --------------------------------------------------------------------------------------------------------


def test_a_key_without_limits_is_admitted():
    account = Account("k")
    account.settle(admit(account, nusd=None), None, None)
    assert account.headers() == []


def account_at_its(limit: str) -> Account:
    """One whose named limit is used up, all others wide open."""
    limits = {"requests_per_minute": 600, "tokens_per_minute": 6000, "concurrency": 50, "budget": budget(1000)}
    tight = {"requests_per_minute": 1, "tokens_per_minute": 10, "concurrency": 1, "budget": budget(10)}
    account = Account("k", **(limits | {limit: tight[limit]}))  # type: ignore[arg-type]
    admit(account)
    return account


REFUSALS = [
    ("requests_per_minute", 429, "rate_limit_exceeded", 60.0),
    ("tokens_per_minute", 429, "rate_limit_exceeded", 60.0),
    ("concurrency", 429, "concurrency_limit_exceeded", 1.0),
    ("budget", 429, "budget_held", 1.0),
]


@pytest.mark.parametrize(("limit", "status", "code", "retry_after_s"), REFUSALS)
def test_a_refusal_says_which_limit_and_when_and_takes_nothing(limit: str, status: int, code: str, retry_after_s: float):
    account = account_at_its(limit)
    before = account.state(now_s=0.0, wall_ms=NOON_MS)
    with pytest.raises(Refused, match="Key 'k'") as refused:
        admit(account)
    assert (refused.value.status, refused.value.code, refused.value.retry_after_s) == (status, code, pytest.approx(retry_after_s))
    assert account.state(now_s=0.0, wall_ms=NOON_MS) == before


def test_a_spent_budget_is_insufficient_quota_until_its_window_ends():
    account = Account("k", budget=budget(100))
    account.settle(admit(account, nusd=100), Usage(), 95)
    with pytest.raises(Refused, match=r"0\.000000095 spent") as refused:
        admit(account, nusd=6)
    assert (refused.value.code, refused.value.retry_after_s) == ("insufficient_quota", 43_200.0)


def test_a_spent_total_budget_gives_no_hope():
    account = Account("k", budget=budget(100, "total", spent_nusd=100))
    with pytest.raises(Refused, match="It cannot fit") as refused:
        admit(account, nusd=1)
    assert refused.value.retry_after_s is None


def test_an_unknown_price_is_refused_only_where_there_is_a_budget():
    with pytest.raises(Refused) as refused:
        admit(Account("k", budget=budget(100)), nusd=None)
    assert (refused.value.status, refused.value.code) == (400, "unknown_price")


def test_settling_twice_refunds_once():
    account = Account("k", tokens_per_minute=100, budget=budget(100))
    hold = admit(account, tokens=80, nusd=80)
    for _ in range(2):
        account.settle(hold, Usage(input_tokens=10, output_tokens=20), 30)
    state = account.state(now_s=0.0, wall_ms=NOON_MS)
    assert (state.tokens_remaining, state.spent_nusd, state.reserved_nusd, state.in_flight) == (70, 30, 0, 0)


def test_what_is_not_known_is_settled_at_its_worst_case():
    account = Account("k", tokens_per_minute=100, budget=budget(100))
    account.settle(admit(account, tokens=80, nusd=80), None, None)
    state = account.state(now_s=0.0, wall_ms=NOON_MS)
    assert (state.tokens_remaining, state.spent_nusd) == (20, 80)


def test_a_retry_extends_its_hold_as_far_as_the_budget_goes():
    account = Account("k", budget=budget(100))
    hold = admit(account, nusd=60)
    assert account.extend(hold, 40, wall_ms=NOON_MS)
    assert not account.extend(hold, 1, wall_ms=NOON_MS)
    assert not account.extend(hold, None, wall_ms=NOON_MS)
    account.settle(hold, Usage(), 90)
    state = account.state(now_s=0.0, wall_ms=NOON_MS)
    assert (state.spent_nusd, state.reserved_nusd) == (90, 0)


def test_a_hold_of_yesterday_is_not_extended():
    account = Account("k", budget=budget(100))
    hold = admit(account, nusd=10)
    assert not account.extend(hold, 1, wall_ms=NOON_MS + DAY_MS)


def test_headers_are_written_as_openai_writes_them():
    account = Account("k", requests_per_minute=60, tokens_per_minute=600)
    admit(account, tokens=600)
    assert dict(account.headers()) == {
        b"x-ratelimit-limit-requests": b"60",
        b"x-ratelimit-remaining-requests": b"59",
        b"x-ratelimit-reset-requests": b"1s",
        b"x-ratelimit-limit-tokens": b"600",
        b"x-ratelimit-remaining-tokens": b"0",
        b"x-ratelimit-reset-tokens": b"1m0s",
    }
