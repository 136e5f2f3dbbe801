"""waypost check: everything that is wrong, at once, and what a good configuration means; nobody is called."""

import argparse
from pathlib import Path

import pytest

from waypost.cli import check

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "TEAM_SEARCH_KEY")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    from waypost.catalog.load import Catalog

    for card in Catalog.load().providers():
        for name in card.key_env:
            monkeypatch.delenv(name, raising=False)

    def run(*words: str, **env: str) -> tuple[int, str, str]:
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        parser = argparse.ArgumentParser()
        check.arguments(parser)
        code = check.run(parser.parse_args(words))
        return code, *capsys.readouterr()

    return run


def test_the_reference_is_ok_and_its_meaning_is_shown(run) -> None:
    code, out, err = run("--config", str(EXAMPLES / "reference.toml"))
    assert (code, err) == (0, "")
    for part in (
        "ok: ",
        "provider lab",
        "route    stable         in this order: lab/small, spare/large",
        "by weight",
        "warning  providers.openai is off",
    ):
        assert part in out


def test_all_errors_are_printed_and_the_exit_is_1(run, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text(
        '[server]\nport = -1\n[providers.opnai]\n[routes.r]\norder = ["nobody/x"]\n[[keys]]\nname = "k"\nkey = "sk-live-123456789"\n'
    )
    code, out, err = run("--config", "bad.toml")
    assert (code, out) == (1, "")
    assert err.startswith("waypost: the configuration has 4 errors:")
    for part in ("server.port = -1: expected `int` >= 0", "providers.opnai: ", "routes.r.order = 'nobody/x'", "keys[k].key = (not shown)"):
        assert part in err
    assert "sk-live" not in err


def test_a_missing_file_is_an_error_with_the_way_out(run) -> None:
    code, _, err = run("--config", "nowhere.toml")
    assert code == 1 and "give an existing file with --config" in err


def test_waypost_toml_is_read_when_there_is_one(run, tmp_path: Path) -> None:
    (tmp_path / "waypost.toml").write_text('[providers.lab]\nwire = "openai-chat"\nbase_url = "http://h/v1"\n')
    code, out, _ = run()
    assert code == 0 and "ok: waypost.toml" in out and "provider lab" in out


def test_without_a_file_it_says_what_auto_means(run) -> None:
    code, out, _ = run(OPENAI_API_KEY="sk-1", ANTHROPIC_API_KEY="sk-2")
    assert code == 0
    assert "ok: no file, keys from the environment" in out
    assert "auto     chat, code, summarize, classify, extract, translate begin with " in out
    assert "auto     reasoning, math begin with " in out
    assert "write [routes.auto] to choose others" in out
    assert "sk-1" not in out
