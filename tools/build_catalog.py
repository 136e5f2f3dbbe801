"""Build the model catalogue that Waypost ships: two public price lists in, one text file out.

    pip download --no-deps -d /tmp/wheels genai-prices==0.2.3 litellm==1.109.1
    python tools/build_catalog.py /tmp/wheels            write src/waypost/catalog/models.jsonl
    python tools/build_catalog.py /tmp/wheels --diff     print where the two lists disagree, and which was taken
    python tools/build_catalog.py /tmp/wheels --check    exit 1 when the committed file is not what these wheels give

Pinned inputs (a newer pair: change SOURCES below, rebuild, read the diff of models.jsonl in review):
    genai-prices==0.2.3   MIT, (c) Pydantic Services Inc.   https://github.com/pydantic/genai-prices
    litellm==1.109.1      MIT, (c) Berri AI                 https://github.com/BerriAI/litellm (the file lies outside its enterprise/)

The wheels are opened as archives; nothing of them is installed, imported or executed: genai-prices' data module is read as a
syntax tree, LiteLLM's list as JSON with decimal numbers, so that no price passes through a float. Same wheels, same bytes.
How the two are merged stands in `catalog_merge.py` beside this file.
"""

import argparse
import json
import sys
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any

from catalog_genai import read_genai
from catalog_merge import Conflict, Model, Provider, merge, read_providers

ROOT = Path(__file__).resolve().parent.parent
CATALOG = ROOT / "src" / "waypost" / "catalog"
TARGET = CATALOG / "models.jsonl"

# `date` is the day of the release, or the day it was fetched as the newest one; it becomes `as_of` of the prices taken from it.
SOURCES: dict[str, dict[str, str]] = {
    "genai-prices": {
        "version": "0.2.3",
        "date": "2026-11-10",
        "licence": "MIT",
        "copyright": "Pydantic Services Inc.",
        "url": "https://github.com/pydantic/genai-prices",
    },
    "litellm": {
        "version": "1.109.1",
        "date": "2026-11-23",
        "licence": "MIT",
        "copyright": "Berri AI",
        "url": "https://github.com/BerriAI/litellm",
    },
}


def wheel_text(folder: Path, prefix: str, member: str) -> str:
    """One file out of the one wheel in `folder` whose name starts with `prefix`."""
    found = sorted(folder.glob(f"{prefix}-*.whl"))
    if len(found) != 1:
        sys.exit(f"{folder}: want exactly one {prefix}-*.whl, found {[path.name for path in found]}; see --help for the download command")
    with zipfile.ZipFile(found[0]) as archive:
        return archive.read(member).decode()


def read_litellm(text: str) -> dict[str, dict[str, Any]]:
    listing = json.loads(text, parse_float=Decimal)
    listing.pop("sample_spec", None)
    return listing


def row(model: Model, pages: list[str]) -> list[Any]:
    """The line of one model; columns as in `waypost.catalog.load.Row`."""
    page = pages.index(model.page) if model.page else None
    tiers = [[start, *prices] for start, prices in model.tiers]
    columns = [
        model.upstream, model.mode, model.context, model.max_output, *model.price, *model.batch,
        " ".join(sorted(model.capabilities)), model.family, model.deprecated_on, model.origin, page, tiers,
    ]  # fmt: skip
    while columns and columns[-1] in (None, []):
        columns.pop()
    return columns


def render(providers: list[Provider], models: dict[str, list[Model]]) -> str:
    """Header line, then per provider one line about it and one line per model, all sorted: a rebuild gives a readable diff."""
    served = [provider for provider in providers if models.get(provider.name)]
    dump = lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":"))  # noqa: E731
    built = max(source["date"] for source in SOURCES.values())
    lines = [dump({"format": 1, "built": built, "sources": SOURCES, "providers": len(served), "models": sum(map(len, models.values()))})]
    for provider in sorted(served, key=lambda provider: provider.name):
        listed = sorted(models[provider.name], key=lambda model: model.upstream)
        pages = sorted({model.page for model in listed if model.page})
        lines.append(dump({"provider": provider.name, "strip": provider.strip, "pages": pages}))
        lines.extend(dump(row(model, pages)) for model in listed)
    return "\n".join(lines) + "\n"


def print_diff(conflicts: list[Conflict]) -> None:
    for conflict in conflicts:
        said = f"genai-prices {conflict.genai!s:>16}  litellm {conflict.litellm!s:>16}"
        print(f"{conflict.name:60} {conflict.field:16} {said}  took {conflict.took}")
    print(f"{len(conflicts)} conflicts in {len({conflict.name for conflict in conflicts})} models")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", type=Path, help="folder that holds the two downloaded wheels")
    parser.add_argument("--diff", action="store_true", help="print conflicts between the sources, write nothing")
    parser.add_argument("--check", action="store_true", help="compare with the committed file, write nothing")
    args = parser.parse_args()

    genai_text = wheel_text(args.wheels, f"genai_prices-{SOURCES['genai-prices']['version']}", "genai_prices/data.py")
    litellm_text = wheel_text(
        args.wheels, f"litellm-{SOURCES['litellm']['version']}", "litellm/model_prices_and_context_window_backup.json"
    )
    providers = read_providers(CATALOG / "providers.toml")
    genai = read_genai(genai_text, on=SOURCES["genai-prices"]["date"])
    models, conflicts = merge(providers, genai, read_litellm(litellm_text))
    text = render(providers, models)
    if args.diff:
        print_diff(conflicts)
        return 0
    if args.check:
        same = TARGET.exists() and TARGET.read_text() == text
        print("models.jsonl is up to date" if same else "models.jsonl differs: rebuild and review its diff")
        return 0 if same else 1
    TARGET.write_text(text)
    count, served = sum(map(len, models.values())), sum(1 for listed in models.values() if listed)
    print(f"{TARGET.relative_to(ROOT)}: {count} models of {served} providers, {len(text) // 1024} KiB, {len(conflicts)} conflicts")
    return 0


if __name__ == "__main__":
    sys.exit(main())
