"""The documents tell the truth: every option and flag is in them, every link leads somewhere, every example loads."""

import argparse
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import msgspec
import pytest
from msgspec import Struct

from waypost import cli, config, world
from waypost.catalog.load import Catalog

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(p for p in ROOT.rglob("*.md") if not any(part.startswith(".") for part in p.relative_to(ROOT).parts[:-1]))
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()
COMMANDS = (ROOT / "README.md").read_text() + (ROOT / "docs" / "cli.md").read_text()


# --- options and commands ----------------------------------------------------------------------------------------------------


def options(of: type[Struct], path: str = "") -> Iterator[tuple[str, str]]:
    """(path, name) of every option, walked through the structs."""
    for field in msgspec.structs.fields(of):
        inner = struct_in(field.type)
        yield f"{path}{field.name}", field.name
        if inner is not None:
            yield from options(inner, f"{path}{field.name}.")


def struct_in(kind: Any) -> type[Struct] | None:
    if isinstance(kind, type) and issubclass(kind, Struct):
        return kind
    return next((found for arg in get_args(kind) if (found := struct_in(arg)) is not None), None) if get_origin(kind) else None


OPTIONS = list(options(config.Config))


def test_the_walk_finds_options_at_every_depth() -> None:
    assert {"server.port", "providers.base_url", "routes.rules.when.task", "retries.hedge.quantile", "keys.budget.per"} <= {
        p for p, _ in OPTIONS
    }


@pytest.mark.parametrize(("path", "name"), OPTIONS, ids=[path for path, _ in OPTIONS])
def test_every_option_is_documented(path: str, name: str) -> None:
    """In its own section's text, as code."""
    section = path.split(".")[0]
    heading = next((h for h in re.split(r"^## ", CONFIGURATION, flags=re.M) if re.match(rf"[^\n]*`\[+{section}[.\]]", h)), "")
    assert heading, f"docs/configuration.md has no section for [{section}]"
    assert "." not in path or re.search(rf"`(?:\w+\.)?{name}\b", heading), f"{path} is not described under [{section}]"


@pytest.mark.parametrize(
    "struct", [config.Server, config.Timeouts, config.Retries, config.ExactCache, config.Context], ids=lambda s: s.__name__
)
def test_documented_defaults_are_the_real_ones(struct: type[Struct]) -> None:
    for field in msgspec.structs.fields(struct):
        if isinstance(field.default, (bool, int, float, str)):
            value = field.default
            shown = (
                f'"{value}"'
                if isinstance(value, str)
                else str(value).lower()
                if isinstance(value, bool)
                else f"{value:g}"
                if value < 1e6
                else str(value)
            )
            row = next(line for line in CONFIGURATION.splitlines() if re.search(rf"`(exact\.)?{field.name}`", line))
            assert f"`{shown}`" in row or f"`{value}`" in row, f"{struct.__name__}.{field.name} = {shown}: {row}"


def flags(command: str) -> list[str]:
    parser = argparse.ArgumentParser(add_help=False)
    cli.load(command).arguments(parser)
    return [max(action.option_strings, key=len) if action.option_strings else action.metavar or action.dest for action in parser._actions]  # type: ignore[misc]


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_and_flag_is_documented(command: str) -> None:
    assert f"waypost {command}" in COMMANDS
    section = next((s for s in re.split(r"^#+ ", COMMANDS, flags=re.M) if s.startswith(f"`waypost {command}`")), "")
    assert cli.load(command).EXAMPLE in section, f"the example of waypost {command} is not in its section of docs/cli.md"
    missing = [flag for flag in flags(command) if not re.search(rf"`{re.escape(flag)}\b", section)]
    assert not missing, f"waypost {command}: {', '.join(missing)} not documented"


def test_every_documented_flag_exists() -> None:
    for section in re.split(r"^## ", (ROOT / "docs" / "cli.md").read_text(), flags=re.M)[1:]:
        command = section.split("`")[1].removeprefix("waypost ")
        unknown = set(re.findall(r"`(--[a-z-]+)", section)) - set(flags(command))
        assert not unknown, f"docs/cli.md names {unknown}, which waypost {command} does not know"


# --- what stands in the documents --------------------------------------------------------------------------------------------


def fences(language: str) -> list[tuple[str, str]]:
    found = [(p, m) for p in DOCUMENTS for m in re.finditer(rf"^```{language}\n(.*?)^```", p.read_text(), re.S | re.M)]
    return [(f"{p.relative_to(ROOT)}:{p.read_text()[: m.start()].count(chr(10)) + 1}", m[1]) for p, m in found]


@pytest.mark.parametrize(("place", "code"), fences("python"), ids=[place for place, _ in fences("python")])
def test_python_in_the_documents_compiles(place: str, code: str) -> None:
    compile(code, place, "exec", flags=0x2000)  # ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


@pytest.mark.parametrize("text", [code for place, code in fences("toml") if place.startswith("docs/configuration.md")])
def test_every_configuration_shown_is_valid_beside_what_it_needs(text: str) -> None:
    needed = tomllib.loads(text).get("providers", {})
    lab = '[providers.lab]\nwire = "openai-chat"\nbase_url = "http://h"\n' if "lab" not in needed else ""
    openai = "[providers.openai]\n" if "openai" not in needed else ""
    world.build(config.parse(text + lab + openai), Catalog.load(), {"OPENAI_API_KEY": "k", "TEAM_SEARCH_KEY": "t"})


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", path.read_text(), flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), f"{path.relative_to(ROOT)} links to {target}"
        assert not anchor or there.suffix != ".md" or anchor in anchors(there), f"{path.relative_to(ROOT)} links to {target}"


def anchors(path: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {t for p in DOCUMENTS for t in re.findall(r"(?:`|^ {4}|^\$ )make ([a-z0-9-]+)", p.read_text(), re.M)}
    assert named <= targets, f"{named - targets} named, but not in the Makefile"


def test_no_machine_is_named_in_what_is_tracked() -> None:
    """No path of a developer's machine and no package mirror in any text."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    words = (
        r"/wor[k]/",
        r"/opt/pyp[i]",
        r"/hom[e]/\w+/",
        r"/roo[t]/",
        r"inde[x]-url +http",
        r"extra-inde[x]",
        r"devp[i]",
        r"artifactor[y]",
    )
    private = re.compile("|".join(words), re.I)  # written so that it does not find itself
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if not path.is_file() or path.suffix in (".png", ".svg", ".jsonl", ".ico", ".woff2"):
            continue
        found = private.search(path.read_text(errors="replace"))
        assert found is None, f"{name} names {found[0]!r}"


def test_the_unions_of_the_walk_are_the_ones_in_use() -> None:
    """`struct_in` sees through `X | None`: if annotations change their form, the walk must not go blind."""
    kinds = {get_origin(f.type) for s in (config.Key, config.Provider) for f in msgspec.structs.fields(s)}
    assert kinds & {UnionType, Union}
    assert struct_in(config.Budget | None) is config.Budget
