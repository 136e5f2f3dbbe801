"""waypost explain: the decision without a call, and a past one read back and made again."""

import argparse
import asyncio
import io
import json
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import msgspec
import pytest

from waypost.app import App
from waypost.cli import explain
from waypost.core.types import Decision
from waypost.sim.provider import Simulator

CONFIG = """
[server]
port = 0
[providers.lab]
wire = "openai-chat"
base_url = "{url}"
[[models]]
name = "lab/small"
input_usd_per_mtok = 0.1
output_usd_per_mtok = 0.4
context_tokens = 8000
quality = 0.5
[[models]]
name = "lab/large"
input_usd_per_mtok = 3
output_usd_per_mtok = 15
quality = 0.9
[routes.auto]
objective = "cost"
candidates = ["lab/small", "lab/large"]
[[routes.auto.rules]]
when = {{ task = "math" }}
use = ["lab/large"]
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "waypost.toml").write_text(CONFIG.format(url="http://127.0.0.1:9/v1"))
    return tmp_path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], here: Path):
    def run(*words: str) -> tuple[int, str, str]:
        parser = argparse.ArgumentParser()
        explain.arguments(parser)
        code = explain.run(parser.parse_args(words))
        return code, *capsys.readouterr()

    return run


# --- a new request -----------------------------------------------------------------------------------------------------------


def test_a_prompt_is_decided_and_nobody_is_called(run) -> None:
    code, out, err = run("--max-tokens", "50", "Hello there, how are you?")
    assert (code, err) == (0, "")
    for part in ("asked for    auto", "chosen       lab/small", "2  lab/large", "Nobody was called"):
        assert part in out


def test_a_rule_leads_elsewhere(run) -> None:
    decision = json.loads(run("--json", "Compute the integral of x^2 sin(x) dx and prove the derivative is right.")[1])
    assert (decision["need"]["task"], decision["chosen"]) == ("math", "lab/large")


def test_bounds_are_those_of_the_headers(run) -> None:
    decision = json.loads(run("--json", "--min-quality", "0.8", "--segment", "s", "hi")[1])
    assert decision["chosen"] == "lab/large"
    assert decision["rejected"][0]["code"] == "quality"
    assert decision["inputs"]["ask"]["segment"] == "s"


def test_a_prompt_may_come_by_standard_input(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("word " * 20_000))
    decision = json.loads(run("--json", "-")[1])
    assert decision["need"]["prompt_tokens"] > 8_000
    assert decision["rejected"][0]["code"] == "context_length"


def test_a_whole_request_is_taken_from_a_file(run, here: Path) -> None:
    body = {"model": "lab/large", "messages": [{"role": "user", "content": "hi"}], "waypost": {"max_cost_usd": 5}}
    (here / "body.json").write_text(json.dumps(body))
    assert "chosen       lab/large" in run("--body", "body.json")[1]
    assert "chosen       lab/small" in run("--body", "body.json", "--model", "auto")[1]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "give one of PROMPT, --body FILE or --request REQ_ID"),
        (("hi", "--request", "r"), 2, "give one of"),
        (("--model", "lab/smal", "hi"), 1, "would be refused with 404 model_not_found"),
        (("--max-cost-usd", "0.000000001", "--max-tokens", "9", "hi"), 1, "404 constraint_filtered"),
        (("--min-quality", "2", "hi"), 1, "400 invalid_option: x-waypost-min-quality is '2'"),
        (("--max-tokens", "0", "hi"), 1, "would be refused with 400"),
        (("--body", "nowhere.json"), 1, "No such file"),
        (("--config", "nowhere.toml", "hi"), 1, "cannot be read"),
        (("--request", "req_1"), 1, "there is no ledger at waypost.db"),
    ],
)
def test_what_cannot_be_explained_says_why(run, words: tuple[str, ...], code: int, said: str) -> None:
    found, out, err = run(*words)
    assert (found, out) == (code, "")
    assert said in err


# --- a past request ----------------------------------------------------------------------------------------------------------


def ask(port: int, model: str) -> tuple[str, str]:
    """The request's id and the model that answered."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 5}
    request = Request(f"http://127.0.0.1:{port}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"})
    with urlopen(request, timeout=20) as answer:
        return answer.headers["x-request-id"], answer.headers["x-waypost-model"]


def test_a_past_decision_is_read_from_journal_or_ledger_and_replayed_to_the_same(run, here: Path) -> None:
    """Over real sockets: first while the row may still be in the journal, then after the gateway has ended."""
    seen: dict[str, Any] = {}

    async def serve(url: str) -> None:
        (here / "waypost.toml").write_text(CONFIG.format(url=url))
        app = App(here / "waypost.toml", env={})
        _, port = await app.start()
        seen["routed"], seen["model"] = await asyncio.to_thread(ask, port, "auto")
        seen["pinned"], _ = await asyncio.to_thread(ask, port, "lab/large")
        seen["live"] = explain.recorded(here / "waypost.db", seen["routed"])
        await app.stop()

    with Simulator(tokens=5).run_in_thread() as sim:
        asyncio.run(serve(sim.base_url()))
    assert seen["model"] == "lab/small"
    assert isinstance(seen["live"], Decision) and seen["live"].chosen == "lab/small"

    code, out, _ = run("--request", seen["routed"])
    assert code == 0
    assert "chosen       lab/small" in out and out.endswith("replayed to the same decision\n")

    code, out, err = run("--request", seen["routed"], "--json", "--db", str(here / "waypost.db"))
    assert msgspec.json.decode(out, type=Decision) == seen["live"]
    assert err == "replayed to the same decision\n"

    code, out, _ = run("--request", seen["pinned"])
    assert code == 0 and "nothing was decided, the caller named lab/large" in out

    code, _, err = run("--request", "req_unknown")
    assert code == 1 and "knows no request 'req_unknown'" in err

    text = (here / "waypost.toml").read_text()
    (here / "waypost.toml").write_text(text.replace('objective = "cost"', 'objective = "quality"'))
    code, out, _ = run("--request", seen["routed"])
    assert code == 1
    assert "replayed to another decision" in out and "would now choose lab/large instead of lab/small" in out

    (here / "waypost.toml").write_text(text.replace('"lab/small"', '"lab/tiny"'))
    code, _, err = run("--request", seen["routed"])
    assert code == 1 and "the record names lab/small, which this configuration does not serve" in err
