"""Route: who may serve, who leads, who follows; the laws that hold for every decision."""

from collections import Counter
from math import sqrt
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from waypost.core.faults import Refused
from waypost.core.route import Ask, Candidate, Route, Rule, When, Wish, decide, split_suffix
from waypost.core.types import Bounds, Deployment, ModelCard, Need, Price, ProviderCard

USD = 1_000_000_000


def candidate(
    name: str, *, cost: float | None = 1.0, quality: float | None = None, domain: str = "", provider: Any = None, **facts: Any
) -> Candidate:
    """A candidate at `cost` dollars per million tokens, in and out. Facts of a Candidate or of its card are told apart by name."""
    slug = name.partition("/")[0]
    price = Price() if cost is None else Price(input_nusd_per_mtok=round(cost * USD), output_nusd_per_mtok=round(cost * USD))
    stand = {key: facts.pop(key) for key in ("standing", "why", "in_flight", "ttft_s", "tokens_per_s", "group") if key in facts}
    card = ModelCard(name=name, provider=slug, upstream=name, price=price, quality=quality, **facts)
    where = provider or ProviderCard(name=slug, wire="openai-chat", base_url="http://x", failure_domain=domain)
    return Candidate(Deployment(card, where), **stand)


def ask(*, prompt: int = 1_000, output: int = 1_000, needs: set[str] | None = None, task: Any = "chat", **facts: Any) -> Ask:
    fields = {key: facts.pop(key) for key in list(facts) if key in Bounds.__struct_fields__}
    return Ask(Need(task, prompt, output, frozenset(needs or ())), Bounds(**fields), **facts)


def order(*args: Any, **kwargs: Any) -> tuple[str, ...]:
    return decide(*args, **kwargs)[1].order


PIN = Wish("pin", "lab/small")
NAME = Wish("models", "small")
AUTO = Wish("route", "auto")
SMALL = candidate("lab/small", cost=0.25, quality=0.62, capabilities=frozenset({"tools", "json_schema", "vision"}), context_tokens=128_000)
LARGE = candidate("spare/large", cost=9.0, quality=0.90, capabilities=frozenset({"tools", "vision", "reasoning"}), context_tokens=200_000)
REFERENCE = Route(
    "auto",
    "cost",
    min_quality=0.70,
    max_ttft_s=3.0,
    candidates=("lab/small", "spare/large"),
    rules=(
        Rule(When(task="code"), ("lab/small",)),
        Rule(When(task="reasoning", min_prompt_tokens=2000), ("spare/large",)),
    ),
)


# --- wishes -------------------------------------------------------------------------------------------------------------


def test_a_pin_is_exactly_that_deployment() -> None:
    plan, decision = decide(PIN, ask(), [SMALL], draw=0.3, config="c1")
    assert plan == (SMALL,)
    assert (decision.chosen, decision.order, decision.propensity, decision.route) == ("lab/small", ("lab/small",), 1.0, "")
    assert (decision.draw, decision.config, decision.reasons) == (0.3, "c1", ("pinned by the caller",))
    assert decision.predictions[0].cost_nusd == 500_000


def test_a_pin_is_not_judged_by_quality_or_latency() -> None:
    assert order(PIN, ask(min_quality=0.99, max_ttft_s=0.1), [replace(SMALL, ttft_s=9.0)]) == ("lab/small",)


def test_an_unhealthy_pin_is_still_tried_and_its_state_is_told() -> None:
    _, decision = decide(PIN, ask(), [replace(SMALL, standing="open", why="3 failures in 10 s")])
    assert decision.order == ("lab/small",)
    assert "lab/small is open: 3 failures in 10 s" in decision.reasons


def test_callers_fallback_models_follow_the_pin_in_their_order() -> None:
    models = [SMALL, candidate("b/b", cost=0.1, group=2), candidate("a/a", cost=5, group=1)]
    assert order(PIN, ask(), models) == ("lab/small", "a/a", "b/b")


def test_a_pin_that_is_down_gives_way_to_a_healthy_model_of_the_callers_list() -> None:
    assert order(PIN, ask(), [replace(SMALL, standing="open"), candidate("a/a", group=1)]) == ("a/a", "lab/small")


