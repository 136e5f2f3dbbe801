"""The demo tells a true story: it runs on real sockets, ends by itself, leaves nothing behind, and its numbers can be checked."""

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from waypost.core.health import TargetView
from waypost.core.types import Attempt, Decision, Need, Outcome, Price, Usage
from waypost.sim import demo_story as story
from waypost.sim import demo_words as words
from waypost.sim.demo_caller import Heard
from waypost.sim.demo_tally import Tally, check
from waypost.sim.demo_view import ASCII, LEAST, UNICODE, Scene, encode, picture
from waypost.sim.records import Record

PATIENCE_S = 60.0  # for a slow machine; the runs take a few seconds
QUICK = ("--seconds", "3", "--speed", "2")


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """The demo as a user starts it; its temporary files go to `tmp_path`, and no test leaves one running."""
    running: list[subprocess.Popen[str]] = []

    def start(*words: str, terminal: int | None = None, **env: str) -> "subprocess.Popen[str]":
        demo = subprocess.Popen(
            [sys.executable, "-m", "waypost", "demo", *words],
            stdin=subprocess.DEVNULL if terminal is None else terminal,
            stdout=subprocess.PIPE if terminal is None else terminal,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"TMPDIR": str(tmp_path)} | env,
        )
        running.append(demo)
        return demo

    yield start
    for demo in running:
        demo.kill()
        demo.communicate()


def number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found, text
    return int(found[1].replace(",", ""))


# --- the whole of it ---------------------------------------------------------------------------------------------------------


def test_the_story_ends_by_itself_with_failovers_no_silent_truncation_and_exact_books(start: Start, tmp_path: Path):
    demo = start(*QUICK)
    out, errors = demo.communicate(timeout=PATIENCE_S)
    assert (demo.returncode, errors) == (0, "")
    assert number(r"failovers (\d+)   hedges \d+\n  cut", out) > 0
    assert number(r"silent truncations (\d+)", out) == 0
    assert number(r"([\d,]+) in the ledger", out) == number(r"in the ledger = ([\d,]+) billed", out) > 1000
    assert "nimbus/small 503 -> " in out and "waypost serve" in out
    assert "\x1b" not in out
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_midway_still_closes_the_books_and_leaves_no_file(start: Start, tmp_path: Path):
    demo = start("--seconds", "60")
    assert demo.stdout
    while "1/5" not in demo.stdout.readline():
        pass
    demo.send_signal(signal.SIGINT)
    out, errors = demo.communicate(timeout=PATIENCE_S)
    assert (demo.returncode, errors) == (130, "")
    assert "waypost demo: requests" in out
    assert list(tmp_path.iterdir()) == []


