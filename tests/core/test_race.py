"""A race ends exactly once, never starts anything after the commit, stays within its bounds, and leaks no permit."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from waypost.core.faults import FAULTS
from waypost.core.health import Health, HealthPolicy, Standing
from waypost.core.race import Action, Cancel, Commit, Dispatch, GiveUp, Place, Race, RetryPolicy
from waypost.core.types import Failure, Fault, Leg, Plan

PLACES = {
    "a/m": Place("a:0", "rack-1", 8_000),
    "b/m": Place("b:0", "rack-1", 8_000),
    "c/m": Place("c:0", "rack-2", 32_000),
    "d/m": Place("d:0", "rack-3", None),
}


def leg(name: str, first_token_s: float = 10.0, idle_s: float = 20.0, hedge_after_s: float | None = None) -> Leg:
    return Leg(f"{name}/m", 2.0, first_token_s, idle_s, hedge_after_s)


class Table:
    """One health, many races: what a test needs to speak in short sentences."""

    def __init__(self, health: HealthPolicy | None = None, retry: RetryPolicy | None = None, draw: float = 0.5) -> None:
        self.health = Health(health)
        self.retry = retry or RetryPolicy()
        self.draw = draw

    def race(
        self, names: str = "ac", *, attempts: int = 3, total_s: float = 600.0, deadline_s: float | None = None, **fields: float
    ) -> Race:
        plan = Plan(tuple(leg(name, **fields) for name in names), total_s, attempts)
        return Race(plan, self.retry, self.health, PLACES, lambda: self.draw, started_s=0.0, deadline_s=deadline_s)

    def at(self, started_s: float, names: str = "ac", **fields: float) -> Race:
        plan = Plan(tuple(leg(name, **fields) for name in names), 600.0, 3)
        return Race(plan, self.retry, self.health, PLACES, lambda: self.draw, started_s=started_s)

    def target(self, name: str):
        return self.health.target(f"{name}/m", f"{name}:0")

    def break_open(self, name: str, now_s: float = 0.0, kind: Fault = Fault.SERVER) -> None:
        for _ in range(3):
            self.target(name).failed(now_s, fault(kind), 0.5)

    @property
    def in_flight(self) -> int:
        return sum(view.in_flight for view in self.health.snapshot(0.0))


def fault(kind: Fault, **fields: object) -> Failure:
    return Failure(fault=kind, message="test", **fields)  # type: ignore[arg-type]


def told(actions: Sequence[Action]) -> list[str]:
    """Actions as short words: `1>a` dispatch, `1!` commit, `1x why` cancel, `give up: fault`."""
    words: list[str] = []
    for action in actions:
        match action:
            case Dispatch(n, to):
                words.append(f"{n}>{to.deployment[0]}")
            case Commit(n):
                words.append(f"{n}!")
            case Cancel(n, why):
                words.append(f"{n}x {why}")
            case GiveUp(failure, committed):
                words.append(f"{'cut' if committed else 'give up'}: {failure.fault.value}")
    return words


# --- the straight line -------------------------------------------------------------------------------------------------


def test_a_happy_request_is_one_dispatch_and_one_commit():
    table = Table()
    race = table.race()
    assert told(race.begin(0.0)) == ["1>a"]
    assert told(race.headers(1, 0.1)) == []
    assert told(race.content(1, 0.5)) == ["1!"]
    assert told(race.content(1, 0.6)) == []
    assert told(race.complete(1, 3.0, 100)) == []
    assert race.ended and race.wake_at_s is None and race.attempts == 1
    assert table.in_flight == 0
    assert table.target("a").ttft_s(0) == pytest.approx(0.5)


def test_a_whole_answer_is_its_content_and_its_end_in_one():
    in_two, in_one = Table(), Table()
    policy = RetryPolicy(hedge=True, hedge_share=1.0)
    words: list[list[str]] = []
    for table, is_whole in ((in_two, False), (in_one, True)):
        table.retry = policy
        race = table.race(hedge_after_s=0.5)
        race.begin(0.0)
        race.tick(0.6)
        said = [] if is_whole else told(race.content(2, 0.9))
        words.append(said + told(race.complete(2, 0.9, 100, is_whole=is_whole)))
        assert race.ended and race.committed == 2
    assert words[0] == words[1] == ["2!", "1x hedge_lost"]
    assert in_two.health.snapshot(1.0) == in_one.health.snapshot(1.0)


def test_an_answer_without_content_commits_when_it_is_complete():
    race = Table().race()
    race.begin(0.0)
    assert told(race.complete(1, 1.0)) == ["1!"]
    assert race.ended


def test_events_after_the_end_are_ignored():
    race = Table().race()
    race.begin(0.0)
    race.complete(1, 1.0)
    assert [*race.content(1, 2.0), *race.complete(1, 2.0), *race.failed(1, fault(Fault.SERVER), 2.0), *race.tick(99.0)] == []
    assert not race.caller_left(99.0)


def test_a_caller_who_leaves_closes_everything_and_strikes_nobody():
    table = Table()
    race = table.race()
    race.begin(0.0)
    assert told(race.caller_left(0.2)) == ["1x caller_left"]
    assert race.ended and table.in_flight == 0
    assert table.target("a").throttle == 10.0


# --- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(Fault))
def test_each_fault_goes_where_the_table_says(kind: Fault):
    race = Table().race("ac")
    race.begin(0.0)
    words = told(race.failed(1, fault(kind), 0.1))
    expected = {"no": [f"give up: {kind.value}"], "yes": ["2>c"], "larger": ["2>c"]}  # c has the larger window
    assert words == expected[FAULTS[kind].elsewhere]


@pytest.mark.parametrize("kind", sorted(Fault))
def test_each_fault_is_repeated_on_a_lone_deployment_as_often_as_the_table_says(kind: Fault):
    race = Table(draw=0.0).race("a", attempts=9)
    actions, now_s, answered = list(race.begin(0.0)), 0.1, 0
    while not race.ended:
        if race.attempts > answered:
            answered = race.attempts
            actions += race.failed(answered, fault(kind), now_s)
        else:
            now_s = race.wake_at_s or now_s
            actions += race.tick(now_s)
    # A 429 may be repeated once its hold is over: that is patience, not persistence.
    allowed = 1 + max(FAULTS[kind].retry_same, kind is Fault.RATE_LIMITED)
    assert race.attempts == allowed
    assert told(actions)[-1] == f"give up: {kind.value}"


@pytest.mark.parametrize("kind", sorted(Fault))
def test_after_the_commit_every_fault_ends_the_race(kind: Fault):
    table = Table()
    race = table.race("ac")
    race.begin(0.0)
    race.content(1, 0.5)
    assert told(race.failed(1, fault(kind), 1.0)) == [f"cut: {kind.value}"]
    assert race.ended and table.in_flight == 0


def test_failover_is_immediate_and_prefers_another_failure_domain():
    race = Table().race("abc")
    race.begin(0.0)
    assert told(race.failed(1, fault(Fault.SERVER), 0.1)) == ["2>c"]
    assert told(race.failed(2, fault(Fault.SERVER), 0.2)) == ["3>b"]


def test_the_same_deployment_is_repeated_only_after_a_jittered_backoff():
    race = Table(draw=0.8).race("a")
    race.begin(0.0)
    assert told(race.failed(1, fault(Fault.SERVER), 1.0)) == []
    assert race.wake_at_s == pytest.approx(1.0 + 0.8 * 0.25)
    assert told(race.tick(1.1)) == []
    assert told(race.tick(race.wake_at_s)) == ["2>a"]
    assert told(race.failed(2, fault(Fault.SERVER), 1.3)) == ["give up: server"]


def test_a_connection_that_never_sent_a_byte_may_be_repeated_whatever_the_fault():
    race = Table(draw=0.0).race("a")
    race.begin(0.0)
    actions = race.failed(1, fault(Fault.TIMEOUT, phase="connect", sent=False), 2.0)
    assert told(actions) == ["2>a"]


def test_a_context_too_long_goes_only_to_windows_known_to_be_larger():
    race = Table().race("abdc")
    race.begin(0.0)
    assert told(race.failed(1, fault(Fault.CONTEXT_LENGTH), 0.1)) == ["2>c"]
    assert told(race.failed(2, fault(Fault.CONTEXT_LENGTH), 0.2)) == ["give up: context_length"]


def test_attempts_end_at_the_plans_bound():
    race = Table().race("acd", attempts=2)
    race.begin(0.0)
    race.failed(1, fault(Fault.SERVER), 0.1)
    assert told(race.failed(2, fault(Fault.TRANSPORT), 0.2)) == ["give up: server"]


def test_the_most_telling_failure_is_shown_with_the_earliest_retry():
    race = Table().race("acd")
    race.begin(0.0)
    race.failed(1, fault(Fault.TRANSPORT), 0.1)
    race.failed(2, fault(Fault.RATE_LIMITED, retry_after_s=40.0), 0.2)
    (last,) = race.failed(3, fault(Fault.OVERLOADED, retry_after_s=30.0), 0.3)
    assert isinstance(last, GiveUp)
    assert (last.failure.fault, last.failure.retry_after_s) == (Fault.RATE_LIMITED, 30.0)


# --- standing ----------------------------------------------------------------------------------------------------------


def test_an_open_circuit_orders_a_leg_last():
    table = Table()
    table.break_open("a")
    assert told(table.race("ac").begin(1.0)) == ["1>c"]


def test_an_open_circuit_never_makes_a_certain_error():
    table = Table()
    table.break_open("a")
    table.break_open("c")
    race = table.race("ac")
    assert told(race.begin(1.0)) == ["1>a"]
    race.content(1, 1.5)
    race.complete(1, 2.0)
    assert table.target("a").standing(2.0) is Standing.READY


def test_a_lone_open_deployment_is_dialled_once_per_request():
    table = Table()
    table.break_open("a")
    race = table.race("a")
    race.begin(1.0)
    assert told(race.failed(1, fault(Fault.TRANSPORT, sent=False), 1.0)) == ["give up: transport"]


def test_forced_dispatch_goes_to_the_one_that_does_not_ask_for_patience():
    table = Table()
    table.target("a").failed(0.0, fault(Fault.RATE_LIMITED, retry_after_s=5.0), 0.5)
    table.break_open("c")
    assert told(table.race("ac").begin(1.0)) == ["1>c"]


def test_a_request_waits_for_a_hold_that_ends_within_its_first_token_clock():
    table = Table(draw=0.0)
    table.target("a").failed(0.0, fault(Fault.RATE_LIMITED, retry_after_s=5.0), 0.5)
    race = table.race("a")
    assert told(race.begin(1.0)) == []
    assert race.wake_at_s == 5.0
    assert told(race.tick(5.0)) == ["1>a"]


def test_a_shorter_refusal_within_a_stated_hold_does_not_open_it():
    table = Table()
    table.target("a").failed(0.0, fault(Fault.RATE_LIMITED, retry_after_s=50.0), 0.5)
    table.target("a").failed(0.0, fault(Fault.RATE_LIMITED, retry_after_s=0.5), 0.5)
    assert told(table.at(1.0, "a").begin(1.0)) == ["give up: rate_limited"]


def test_two_legs_do_not_wait_for_each_others_backoff_when_repeats_are_too_dear():
    table = Table()
    for name in "ac":
        table.target(name).throttle = 5.0
    race = table.race("ac", attempts=3)
    race.begin(0.0)
    race.failed(1, fault(Fault.SERVER), 0.1)
    actions, ticks = list(race.failed(2, fault(Fault.SERVER), 0.1)), 0
    while not race.ended:
        actions, ticks = list(race.tick(race.wake_at_s or 0.0)), ticks + 1
    assert ticks <= 2 and race.attempts == 2
    assert told(actions) == ["give up: server"]


def test_a_longer_hold_is_answered_at_once_with_the_time_it_ends():
    table = Table()
    table.target("a").failed(0.0, fault(Fault.RATE_LIMITED, retry_after_s=50.0), 0.5)
    (last,) = table.race("a").begin(1.0)
    assert isinstance(last, GiveUp)
    assert (last.failure.fault, last.failure.code, last.failure.retry_after_s) == (Fault.RATE_LIMITED, "held", 49.0)


def test_a_patient_first_token_clock_does_not_lengthen_the_wait_for_a_hold():
    table = Table()
    table.target("a").failed(0.0, fault(Fault.RATE_LIMITED, retry_after_s=50.0), 0.5)
    assert told(table.race("a", first_token_s=180.0).begin(0.0)) == ["give up: rate_limited"]


def test_a_hold_that_is_only_our_guess_does_not_stop_a_request_that_has_no_other_leg():
    table = Table()
    for at in (0.0, 1.0, 3.0, 7.0, 15.0):
        table.target("a").failed(at, fault(Fault.RATE_LIMITED), 0.5)
    assert table.target("a").standing(15.0) is Standing.HELD
    assert told(table.at(15.0, "a").begin(15.0)) == ["1>a"]


def test_a_stated_hold_of_a_lone_deployment_is_waited_out_after_its_429():
    table = Table(draw=0.0)
    race = table.race("a")
    race.begin(0.0)
    assert told(race.failed(1, fault(Fault.RATE_LIMITED, retry_after_s=2.0), 0.1)) == []
    assert race.wake_at_s == pytest.approx(2.1)
    assert told(race.tick(2.1)) == ["2>a"]


def test_a_dead_credential_is_not_called_while_another_leg_is_possible():
    table = Table()
    table.target("a").failed(0.0, fault(Fault.AUTH, status=401), 0.5)
    assert told(table.race("ac").begin(1.0)) == ["1>c"]


def test_a_dead_credential_is_called_before_a_certain_error_and_the_answer_says_why():
    table = Table()
    table.target("a").failed(0.0, fault(Fault.AUTH, status=401), 0.5)
    race = table.race("a")
    assert told(race.begin(1.0)) == ["1>a"]
    (last,) = race.failed(1, fault(Fault.AUTH, status=401), 1.1)
    assert isinstance(last, GiveUp)
    assert last.failure.fault is Fault.AUTH


def test_a_mended_credential_is_found_by_its_forced_call():
    table = Table()
    table.target("a").failed(0.0, fault(Fault.AUTH, status=401), 0.5)
    race = table.race("a")
    race.begin(1.0)
    race.content(1, 1.1)
    race.complete(1, 1.2)
    assert table.target("a").standing(1.3).value == "ready"


def test_full_deployments_pass_requests_on_and_then_answer_busy_at_once():
    table = Table(HealthPolicy(in_flight=2))
    races = [table.race("ac") for _ in range(5)]
    assert [told(race.begin(0.0)) for race in races] == [["1>a"], ["1>a"], ["1>c"], ["1>c"], ["give up: overloaded"]]
    assert races[4].ended and races[4].attempts == 0


def test_a_slow_deployment_cannot_hold_every_permit():
    table = Table(HealthPolicy(in_flight=4))
    for _ in range(100):
        table.race("a").begin(0.0)  # never answered
    assert table.in_flight == 4
    assert told(table.race("c").begin(0.0)) == ["1>c"]


# --- probes ------------------------------------------------------------------------------------------------------------


def test_a_leg_that_may_be_probed_gets_one_request_in_its_place():
    table = Table()
    table.break_open("a")
    assert told(table.at(6.0).begin(6.0)) == ["1>a"]
    assert told(table.at(6.0).begin(6.0)) == ["1>c"]


def test_a_slow_probe_is_escorted_and_overtaken():
    table = Table()
    table.break_open("a")
    race = table.at(6.0)
    race.begin(6.0)
    assert race.wake_at_s == 8.0
    assert told(race.tick(8.0)) == ["2>c"]
    assert told(race.content(2, 8.5)) == ["2!", "1x hedge_lost"]
    assert table.target("a").standing(8.5) is Standing.OPEN
    assert table.target("a").until_s(8.5) == pytest.approx(18.5)


def test_a_probe_that_ends_without_verdict_is_given_back():
    table = Table()
    table.break_open("a")
    race = table.at(6.0)
    race.begin(6.0)
    race.caller_left(6.5)
    assert table.target("a").standing(6.5) is Standing.PROBE


def test_a_probe_answered_by_the_callers_own_mistake_is_given_back():
    table = Table()
    table.break_open("a")
    race = table.at(6.0)
    race.begin(6.0)
    race.failed(1, fault(Fault.BAD_REQUEST), 6.1)
    assert table.target("a").standing(6.1) is Standing.PROBE


def test_after_a_failure_what_is_ready_comes_before_what_may_be_probed():
    table = Table()
    table.break_open("c")
    race = table.at(6.0, "acd")
    race.begin(6.0)
    assert told(race.failed(1, fault(Fault.SERVER), 6.1)) == ["2>d"]


def test_a_refusing_host_is_dialled_a_bounded_number_of_times_in_twenty_minutes():
    table, dials = Table(), 0
    for tenth in range(12_000):
        now_s = tenth / 10
        race = table.at(now_s)
        actions = list(race.begin(now_s))
        while not race.ended:
            dispatch = next(a for a in reversed(actions) if isinstance(a, Dispatch))
            if dispatch.leg.deployment == "a/m":
                dials += 1
                actions = list(race.failed(dispatch.n, fault(Fault.TRANSPORT, sent=False), now_s))
            else:
                race.complete(dispatch.n, now_s + 0.05)
    assert 10 <= dials <= 20  # 3 strikes, then probes after 5, 10, 20, 40, 80, 120, 120 ... s


# --- clocks ------------------------------------------------------------------------------------------------------------


def test_silence_and_keep_alives_end_at_the_first_token_clock():
    table = Table()
    race = table.race("ac")
    race.begin(0.0)
    race.headers(1, 0.1)
    assert race.wake_at_s == 10.0
    assert told(race.tick(9.9, byte_at_s=9.8)) == []
    actions = race.tick(10.0, byte_at_s=9.9)
    assert told(actions) == ["1x timeout", "2>c"]
    assert isinstance(actions[0], Cancel) and actions[0].failure is not None
    assert (actions[0].failure.phase, actions[0].failure.deadline_bound) == ("first_token", False)
    assert table.target("a").throttle == 9.0


def test_content_of_a_cancelled_attempt_comes_too_late():
    race = Table().race("ac")
    race.begin(0.0)
    race.tick(10.0)
    assert told(race.content(1, 10.1)) == []
    assert told(race.content(2, 10.2)) == ["2!"]


def test_a_stalled_stream_is_cut_at_the_idle_clock_and_a_dripping_one_is_not():
    race = Table().race("ac")
    race.begin(0.0)
    race.content(1, 1.0)
    assert race.wake_at_s == 21.0
    assert told(race.tick(21.0, byte_at_s=20.0, content_at_s=11.0)) == []
    assert race.wake_at_s == 31.0
    assert told(race.tick(31.0, byte_at_s=30.9, content_at_s=11.0)) == ["1x timeout", "cut: timeout"]


def test_where_content_is_not_understood_only_bytes_count():
    race = Table().race("ac")
    race.begin(0.0)
    race.content(1, 1.0)
    assert told(race.tick(21.0, byte_at_s=1.0)) == []
    assert race.wake_at_s == 61.0
    assert told(race.tick(61.0, byte_at_s=1.0)) == ["1x timeout", "cut: timeout"]


def test_the_callers_deadline_ends_everything_and_is_no_strike():
    table = Table()
    race = table.race("ac", deadline_s=2.0)
    race.begin(0.0)
    assert race.wake_at_s == 2.0
    actions = race.tick(2.0)
    assert told(actions) == ["1x timeout", "give up: timeout"]
    assert isinstance(actions[1], GiveUp) and actions[1].failure.deadline_bound
    assert table.target("a").throttle == 10.0 and table.in_flight == 0


def test_a_deadline_within_the_stream_tells_the_caller():
    table = Table()
    race = table.race("ac", deadline_s=2.0)
    race.begin(0.0)
    race.content(1, 1.0)
    assert race.wake_at_s == 2.0
    assert told(race.tick(2.0, 1.9, 1.9)) == ["1x timeout", "cut: timeout"]
    assert table.target("a").throttle == 10.0


def test_a_late_tick_does_not_blame_the_deployment_for_the_deadline():
    table = Table()
    race = table.race("ac", deadline_s=2.0)
    race.begin(0.0)
    assert told(race.tick(11.0)) == ["1x timeout", "give up: timeout"]
    assert table.target("a").throttle == 10.0


def test_a_deadline_already_past_dispatches_nothing():
    race = Table().race("ac", deadline_s=-1.0)
    assert told(race.begin(0.0)) == ["give up: timeout"]
    assert race.attempts == 0


def test_no_backoff_reaches_past_the_deadline():
    race = Table(draw=1.0).race("a", deadline_s=0.2)
    race.begin(0.0)
    actions = list(race.failed(1, fault(Fault.SERVER), 0.1))
    if not race.ended:
        assert race.wake_at_s == 0.2
        actions = list(race.tick(0.2))
    assert told(actions)[-1].startswith("give up")
    assert race.attempts == 1


def test_a_plan_without_legs_is_a_clean_error():
    assert told(Table().race("").begin(0.0)) == ["give up: model_unavailable"]


# --- hedges ------------------------------------------------------------------------------------------------------------

HEDGING = RetryPolicy(hedge=True, hedge_share=1.0)


def test_hedge_is_cancelled_when_the_first_answers():
    table = Table(retry=HEDGING)
    race = table.race("abc", hedge_after_s=1.0)
    race.begin(0.0)
    assert race.wake_at_s == 1.0
    assert told(race.tick(1.0)) == ["2>c"]  # b shares the domain of a
    assert told(race.content(1, 1.2)) == ["1!", "2x hedge_lost"]
    assert told(race.content(2, 1.3)) == []
    race.complete(1, 2.0)
    assert table.in_flight == 0


def test_the_first_is_cancelled_when_the_hedge_answers():
    table = Table(retry=HEDGING)
    race = table.race("ac", hedge_after_s=1.0)
    race.begin(0.0)
    race.tick(1.0)
    assert told(race.content(2, 1.2)) == ["2!", "1x hedge_lost"]
    assert table.target("a").throttle == 10.0  # slow is not broken


def test_a_hedge_goes_on_alone_when_the_first_fails():
    race = Table(retry=HEDGING).race("ac", hedge_after_s=1.0)
    race.begin(0.0)
    race.tick(1.0)
    assert told(race.failed(1, fault(Fault.SERVER), 1.1)) == []
    assert told(race.content(2, 1.2)) == ["2!"]


def test_nothing_is_repeated_while_a_hedge_is_still_running():
    race = Table(retry=HEDGING, draw=0.0).race("ac", hedge_after_s=1.0, attempts=4)
    race.begin(0.0)
    race.tick(1.0)
    assert told(race.failed(1, fault(Fault.SERVER), 1.1)) == []
    assert told(race.failed(2, fault(Fault.SERVER), 1.2)) == ["3>a"]


def test_a_hedge_is_an_attempt_and_counts_against_the_bound():
    race = Table(retry=HEDGING).race("ac", hedge_after_s=1.0, attempts=1)
    race.begin(0.0)
    assert told(race.tick(1.0)) == []


def test_a_first_that_fails_before_its_hedge_leaves_no_clock_that_trips():
    table = Table(retry=HEDGING, draw=1.0)
    table.target("c").failed(0.0, fault(Fault.RATE_LIMITED, retry_after_s=60.0), 0.5)
    race = table.race("ac", hedge_after_s=0.2)
    race.begin(0.0)
    assert told(race.failed(1, fault(Fault.SERVER), 0.1)) == []  # waits 0.25 s
    assert told(race.tick(0.2)) == []
    assert told(race.tick(0.35)) == ["2>a"]


def test_no_hedge_when_switched_off_or_beyond_its_share():
    for policy in (RetryPolicy(hedge=False), RetryPolicy(hedge=True, hedge_share=0.0)):
        race = Table(retry=policy).race("ac", hedge_after_s=1.0)
        race.begin(0.0)
        assert told(race.tick(1.0)) == []


def test_the_hedge_delay_is_learnt():
    table = Table(retry=HEDGING)
    for _ in range(50):
        table.target("a").succeeded(0.0, 0.4, 10, 1.0, 0)
    race = table.race("ac")
    race.begin(0.0)
    assert race.wake_at_s == pytest.approx(0.4, rel=0.051)


def test_hedges_stay_within_their_share_of_requests():
    table = Table(retry=RetryPolicy(hedge=True, hedge_share=0.05))
    hedges = 0
    for k in range(2000):
        race = table.at(k / 100, "ac", hedge_after_s=0.001)
        race.begin(k / 100)
        hedges += len(race.tick(k / 100 + 0.001))
        race.content(1, k / 100 + 0.002)
        race.complete(1, k / 100 + 0.003)
    assert 50 <= hedges <= 110


# --- laws --------------------------------------------------------------------------------------------------------------

NAMES = sorted(PLACES)


class Course:
    """One race with an independent account of what it did."""

    def __init__(self, race: Race) -> None:
        self.race = race
        self.live: dict[int, str] = {}
        self.seen: list[int] = []
        self.committed = 0
        self.ends = 0
        self.content_at_s = 0.0


class Races(RuleBasedStateMachine):
    """Many races over one health, events in any order, late ones included."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = HealthPolicy(in_flight=4)
        self.health = Health(self.policy)
        self.now_s = 0.0
        self.courses: list[Course] = []
        self.asked: dict[str, float] = {}
        self.attempts = 0
        self.draws = 0

    def draw(self) -> float:
        self.draws += 1
        return (self.draws * 0.618034) % 1.0

    def apply(self, course: Course, actions: Sequence[Action]) -> None:
        race = course.race
        for action in actions:
            assert not course.ends, "an action after the end"
            match action:
                case Dispatch(n, to):
                    assert not course.committed, "a dispatch after the commit"
                    assert n == len(course.seen) + 1 <= min(race.plan.attempts, race.policy.attempts)
                    assert self.now_s >= self.asked.get(to.deployment, 0.0), "a call inside a Retry-After hold"
                    assert to.deployment not in course.live.values(), "two attempts at one deployment at once"
                    assert self.now_s < race.end_s
                    course.live[n] = to.deployment
                    course.seen.append(n)
                    self.attempts += 1
                case Cancel(n, _):
                    del course.live[n]
                case Commit(n):
                    assert n in course.live and not course.committed
                    course.committed, course.content_at_s = n, self.now_s
                case GiveUp(_, committed):
                    assert committed == bool(course.committed)
                    course.ends += 1
        if course.committed and not course.ends and not race.ended:
            assert list(course.live) == [course.committed], "a loser outlived the commit"

    @rule(
        names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True),
        attempts=st.integers(1, 4),
        deadline_s=st.sampled_from([None, None, 0.3, 4.0, 30.0]),
        hedge=st.booleans(),
    )
    def arrive(self, names: list[str], attempts: int, deadline_s: float | None, hedge: bool) -> None:
        plan = Plan(tuple(Leg(name, 2.0, 10.0, 20.0, 0.5) for name in names), 120.0, attempts)
        policy = RetryPolicy(attempts=4, hedge=hedge, hedge_share=0.5)
        deadline_s = None if deadline_s is None else self.now_s + deadline_s
        race = Race(plan, policy, self.health, PLACES, self.draw, started_s=self.now_s, deadline_s=deadline_s)
        course = Course(race)
        self.courses.append(course)
        self.apply(course, race.begin(self.now_s))

    def pick(self, data: st.DataObject) -> tuple[Course, int]:
        course = data.draw(st.sampled_from(self.courses[-6:]))
        return course, data.draw(st.integers(1, max(1, len(course.seen))))  # often a cancelled or an ended one

    @precondition(lambda self: self.courses)
    @rule(data=st.data())
    def content(self, data: st.DataObject) -> None:
        course, n = self.pick(data)
        course.race.headers(n, self.now_s)
        self.apply(course, course.race.content(n, self.now_s))
        course.content_at_s = self.now_s

    @precondition(lambda self: self.courses)
    @rule(data=st.data(), tokens=st.integers(0, 500))
    def complete(self, data: st.DataObject, tokens: int) -> None:
        course, n = self.pick(data)
        is_news = n in course.live
        self.apply(course, course.race.complete(n, self.now_s, tokens))
        if is_news:
            assert not course.ends
            course.ends += 1
            course.live.clear()

    @precondition(lambda self: self.courses)
    @rule(
        data=st.data(), kind=st.sampled_from(sorted(Fault)), asked_s=st.sampled_from([None, 0.5, 3.0, 40.0, 90_000.0]), sent=st.booleans()
    )
    def fail(self, data: st.DataObject, kind: Fault, asked_s: float | None, sent: bool) -> None:
        course, n = self.pick(data)
        name = course.live.pop(n, None)
        holds = FAULTS[kind].health in ("patience", "box") and asked_s is not None
        if name is not None and holds and asked_s is not None and asked_s <= 3600.0:
            self.asked[name] = max(self.asked.get(name, 0.0), self.now_s + asked_s)
        if name is None and n not in course.live:
            assert not course.race.failed(n, fault(kind, retry_after_s=asked_s, sent=sent), self.now_s)
            return
        self.apply(course, course.race.failed(n, fault(kind, retry_after_s=asked_s, sent=sent), self.now_s))

    @precondition(lambda self: self.courses)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        course, _ = self.pick(data)
        was_over = course.race.ended
        self.apply(course, course.race.caller_left(self.now_s))
        course.ends += not was_over

    @rule(span_s=st.sampled_from([0.01, 0.3, 1.0, 6.0, 30.0, 150.0]))
    def wait(self, span_s: float) -> None:
        until_s = self.now_s + span_s
        while True:
            wakes = [(c.race.wake_at_s, k) for k, c in enumerate(self.courses) if c.race.wake_at_s is not None]
            if not wakes or min(wakes)[0] > until_s:
                break
            wake_s, k = min(wakes)
            assert wake_s >= self.now_s - 1e-9, "a clock was missed"
            self.now_s = max(self.now_s, wake_s)
            course = self.courses[k]
            self.apply(course, course.race.tick(self.now_s, course.content_at_s, course.content_at_s))
            assert course.race.ended or (course.race.wake_at_s or math.inf) > self.now_s, "a clock that spins"
        self.now_s = until_s

    @invariant()
    def every_race_ends_once_and_never_sleeps_for_ever(self) -> None:
        for course in self.courses:
            assert course.ends == course.race.ended
            assert (course.race.wake_at_s is None) == course.race.ended
            if course.race.ended:
                assert not course.live

    @invariant()
    def permits_are_those_of_live_attempts_and_within_the_bound(self) -> None:
        for view in self.health.snapshot(self.now_s):
            mine = sum(list(course.live.values()).count(view.deployment) for course in self.courses)
            assert view.in_flight == mine <= self.policy.in_flight

    @invariant()
    def attempts_stay_within_the_budget(self) -> None:
        assert self.attempts <= self.health.attempts_bound(len(self.courses), self.now_s, len(NAMES), 0.2)

    def teardown(self) -> None:
        for course in self.courses:
            self.apply(course, course.race.caller_left(self.now_s))
        assert sum(view.in_flight for view in self.health.snapshot(self.now_s)) == 0


TestRaces = Races.TestCase
TestRaces.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
