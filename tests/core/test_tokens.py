"""Tokens: estimates lean upwards but stay near, bounds hold, and impossible reports are recognised."""

import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypost.core.tokens import Calibration, estimate, estimate_output, lower_bound_output, plausible
from waypost.core.types import Usage

ENGLISH = "The quick survey asked forty people how they travel to work, and why they would not change their habits. "
PYTHON = "def mean(values: list[float]) -> float:\n    if not values:\n        return 0.0\n    return sum(values) / len(values)\n"

# Ranges: counts of cl100k and o200k where they are commonly published, else what the two families span.
SAMPLES = [
    pytest.param(ENGLISH * 10, 200, 290, id="english"),
    pytest.param(PYTHON * 10, 300, 480, id="python"),
    pytest.param("今天天气很好，我们去公园散步吧。" * 20, 200, 420, id="chinese"),
    pytest.param("Привет, как дела? Сегодня хорошая погода. " * 20, 200, 560, id="russian"),
    pytest.param("3.14159265358979 " * 20, 140, 360, id="digits"),
]


@pytest.mark.parametrize(("text", "least", "most"), SAMPLES)
def test_estimate_is_near_known_counts(text: str, least: int, most: int) -> None:
    assert least <= estimate(text.encode()) <= most


@pytest.mark.parametrize(("text", "least", "most"), SAMPLES)
def test_escaped_unicode_is_judged_like_the_text_it_spells(text: str, least: int, most: int) -> None:
    assert least <= estimate(json.dumps(text).encode()) <= 2 * most


@given(st.binary(max_size=20_000))
def test_estimate_is_positive_and_never_more_than_the_bytes(data: bytes) -> None:
    assert (1 if data else 0) <= estimate(data) <= len(data)


@given(st.binary(max_size=4096), st.binary(max_size=64))
def test_more_text_is_never_fewer_tokens(data: bytes, more: bytes) -> None:
    if b"\\" not in data + more and len(data) + len(more) <= 4096:
        assert estimate(data + more) >= estimate(data)


def test_heaviest_block_does_not_overflow_its_sum() -> None:
    assert estimate(b"\n" * 4096) == 4096 * 15 // 16


def test_long_texts_are_judged_by_their_parts() -> None:
    text = (ENGLISH * 12_000).encode()
    assert estimate(text) == pytest.approx(12_000 * 10 * estimate((ENGLISH * 10).encode()) / 100, rel=0.05)


def test_a_long_text_that_changes_its_nature_is_not_judged_by_its_head() -> None:
    mixed = (ENGLISH * 300 + "今天天气很好，我们去公园散步吧。" * 600).encode()
    apart = estimate((ENGLISH * 300).encode()) + estimate(("今天天气很好，我们去公园散步吧。" * 600).encode())
    assert estimate(mixed) == pytest.approx(apart, rel=0.3)


@pytest.mark.parametrize(
    ("events", "size", "tokens"),
    [
        pytest.param(120, 500, 120, id="one token an event"),
        pytest.param(4, 400, 100, id="gathered events"),
        pytest.param(1, 2, 1, id="one short token"),
        pytest.param(0, 41, 11, id="no events, rounded up"),
        pytest.param(900, 300, 75, id="events without content"),
        pytest.param(3, 0, 3, id="events whose size nobody counted"),
        pytest.param(0, 0, 0, id="nothing"),
    ],
)
def test_output_of_a_cut_stream(events: int, size: int, tokens: int) -> None:
    assert estimate_output(events, size) == tokens


@given(tokens=st.lists(st.integers(1, 9), min_size=40, max_size=400), group=st.integers(1, 40), seed=st.integers(0, 99))
def test_lower_bound_never_exceeds_the_tokens_however_they_are_gathered(tokens: list[int], group: int, seed: int) -> None:
    size = sum(tokens)
    assert lower_bound_output(-(-len(tokens) // group), size) <= len(tokens)


def test_lower_bound_is_not_fooled_by_servers_that_split_into_characters() -> None:
    text = ENGLISH * 10  # about 210 tokens in 1,050 characters
    assert lower_bound_output(len(text), len(text)) <= 215


def test_lower_bound_of_an_endless_stream_reaches_any_ceiling() -> None:
    assert lower_bound_output(1_200, 6_000) >= 1_000
    assert lower_bound_output(3, 48_000) >= 4_000


OK = Usage(input_tokens=100, cached_tokens=60, output_tokens=50, reasoning_tokens=20)


@pytest.mark.parametrize(
    ("usage", "can_be"),
    [
        pytest.param(OK, True, id="ordinary"),
        pytest.param(Usage(input_tokens=100, output_tokens=64), True, id="at the ceiling"),
        pytest.param(Usage(input_tokens=100, output_tokens=3_000, reasoning_tokens=2_950), True, id="reasoning beyond the ceiling"),
        pytest.param(Usage(), False, id="zeros although content came"),
        pytest.param(Usage(input_tokens=100), False, id="no output although content came"),
        pytest.param(Usage(input_tokens=100, output_tokens=1), False, id="far below what came"),
        pytest.param(Usage(output_tokens=50), False, id="no input although there was a prompt"),
        pytest.param(Usage(input_tokens=-1, output_tokens=50), False, id="negative input"),
        pytest.param(Usage(input_tokens=100, output_tokens=-5), False, id="negative output"),
        pytest.param(Usage(input_tokens=100, output_tokens=50, cached_tokens=101), False, id="more cached than input"),
        pytest.param(Usage(input_tokens=100, output_tokens=50, cached_tokens=60, cache_write_tokens=60), False, id="cached and written"),
        pytest.param(Usage(input_tokens=100, output_tokens=50, reasoning_tokens=51), False, id="more reasoning than output"),
        pytest.param(Usage(input_tokens=100, output_tokens=100_000), False, id="far over the ceiling"),
    ],
)
def test_plausible(usage: Usage, can_be: bool) -> None:
    assert plausible(usage, content_events=40, content_bytes=200, max_output_tokens=64, prompt_tokens=90) is can_be


def test_an_empty_answer_may_report_zero_output() -> None:
    assert plausible(Usage(input_tokens=10), content_events=0, content_bytes=0, max_output_tokens=None, prompt_tokens=10)


def test_without_a_ceiling_a_large_output_is_believed() -> None:
    assert plausible(
        Usage(input_tokens=10, output_tokens=90_000), content_events=10, content_bytes=50, max_output_tokens=None, prompt_tokens=10
    )


def test_calibration_learns_the_scale_and_its_upper_quantile() -> None:
    random, learned = Random(7), Calibration()
    ratios = [random.lognormvariate(0.3, 0.1) for _ in range(4_000)]
    for ratio in ratios:
        learned.observe(10_000, round(10_000 * ratio))
    assert learned.expected(1_000) == pytest.approx(1_350, rel=0.08)
    above = sum(ratio * 1_000 > learned.upper(1_000) for ratio in ratios) / len(ratios)
    assert 0.01 < above < 0.12


def test_calibration_starts_neutral_with_an_upper_margin_and_ignores_broken_reports() -> None:
    learned = Calibration()
    for estimated, actual in [(100, 0), (0, 100), (100, -3), (100, 10_000), (100_000, 10)]:
        learned.observe(estimated, actual)
    assert (learned.expected(1_000), learned.upper(1_000), learned.seen) == (1_000, 1_500, 0)


@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)), max_size=200))
def test_upper_is_never_below_expected(reports: list[tuple[int, int]]) -> None:
    learned = Calibration()
    for estimated, actual in reports:
        learned.observe(estimated, actual)
    assert learned.upper(1_000) >= learned.expected(1_000)