def test_a_taken_port_is_said_plainly(start: Start, tmp_path: Path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        demo = start("--port", str(taken.getsockname()[1]))
        _, errors = demo.communicate(timeout=PATIENCE_S)
    assert demo.returncode == 1
    assert errors.startswith("waypost demo: cannot start:") and "--port" in errors and errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """(our end, the demo's end)."""
    ends = pty.openpty()
    yield ends
    for fd in ends:
        with contextlib.suppress(OSError):
            os.close(fd)


def test_at_a_terminal_it_draws_until_q_and_gives_the_terminal_back(start: Start, terminal: tuple[int, int], tmp_path: Path):
    ours, theirs = terminal
    usual = termios.tcgetattr(theirs)
    demo = start("--seconds", "60", terminal=theirs, TERM="xterm")
    drawn = _read_until(ours, "LAST REQUESTS")
    os.write(ours, b"q")
    drawn += _read_until(ours, "waypost sim --list")
    assert demo.wait(PATIENCE_S) == 0
    assert termios.tcgetattr(theirs) == usual
    before, after = drawn.split("\x1b[?1049l")
    assert before.startswith("\x1b[?1049h\x1b[?25l") and before.endswith("\x1b[?25h")
    assert "every token accounted for" in after and "\x1b" not in after
    assert list(tmp_path.iterdir()) == []


def test_it_ends_when_the_terminal_goes_away(start: Start, terminal: tuple[int, int], tmp_path: Path):
    ours, theirs = terminal
    demo = start("--seconds", "60", terminal=theirs, TERM="xterm")
    os.close(theirs)
    _read_until(ours, "LAST REQUESTS")
    os.close(ours)
    demo.wait(PATIENCE_S)
    assert list(tmp_path.iterdir()) == []


def _read_until(fd: int, words: str) -> str:
    text, late_s = "", time.monotonic() + PATIENCE_S
    while words not in text:
        assert time.monotonic() < late_s, text
        if select.select([fd], [], [], 1.0)[0]:
            text += os.read(fd, 65536).decode("utf-8", "replace")
    return text


# --- the picture -------------------------------------------------------------------------------------------------------------


def attempt(n: int, model: str, outcome: str = "ok", **facts: object) -> Attempt:
    usual: dict[str, object] = {"ttft_ms": 212.0, "total_ms": 900.0, "stream": True, "status": 200, "usage": Usage(30, 0, 0, 40)}
    settled = {"cost_nusd": 28_500, "provider": model.partition("/")[0]} | usual | facts
    return Attempt("r", n, 0, "", "", "auto", model, outcome=outcome, **settled)  # type: ignore[arg-type]


def outcome(*attempts: Attempt, status: int = 200, error: str = "") -> Outcome:
    need = Need("code", 30, 700, frozenset())
    order = tuple(a.model for a in attempts)
    decision = Decision("auto", "auto", "", order[0], 1.0, need, (), (), order, ("best by cost",), "cost", 0.5, "c")
    return Outcome("r", 0, "", "", status, decision, attempts, error=error)


RESCUED = outcome(attempt(1, "nimbus/small", "failed", fault="overloaded", status=503, ttft_ms=None), attempt(2, "cirrus/small"))
CUT = outcome(attempt(1, "nimbus/small", "failed", fault="truncated", usage=Usage(30, 0, 0, 9)), status=502, error="truncated")
HEDGED = outcome(attempt(1, "nimbus/small", "hedge_lost", ttft_ms=None), attempt(2, "cirrus/small"))
IDLY = outcome(attempt(1, "nimbus/small"), attempt(2, "cirrus/small", "hedge_lost", ttft_ms=None))


@pytest.mark.parametrize(
    ("what", "said", "notable"),
    [
        (RESCUED, "nimbus/small 503 -> cirrus/small ok 212 ms", True),
        (CUT, "nimbus/small cut after 9 tokens, told", True),
        (HEDGED, "nimbus/small slow -> cirrus/small ok 212 ms", True),
        (IDLY, "nimbus/small ok 212 ms -> cirrus/small not needed", False),
    ],
)
def test_a_request_is_told_by_its_attempts(what: Outcome, said: str, notable: bool):
    assert words.chain(what, "->") == said
    assert words.is_notable(what) is notable


def scene(curl: str = "", health: Mapping[str, TargetView] | None = None) -> Scene:
    tally = Tally(story.MODELS, Price(5_000_000_000, 25_000_000_000))
    for one in (RESCUED, CUT, HEDGED):
        tally.observe(one, 1.0)
    tally.hear(Heard("whole", 0.2))
    feed = [RESCUED, CUT, HEDGED] * 8
    return Scene("nimbus answers 503", "3/5", 9.0, 2.0, "http://127.0.0.1:4000/v1", story.WIRES, story.FRONTIER, tally, feed, feed,
                 health or {}, None, curl)  # fmt: skip


@pytest.mark.parametrize("size", [LEAST, (80, 24), (100, 30), (120, 40), (300, 100)])
@pytest.mark.parametrize("chars", [UNICODE, ASCII])
def test_the_picture_fits_and_always_holds_every_model_and_the_promises(size: tuple[int, int], chars: type):
    columns, rows = size
    drawn = [encode(line, columns, colour=False) for line in picture(scene("curl http://x -d '{}'"), columns, rows, chars)]
    assert len(drawn) <= rows
    assert all(len(line) <= columns for line in drawn)
    text = "\n".join(drawn)
    assert all(name in text for name in story.MODELS)
    assert "silent truncations 0" in text


def test_without_colour_no_escape_sequence_is_left():
    assert "\x1b" not in "".join(encode(line, 80, colour=False) for line in picture(scene(), 80, 24, UNICODE))
    assert "\x1b[31m" in "".join(encode(line, 80, colour=True) for line in picture(scene(), 80, 24, UNICODE))


def test_a_chapters_sentence_fits_a_narrow_terminal():
    assert [c.says for c in story.CHAPTERS if len(f" 1/5 {c.says}") > 80] == []


def test_a_name_from_a_caller_cannot_write_to_the_terminal():
    assert "\x1b" not in words.chain(outcome(attempt(1, "x/\x1b[2J")), "->")


# --- the numbers -------------------------------------------------------------------------------------------------------------


def record(provider: str, prompt: int, output: int, ended: str = "whole") -> Record:
    facts = {"prompt_tokens": prompt, "output_tokens": output, "ended": ended, "is_answer": True}
    return Record("i", provider, "/", 0.0, 0.0, 0.0, **facts)  # type: ignore[arg-type]


def test_the_books_agree_when_each_reported_row_has_its_answer():
    found = check([attempt(1, "nimbus/small"), attempt(1, "cirrus/small")], [record("cirrus", 30, 40), record("nimbus", 30, 40)])
    assert found.is_exact and found.ledger_tokens == found.billed_tokens == 140
    assert "every token accounted for" in words.verdict(found)[0]


@pytest.mark.parametrize(
    ("rows", "answers"),
    [
        ([attempt(1, "nimbus/small")], [record("nimbus", 30, 41)]),  # a token too few
        ([attempt(1, "nimbus/small")], [record("cirrus", 30, 40)]),  # somebody else's
        ([attempt(1, "nimbus/small")] * 2, [record("nimbus", 30, 40)]),  # doubled
        ([attempt(1, "nimbus/small")], [record("nimbus", 30, 40)] * 2),  # lost
        ([], [record("nimbus", 30, 40)]),
    ],
)
def test_a_difference_of_one_token_or_one_row_is_shown(rows: list[Attempt], answers: list[Record]):
    found = check(rows, answers)
    assert not found.is_exact
    assert "DIFFER" in words.verdict(found)[0]


def test_what_was_estimated_is_compared_apart():
    cut = attempt(1, "nimbus/small", "failed", usage=Usage(44, 0, 0, 9, source="estimated"))
    found = check([cut], [record("nimbus", 14, 9, "fin")])
    assert found.is_exact and found.ledger_tokens == 0
    assert (found.broken.output_tokens, found.truth.output_tokens, found.truth.prompt_tokens) == (9, 9, 14)


def test_the_comparison_prices_the_same_tokens_at_the_frontiers_price():
    tally = Tally(story.MODELS, Price(5_000_000_000, 25_000_000_000))
    tally.observe(outcome(attempt(1, "nimbus/small")), 0.0)
    assert (tally.cost_nusd, tally.frontier_nusd) == (28_500, 30 * 5_000 + 40 * 25_000)