def test_one_model_at_several_providers_is_drawn_by_the_inverse_square_of_its_cost() -> None:
    offers = [candidate("a/m", cost=1), candidate("b/m", cost=3)]
    first = Counter(decide(NAME, ask(), offers, draw=(i + 0.5) / 1000)[1].chosen for i in range(1000))
    assert first == {"a/m": 900, "b/m": 100}
    assert decide(NAME, ask(), offers, draw=0.95)[1].propensity == pytest.approx(0.1)


def test_free_providers_take_all_and_unknown_prices_wait() -> None:
    offers = [candidate("a/m", cost=None), candidate("b/m", cost=2), candidate("c/m", cost=0), candidate("d/m", cost=0)]
    assert {decide(NAME, ask(), offers, draw=i / 20)[1].chosen for i in range(20)} == {"c/m", "d/m"}
    assert order(NAME, ask(), offers[:2], draw=0.999) == ("b/m", "a/m")
    assert {decide(NAME, ask(), [offers[0], candidate("z/m", cost=None)], draw=i / 9)[1].chosen for i in range(9)} == {"a/m", "z/m"}


def test_a_plain_order_is_kept_and_the_unhealthy_go_last() -> None:
    route = Route("stable", order=("c/c", "a/a", "b/b"))
    trio = [candidate("a/a"), candidate("b/b"), candidate("c/c", cost=50)]
    assert order(Wish("route", "stable"), ask(), trio, route=route) == ("c/c", "a/a", "b/b")
    trio[2] = replace(trio[2], standing="open")
    assert order(Wish("route", "stable"), ask(), trio, route=route) == ("a/a", "b/b", "c/c")


def test_weights_draw_among_the_healthy_and_zero_weight_is_a_fallback_only() -> None:
    route = Route("spread", weights=(("a/a", 3.0), ("b/b", 1.0), ("c/c", 0.0)))
    trio = [candidate("a/a"), candidate("b/b"), candidate("c/c")]
    wish = Wish("route", "spread")
    assert [decide(wish, ask(), trio, route=route, draw=u)[1].chosen for u in (0.0, 0.74, 0.76, 0.999)] == ["a/a", "a/a", "b/b", "b/b"]
    assert order(wish, ask(), trio, route=route, draw=0.9) == ("b/b", "a/a", "c/c")
    assert decide(wish, ask(), trio, route=route, draw=0.9)[1].propensity == 0.25
    down = [replace(trio[0], standing="held"), replace(trio[1], standing="open"), trio[2]]
    assert order(wish, ask(), down, route=route, draw=0.1) == ("c/c", "a/a", "b/b")


def test_the_reference_rules_mean_what_they_say() -> None:
    pair = [SMALL, LARGE]
    code = decide(AUTO, ask(task="code"), pair, route=REFERENCE)[1]
    assert (code.order, code.rule) == (("lab/small", "spare/large"), "1: task = code")
    long_reasoning = decide(AUTO, ask(task="reasoning", prompt=2_500), pair, route=REFERENCE)[1]
    assert (long_reasoning.chosen, long_reasoning.rule) == ("spare/large", "2: task = reasoning, min_prompt_tokens = 2000")
    chat = decide(AUTO, ask(), pair, route=REFERENCE)[1]
    assert (chat.chosen, chat.rule, [one.code for one in chat.rejected]) == ("spare/large", "", ["quality"])


def test_a_rule_says_where_a_plan_starts_not_what_is_tried_after() -> None:
    pair = [replace(SMALL, standing="open"), LARGE]
    decision = decide(AUTO, ask(task="code"), pair, route=REFERENCE)[1]
    assert decision.order == ("spare/large", "lab/small")
    assert "what the rule names is not available" in decision.reasons


def test_the_callers_floor_binds_even_what_a_rule_names() -> None:
    assert order(AUTO, ask(task="code", min_quality=0.8), [SMALL, LARGE], route=REFERENCE) == ("spare/large",)


