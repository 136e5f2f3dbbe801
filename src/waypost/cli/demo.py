"""`waypost demo`: see the gateway work, without keys or configuration. Parses arguments; what is played is `waypost.sim.demo`'s."""

import argparse
import os
import sys

HELP = "watch the gateway at work: simulated providers that fail, live traffic, no keys needed"
EXAMPLE = "waypost demo --seconds 30"
LIVE_S, PLAIN_S = 60.0, 24.0


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seconds", metavar="N", type=_positive, help=f"length of the story (default: {LIVE_S:.0f} at a terminal, else {PLAIN_S:.0f})"
    )
    parser.add_argument("--speed", metavar="X", type=_positive, default=1.0, help="traffic and providers X times as fast (default: 1)")
    parser.add_argument("--seed", metavar="N", type=int, default=7, help="seed of every draw of callers and providers (default: 7)")
    parser.add_argument("--port", metavar="P", type=int, default=0, help="port of the gateway (default: any)")
    parser.add_argument("--plain", action="store_true", help="plain lines even at a terminal; ends with the story")


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def run(args: argparse.Namespace) -> int:
    """0 when all was well; 1 when an answer was silently truncated, the books differ, or the port is taken; 130 on Ctrl-C midway."""
    from waypost.app import run as run_loop
    from waypost.sim.demo import Options, play, summary

    live = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb" and not args.plain
    seconds = args.seconds or (LIVE_S if live else PLAIN_S)
    options = Options(seconds=seconds, speed=args.speed, seed=args.seed, port=args.port, live=live)
    if not live:
        print(f"waypost demo: four simulated providers, the real gateway, live traffic; about {seconds:.0f} s", flush=True)
    try:
        result = run_loop(lambda: play(options))
    except OSError as error:
        print(f"waypost demo: cannot start: {error.strerror or error}; choose another port with --port", file=sys.stderr)
        return 1
    if not live:
        print()
    summary(result, print)
    if not result.check.is_exact or result.tally.silent:
        return 1
    return 0 if live or result.finished else 130
