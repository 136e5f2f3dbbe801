"""Replay: a record gives the same decision again, a changed world is told, and the tellings are complete and bounded."""

import json
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from waypost.core.faults import Refused
from waypost.core.replay import explain_text, header_json, record, replay
from waypost.core.route import Ask, Candidate, Route, Rule, When, Wish, decide
from waypost.core.types import Bounds, Decision, Deployment, ModelCard, Need, Price, ProviderCard

CHEAP = Price(input_nusd_per_mtok=100_000_000, output_nusd_per_mtok=400_000_000)
DEAR = Price(input_nusd_per_mtok=3_000_000_000, output_nusd_per_mtok=15_000_000_000)


def deployment(name: str, price: Price, quality: float | None) -> Deployment:
    slug = name.partition("/")[0]
    return Deployment(ModelCard(name, slug, name, price, 100_000, quality=quality), ProviderCard(slug, "openai-chat", "http://x"))


SERVED = {
    one.name: one
    for one in (
        deployment("lab/small", CHEAP, 0.62),
        deployment("spare/large", DEAR, 0.9),
        deployment("lab/mid", CHEAP, 0.6),
        deployment("new/x", Price(), None),
    )
}
ROUTES = {
    "auto": Route("auto", "cost", min_quality=0.5, rules=(Rule(When(task="code"), ("lab/small",)),)),
    "spread": Route("spread", weights=(("lab/small", 3.0), ("spare/large", 1.0))),
    "fast": Route("fast", "latency", max_ttft_s=2.0),
}
NEED = Need("code", 1_200, 400, frozenset({"tools"}), ("code fence", "names python"), 0.71)


def decided(wish: Wish, ask: Ask, candidates: list[Candidate], draw: float = 0.25, config: str = "c1") -> tuple[bytes, Decision]:
    _, decision = decide(wish, ask, candidates, route=ROUTES.get(wish.name) if wish.kind == "route" else None, draw=draw, config=config)
    return record(wish, ask, candidates, decision), decision


STANDS = st.tuples(
    st.sampled_from(["ready", "ready", "open", "held"]),
    st.integers(0, 9),
    st.none() | st.floats(0.001, 20),
    st.none() | st.floats(0.1, 900),
    st.none() | st.floats(0, 1),
    st.sampled_from([0, 0, 1]),
)
ASKS = st.builds(
    Ask,
    need=st.builds(
        Need,
        task=st.sampled_from(["chat", "code", "math"]),
        prompt_tokens=st.integers(0, 150_000),
        expected_output_tokens=st.integers(0, 4_000),
        capabilities=st.frozensets(st.sampled_from(["tools", "vision"])),
        reasons=st.just(("code fence",)),
        confidence=st.floats(0, 1),
    ),
    bounds=st.builds(
        Bounds,
        min_quality=st.none() | st.floats(0, 1),
        max_cost_nusd=st.none() | st.integers(0, 10**9),
        only=st.none() | st.frozensets(st.sampled_from(["lab", "spare", "new"]), min_size=1),
        order=st.sampled_from([(), ("spare",), ("lab/mid", "new")]),
        sort=st.sampled_from([None, "price", "throughput", "latency"]),
    ),
    max_output_tokens=st.none() | st.integers(1, 5_000),
    segment=st.text(max_size=5),
    parameters=st.frozensets(st.sampled_from(["seed", "top_k"])),
)


@given(
    st.sampled_from(
        [Wish("route", "auto"), Wish("route", "spread", "nitro"), Wish("route", "fast"), Wish("models", "m"), Wish("pin", "lab/small")]
    ),
    ASKS,
    st.lists(STANDS, min_size=4, max_size=4),
    st.floats(0, 1, exclude_max=True),
)
def test_a_record_replays_to_an_equal_decision(wish: Wish, ask: Ask, stands: list[tuple[Any, ...]], draw: float) -> None:
    candidates = [
        Candidate(one, standing, "", flight, ttft, speed, quality, group)
        for one, (standing, flight, ttft, speed, quality, group) in zip(SERVED.values(), stands, strict=True)
    ]
    try:
        kept, decision = decided(wish, ask, candidates, draw)
    except Refused:
        return
    replayed = replay(kept, ROUTES, SERVED, config="c1")
    assert (replayed.decision, replayed.recorded, replayed.same, replayed.note) == (decision, decision, True, "")