@pytest.mark.parametrize(
    ("when", "facts", "holds"),
    [
        (When(), {}, True),
        (When(task="code"), {"task": "code"}, True),
        (When(task="code"), {"task": "math"}, False),
        (When(min_prompt_tokens=1_000), {"prompt": 1_000}, True),
        (When(min_prompt_tokens=1_000), {"prompt": 999}, False),
        (When(max_prompt_tokens=1_000), {"prompt": 1_000}, True),
        (When(max_prompt_tokens=1_000), {"prompt": 1_001}, False),
        (When(capability="vision"), {"needs": {"vision"}}, True),
        (When(capability="vision"), {}, False),
        (When(tools=True), {"tools": True}, True),
        (When(tools=True), {}, False),
        (When(tools=False), {"tools": True}, False),
        (When(segment="search"), {"segment": "search"}, True),
        (When(segment="search"), {"segment": "chat"}, False),
        (When(stream=True), {"stream": True}, True),
        (When(stream=False), {"stream": True}, False),
        (When(format="json_schema"), {"format_kind": "json_schema"}, True),
        (When(format="json_schema"), {}, False),
        (When(task="code", stream=True), {"task": "code"}, False),
    ],
)
def test_conditions(when: When, facts: dict[str, Any], holds: bool) -> None:
    route = Route("r", "cost", rules=(Rule(when, ("dear/x",)),))
    pair = [candidate("dear/x", cost=9), candidate("cheap/x", cost=1)]
    decision = decide(Wish("route", "r"), ask(**facts), pair, route=route)[1]
    assert (decision.chosen == "dear/x", bool(decision.rule)) == (holds, holds)


# --- hard filters -------------------------------------------------------------------------------------------------------

TRAINS = ProviderCard(name="x", wire="openai-chat", base_url="http://x", trains_on_data=True)
DROPS = ProviderCard(name="x", wire="openai-chat", base_url="http://x", drop=frozenset({"seed"}))
KEEPS = ProviderCard(name="x", wire="openai-chat", base_url="http://x", zero_retention=True)
CAPS = frozenset({"tools"})

FILTERS = [
    ("context_length", {"context_tokens": 2_000}, {"prompt": 3_000}),
    ("context_length", {"context_tokens": 4_000}, {"prompt": 1_000, "max_output_tokens": 3_500}),
    (None, {"context_tokens": 4_000}, {"prompt": 1_000, "max_output_tokens": 3_000}),
    (None, {"context_tokens": 4_000, "max_output_tokens": 1_000}, {"prompt": 1_000, "max_output_tokens": 10_000_000}),
    (None, {"context_tokens": None}, {"prompt": 3_000_000}),
    ("modality", {"capabilities": CAPS}, {"needs": {"vision"}}),
    ("modality", {"capabilities": CAPS}, {"needs": {"audio", "tools"}}),
    ("modality", {"mode": "embedding"}, {}),
    (None, {"capabilities": frozenset()}, {"needs": {"vision", "tools", "json_schema"}}),
    ("tools", {"capabilities": frozenset({"vision"})}, {"needs": {"tools"}}),
    (None, {"capabilities": CAPS}, {"needs": {"tools"}}),
    ("json_schema", {"capabilities": CAPS}, {"needs": {"json_schema"}}),
    (None, {"capabilities": CAPS}, {"needs": {"json_object"}}),
    (None, {"capabilities": CAPS}, {"needs": {"reasoning"}}),
    ("parameters", {"capabilities": CAPS}, {"needs": {"reasoning"}, "require_parameters": True}),
    ("parameters", {"capabilities": CAPS}, {"needs": {"json_object"}, "require_parameters": True}),
    (None, {"capabilities": frozenset({"json_schema"})}, {"needs": {"json_object"}, "require_parameters": True}),
    ("parameters", {"provider": DROPS}, {"parameters": frozenset({"seed"}), "require_parameters": True}),
    (None, {"provider": DROPS}, {"parameters": frozenset({"seed"})}),
    ("max_price", {"cost": 2}, {"max_input_nusd_per_mtok": 1 * USD}),
    ("max_price", {"cost": 2}, {"max_output_nusd_per_mtok": 1 * USD}),
    (None, {"cost": 2}, {"max_input_nusd_per_mtok": 2 * USD, "max_output_nusd_per_mtok": 2 * USD}),
    ("unknown_price", {"cost": None}, {"max_output_nusd_per_mtok": 1 * USD}),
    ("unknown_price", {"cost": None}, {"max_cost_nusd": 1}),
    (None, {"cost": None}, {}),
    ("max_cost", {"cost": 1}, {"max_cost_nusd": 1_999_999}),
    (None, {"cost": 1}, {"max_cost_nusd": 2_000_000}),
    ("max_cost", {"cost": 1}, {"max_cost_nusd": 2_000_000, "max_output_tokens": 1_001}),
    ("max_cost", {"cost": 1}, {"max_cost_nusd": 2_000_000, "max_output_tokens": 501, "n": 2}),
    ("data_policy", {"provider": TRAINS}, {"data_collection_deny": True}),
    (None, {}, {"data_collection_deny": True}),
    ("data_policy", {}, {"zero_retention": True}),
    (None, {"provider": KEEPS}, {"zero_retention": True}),
    ("not_allowed", {}, {"only": frozenset({"y"})}),
    ("not_allowed", {}, {"only": frozenset()}),
    (None, {}, {"only": frozenset({"X"})}),
    (None, {}, {"only": frozenset({"x/m"})}),
    ("ignored", {}, {"ignore": frozenset({"x"})}),
    (None, {}, {"ignore": frozenset({"y"})}),
    ("not_allowed", {}, {"order": ("y",), "allow_fallbacks": False}),
    (None, {}, {"order": ("y",)}),
    ("deprecated", {"deprecated_on": "2026-01-31"}, {"today": "2026-02-01"}),
    (None, {"deprecated_on": "2026-01-31"}, {"today": "2026-01-01"}),
    (None, {"deprecated_on": "2026-01-31"}, {}),
    ("quality", {"quality": 0.5}, {"min_quality": 0.6}),
    (None, {"quality": 0.6}, {"min_quality": 0.6}),
]


