import argparse
import csv
import json
import os
from io import StringIO
from pathlib import Path

import pytest

from waypost.adapters.journal import Journal
from waypost.cli import report
from waypost.core.types import Attempt, Usage

T0 = 1_790_000_000_123  # 2026-09-21T14:13:20.123Z
COLUMNS = (
    "request_id,attempt,at,key,segment,route,model,provider,outcome,"
    "input_tokens,cached_tokens,output_tokens,usage_source,cost_nusd,ttft_ms,total_ms"
)


def attempt(request: str, **facts: object) -> Attempt:
    usual: dict[str, object] = {
        "at_ms": T0,
        "key": "team",
        "segment": "search",
        "route": "auto",
        "model": "lab/small",
        "provider": "lab",
        "outcome": "ok",
    }
    usual |= {"usage": Usage(1200, 200, 0, 50), "cost_nusd": 263_000, "ttft_ms": 212.5, "total_ms": 1830.25}
    return Attempt(request_id=request, attempt=1, **(usual | facts))  # type: ignore[arg-type]


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "waypost.db"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    def run(*words: str) -> tuple[int, str, str]:
        parser = argparse.ArgumentParser()
        report.arguments(parser)
        code = report.run(parser.parse_args(words))
        return code, *capsys.readouterr()

    return run


def write(db: Path, *rows: Attempt) -> None:
    journal = Journal(db, thread=False)
    for row in rows:
        journal.settled(row, None)
    journal.close()


def test_attempts_as_csv_have_exactly_the_promised_columns(db: Path, run):
    write(db, attempt("r1"), attempt("r2", cost_nusd=None, ttft_ms=None, outcome="failed"))
    code, out, _ = run("--db", str(db), "--attempts", "--format", "csv")
    assert code == 0
    assert out.splitlines() == [
        COLUMNS,
        "r1,1,2026-09-21T14:13:20.123Z,team,search,auto,lab/small,lab,ok,1200,200,50,reported,263000,212.5,1830.25",
        "r2,1,2026-09-21T14:13:20.123Z,team,search,auto,lab/small,lab,failed,1200,200,50,reported,,,1830.25",
    ]


def test_attempts_as_json_are_the_same_rows(db: Path, run):
    write(db, attempt("r1"), attempt("r2"))
    _, as_json, _ = run("--db", str(db), "--attempts", "--format", "json")
    _, as_csv, _ = run("--db", str(db), "--attempts", "--format", "csv")
    from_csv = list(csv.DictReader(StringIO(as_csv)))
    assert [{name: str(value) for name, value in row.items()} for row in json.loads(as_json)] == from_csv


def test_rows_of_a_gateway_killed_a_moment_ago_are_there(db: Path, run):
    if os.fork() == 0:
        journal = Journal(db, thread=False)
        journal.opened(attempt("cut", usage=Usage(7)), 999)
        journal.settled(attempt("done"), None)
        os._exit(0)
    os.wait()
    _, out, _ = run("--db", str(db), "--attempts", "--format", "json")
    assert {row["request_id"]: (row["outcome"], row["cost_nusd"]) for row in json.loads(out)} == {
        "cut": ("interrupted", 999),
        "done": ("ok", 263_000),
    }


def test_tables_are_by_model_provider_and_segment(db: Path, run):
    write(db, attempt("r1"), attempt("r2", model="spare/large", provider="spare", segment="", cost_nusd=2_500_000_000))
    _, out, _ = run("--db", str(db))
    assert out.startswith("$2.50 for 2 requests, 2 attempts, 0 errors\n")
    assert [line.split()[0] for line in out.splitlines() if line.strip()][4:] == [
        *("MODEL", "spare/large", "lab/small"),
        *("PROVIDER", "spare", "lab"),
        *("SEGMENT", "(none)", "search"),
    ]


def test_an_unknown_price_is_shown_as_unknown_never_as_zero(db: Path, run):
    write(db, attempt("r1", cost_nusd=None), attempt("r2", model="spare/large"))
    _, out, _ = run("--db", str(db), "--by", "model")
    assert "$0.000263 + 1 unknown for 2 requests" in out
    assert [line.split()[1] for line in out.splitlines() if line.startswith("lab/small")] == ["unknown"]


def test_the_share_of_estimated_usage_is_shown(db: Path, run):
    write(db, attempt("r1", usage=Usage(1, 0, 0, 1, 0, "estimated")), attempt("r2"))
    assert "usage estimated for 1 attempts (50.0 %)" in run("--db", str(db))[1]


def test_sums_as_json_and_csv_carry_the_same_integers(db: Path, run):
    write(db, attempt("r1"), attempt("r2"))
    document = json.loads(run("--db", str(db), "--format", "json", "--by", "key")[1])
    lines = list(csv.DictReader(StringIO(run("--db", str(db), "--format", "csv", "--by", "key")[1])))
    assert document["total"]["cost_nusd"] == document["by_key"][0]["cost_nusd"] == 526_000
    assert [(line["by"], line["label"], line["cost_nusd"]) for line in lines] == [("all", "", "526000"), ("key", "team", "526000")]


@pytest.mark.parametrize(
    ("since", "requests"),
    [
        ("2026-09-21T14:13:20.124", 1),
        ("2026-09-21T14:13:20.123Z", 2),
        ("2026-09-21T16:13:20.123+02:00", 2),
        ("2026-09-21", 2),
        ("9999w", 2),
    ],
)
def test_since_takes_times_and_spans(db: Path, run, since: str, requests: int):
    write(db, attempt("r1"), attempt("r2", at_ms=T0 + 1))
    assert json.loads(run("--db", str(db), "--since", since, "--format", "json")[1])["total"]["requests"] == requests


def test_a_nonsense_since_says_what_works(db: Path, run):
    write(db)
    code, _, err = run("--db", str(db), "--since", "soon")
    assert code == 1
    assert "24h" in err


def test_an_empty_ledger_says_so_and_what_to_do(db: Path, run):
    write(db)
    code, out, _ = run("--db", str(db))
    assert code == 0
    assert "Send a request" in out
    assert run("--db", str(db), "--attempts", "--format", "csv")[1] == COLUMNS + "\n"
    assert json.loads(run("--db", str(db), "--attempts", "--format", "json")[1]) == []


def test_a_missing_ledger_is_an_error_with_the_way_out(db: Path, run):
    code, out, err = run("--db", str(db))
    assert (code, out) == (1, "")
    assert "no ledger at" in err
    assert "waypost serve" in err
    assert not db.exists()


def test_the_configuration_names_the_ledger_even_if_it_is_wrong_otherwise(db: Path, run, tmp_path: Path):
    write(db, attempt("r1"))
    config = tmp_path / "my.toml"
    config.write_text(f'nonsense = 1\n[storage]\nurl = "sqlite:{db}"\n')
    assert "1 requests" in run("--config", str(config))[1]


def test_a_callers_segment_cannot_speak_to_the_terminal(db: Path, run):
    write(db, attempt("r1", segment="\x1b[2Jgone"))
    assert "\x1b" not in run("--db", str(db))[1]
    assert "\x1b" not in run("--db", str(db), "--attempts")[1]


@pytest.mark.parametrize(
    ("nusd", "text"),
    [(0, "$0.000000"), (1, "$0.000000"), (263_000, "$0.000263"), (2_505_000_000, "$2.51"), (1_234_567_890_000_000, "$1,234,567.89")],
)
def test_dollars_are_humane(nusd: int, text: str):
    assert report.dollars(nusd) == text
