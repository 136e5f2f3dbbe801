"""Price: the arithmetic agrees with exact fractions, and unknown is never zero."""

from decimal import Decimal
from fractions import Fraction
from math import ceil, floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypost.core.price import cost, expected, parse_usd, usd, worst_case
from waypost.core.types import NUSD_PER_USD, Price, PriceStep, Usage

COUNTS = st.integers(0, 10**8)
RATES = st.integers(0, 10**12)
PRICES = st.builds(
    Price,
    input_nusd_per_mtok=RATES,
    output_nusd_per_mtok=RATES,
    cached_input_nusd_per_mtok=st.none() | RATES,
    cache_write_nusd_per_mtok=st.none() | RATES,
)
GPT = Price(input_nusd_per_mtok=2_500_000_000, output_nusd_per_mtok=10_000_000_000, cached_input_nusd_per_mtok=1_250_000_000)


@given(fresh=COUNTS, cached=COUNTS, written=COUNTS, output=COUNTS, price=PRICES)
def test_cost_is_the_exact_sum_rounded_half_up_once(fresh: int, cached: int, written: int, output: int, price: Price) -> None:
    usage = Usage(input_tokens=fresh + cached + written, cached_tokens=cached, cache_write_tokens=written, output_tokens=output)
    base = price.input_nusd_per_mtok or 0
    read = base if price.cached_input_nusd_per_mtok is None else price.cached_input_nusd_per_mtok
    write = base if price.cache_write_nusd_per_mtok is None else price.cache_write_nusd_per_mtok
    exact = Fraction(fresh * base + cached * read + written * write + output * (price.output_nusd_per_mtok or 0), 1_000_000)
    assert cost(usage, price) == floor(exact + Fraction(1, 2))


@given(prompt=COUNTS, ceiling=COUNTS, n=st.integers(1, 128), price=PRICES, share=st.fractions(0, 1), answers=st.fractions(0, 1))
def test_worst_case_is_never_below_an_actual_cost(
    prompt: int, ceiling: int, n: int, price: Price, share: Fraction, answers: Fraction
) -> None:
    cached = floor(prompt * share)
    actual = Usage(
        input_tokens=prompt, cached_tokens=cached // 2, cache_write_tokens=cached - cached // 2, output_tokens=floor(ceiling * n * answers)
    )
    worst, paid = worst_case(prompt, ceiling, n, price), cost(actual, price)
    assert worst is not None and paid is not None and worst >= paid


def test_worst_case_rounds_up_and_counts_every_choice() -> None:
    assert worst_case(1, 0, 1, Price(input_nusd_per_mtok=1, output_nusd_per_mtok=1)) == 1
    assert worst_case(1000, 500, 3, GPT) == ceil(Fraction(1000 * 2_500_000_000 + 1500 * 10_000_000_000, 10**6))


@pytest.mark.parametrize(
    ("usage", "price", "amount"),
    [
        pytest.param(Usage(input_tokens=1000, output_tokens=500), GPT, 7_500_000, id="published price"),
        pytest.param(Usage(input_tokens=1000, cached_tokens=800, output_tokens=0), GPT, 1_500_000, id="cached reads are cheaper"),
        pytest.param(Usage(input_tokens=1, output_tokens=1), Price(), None, id="nothing known"),
        pytest.param(Usage(), Price(), 0, id="no tokens cost nothing even at an unknown price"),
        pytest.param(Usage(input_tokens=5), Price(output_nusd_per_mtok=1), None, id="input price unknown"),
        pytest.param(Usage(output_tokens=5), Price(output_nusd_per_mtok=2_000_000), 10, id="unknown input price without input"),
        pytest.param(Usage(input_tokens=5, output_tokens=1), Price(input_nusd_per_mtok=1), None, id="output price unknown"),
        pytest.param(Usage(input_tokens=9, output_tokens=9), Price(input_nusd_per_mtok=0, output_nusd_per_mtok=0), 0, id="free is known"),
        pytest.param(Usage(input_tokens=9, cached_tokens=9), Price(cached_input_nusd_per_mtok=1_000_000), 9, id="all cached"),
        pytest.param(Usage(input_tokens=9, cached_tokens=9), Price(output_nusd_per_mtok=1), None, id="cached without any input price"),
        pytest.param(Usage(input_tokens=9, cache_write_tokens=9), Price(input_nusd_per_mtok=1_000_000), 9, id="write at input price"),
        pytest.param(Usage(input_tokens=1), Price(input_nusd_per_mtok=500_000), 1, id="half rounds up"),
        pytest.param(Usage(input_tokens=1), Price(input_nusd_per_mtok=499_999), 0, id="less than half rounds down"),
    ],
)
def test_cost_of(usage: Usage, price: Price, amount: int | None) -> None:
    assert cost(usage, price) == amount