@pytest.mark.parametrize(("code", "card", "facts"), FILTERS)
def test_hard_filters(code: str | None, card: dict[str, Any], facts: dict[str, Any]) -> None:
    """Each alone decides; with a second candidate that fits, the first is named among the rejected with its reason."""
    judged, wanted = candidate("x/m", **card), ask(**facts)
    if code is None:
        assert order(Wish("models", "m"), wanted, [judged]) == ("x/m",)
        return
    with pytest.raises(Refused) as refused:
        decide(Wish("models", "m"), wanted, [judged])
    assert refused.value.excluded[0][0] == "x/m"
    free = replace(
        candidate("free/m", cost=0, quality=1.0, capabilities=frozenset({"tools", "json_schema", "vision", "audio", "reasoning"}))
    )
    free = replace(free, deployment=replace(free.deployment, provider=replace(KEEPS, name="free")))
    only = wanted.bounds.only is not None or not wanted.bounds.allow_fallbacks
    bounds = replace(wanted.bounds, only=frozenset({"free"}), allow_fallbacks=True, order=()) if only else wanted.bounds
    decision = decide(Wish("models", "m"), replace(wanted, bounds=bounds), [judged, free])[1]
    assert decision.order == ("free/m",)
    assert [(one.deployment, one.code) for one in decision.rejected] == [("x/m", code)]


def test_a_prompt_that_only_probably_fits_is_ordered_last_but_kept() -> None:
    tight, roomy = candidate("a/tight", cost=1, context_tokens=9_000), candidate("b/roomy", cost=9, context_tokens=90_000)
    assert order(AUTO, ask(prompt=10_000), [tight, roomy], route=Route("auto", "cost")) == ("b/roomy", "a/tight")
    assert order(AUTO, ask(prompt=10_000), [tight, roomy], route=Route("auto", order=("a/tight", "b/roomy"))) == ("b/roomy", "a/tight")


def test_a_fallback_that_probably_does_not_fit_comes_after_one_that_does() -> None:
    trio = [candidate("a/roomy", cost=1), candidate("b/tight", cost=2, context_tokens=9_000), candidate("c/roomy", cost=9)]
    stable = Route("auto", order=("a/roomy", "b/tight", "c/roomy"))
    assert order(AUTO, ask(prompt=10_000), trio, route=stable) == ("a/roomy", "c/roomy", "b/tight")


