"""Health keeps three memories apart, holds exactly, grows and forgives, and spends within its budgets."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypost.core.health import Health, HealthPolicy, Quantiles, Standing, Tally, Target
from waypost.core.types import Failure, Fault

MIDDLE = 0.5  # a draw that leaves every jittered time as it is


def target(policy: HealthPolicy | None = None) -> Target:
    return Health(policy).target("lab/small", "lab:0")


def fault(kind: Fault, **fields: object) -> Failure:
    return Failure(fault=kind, message="test", **fields)  # type: ignore[arg-type]


def strike(t: Target, now_s: float, times: int = 1, kind: Fault = Fault.SERVER) -> None:
    for _ in range(times):
        t.failed(now_s, fault(kind), MIDDLE)


def succeed(t: Target, now_s: float, ttft_s: float = 0.1, duration_s: float = 0.2) -> None:
    t.succeeded(now_s, ttft_s, 10, duration_s, 0)


# --- the box -----------------------------------------------------------------------------------------------------------


def test_three_consecutive_strikes_open_the_circuit():
    t = target()
    strike(t, 1.0, 2)
    assert t.standing(1.0) is Standing.READY
    strike(t, 1.0)
    assert t.standing(1.0) is Standing.OPEN


def test_a_success_between_strikes_starts_the_count_again():
    t = target(HealthPolicy(window_min=1000))
    for at in range(6):
        strike(t, at, 2)
        succeed(t, at)
    assert t.standing(6.0) is Standing.READY


def test_two_timeouts_open_the_circuit_because_each_weighs_two():
    t = target()
    strike(t, 1.0, 2, Fault.TIMEOUT)
    assert t.standing(1.0) is Standing.OPEN


def test_a_poor_share_of_the_window_opens_the_circuit_without_three_in_a_row():
    t = target()
    for at in range(4):
        succeed(t, at)
        strike(t, at, 2)
        if t.standing(at) is Standing.OPEN:
            break
    assert t.standing(4.0) is Standing.OPEN


def test_strikes_older_than_the_window_do_not_count_in_the_share():
    t = target()
    for at in range(10):
        succeed(t, at * 40.0)
        strike(t, at * 40.0, 2)  # two of three fail, but no 30 s ever hold five requests
    assert t.standing(400.0) is Standing.READY


def test_open_times_double_up_to_the_cap():
    t = target()
    now_s, lengths = 0.0, []
    strike(t, now_s, 3)
    for _ in range(7):
        length = (t.until_s(now_s) or 0.0) - now_s
        lengths.append(round(length, 6))
        now_s += length
        assert t.standing(now_s) is Standing.PROBE
        strike(t, now_s)  # the probe fails
    assert lengths == [5, 10, 20, 40, 80, 120, 120]


@pytest.mark.parametrize(("draw", "length_s"), [(0.0, 4.0), (0.5, 5.0), (1.0, 6.0)])
def test_open_time_is_jittered_by_a_fifth(draw: float, length_s: float):
    t = target()
    for _ in range(3):
        t.failed(0.0, fault(Fault.SERVER), draw)
    assert t.until_s(0.0) == pytest.approx(length_s)


def test_one_probe_at_a_time_and_a_lost_one_expires():
    t = target()
    strike(t, 0.0, 3)
    assert t.standing(4.99) is Standing.OPEN
    assert t.standing(5.0) is Standing.PROBE
    t.claim_probe(5.0)
    assert t.standing(5.0) is Standing.OPEN
    assert t.standing(64.9) is Standing.OPEN
    assert t.standing(65.0) is Standing.PROBE


def test_a_probe_without_verdict_is_given_back_but_not_another_ones():
    t = target()
    strike(t, 0.0, 3)
    old = t.claim_probe(5.0)
    new = t.claim_probe(70.0)
    t.release_probe(old)
    assert t.standing(70.0) is Standing.OPEN
    t.release_probe(new)
    assert t.standing(70.0) is Standing.PROBE


def test_a_success_closes_the_circuit():
    t = target()
    strike(t, 0.0, 3)
    succeed(t, 6.0)
    assert t.standing(6.0) is Standing.READY


def test_news_of_attempts_from_before_the_spell_change_nothing():
    t = target()
    strike(t, 10.0, 3)
    until_s = t.until_s(10.0)
    t.failed(16.0, fault(Fault.SERVER), MIDDLE, began_s=9.0)
    t.succeeded(16.0, 0.1, 10, 8.0, 0)  # began at 8
    assert t.circuit.until_s == until_s
    assert t.circuit.out


def test_failures_of_attempts_from_before_the_recovery_are_history():
    t = target()
    strike(t, 0.0, 3)
    succeed(t, 6.0)
    for _ in range(10):
        t.failed(7.0, fault(Fault.SERVER), MIDDLE, began_s=1.0)
    assert t.standing(7.0) is Standing.READY


def test_ejections_are_forgiven_by_time_in_service():
    t = target()
    strike(t, 0.0, 3)
    strike(t, 5.0)  # second spell, 10 s
    succeed(t, 16.0)
    strike(t, 16.0 + 3600.0, 3)
    assert (t.until_s(3616.0) or 0) - 3616.0 == pytest.approx(5.0)


def test_a_clock_cut_by_the_callers_deadline_is_no_strike():
    t = target()
    for _ in range(20):
        t.failed(1.0, fault(Fault.TIMEOUT, deadline_bound=True), MIDDLE)
    assert t.standing(1.0) is Standing.READY
    assert t.throttle == t.policy.throttle_tokens


@pytest.mark.parametrize("kind", [Fault.BAD_REQUEST, Fault.CONTEXT_LENGTH, Fault.CONTENT_FILTER, Fault.CANCELLED])
def test_the_callers_own_faults_teach_health_nothing(kind: Fault):
    t = target()
    strike(t, 1.0, 20, kind)
    assert t.standing(1.0) is Standing.READY
    assert t.throttle == t.policy.throttle_tokens


# --- the credential ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Fault.AUTH, Fault.QUOTA_EXHAUSTED])
def test_a_dead_key_is_dead_for_all_its_deployments_and_no_other(kind: Fault):
    health = Health()
    small, large, other = health.target("lab/small", "lab:0"), health.target("lab/large", "lab:0"), health.target("lab/small", "lab:1")
    strike(small, 1.0, 1, kind)
    assert small.standing(1.0) is Standing.DEAD
    assert large.standing(1.0) is Standing.DEAD
    assert other.standing(1.0) is Standing.READY
    assert large.view(1.0).alarm
    assert large.why(1.0) == f"credential: {kind.value}"


def test_a_dead_key_is_probed_after_a_minute_then_after_two_and_recovers():
    t = target()
    strike(t, 0.0, 1, Fault.AUTH)
    assert t.standing(59.9) is Standing.DEAD
    assert t.standing(60.0) is Standing.PROBE
    strike(t, 60.0, 1, Fault.AUTH)
    assert t.standing(179.9) is Standing.DEAD
    assert t.standing(180.0) is Standing.PROBE
    succeed(t, 181.0)
    assert t.standing(181.0) is Standing.READY
    assert not t.view(181.0).alarm


def test_a_burst_of_401_from_one_moment_is_one_spell():
    t = target()
    strike(t, 0.0, 50, Fault.AUTH)
    assert t.until_s(0.0) == pytest.approx(60.0)


def test_a_dead_key_does_not_strike_the_box():
    t = target()
    strike(t, 0.0, 10, Fault.AUTH)
    assert not t.circuit.out


def test_a_gone_model_is_out_for_a_minute_and_its_neighbours_are_not():
    health = Health()
    gone, there = health.target("lab/small", "lab:0"), health.target("lab/large", "lab:0")
    strike(gone, 0.0, 1, Fault.MODEL_UNAVAILABLE)
    assert gone.standing(59.0) is Standing.OPEN
    assert gone.standing(60.0) is Standing.PROBE
    assert there.standing(0.0) is Standing.READY


# --- patience ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked_s", [0.02, 2.0, 17.5, 3600.0])
def test_retry_after_is_held_exactly(asked_s: float):
    t = target()
    t.failed(100.0, fault(Fault.RATE_LIMITED, retry_after_s=asked_s), 0.9)
    assert t.standing(math.nextafter(100.0 + asked_s, 0)) is Standing.HELD
    assert t.standing(100.0 + asked_s) is Standing.READY
    assert not t.circuit.out


def test_a_shorter_hold_never_shortens_a_longer_one():
    t = target()
    t.failed(0.0, fault(Fault.RATE_LIMITED, retry_after_s=30.0), MIDDLE)
    t.failed(1.0, fault(Fault.RATE_LIMITED, retry_after_s=2.0), MIDDLE)
    t.failed(1.0, fault(Fault.RATE_LIMITED), MIDDLE)
    assert t.until_s(1.0) == 30.0


def test_a_stated_hold_never_shortens_a_longer_guess():
    t = target()
    for now_s in (0.0, 1.0, 3.0, 7.0, 15.0):
        t.failed(now_s, fault(Fault.RATE_LIMITED), MIDDLE)
    t.failed(16.0, fault(Fault.RATE_LIMITED, retry_after_s=1.0), MIDDLE)
    assert t.until_s(16.0) == 31.0


def test_more_than_an_hour_of_patience_is_an_empty_account():
    t = target()
    t.failed(0.0, fault(Fault.RATE_LIMITED, retry_after_s=86_400.0), MIDDLE)
    assert t.standing(1.0) is Standing.DEAD
    assert t.until_s(1.0) == 3600.0


@pytest.mark.parametrize("said", [None, 0.0, -3.0])
def test_without_a_usable_retry_after_the_hold_is_a_growing_guess(said: float | None):
    t = target()
    now_s, lengths = 0.0, []
    for _ in range(7):
        t.failed(now_s, fault(Fault.RATE_LIMITED, retry_after_s=said), MIDDLE)
        t.failed(now_s, fault(Fault.RATE_LIMITED, retry_after_s=said), MIDDLE)  # same burst, same news
        lengths.append((t.until_s(now_s) or 0.0) - now_s)
        now_s += lengths[-1]
    assert lengths == pytest.approx([1, 2, 4, 8, 16, 30, 30])
    assert t.asked_until_s == -math.inf


def test_a_503_with_retry_after_strikes_and_holds():
    t = target()
    t.failed(0.0, fault(Fault.OVERLOADED, retry_after_s=7.0), MIDDLE)
    assert t.standing(6.9) is Standing.HELD
    assert t.standing(7.0) is Standing.READY


@given(st.lists(st.tuples(st.floats(0, 50), st.one_of(st.none(), st.floats(0.001, 3600))), max_size=30))
def test_no_sequence_of_refusals_ends_a_stated_hold_early(refusals: list[tuple[float, float | None]]):
    t = target()
    now_s, stated_s = 0.0, 0.0
    for wait_s, asked_s in refusals:
        now_s += wait_s
        t.failed(now_s, fault(Fault.RATE_LIMITED, retry_after_s=asked_s), MIDDLE)
        stated_s = max(stated_s, now_s + asked_s) if asked_s else stated_s
        assert now_s >= stated_s or t.standing(now_s) is Standing.HELD
    assert t.standing(max(now_s, stated_s) + 60.0) is Standing.READY


# --- bounds and budgets ------------------------------------------------------------------------------------------------


def test_permits_are_bounded_and_come_back():
    t = target(HealthPolicy(in_flight=3))
    assert [t.take() for _ in range(4)] == [True, True, True, False]
    t.give()
    assert t.take()


def test_refusals_lower_the_limit_once_a_second_down_to_one_and_successes_raise_it():
    t = target(HealthPolicy(in_flight=64))
    for _ in range(50):
        t.failed(10.0, fault(Fault.RATE_LIMITED), MIDDLE)
    first = t.limit
    assert 1.0 < first < 64.0
    for at in range(200):
        t.failed(20.0 + at, fault(Fault.RATE_LIMITED), MIDDLE)
    assert t.limit == 1.0
    assert t.take()
    t.give()
    for _ in range(3000):
        succeed(t, 300.0)
    assert t.limit == 64.0


def test_the_throttle_stops_repeats_when_most_fail_and_successes_earn_them_back():
    health = Health()
    t = health.target("lab/small", "lab:0")
    strike(t, 0.0, 5)
    assert not health.may_repeat(t)
    succeed(t, 10.0)
    assert health.may_repeat(t)  # 5.1 tokens


@given(
    st.lists(st.tuples(st.floats(0, 2), st.integers(0, 2), st.integers(0, 6)), max_size=120),
    st.floats(0.0, 0.5),
)
def test_retries_stay_within_share_plus_floor(steps: list[tuple[float, int, int]], ratio: float):
    health = Health()
    targets = [health.target(f"lab/{i}", "lab:0") for i in range(3)]
    now_s, requests, paid = 0.0, 0, 0
    for wait_s, which, wanted in steps:
        now_s += wait_s
        health.request(now_s)
        requests += 1
        paid += sum(health.take_retry(targets[which], now_s, ratio) for _ in range(wanted))
    assert requests + paid <= health.attempts_bound(requests, now_s, 3, ratio)


def test_the_share_is_not_spent_twice_within_one_window():
    health = Health(HealthPolicy(retry_floor_per_s=0.0))
    t = health.target("lab/small", "lab:0")
    for _ in range(100):
        health.request(100.0)
    assert sum(health.take_retry(t, 100.0, 0.2) for _ in range(50)) == 20
    assert not health.take_retry(t, 105.5, 0.2)


def test_the_floor_saves_up_ten_a_second_for_one_window_where_there_is_no_traffic_to_share():
    health = Health()
    t = health.target("lab/small", "lab:0")
    assert sum(health.take_retry(t, 100.0, 0.2) for _ in range(150)) == 100
    assert sum(health.take_retry(t, 101.0, 0.2) for _ in range(50)) == 10


def test_hedges_have_a_share_and_no_floor():
    health = Health()
    assert not health.take_hedge(0.0, 0.05)
    for _ in range(100):
        health.request(0.0)
    assert sum(health.take_hedge(0.0, 0.05) for _ in range(100)) == 5


def test_a_tally_forgets_after_its_window():
    tally = Tally(10.0)
    tally.add(100.0, 4, 1)
    tally.add(106.0, 0, 0)
    assert tally.a + tally.old_a == 4
    tally.add(111.0, 0, 0)
    assert tally.a + tally.old_a == 0


# --- latency -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0.002, 100.0), min_size=1, max_size=300), st.sampled_from([0.0, 0.5, 0.9, 0.95, 0.99, 1.0]))
def test_quantiles_are_within_five_percent(values: list[float], q: float):
    histogram = Quantiles()
    for value in values:
        histogram.add(1.0, value)
    exact = sorted(values)[max(0, math.ceil(q * len(values)) - 1)]
    assert histogram.quantile(q) == pytest.approx(exact, rel=0.051)


def test_old_samples_fade():
    histogram = Quantiles()
    for _ in range(100):
        histogram.add(1.0, 10.0)
    for _ in range(100):
        histogram.add(3001.0, 0.1)
    assert histogram.quantile(0.9) == pytest.approx(0.1, rel=0.051)


def test_a_peak_is_believed_at_once_and_a_recovery_slowly():
    t = target()
    succeed(t, 0.0, 0.2)
    succeed(t, 1.0, 4.0)
    assert t.ttft_s(0) == pytest.approx(4.0)
    succeed(t, 2.0, 0.2)
    assert 3.0 < t.ttft_s(0) < 4.0
    for at in range(60):
        succeed(t, 3.0 + at, 0.2)
    assert t.ttft_s(0) == pytest.approx(0.2, rel=0.1)


def test_first_token_times_are_compared_for_the_same_prompt():
    t = target()
    t.succeeded(1.0, 2.0, 10, 3.0, 4000)
    assert t.ttft_s(0) == pytest.approx(1.0)
    assert t.ttft_s(12_000) == pytest.approx(4.0)


def test_load_counts_those_in_flight_and_a_slow_past_fades():
    t = target()
    succeed(t, 0.0, 20.0, 21.0)
    idle = t.load(0.0)
    t.take()
    assert t.load(0.0) == pytest.approx(2 * idle)
    assert t.load(120.0) < 2.1


def test_no_hedge_delay_before_enough_was_seen():
    t = target()
    for _ in range(19):
        succeed(t, 1.0, 0.3)
    assert t.hedge_delay_s(0.95) is None
    succeed(t, 1.0, 0.3)
    assert t.hedge_delay_s(0.95) == pytest.approx(0.3, rel=0.051)


def test_an_overtaken_attempt_is_slow_but_not_struck():
    t = target()
    t.lost(5.0, 5.0, 0.0, MIDDLE, 0)
    assert t.ttft_s(0) == pytest.approx(5.0)
    assert t.standing(5.0) is Standing.READY


def test_an_overtaken_probe_has_failed():
    t = target()
    strike(t, 0.0, 3)
    claim = t.claim_probe(5.0)
    t.lost(7.0, 2.0, claim, MIDDLE, 0)
    assert t.until_s(7.0) == pytest.approx(17.0)


def test_the_snapshot_says_why():
    health = Health()
    strike(health.target("lab/small", "lab:0"), 0.0, 3)
    health.target("lab/large", "lab:0").failed(0.0, fault(Fault.RATE_LIMITED, retry_after_s=9.0), MIDDLE)
    small, large = health.snapshot(1.0)
    assert (small.standing, small.why, small.until_s) == ("open", "server", 5.0)
    assert (large.standing, large.why, large.until_s) == ("held", "asked for patience", 9.0)


def test_targets_not_kept_are_forgotten():
    health = Health()
    kept = health.target("lab/small", "lab:0")
    health.target("lab/large", "lab:1")
    health.keep([("lab/small", "lab:0")])
    assert [view.deployment for view in health.snapshot(0.0)] == ["lab/small"]
    assert health.target("lab/small", "lab:0") is kept
