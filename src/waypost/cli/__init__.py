"""The command line: one thin module per command, imported only when it is asked for.

A command module has HELP (one line), EXAMPLE (shown by --help), `arguments(parser)` and `run(args) -> exit code`.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Protocol, cast

from waypost import __version__

COMMANDS = ("serve", "demo", "check", "explain", "models", "report", "sim")


class Command(Protocol):
    HELP: str
    EXAMPLE: str

    def arguments(self, parser: argparse.ArgumentParser) -> None: ...
    def run(self, args: argparse.Namespace) -> int: ...


def load(name: str) -> Command:
    return cast(Command, importlib.import_module(f"waypost.cli.{name}"))


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 the work failed (said on stderr), 2 the command line is wrong."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="waypost", description="The AI inference gateway: one endpoint before every model provider.")
    parser.add_argument("--version", action="version", version=f"waypost {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    asked = next((w for w in words if not w.startswith("-")), None)
    for name in COMMANDS if asked not in COMMANDS else (asked,):
        command = load(name)
        sub = commands.add_parser(
            name,
            help=command.HELP,
            description=command.HELP,
            epilog=f"example:\n  {command.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.arguments(sub)
    args = parser.parse_args(words)
    if args.command is None:
        parser.print_help()
        return 0
    try:
        return load(args.command).run(args)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our pipe has left: nothing to say, nobody to say it to
        return 0
