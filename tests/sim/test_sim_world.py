"""The policy that serves, played against incidents on a virtual clock."""

import random

import pytest

from waypost.sim.world import DIRECT, HEDGED, WAYPOST, Incident, Kind, Provider, Setting, World, arrivals, incidents, main, play

SEEDS = (1, 2, 3)


def steady(span_s: float, per_s: float = 2.0) -> list[float]:
    return [k / per_s for k in range(int(span_s * per_s))]


def world(kind: Kind, *, from_s: float = 60.0, until_s: float = 240.0, setting: Setting = WAYPOST) -> World:
    names = ("first/model", "second/model", "third/model")
    broken = (Incident(kind, from_s, until_s),)
    return World([Provider(name, broken if k == 0 else ()) for k, name in enumerate(names)], setting, seed=7)


@pytest.mark.parametrize("setting", [WAYPOST, HEDGED], ids=lambda setting: setting.name)
def test_stress_is_served_with_few_extra_calls(setting: Setting):
    # Pooled: two hours hold some seven incidents of the first provider, so one seed alone says little of the policy.
    runs = [play(setting, trace="stress", hours=4.0, seed=seed) for seed in SEEDS]
    requests = sum(run.requests for run in runs)
    assert sum(run.in_time for run in runs) >= 0.985 * requests
    assert sum(run.calls for run in runs) <= 1.05 * requests
    for seed, run in zip(SEEDS, runs, strict=True):
        assert run.held_calls == 0 and run.leaked == 0, f"seed {seed}"
        assert run.complete + run.truncated + run.failed == run.requests, f"seed {seed}: each request ends once"


def test_the_same_seed_plays_the_same_world():
    first, second = (play(WAYPOST, trace="stress", hours=0.3, seed=5) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("kind", ["refused", "errors", "limited", "silent", "slow", "key_dead"])
def test_an_incident_before_content_costs_no_request_and_few_calls(kind: Kind):
    result = world(kind).run(steady(400.0))
    streaming_when_cut = 15 if kind == "refused" else 0  # some ten streams are in flight when the host goes down
    assert result.failed == 0
    assert result.truncated <= streaming_when_cut
    assert result.in_time >= result.requests - streaming_when_cut
    assert result.calls <= result.requests * 1.05 + 10
    assert result.held_calls == 0 and result.leaked == 0


@pytest.mark.parametrize("kind", ["cut", "stall"])
def test_cuts_are_told_and_bounded_by_the_breaker(kind: Kind):
    result = world(kind).run(steady(400.0))
    assert result.failed == 0
    assert 0 < result.truncated <= 60  # a stall is seen after 20 s, at two requests a second
    assert result.complete == result.requests - result.truncated


def test_a_dead_key_wastes_one_call_and_its_probes():
    result = world("key_dead", from_s=0.0, until_s=1200.0).run(steady(1200.0))
    assert result.complete == result.requests
    assert result.calls_to["first/model"] <= 1 + 5  # at 60, 180, 420, 900 s


def test_traffic_returns_after_the_incident():
    result = world("errors", from_s=0.0, until_s=60.0).run(steady(600.0))
    assert result.calls_to["first/model"] >= 0.75 * result.requests


def test_a_lone_provider_is_called_as_soon_as_it_can_answer():
    lone = Setting("lone", 1, 3, WAYPOST.retry)
    result = world("refused", from_s=60.0, until_s=120.0, setting=lone).run(steady(200.0))
    # Not one request after the incident is refused by our own circuit.
    assert result.complete >= result.requests - 60 * 2 - 15
    assert result.calls <= result.requests + 20


def test_impatient_callers_leak_nothing():
    result = world("silent", setting=HEDGED).run(steady(300.0), patience_s=1.5)
    assert result.left > 0 and result.leaked == 0
    assert result.complete + result.truncated + result.failed + result.left == result.requests


def test_going_round_incidents_beats_going_through_them():
    direct, ours = (play(setting, trace="stress", hours=1.0, seed=3) for setting in (DIRECT, WAYPOST))
    assert ours.in_time > direct.in_time


def test_traces_have_the_means_they_promise():
    rng = random.Random(1)
    found = incidents(rng, between_s=900.0, lasting_s=180.0, span_s=1_000_000.0)
    broken_s = sum(incident.until_s - incident.from_s for incident in found)
    assert broken_s / 1_000_000.0 == pytest.approx(180.0 / 1080.0, rel=0.1)
    assert len(list(arrivals(rng, per_s=2.0, span_s=10_000.0))) == pytest.approx(20_000, rel=0.05)


def test_the_table_is_printed(capsys: pytest.CaptureFixture[str]):
    assert main(["--hours", "0.05", "--seed", "4"]) == 0
    out = capsys.readouterr().out
    assert "waypost, hedged 5 %" in out and "calls/req" in out