def test_the_predicted_time_is_that_of_one_of_several_parallel_choices() -> None:
    predicted = decide(PIN, ask(output=300, n=3), [replace(SMALL, ttft_s=0.5, tokens_per_s=50.0)])[1].predictions[0]
    assert (predicted.ttft_s, predicted.total_s) == (0.5, 2.5)


def test_known_capabilities_come_before_unknown_ones() -> None:
    unknown, known = candidate("a/u", cost=1), candidate("b/k", cost=2, capabilities=CAPS)
    assert order(AUTO, ask(needs={"tools"}), [unknown, known], route=Route("auto", "cost")) == ("b/k", "a/u")


def test_an_unknown_quality_passes_a_floor_only_when_no_known_one_does() -> None:
    route = Route("auto", "cost", min_quality=0.7)
    unknown, good, bad = candidate("a/u", cost=1), candidate("b/g", quality=0.8, cost=5), candidate("c/b", quality=0.5)
    assert order(AUTO, ask(), [unknown, good, bad], route=route) == ("b/g",)
    decision = decide(AUTO, ask(), [unknown, bad], route=route)[1]
    assert decision.order == ("a/u",)
    assert any("unknown quality" in reason for reason in decision.reasons)


def test_the_first_token_bound_excludes_the_slow_but_never_everyone() -> None:
    route = Route("auto", "cost", max_ttft_s=3.0)
    slow, quick = candidate("a/slow", cost=1, ttft_s=5.0), candidate("b/quick", cost=9, ttft_s=1.0)
    decision = decide(AUTO, ask(), [slow, quick], route=route)[1]
    assert (decision.order, decision.rejected[0].code) == (("b/quick",), "latency")
    assert order(AUTO, ask(), [slow, candidate("c/new")], route=route) == ("c/new",)
    assert order(AUTO, ask(), [slow, replace(quick, standing="open")], route=route) == ("a/slow", "b/quick")


def test_nothing_fits_names_the_bounds_and_the_three_nearest() -> None:
    many = [candidate(f"p{i}/m", cost=i + 2, context_tokens=100 if i > 2 else None) for i in range(6)]
    with pytest.raises(Refused) as caught:
        decide(Wish("models", "m"), ask(max_input_nusd_per_mtok=1 * USD), many)
    refused = caught.value
    assert (refused.status, refused.code, refused.param) == (404, "constraint_filtered", "model")
    assert "the price cap" in refused.message and "the context window" in refused.message
    assert refused.excluded == tuple((f"p{i}/m", f"input at ${i + 2} per million tokens is over the cap of $1") for i in range(3))


@pytest.mark.parametrize(
    ("cards", "facts", "status", "code"),
    [
        ([{"context_tokens": 10}], {}, 400, "context_length_exceeded"),
        ([{"context_tokens": 10}, {"context_tokens": 20}], {}, 400, "context_length_exceeded"),
        ([{"provider": TRAINS}], {"data_collection_deny": True}, 404, "privacy_restricted"),
        ([{"deprecated_on": "2020-01-01"}], {"today": "2026-01-01"}, 404, "model_deprecated"),
        ([{"capabilities": frozenset({"vision"})}], {"needs": {"tools"}}, 404, "constraint_filtered"),
        ([], {}, 404, "no_endpoints"),
    ],
)
def test_refusals_have_the_codes_callers_know(cards: list[dict[str, Any]], facts: dict[str, Any], status: int, code: str) -> None:
    with pytest.raises(Refused) as caught:
        decide(Wish("models", "m"), ask(**facts), [candidate(f"p{i}/m", **card) for i, card in enumerate(cards)])
    assert (caught.value.status, caught.value.code) == (status, code)


# --- objectives and the caller's preferences ----------------------------------------------------------------------------