def test_an_unknown_price_has_no_worst_case_and_no_expectation() -> None:
    assert worst_case(10, 10, 1, Price(input_nusd_per_mtok=1)) is None
    assert worst_case(10, 10, 1, Price(output_nusd_per_mtok=1)) is None
    assert expected(10, 10, Price(output_nusd_per_mtok=1)) is None
    assert expected(1000, 500, GPT) == 7_500_000


@given(st.integers(-(10**18), 10**18))
def test_usd_prints_the_exact_amount_without_exponent(nusd: int) -> None:
    text = usd(nusd)
    assert "e" not in text.lower() and not text.endswith(".")
    assert Decimal(text) * NUSD_PER_USD == nusd


@given(st.integers(0, 10**18))
def test_usd_and_parse_usd_are_inverse(nusd: int) -> None:
    assert parse_usd(usd(nusd)) == nusd


@pytest.mark.parametrize(
    ("amount", "nusd"),
    [
        (0.1, 100_000_000),
        (0.000123, 123_000),
        (1e-9, 1),
        ("1e-9", 1),
        (4e-10, 0),
        ("0.0000000005", 1),
        (3, 3_000_000_000),
        ("0.28", 280_000_000),
        (0.28, 280_000_000),
        (" 2.50 ", 2_500_000_000),
    ],
)
def test_parse_usd_reads_what_was_written(amount: float | str, nusd: int) -> None:
    assert parse_usd(amount) == nusd


@pytest.mark.parametrize("amount", ["", "free", "nan", "inf", "-1", -0.5, float("nan"), float("inf"), "1,000", True, "1e99999"])
def test_parse_usd_refuses_what_is_no_amount(amount: float | str) -> None:
    with pytest.raises(ValueError, match="dollars"):
        parse_usd(amount)


@pytest.mark.parametrize(
    ("nusd", "text"), [(0, "0"), (123_000, "0.000123"), (1, "0.000000001"), (5_000_000_000, "5"), (-1_500_000_000, "-1.5")]
)
def test_usd_reads_like_money(nusd: int, text: str) -> None:
    assert usd(nusd) == text


STEPPED = Price(
    input_nusd_per_mtok=3_000_000_000,
    output_nusd_per_mtok=15_000_000_000,
    cached_input_nusd_per_mtok=300_000_000,
    steps=(PriceStep(200_000, input_nusd_per_mtok=6_000_000_000, output_nusd_per_mtok=22_500_000_000),),
)


@pytest.mark.parametrize(
    ("usage", "dollars"),
    [
        pytest.param(Usage(input_tokens=200_000, output_tokens=1000), "0.615", id="up to the step"),
        pytest.param(Usage(input_tokens=200_001, output_tokens=1000), "1.222506", id="beyond it, for all tokens"),
        pytest.param(Usage(input_tokens=300_000, cached_tokens=300_000), "0.09", id="what the step does not change"),
    ],
)
def test_a_step_holds_for_the_whole_request(usage: Usage, dollars: str) -> None:
    assert usd(cost(usage, STEPPED) or 0) == dollars


def test_the_worst_case_knows_steps() -> None:
    assert worst_case(250_000, 0, 1, STEPPED) == 1_500_000_000
