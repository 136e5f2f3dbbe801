"""Imports go only downwards: the layers of the design, read from the source itself."""

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src" / "waypost"

LAYERS = {
    "core": 1,
    "dialects": 2,
    "catalog": 2,
    "ports": 3,
    "grammar": 3,
    "config": 3,
    "endpoint": 3,
    "reach": 3,
    "world": 3,
    "adapters": 4,
    "wire": 4,
    "gateway": 4,
    "flight": 4,
    "lane": 4,
    "relay": 4,
    "jobs": 4,
    "api": 5,
    "app": 6,
    "sim": 6,
    "cli": 7,
    "__main__": 8,
}
SIBLINGS = {("adapters", "wire"), ("adapters", "shell"), ("wire", "shell"), ("dialects", "catalog")}
SHELL = {"gateway", "flight", "lane", "relay", "jobs"}
CORE_MAY_NOT = {"asyncio", "time", "random", "logging", "os", "pathlib", "socket", "threading", "datetime", "secrets", "io"}
PURE_MAY_NOT = {"asyncio", "socket", "threading", "logging", "random"}


def part_of(path: Path) -> str:
    first = path.relative_to(SRC).parts[0]
    return first.removesuffix(".py")


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the whole name"
            found |= {f"{node.module}.{a.name}" for a in node.names} if node.module == "waypost" else {node.module or ""}
    return found


SOURCES = sorted(p for p in SRC.rglob("*.py") if p != SRC / "__init__.py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(SRC)))
def test_imports_go_only_downwards(path: Path) -> None:
    own = part_of(path)
    for name in imports(path):
        if not name.startswith("waypost.") or name == "waypost.__version__":
            continue
        other = name.split(".")[1]
        if other == own:
            continue
        assert LAYERS[other] <= LAYERS[own], f"{own} (layer {LAYERS[own]}) imports {name} (layer {LAYERS[other]})"
        pair = {("shell" if p in SHELL else p) for p in (own, other)}
        assert not any(set(s) == pair for s in SIBLINGS), f"{own} and {other} are siblings and blind to each other"
        assert other != "sim" or own in ("cli",), "nothing imports the simulator but cli and tests"


@pytest.mark.parametrize("path", sorted((SRC / "core").rglob("*.py")), ids=lambda p: p.name)
def test_the_core_touches_no_world(path: Path) -> None:
    assert not {i.split(".")[0] for i in imports(path)} & CORE_MAY_NOT


@pytest.mark.parametrize("path", sorted((SRC / "dialects").rglob("*.py")), ids=lambda p: p.name)
def test_dialects_are_pure(path: Path) -> None:
    assert not {i.split(".")[0] for i in imports(path)} & PURE_MAY_NOT


def test_no_import_cycles_between_modules() -> None:
    def name(path: Path) -> str:
        parts = ["waypost", *path.relative_to(SRC).with_suffix("").parts]
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def top_level(path: Path) -> set[str]:
        found: set[str] = set()
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("waypost"):
                found.add(node.module)
                found |= {f"{node.module}.{a.name}" for a in node.names}
        return found

    modules = {name(p): p for p in SOURCES}
    graph = {n: {i for i in top_level(p) if i in modules and i != n} for n, p in modules.items()}
    done: set[str] = set()

    def visit(node: str, trail: tuple[str, ...]) -> None:
        assert node not in trail, f"import cycle: {' -> '.join((*trail[trail.index(node) :], node))}"
        if node in done:
            return
        for other in graph[node]:
            visit(other, (*trail, node))
        done.add(node)

    for module in graph:
        visit(module, ())