CHEAP = candidate("a/cheap", cost=1, quality=0.6, ttft_s=2.0, tokens_per_s=50.0)
QUICK = candidate("b/quick", cost=6, quality=0.7, ttft_s=0.2, tokens_per_s=200.0)
BEST = candidate("c/best", cost=20, quality=0.95, ttft_s=1.0, tokens_per_s=60.0)


@pytest.mark.parametrize(
    ("objective", "chosen"), [("cost", "a/cheap"), ("latency", "b/quick"), ("quality", "c/best"), ("balanced", "c/best")]
)
def test_objectives(objective: Any, chosen: str) -> None:
    assert order(AUTO, ask(), [CHEAP, QUICK, BEST], route=Route("auto", objective))[0] == chosen


def test_balanced_does_not_depend_on_a_third_model() -> None:
    pair = order(AUTO, ask(), [CHEAP, QUICK], route=Route("auto", "balanced"))
    for extra in (BEST, candidate("z/z", cost=900, quality=0.1), candidate("z/z", cost=0, quality=0.1)):
        trio = order(AUTO, ask(), [CHEAP, QUICK, extra], route=Route("auto", "balanced"))
        leading = [name for name in trio if name in pair]
        if trio[0] in pair:
            assert leading[0] == pair[0]


@pytest.mark.parametrize(
    ("wish", "facts", "chosen", "objective"),
    [
        (AUTO, {"sort": "price"}, "a/cheap", "cost"),
        (AUTO, {"sort": "latency"}, "b/quick", "latency"),
        (AUTO, {"sort": "throughput"}, "b/quick", "latency"),
        (Wish("route", "auto", "floor"), {}, "a/cheap", "cost"),
        (Wish("route", "auto", "nitro"), {}, "b/quick", "latency"),
        (Wish("route", "auto", "exacto"), {}, "c/best", "quality"),
        (Wish("models", "m", "floor"), {}, "a/cheap", "cost"),
    ],
)
def test_the_callers_sort_and_suffix_win(wish: Wish, facts: dict[str, Any], chosen: str, objective: str) -> None:
    route = Route("auto", "quality", order=("c/best",)) if wish.kind == "route" else None
    decision = decide(wish, ask(**facts), [BEST, QUICK, CHEAP], route=route, draw=0.99)[1]
    assert (decision.chosen, decision.objective, decision.propensity) == (chosen, objective, 1.0)


def test_the_callers_order_leads_and_the_rest_follow() -> None:
    decision = decide(Wish("models", "m"), ask(order=("C", "b_quick", "b")), [CHEAP, QUICK, BEST], draw=0.1)[1]
    assert decision.order == ("c/best", "b/quick", "a/cheap")


def test_without_fallbacks_there_is_one_attempt_or_the_order_alone() -> None:
    assert order(Wish("models", "m"), ask(allow_fallbacks=False), [CHEAP, QUICK, BEST]) == ("a/cheap",)
    assert order(Wish("models", "m"), ask(allow_fallbacks=False, order=("c", "b")), [CHEAP, QUICK, BEST]) == ("c/best", "b/quick")


def test_fallbacks_prefer_equal_quality_then_another_failure_domain_then_the_objective() -> None:
    lead = candidate("a/1", cost=1, quality=0.8, domain="rack-1")
    field = [
        lead,
        candidate("b/weak", cost=1.1, quality=0.5, domain="rack-2"),
        candidate("c/same-rack", cost=2, quality=0.8, domain="rack-1"),
        candidate("d/dear", cost=9, quality=0.8, domain="rack-3"),
        candidate("e/equal", cost=3, quality=0.78, domain="rack-2"),
    ]
    assert order(AUTO, ask(), field, route=Route("auto", "cost")) == ("a/1", "e/equal", "d/dear", "c/same-rack", "b/weak")


def test_suffixes_are_split_and_other_colons_are_names() -> None:
    assert split_suffix("lab/small:floor") == ("lab/small", "floor")
    assert split_suffix("auto:nitro") == ("auto", "nitro")
    for name in ("ollama/llama3:8b", "x/y:free", ":floor", "plain", ""):
        assert split_suffix(name) == (name, "")


# --- equals -------------------------------------------------------------------------------------------------------------


