"""Reach: what a configuration says that can never come true. A rule whose models can never take what it sends them, a floor that no
candidate reaches, an alias that a model hides, a key that may use nothing, a budget that nothing is ever charged to.

Judges only what is certain: facts nobody knows (a capability, a window, a quality) and providers that are merely off never count.
"""

import difflib
import fnmatch
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from waypost import config as cf
from waypost.config import Problem
from waypost.core.types import Deployment

if TYPE_CHECKING:
    from waypost.world import World

_CERTAIN = 0.75  # prompt estimates lean upwards by about a quarter (core.fit): below this share a prompt certainly does not fit
_HARD = frozenset({"vision", "audio", "pdf", "tools", "json_schema"})  # capabilities without which core.fit refuses


def near(name: str, known: Iterable[str]) -> str:
    """ ", did you mean `x`?" or nothing."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f" (did you mean `{close[0]}`?)" if close else ""


def unreachable(world: "World", broken: tuple[str, ...] = ()) -> list[Problem]:
    """`broken`: places whose grammar failed; routes and keys there are not judged."""
    problems: list[Problem] = []
    for name, entry in world.config.routes.items():
        if not any(b == "routes" or b.startswith((f"routes.{name}", "models[")) for b in broken):
            problems += _rules(world, name, entry) + _floor(world, name, entry)
    problems += [
        Problem(f"aliases.{name}", "", "can never be reached: a live model has this very name and goes first; remove the alias")
        for name in world.config.aliases
        if "/" in name and world.deployment(name) is not None
    ]
    for key in world.config.keys:
        problems += _key(world, f"keys[{key.name}]", key)
    return problems + _tls(world.config.server)


# --- routes ------------------------------------------------------------------------------------------------------------------


def _rules(world: "World", name: str, entry: cf.Route) -> list[Problem]:
    """Rules that match, but all of whose models are refused whenever they do."""
    problems: list[Problem] = []
    for i, rule in enumerate(entry.rules):
        used = [d for wish in rule.use for d in _deployments(world, wish)]
        whys = [_refuses(d, rule.when) for d in used]
        if used and all(whys) and not any(wish in world.config.routes for wish in rule.use):
            problems.append(Problem(f"routes.{name}.rules[{i}]", "", f"can never lead anywhere: {'; '.join(dict.fromkeys(whys))}"))
    return problems


def _refuses(deployment: Deployment, when: cf.When) -> str:
    """Why a model takes no call that the condition lets through; "" if it may."""
    card = deployment.model
    asked = {when.capability, "tools" if when.tools else None, when.format}
    lacking = sorted(c for c in asked & _HARD if c is not None) if card.capabilities else []
    lacking = [c for c in lacking if c not in card.capabilities]
    if lacking:
        return f"{card.name} has no {', '.join(lacking)}"
    low, window = when.min_prompt_tokens, card.context_tokens
    if low is not None and window is not None and int(low * _CERTAIN) > window:
        return f"{card.name} holds {window:,} tokens and the rule begins at {low:,}"
    return ""


def _floor(world: "World", name: str, entry: cf.Route) -> list[Problem]:
    route = world.routes.get(name)
    live = [d for n in route.candidates if (d := world.deployment(n)) is not None] if route is not None else []
    if entry.min_quality is None or entry.rules or not live:
        return []
    qualities = [d.model.quality for d in live]
    known = [q for q in qualities if q is not None]
    if len(known) < len(qualities) or max(known) >= entry.min_quality:
        return []
    best = max(live, key=lambda d: d.model.quality or 0.0)
    seen = f"no candidate reaches it, the best is {best.name} with {max(known):g}: lower it or add a better model"
    return [Problem(f"routes.{name}.min_quality", f"{entry.min_quality:g}", seen)]


def _deployments(world: "World", wish: str) -> list[Deployment]:
    found = world.deployment(wish)
    return [found] if found is not None else list(world.named(wish)) if "/" not in wish else []


# --- keys --------------------------------------------------------------------------------------------------------------------


def _key(world: "World", path: str, key: cf.Key) -> list[Problem]:
    problems = [problem for pattern in key.models if (problem := _pattern(world, f"{path}.models", pattern)) is not None]
    if key.budget is not None and not problems:
        problems += _budget(world, f"{path}.budget", key)
    return problems


def _pattern(world: "World", path: str, pattern: str) -> Problem | None:
    """A name or pattern that no route, alias or model of a configured provider can ever match."""
    if pattern == "*" or not world.sources or any(fnmatch.fnmatchcase(n, pattern) for n in (*world.routes, *world.aliases, "auto")):
        return None
    if "/" in pattern and any(fnmatch.fnmatchcase(home, pattern.partition("/")[0]) and world.is_open(home) for home in world.sources):
        return None
    if not _is_pattern(pattern) and (world.card(pattern) is not None or ("/" not in pattern and world.catalog.named(pattern))):
        return None
    if _is_pattern(pattern) and any(fnmatch.fnmatchcase(name, pattern) for name in _names(world)):
        return None
    hint = "" if _is_pattern(pattern) else f"; nearest known: {', '.join(world.nearest(pattern)) or 'none'}"
    return Problem(path, repr(pattern), f"matches no route, alias or model of a configured provider{hint}")


def _is_pattern(text: str) -> bool:
    return any(char in text for char in "*?[")


def _names(world: "World") -> Iterable[str]:
    """Every name callers may write for a known model: with its provider and without."""
    for home in world.sources:
        for card in world.cards(home):
            yield card.name
            yield card.name.partition("/")[2]


def _budget(world: "World", path: str, key: cf.Key) -> list[Problem]:
    """A budget is reached by spending: some model the key may use must have a price, and not zero."""
    if key.models == ("*",):
        return []
    models = _allowed(world, key)
    if models is None or not models:
        return []
    prices = [(d.model.price.input_nusd_per_mtok, d.model.price.output_nusd_per_mtok) for d in models]
    if all(None in pair for pair in prices):
        fix = "every call would be refused: no model of this key has a known price; set prices under [[models]]"
        return [Problem(path, "", fix)]
    if all(pair == (0, 0) for pair in prices):
        return [Problem(path, "", "can never be reached: every model of this key is free; remove it")]
    return []


def _allowed(world: "World", key: cf.Key) -> list[Deployment] | None:
    """The live models a key may use; None when they cannot be counted (a provider that takes any name)."""
    patterns = [world.aliases.get(p, p) for p in key.models]
    found: dict[str, Deployment] = {}
    for pattern in patterns:
        if "/" in pattern and any(fnmatch.fnmatchcase(h, pattern.partition("/")[0]) and world.is_open(h) for h in world.providers):
            return None
        for name, route in world.routes.items():
            if fnmatch.fnmatchcase(name, pattern):
                found |= {n: d for n in route.candidates if (d := world.deployment(n)) is not None}
        if _is_pattern(pattern):
            cards = [c for home in world.providers for c in world.cards(home)]
            names = [c.name for c in cards if any(fnmatch.fnmatchcase(n, pattern) for n in (c.name, c.name.partition("/")[2]))]
            found |= {n: d for n in names if (d := world.deployment(n)) is not None}
        else:
            found |= {d.name: d for d in _deployments(world, pattern)}
    return list(found.values())


# --- files -------------------------------------------------------------------------------------------------------------------


def _tls(server: cf.Server) -> list[Problem]:
    files = (("server.tls_cert", server.tls_cert), ("server.tls_key", server.tls_key))
    return [Problem(path, repr(file), "is no readable file") for path, file in files if file is not None and not _is_readable(file)]


def _is_readable(file: str) -> bool:
    try:
        with Path(file).open("rb"):
            return True
    except OSError:
        return False
