"""`waypost models`, run as its users run it."""

import argparse
import json
import subprocess
import sys

import pytest

from waypost.cli import models
from waypost.core.types import ModelCard, Price


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    parser = argparse.ArgumentParser()
    models.arguments(parser)
    code = models.run(parser.parse_args(words))
    out, err = capsys.readouterr()
    return code, out, err


def test_a_model_is_one_line_with_its_facts(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "openai/gpt-4o-mini-2024-07-18")
    (line,) = out.splitlines()  # a pipe gets no heading
    assert code == 0
    assert line.split() == ["openai/gpt-4o-mini-2024-07-18", "128k", "16k", "0.15", "0.075", "0.60", "tsvd", "2026-11-10"]


def test_lines_are_aligned_and_fit_100_columns_where_the_name_does(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys)
    lines = out.splitlines()
    dated = [line for line in lines if len(line.split()[0]) <= models.NAME_WIDTH]
    assert len(dated) > 500
    assert len({line.rindex("  ") for line in dated}) == 1
    assert max(map(len, dated)) <= 100


def test_filters_narrow_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("claude", "SONNET", "--provider", "amazon_bedrock", "--capability", "vision", "--max-input-price", "3", "--json")
    code, out, _ = run(capsys, *words)
    found = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and found
    for card in found:
        assert card["provider"] == "bedrock" and "claude" in card["name"] and "sonnet" in card["name"]
        assert "vision" in card["capabilities"] and card["price"]["input_nusd_per_mtok"] <= 3_000_000_000


def test_an_unknown_price_is_shown_as_unknown_and_passes_no_price_filter() -> None:
    card = ModelCard(name="p/m", provider="p", upstream="m")
    assert models.table([card], columns=100)[1].split() == ["p/m", *["unknown"] * 5, "-"]
    assert models.chosen([card], words=(), capabilities=(), max_input_nusd_per_mtok=10**18) == []


def test_a_price_of_nothing_is_not_unknown() -> None:
    card = ModelCard(name="p/m:free", provider="p", upstream="m:free", price=Price(0, 0), as_of="2026-01-01")
    assert models.table([card], columns=100)[1].split()[3:6] == ["0.00", "-", "0.00"]


@pytest.mark.parametrize(
    ("nusd", "shown"),
    [
        (None, ""),
        (0, "0.00"),
        (2_500_000_000, "2.50"),
        (37_500_000, "0.0375"),
        (2_999_990_000, "3.00"),
        (20_000, "0.00002"),
        (10**12, "1000.00"),
    ],
)
def test_dollars(nusd: int | None, shown: str) -> None:
    assert models.usd(nusd) == shown


@pytest.mark.parametrize(
    ("count", "shown"), [(None, "unknown"), (8191, "8191"), (128_000, "128k"), (131_072, "131k"), (1_048_576, "1.05M")]
)
def test_tokens(count: int | None, shown: str) -> None:
    assert models.tokens(count) == shown


def test_the_count_names_models_providers_and_sources(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--count")
    everything, full, _ = out.splitlines()
    assert code == 0
    assert int(everything.split()[0]) >= int(full.split()[0]) >= 1400
    assert int(full.split()[3]) >= 27
    assert "genai-prices 0." in out and "litellm 1." in out


def test_no_match_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "gtp-4o-mni")
    assert (code, out) == (1, "")
    assert "openai/gpt-4o-mini" in err


def test_an_unknown_provider_is_said_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--provider", "opnai")
    assert (code, out) == (2, "")
    assert "'opnai'" in err and "openai" in err


@pytest.mark.parametrize("word", ["cheap", "1e999999999999", "nan", "-1"])
def test_a_price_that_is_none_is_refused(capsys: pytest.CaptureFixture[str], word: str) -> None:
    with pytest.raises(SystemExit):
        run(capsys, "--max-input-price", word)
    assert "not an amount" in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_error() -> None:
    script = (
        "import argparse\n"
        "from waypost.cli import models\n"
        "parser = argparse.ArgumentParser()\n"
        "models.arguments(parser)\n"
        "raise SystemExit(models.run(parser.parse_args([])))\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(10) == 0