def peers(*facts: dict[str, Any]) -> list[Candidate]:
    return [candidate(f"p{i}/m", cost=1, quality=0.8, **fact) for i, fact in enumerate(facts)]


def test_of_two_equals_the_less_loaded_leads_whatever_the_draw() -> None:
    pair = peers({"ttft_s": 0.5, "in_flight": 9}, {"ttft_s": 0.6, "in_flight": 1})
    decisions = [decide(AUTO, ask(), pair, route=Route("auto", "cost"), draw=i / 50)[1] for i in range(50)]
    assert {(one.chosen, one.propensity) for one in decisions} == {("p1/m", 1.0)}


def test_two_idle_equals_share_the_load_evenly() -> None:
    pair = peers({"ttft_s": 0.5}, {"ttft_s": 0.5})
    decisions = [decide(AUTO, ask(), pair, route=Route("auto", "cost"), draw=(i + 0.5) / 100)[1] for i in range(100)]
    assert Counter(one.chosen for one in decisions) == {"p0/m": 50, "p1/m": 50}
    assert {one.propensity for one in decisions} == {0.5}


def test_an_unmeasured_equal_gets_its_chance() -> None:
    pair = peers({"ttft_s": 0.5, "in_flight": 1}, {})
    assert order(AUTO, ask(), pair, route=Route("auto", "cost"))[0] == "p1/m"


def test_a_better_model_at_the_same_cost_is_no_equal() -> None:
    pair = [candidate("a/m", cost=1, quality=0.6), candidate("b/m", cost=1, quality=0.8, ttft_s=5.0, in_flight=9)]
    assert {order(AUTO, ask(), pair, route=Route("auto", "cost"), draw=i / 9)[0] for i in range(9)} == {"b/m"}


# --- laws ---------------------------------------------------------------------------------------------------------------

STANDINGS = st.sampled_from(["ready", "ready", "probe", "held", "open", "dead"])
MAYBE = st.none() | st.floats(0.01, 9.0)
COSTS = st.none() | st.sampled_from([0.0, 0.5, 1.0, 1.0, 4.0])
KNOWN = st.sampled_from([frozenset[str](), CAPS, frozenset({"tools", "vision"})])
FACTS = st.fixed_dictionaries(
    {
        "cost": COSTS,
        "quality": st.none() | st.floats(0, 1),
        "standing": STANDINGS,
        "in_flight": st.integers(0, 50),
        "ttft_s": MAYBE,
        "tokens_per_s": MAYBE,
        "group": st.sampled_from([0, 0, 0, 1, 2]),
        "capabilities": KNOWN,
        "context_tokens": st.sampled_from([None, 1_000, 100_000]),
        "domain": st.sampled_from(["", "rack"]),
    }
)
CANDIDATES = st.lists(FACTS, min_size=1, max_size=7).map(
    lambda many: [candidate(f"p{i % 4}/m{i}", **facts) for i, facts in enumerate(many)]
)
ASKS = st.fixed_dictionaries(
    {
        "prompt": st.sampled_from([10, 1_200, 5_000]),
        "needs": st.sets(st.sampled_from(["tools", "vision"])),
        "max_cost_nusd": st.none() | st.sampled_from([10, 10**7]),
        "min_quality": st.none() | st.floats(0, 1),
        "max_ttft_s": MAYBE,
        "order": st.lists(st.sampled_from(["p0", "p1", "p2"]), max_size=2, unique=True).map(tuple),
        "sort": st.sampled_from([None, None, "price", "throughput", "latency"]),
        "allow_fallbacks": st.sampled_from([True, True, False]),
        "task": st.sampled_from(["chat", "code"]),
    }
).map(lambda facts: ask(**facts))


