"""The build: how two price lists become one, on lists small enough to check by eye."""

import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from catalog_genai import read_genai
from catalog_merge import Model, Provider, merge, nusd_per_token, read_providers

from waypost.catalog.load import Catalog

GENAI = """
from .types import *
import datetime
from decimal import Decimal
providers: list[Provider] = [
    Provider(
        id='acme',
        pricing_urls=['https://acme.example/pricing'],
        models=[
            ModelInfo(
                id='one',
                match=ClauseOr(or_=[ClauseEquals(equals='one'), ClauseStartsWith(starts_with='one-2')]),
                context_window=1000,
                prices=ModelPrice(input_mtok=Decimal('0.10'), cache_read_mtok=Decimal('0.01'), output_mtok=Decimal('0.3')),
                price_variants=[
                    PriceVariant(when={'processing': 'batch'}, prices=ModelPrice(input_mtok=Decimal('0.05'), output_mtok=Decimal('0.15')),
                        constraint=StartDateConstraint(start_date=datetime.date(2026, 1, 1))),
                    PriceVariant(when={'processing': 'batch'}, prices=ModelPrice(input_mtok=Decimal('9'), output_mtok=Decimal('9')),
                        constraint=StartDateConstraint(start_date=datetime.date(2027, 1, 1))),
                ],
            ),
            ModelInfo(
                id='hourly',
                match=ClauseEquals(equals='hourly'),
                context_window=2000,
                prices=[
                    ConditionalPrice(prices=ModelPrice(input_mtok=Decimal('9'), output_mtok=Decimal('9'))),
                    ConditionalPrice(constraint=StartDateConstraint(start_date=datetime.date(2026, 6, 1)),
                        prices=ModelPrice(input_mtok=Decimal('1'), output_mtok=Decimal('2'))),
                    ConditionalPrice(constraint=TimeOfDateConstraint(start_time=datetime.time(1, 0), end_time=datetime.time(4, 0)),
                        prices=ModelPrice(input_mtok=Decimal('3'), output_mtok=Decimal('6'))),
                    ConditionalPrice(constraint=StartDateConstraint(start_date=datetime.date(2027, 1, 1)),
                        prices=ModelPrice(input_mtok=Decimal('8'), output_mtok=Decimal('8'))),
                ],
            ),
            ModelInfo(
                id='stepped',
                match=ClauseEquals(equals='stepped'),
                context_window=3000,
                prices=ModelPrice(
                    input_mtok=TieredPrices(
                        base=Decimal('1'), tiers=[Tier(start=200, price=Decimal('2')), Tier(start=900, price=Decimal('4'))]
                    ),
                    output_mtok=Decimal('5'),
                ),
            ),
            ModelInfo(
                id='ancient', match=ClauseEquals(equals='ancient'), prices=ModelPrice(input_mtok=Decimal('1'), output_mtok=Decimal('1'))
            ),
            ModelInfo(id='gift', match=ClauseEquals(equals='gift'), context_window=10, prices=ModelPrice()),
        ],
    ),
]
"""
ACME = Provider("acme", "acme", ("acme",), True, frozenset({"chat", "embedding", "rerank", "responses"}), "")


def entry(**facts: Any) -> dict[str, Any]:
    return {"litellm_provider": "acme", "mode": "chat"} | {
        name: Decimal(str(value)) if isinstance(value, float) else value for name, value in facts.items()
    }


def built(*, provider: Provider = ACME, **litellm: dict[str, Any]) -> dict[str, Model]:
    models, _ = merge([provider], read_genai(GENAI, on="2026-11-10"), {f"acme/{name}": facts for name, facts in litellm.items()})
    return {model.upstream: model for model in models["acme"]}


@pytest.mark.parametrize(
    ("usd_per_token", "nusd_per_mtok"),
    [
        ("2.5e-06", 2_500_000_000),
        ("4.0000000000000003e-07", 400_000_000),
        ("1.5001e-07", 150_010_000),
        ("3.33333333e-07", 333_333_333),
        ("0", 0),
        (None, None),
        ("-1", None),
    ],
)
def test_a_cost_per_token_becomes_whole_nano_dollars(usd_per_token: str | None, nusd_per_mtok: int | None) -> None:
    assert nusd_per_token(None if usd_per_token is None else Decimal(usd_per_token)) == nusd_per_mtok


def test_a_price_listed_under_this_very_name_wins() -> None:
    model = built(one=entry(input_cost_per_token=9e-06, output_cost_per_token=9e-06, max_input_tokens=1000))["one"]
    assert model.price == (100_000_000, 10_000_000, None, 300_000_000)
    assert model.batch == (50_000_000, 150_000_000)
    assert model.origin == "gl"


