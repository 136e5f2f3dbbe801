"""The mini language of failures: what a model name and a rule say."""

from pathlib import Path

import msgspec
import pytest

from waypost.sim import scripts
from waypost.sim.scripts import Chance, Rule, of_model, spread

MEANINGS = [
    ("ok", [("ok", None)]),
    ("gpt-sim.fail-503", [("fail", 503)]),
    ("fail-429-ra2", [("fail", 429), ("ra", 2)]),
    ("fail-429-ms1500", [("fail", 429), ("ms", 1500)]),
    ("fail-503-p0.3-x2", [("fail", 503), ("p", 0.3), ("x", 2)]),
    ("fail-402-in-flight", [("fail", 402), ("in-flight", None)]),
    ("stall-5-n50-d100-g20", [("stall", 5), ("n", 50), ("d", 100), ("g", 20)]),
    ("think+tool+n50", [("think", None), ("tool", None), ("n", 50)]),
    ("error-0", [("error", 0)]),
    ("error-200", [("error-200", None)]),
    ("cut-last", [("cut-last", None)]),
    ("cut", [("cut", None)]),
    ("no-done-crlf", [("no-done", None), ("crlf", None)]),
    ("openrouter/anthropic/claude.rst-3", [("rst", 3)]),
    ("gpt-4o-tool", [("tool", None)]),
]


@pytest.mark.parametrize(("model", "words"), MEANINGS)
def test_a_model_name_says_its_script(model: str, words: list[tuple[str, float | None]]) -> None:
    assert list(of_model(model).words) == words


@pytest.mark.parametrize(
    "model",
    [
        "gpt-4o",
        "gpt-4.1-mini",
        "gpt-4o-2024-08-06",
        "o1-mini",
        "deepseek/deepseek-r1",
        "claude-3-n50",
        "llama-3-x2",
        "text-embedding-3-small",
        "",
    ],
)
def test_a_real_model_name_says_nothing(model: str) -> None:
    assert of_model(model).words == ()


@pytest.mark.parametrize("written", [written for _, written, _ in scripts.listing()])
def test_every_listed_word_can_be_written_as_listed(written: str) -> None:
    script = scripts.parse(f"ok-{written}")
    assert script is not None and len(script.words) == 2


def test_an_argument_left_out_is_the_usual_one() -> None:
    assert of_model("cut").number("cut") == 5
    assert of_model("ok").number("cut", -1) == -1


def test_faults_that_rest_leave_content_and_pace() -> None:
    assert [word for word, _ in of_model("think-fail-503-n9-x1").calm().words] == ["think", "n", "x"]


@pytest.mark.parametrize(
    ("rule", "hands_out"),
    [
        (Rule(script="cut"), ["cut", "cut", "cut"]),
        (Rule(script=["cut", "ok"]), ["cut", "ok", None]),
        (Rule(script="cut", first=2), [None, "cut", "cut"]),
        (Rule(script="cut", last=1), ["cut", None, None]),
        (Rule(script=["cut", "rst"], first=2), [None, "cut", "rst"]),
    ],
)
def test_a_rule_hands_out_scripts_by_attempt(rule: Rule, hands_out: list[str | None]) -> None:
    assert [rule.script_for(nth) for nth in (1, 2, 3)] == hands_out


def test_a_rule_suits_by_glob_and_time() -> None:
    rule = Rule(model="gpt-*", provider="a", key="*7", after_s=10, until_s=20)
    fits = {"provider": "a", "model": "gpt-x", "dialect": "gemini", "key": "sk-7"}
    assert rule.suits(**fits, now_s=10)
    assert not rule.suits(**fits, now_s=9.9)
    assert not rule.suits(**fits, now_s=20)
    assert not rule.suits(**{**fits, "model": "claude"}, now_s=10)
    assert not rule.suits(**{**fits, "provider": "b"}, now_s=10)
    assert not rule.suits(**{**fits, "key": "sk-8"}, now_s=10)


@pytest.mark.parametrize("body", [b'[{"script": "explode"}]', b'[{"scrpt": "ok"}]', b'[{"ttft_ms": "soon"}]', b'{"script": "ok"}', b"["])
def test_bad_rules_are_refused(body: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        scripts.rules_from_json(body)


def test_distributions_have_the_stated_centre_and_are_seeded() -> None:
    assert spread("300").draw_s(Chance("x")) == 0.3
    draws = sorted(spread("lognormal:300:0.6").draw_s(Chance(7, i)) for i in range(999))
    assert 0.25 < draws[499] < 0.35
    mean = sum(spread("exponential:40").draw_s(Chance(7, i)) for i in range(2000)) / 2000
    assert 0.035 < mean < 0.045
    assert spread("exponential:40").draw_s(Chance(7, 1)) == spread("exponential:40").draw_s(Chance(7, 1))
    with pytest.raises(ValueError, match="lognormal"):
        spread("lognormal:3")


def test_the_documentation_says_each_word_as_the_table_does() -> None:
    page = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text()
    assert not [written for _, written, says in scripts.listing() if f"| `{written}` | {says} |" not in page]


def test_the_documentation_says_each_field_of_a_rule() -> None:
    page = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text()
    assert not [name for name in Rule.__struct_fields__ if f"`{name}`" not in page]