@st.composite
def situations(draw: st.DrawFn) -> tuple[Wish, Ask, list[Candidate], Route | None, float]:
    field, wanted, u = draw(CANDIDATES), draw(ASKS), draw(st.floats(0, 1, exclude_max=True))
    names = [one.deployment.name for one in field]
    kind = draw(st.sampled_from(["pin", "models", "objective", "order", "weights", "rules"]))
    suffix = draw(st.sampled_from(["", "", "floor", "nitro"]))
    if kind in ("pin", "models"):
        return Wish("models" if kind == "models" else "pin", "m", suffix), wanted, field, None, u
    objective = draw(st.sampled_from(["cost", "latency", "quality", "balanced"]))
    route = Route("r", objective, min_quality=draw(st.none() | st.floats(0, 1)), max_ttft_s=draw(MAYBE))
    if kind == "order":
        route = replace(route, order=tuple(draw(st.permutations(names))))
    if kind == "weights":
        route = replace(route, weights=tuple((name, draw(st.sampled_from([0.0, 1.0, 2.5]))) for name in names))
    if kind == "rules":
        route = replace(route, rules=(Rule(When(task="code"), (draw(st.sampled_from(names)),)),))
    return Wish("route", "r", suffix), wanted, field, route, u


@given(situations())
def test_laws_of_every_decision(situation: tuple[Wish, Ask, list[Candidate], Route | None, float]) -> None:
    wish, wanted, field, route, u = situation
    try:
        plan, decision = decide(wish, wanted, field, route=route, draw=u)
    except Refused as refused:
        assert refused.status in (400, 404) and 1 <= len(refused.excluded) <= 3
        return
    again, same = decide(wish, wanted, field, route=route, draw=u)
    assert (again, same) == (plan, decision)
    given_names = {one.deployment.name for one in field}
    rejected = {one.deployment for one in decision.rejected}
    assert tuple(one.deployment.name for one in plan) == decision.order
    assert decision.order[0] == decision.chosen and len(set(decision.order)) == len(decision.order)
    assert set(decision.order) <= given_names, "nothing is ever added"
    assert not rejected & set(decision.order), "what was rejected is never tried"
    if wanted.bounds.allow_fallbacks:
        assert rejected | set(decision.order) == given_names, "nobody is left out without a reason"
    ranks = [("ready", "probe", "held", "open", "dead").index(one.standing) for one in plan]
    assert ranks == sorted(ranks), "the better standing always comes first"
    assert 0.0 < decision.propensity <= 1.0
    assert {one.deployment for one in decision.predictions} == given_names
    assert decision.reasons


def within_three_sigma(counts: Counter[str], shares: dict[str, float], draws: int) -> bool:
    return all(abs(counts[name] - draws * share) <= 3 * sqrt(draws * share * (1 - share)) for name, share in shares.items())


def test_weights_hold_within_three_sigma_over_ten_thousand_draws() -> None:
    route, random = Route("spread", weights=(("a/a", 3.0), ("b/b", 1.0), ("c/c", 6.0))), Random(20261123)
    trio = [candidate("a/a"), candidate("b/b"), candidate("c/c")]
    counts = Counter(decide(Wish("route", "spread"), ask(), trio, route=route, draw=random.random())[1].chosen for _ in range(10_000))
    assert within_three_sigma(counts, {"a/a": 0.3, "b/b": 0.1, "c/c": 0.6}, 10_000)


def test_inverse_square_holds_within_three_sigma_over_ten_thousand_draws() -> None:
    random = Random(20261124)
    trio = [candidate("a/m", cost=1), candidate("b/m", cost=2), candidate("c/m", cost=3)]
    counts = Counter(decide(NAME, ask(), trio, draw=random.random())[1].chosen for _ in range(10_000))
    total = 1 + 1 / 4 + 1 / 9
    assert within_three_sigma(counts, {"a/m": 1 / total, "b/m": 0.25 / total, "c/m": 1 / 9 / total}, 10_000)


def test_two_choices_have_the_propensities_they_state() -> None:
    random = Random(20261125)
    field = peers({"ttft_s": 0.1}, {"ttft_s": 0.2}, {"ttft_s": 0.2}, {"ttft_s": 0.4})
    counts: Counter[str] = Counter()
    shares: dict[str, float] = {"p3/m": 0.0}
    for _ in range(10_000):
        decision = decide(AUTO, ask(), field, route=Route("auto", "cost"), draw=random.random())[1]
        counts[decision.chosen] += 1
        shares[decision.chosen] = decision.propensity
    assert sum(shares.values()) == pytest.approx(1.0)
    assert within_three_sigma(counts, shares, 10_000)