def test_a_price_matched_by_pattern_only_loses() -> None:
    model = built(**{"one-2b": entry(input_cost_per_token=9e-06, output_cost_per_token=9e-06)})["one-2b"]
    assert (model.price, model.origin) == ((9_000_000_000, None, None, 9_000_000_000), "l")


def test_a_price_matched_by_pattern_fills_what_is_missing_when_both_agree() -> None:
    model = built(**{"one-2b": entry(input_cost_per_token=1e-07, output_cost_per_token=3e-07)})["one-2b"]
    assert (model.price, model.batch) == ((100_000_000, 10_000_000, None, 300_000_000), (50_000_000, 150_000_000))


def test_each_disagreement_is_told_with_the_choice() -> None:
    listing = {"acme/one": entry(input_cost_per_token=9e-06, output_cost_per_token=9e-06, max_input_tokens=500)}
    _, conflicts = merge([ACME], read_genai(GENAI, on="2026-11-10"), listing)
    assert [(c.name, c.field, c.genai, c.litellm, c.took) for c in conflicts] == [
        ("acme/one", "in/out per Mtok", "0.1/0.3", "9/9", "genai-prices"),
        ("acme/one", "context", 1000, 500, "litellm"),
    ]


@pytest.mark.parametrize(("limits", "context"), [((None, None), 1000), ((1000, 100), 1000), ((900, 100), 1000), ((700, 100), 700)])
def test_the_context_window_follows_the_rule(limits: tuple[int | None, int | None], context: int) -> None:
    facts = entry(input_cost_per_token=1e-07, output_cost_per_token=3e-07, max_input_tokens=limits[0], max_output_tokens=limits[1])
    assert built(one=facts)["one"].context == context


def test_a_price_that_depends_on_the_hour_is_taken_at_its_dearest_of_the_day() -> None:
    assert built()["hourly"].price == (3_000_000_000, None, None, 6_000_000_000)


def test_steps_of_a_price_keep_what_does_not_step() -> None:
    model = built()["stepped"]
    assert model.price == (1_000_000_000, None, None, 5_000_000_000)
    assert model.tiers == ((200, (2_000_000_000, None, None, 5_000_000_000)), (900, (4_000_000_000, None, None, 5_000_000_000)))


def test_steps_of_litellm_are_read_in_both_their_forms() -> None:
    above = entry(input_cost_per_token=1e-06, output_cost_per_token=2e-06, input_cost_per_token_above_200k_tokens=3e-06)
    ranges = entry(
        tiered_pricing=[
            {"range": [0, 1000], "input_cost_per_token": Decimal("1e-06"), "output_cost_per_token": Decimal("2e-06")},
            {"range": [1000, 9000], "input_cost_per_token": Decimal("3e-06"), "output_cost_per_token": Decimal("4e-06")},
        ]
    )
    models = built(above=above, ranges=ranges)
    assert models["above"].tiers == ((200_000, (3_000_000_000, None, None, 2_000_000_000)),)
    assert models["ranges"].price[0] == 1_000_000_000
    assert models["ranges"].tiers == ((1000, (3_000_000_000, None, None, 4_000_000_000)),)


def test_zero_is_unknown_unless_the_name_says_free() -> None:
    models = built(gift=entry(input_cost_per_token=0.0, output_cost_per_token=0.0), **{"gift:free": entry(input_cost_per_token=0.0)})
    assert models["gift"].price == (None, None, None, None)
    assert models["gift:free"].price[0] == 0


def test_models_without_a_window_or_a_token_price_are_not_added() -> None:
    assert set(built()) == {"one", "hourly", "stepped"}
    assert set(built(provider=ACME._replace(adds=False))) == set()


def test_modes_that_are_not_text_and_foreign_endpoints_are_left_out() -> None:
    models = built(
        image=entry(mode="image_generation"),
        pro=entry(supported_endpoints=["/v1/responses"]),
        odd=entry(supported_endpoints=["/v1/messages"]),
    )
    assert models["pro"].mode == "responses"
    assert "image" not in models and "odd" not in models


def test_names_that_differ_only_in_case_are_one_model() -> None:
    models = built(Two=entry(), two=entry(input_cost_per_token=1e-06, output_cost_per_token=1e-06))
    assert [name for name in models if name.casefold() == "two"] == ["two"]


def test_a_form_the_reader_does_not_know_stops_the_build() -> None:
    with pytest.raises(ValueError, match="form this reader does not know"):
        read_genai("providers: list[Provider] = [x if y else z]", on="2026-11-10")


def test_every_shipped_provider_table_is_readable_by_the_build() -> None:
    path = Path(__file__).parents[2] / "src" / "waypost" / "catalog" / "providers.toml"
    assert {provider.name for provider in read_providers(path)} == {card.name for card in Catalog.load().providers()}
