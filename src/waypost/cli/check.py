"""waypost check: read a configuration as `serve` would, say everything that is wrong with it, call nobody."""

import argparse
import os
import sys
import time
from pathlib import Path

from waypost import world
from waypost.catalog.load import Catalog
from waypost.config import ConfigError
from waypost.core.route import Route
from waypost.world import World

HELP = "check a configuration file; prints all errors and exits 1 if there are any"
EXAMPLE = "waypost check --config waypost.toml"
DEFAULT = Path("waypost.toml")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", type=Path, help="default: waypost.toml if there is one")


def run(args: argparse.Namespace) -> int:
    built = read(args.config)
    if built is None:
        return 1
    name = args.config or (DEFAULT if DEFAULT.exists() else "no file, keys from the environment")
    print(f"ok: {name}")
    for line in summary(built):
        print(line)
    return 0


def read(path: Path | None) -> World | None:
    """The world of a configuration file, or None after printing every problem."""
    path = path or (DEFAULT if DEFAULT.exists() else None)
    try:
        return world.read(path, Catalog.load(), os.environ, today=time.strftime("%Y-%m-%d", time.gmtime()))
    except ConfigError as error:
        print_problems(error)
        return None


def print_problems(error: ConfigError) -> None:
    count = len(error.problems)
    print(f"waypost: the configuration has {count} error{'s' if count > 1 else ''}:", file=sys.stderr)
    for problem in error.problems:
        print(f"  {problem}", file=sys.stderr)


def summary(built: World) -> list[str]:
    """What this configuration means, in a few lines."""
    lines = [f"  provider {name:14} {card.wire:18} {card.base_url}" for name, card in built.providers.items()]
    for name, route in built.routes.items():
        way = "in this order" if route.order else "by weight" if route.weights else f"by {route.objective}"
        shown = ", ".join(route.candidates[:6]) + (f" and {len(route.candidates) - 6} more" if len(route.candidates) > 6 else "")
        lines.append(f"  route    {name:14} {way}: {shown or 'nobody'}")
    if built.has_default_auto:
        lines += _auto(built.routes["auto"])
    lines += [f"  warning  {warning}" for warning in dict.fromkeys(built.warnings)]
    return lines


def _auto(route: Route) -> list[str]:
    """What the route that nobody wrote begins with, by task."""
    tasks: dict[str, list[str]] = {}
    for rule in route.rules:
        tasks.setdefault(rule.use[0], []).append(rule.when.task or "any")
    lines = [f"  auto     {', '.join(names)} begin with {model}" for model, names in tasks.items()]
    return [*lines, "  auto     was made from the models above; write [routes.auto] to choose others"] if route.candidates else []
