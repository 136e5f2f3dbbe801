"""`waypost sim`: run the provider simulator. Parses arguments and prints where things are; what is simulated is `waypost.sim`'s."""

import argparse
import asyncio
import signal
import sys
from pathlib import Path

import msgspec

from waypost.sim import scripts
from waypost.sim.paths import FLAVOURS
from waypost.sim.provider import DEFAULT_TOKENS, Simulator, run_on_fast_loop

HELP = "run simulated providers on real sockets, failing as you say"
EXAMPLE = "waypost sim --port 9100 --seed 7"
DIALECTS = (
    ("OpenAI chat", "openai-chat", "/chat/completions"),
    ("OpenAI responses", "openai-responses", "/responses"),
    ("Anthropic messages", "anthropic-messages", "/messages"),
    ("Gemini", "gemini", "/models/{model}:generateContent"),
    ("Embeddings", "embeddings", "/embeddings"),
)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=9100, help="port to listen on (default: 9100)")
    parser.add_argument("--seed", type=int, default=0, help="seed of every draw (default: 0)")
    parser.add_argument("--rules", metavar="FILE", help="JSON list of rules: who gets which script (docs/simulator.md)")
    parser.add_argument("--ttft-ms", default="0", metavar="D", help="time to first token: 300, exponential:300 or lognormal:300:0.6")
    parser.add_argument("--gap-ms", default="0", metavar="D", help="time between tokens, likewise")
    parser.add_argument("--tokens", type=int, default=DEFAULT_TOKENS, metavar="N", help=f"tokens of an answer (default: {DEFAULT_TOKENS})")
    parser.add_argument("--time-scale", type=float, default=1.0, metavar="X", help="multiply every scripted wait by X (default: 1)")
    parser.add_argument("--list", action="store_true", help="list the words a model name may end in, and exit")


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted; 0 on Ctrl-C, 1 if the rules or the port are no good."""
    if args.list:
        print(listing(), end="")
        return 0
    try:
        rules = scripts.rules_from_json(Path(args.rules).read_bytes()) if args.rules else ()
        sim = Simulator(
            seed=args.seed,
            rules=rules,
            host=args.host,
            port=args.port,
            time_scale=args.time_scale,
            ttft_ms=args.ttft_ms,
            gap_ms=args.gap_ms,
            tokens=args.tokens,
        )
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        print(f"waypost sim: {args.rules or 'arguments'}: {error}", file=sys.stderr)
        return 1
    try:
        run_on_fast_loop(lambda: _serve(sim))
    except OSError as error:
        print(f"waypost sim: cannot listen on {args.host}:{args.port}: {error.strerror}; choose another with --port", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


async def _serve(sim: Simulator) -> None:
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, done.set)
    async with sim:
        print(welcome(sim), flush=True)
        await done.wait()


def welcome(sim: Simulator) -> str:
    """Where each dialect is served, and a request to try."""
    lines = [f"{name:<20}{sim.base_url(dialect)}{path}" for name, dialect, path in DIALECTS]
    body = '{"model": "gpt-sim.stall-5", "stream": true, "messages": [{"role": "user", "content": "hi"}]}'
    return "\n".join(
        [
            "Simulated providers; any key, any model name; a name may end in what shall go wrong (waypost sim --list).",
            *lines,
            f"{'Flavours':<20}{sim.box.origin}/<{'|'.join(FLAVOURS)}>/v1",
            f"{'Many providers':<20}{sim.box.origin}/p/<any name>/v1",
            f"{'Log, bill, rules':<20}{sim.box.origin}/_sim/log  /_sim/bill?marker=M  /_sim/rules (GET, PUT)  /_sim/reset (POST)",
            "",
            f"curl -N {sim.base_url()}/chat/completions -d '{body}'",
            "",
            "Ctrl-C stops it.",
        ]
    )


def listing() -> str:
    """The words, one a line, by group."""
    lines: list[str] = []
    last = ""
    for group, written, says in scripts.listing():
        if group != last:
            lines.append(f"{group}:")
            last = group
        lines.append(f"  {written:<18}{says}")
    lines.append("Join words with - or +: gpt-sim.stall-5-n50, think+tool, fail-429-ra2-x2-p0.3")
    return "\n".join(lines) + "\n"
