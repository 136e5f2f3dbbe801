"""Telemetry: what many outcomes, counted together, add up to."""

from bisect import bisect_left

from hypothesis import given
from hypothesis import strategies as st

from waypost.adapters.telemetry import KEPT, SECONDS, Histogram, Telemetry
from waypost.core.types import Attempt, AttemptOutcome, Outcome, Usage


def attempt(*, model: str = "a/m", outcome: AttemptOutcome = "ok", usage: Usage | None = None, cost_nusd: int | None = 5) -> Attempt:
    usage = usage or Usage(10, output_tokens=4)
    return Attempt("r", 1, 0, "k", "s", "", model, model[0], outcome, "", 200, usage, cost_nusd, 20.0, 40.0)


def outcome(*attempts: Attempt, status: int = 200) -> Outcome:
    return Outcome("r", 0, "k", "s", status, None, attempts, overhead_ms=0.1)


def shown(*outcomes: Outcome) -> dict[str, float]:
    telemetry = Telemetry()
    for one in outcomes:
        telemetry.observe(one)
    lines = [line.rsplit(" ", 1) for line in telemetry.render().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


@given(st.lists(st.lists(st.sampled_from([0.0, 0.005, *SECONDS, 0.0100001, 500.0]))))
def test_values_counted_together_stand_in_the_buckets_each_belongs_to(batches: list[list[float]]) -> None:
    histogram, apart = Histogram(SECONDS), [0] * (len(SECONDS) + 1)
    for batch in batches:
        for value in batch:
            apart[bisect_left(SECONDS, value)] += 1
        histogram.add(batch)
    assert [count for _, count in histogram.cumulative()] == [sum(apart[: place + 1]) for place in range(len(apart))]


def test_every_outcome_is_counted_once_however_many_come() -> None:
    many = shown(*[outcome(attempt()) for _ in range(2 * KEPT + 3)])
    assert many['waypost_requests_total{cache="miss",route="",status="200"}'] == 2 * KEPT + 3
    assert many['waypost_attempts_total{error_type="",model="a/m",outcome="ok"}'] == 2 * KEPT + 3


def test_attempts_of_one_request_are_counted_at_the_models_they_went_to() -> None:
    seen = shown(outcome(attempt(outcome="failed", cost_nusd=None), attempt(model="b/m", cost_nusd=3_000_000_000)))
    assert seen['waypost_attempts_total{error_type="",model="a/m",outcome="failed"}'] == 1
    assert seen['waypost_unpriced_attempts_total{model="a/m",provider="a"}'] == 1
    assert seen['waypost_cost_usd_total{model="b/m",provider="b"}'] == 3.0


def test_estimates_are_not_shown_as_usage_and_failures_not_as_durations() -> None:
    seen = shown(outcome(attempt(usage=Usage(7, output_tokens=1, source="estimated"))), outcome(attempt(outcome="failed")))
    at = 'gen_ai_operation_name="chat",gen_ai_provider_name="a",gen_ai_request_model="a/m"'
    assert seen[f'gen_ai_client_token_usage_count{{{at},gen_ai_token_type="input"}}'] == 1
    assert seen[f"gen_ai_server_request_duration_seconds_count{{{at}}}"] == 1