def sample() -> tuple[bytes, Decision]:
    candidates = [
        Candidate(SERVED["lab/small"], ttft_s=0.3, tokens_per_s=80.0),
        Candidate(SERVED["spare/large"], "open", "3 failures in 10 s"),
        Candidate(SERVED["new/x"]),
    ]
    return decided(Wish("route", "auto"), Ask(NEED), candidates)


def test_another_configuration_is_said() -> None:
    kept, decision = sample()
    replayed = replay(kept, ROUTES, SERVED, config="c2")
    assert replayed.decision == decision
    assert replayed.note == "decided under configuration c1, replayed under c2"


def test_a_changed_route_gives_another_decision_and_says_what_changed() -> None:
    kept, _ = decided(Wish("route", "auto"), Ask(NEED), [Candidate(SERVED["lab/small"]), Candidate(SERVED["spare/large"])])
    routes = {"auto": Route("auto", "quality")}
    replayed = replay(kept, routes, SERVED, config="c2")
    assert not replayed.same
    assert replayed.decision.chosen == "spare/large"
    assert "would now choose spare/large instead of lab/small" in replayed.note


@pytest.mark.parametrize("garbage", [b"", b"{}", b"[1]", b"\xff", b'{"wish": 1}'])
def test_what_is_no_record_is_refused(garbage: bytes) -> None:
    with pytest.raises(ValueError, match="not a decision record"):
        replay(garbage, ROUTES, SERVED)


def test_a_route_or_deployment_that_is_gone_is_named_with_what_is_known() -> None:
    kept, _ = sample()
    with pytest.raises(ValueError, match=r"route 'auto'.*known: spread"):
        replay(kept, {"spread": ROUTES["spread"]}, SERVED)
    with pytest.raises(ValueError, match=r"spare/large.*known: lab/small, new/x"):
        replay(kept, ROUTES, {name: SERVED[name] for name in ("lab/small", "new/x")})


def test_the_telling_has_task_choice_alternatives_and_rejections() -> None:
    text = explain_text(sample()[1])
    for part in (
        "code, confidence 0.71: code fence; names python",
        "needs tools",
        "lab/small  (probability 1, draw 0.2500)",
        "rule: task = code",
        "spare/large is open: 3 failures in 10 s",
        "0.00028",
        "0.30 s",
        "5.3 s",
        "quality: quality unknown, and others are known to reach the floor",
        "configuration c1",
    ):
        assert part in text, text
    assert not any(line != line.rstrip() for line in text.splitlines())


def test_the_header_says_the_same_in_ascii() -> None:
    decision = replace(sample()[1], wish="größer", reasons=("ein Grund 🎲",))
    header = header_json(decision)
    told = json.loads(header.decode("ascii"))
    assert (told["wish"], told["chosen"], told["reasons"]) == ("größer", "lab/small", ["ein Grund 🎲"])
    assert [one["deployment"] for one in told["alternatives"]] == ["lab/small", "spare/large", "new/x"]
    assert told["alternatives"][0]["cost_usd"] == "0.00028"
    assert told["alternatives"][2]["rejected"] == "quality"
    assert told["more"] == 0


@given(st.integers(0, 60), st.integers(2, 9_000), st.integers(0, 99))
def test_the_header_is_always_valid_and_within_its_limit(many: int, limit: int, seed: int) -> None:
    base, random = sample()[1], Random(seed)
    names = tuple(f"p{i}/{'é' * random.randrange(9)}m" for i in range(many))
    decision = replace(base, order=(base.chosen, *names))
    header = header_json(decision, limit)
    told = json.loads(header)
    assert len(header) <= limit and header.isascii() and b"\n" not in header
    if "alternatives" in told:
        assert len(told["alternatives"]) + told["more"] == len(decision.order) + len(decision.rejected)


def test_a_record_holds_no_more_than_the_decision_and_its_inputs() -> None:
    kept = json.loads(sample()[0])
    assert set(kept) == {"wish", "ask", "stands", "decision", "version"}
    assert set(kept["ask"]) == set(Ask.__struct_fields__)
