"""waypost explain: which model a request would go to and why, or why a past one went where it did. Calls nobody.

A new request is decided as `serve` would decide it on an idle day: every provider ready, nothing measured yet. A past one is read
from the ledger, with how things stood then, and decided again under the configuration as it is now. Decides nothing itself.
"""

import argparse
import sys
from pathlib import Path

import apsw
import msgspec

from waypost.adapters.segments import NO_DECISION, Segment, Settled, journal_directory, segments, workers
from waypost.adapters.sqlite import LedgerError, SqliteLedger, database_path
from waypost.api import options
from waypost.cli import check
from waypost.core.faults import Refused
from waypost.core.replay import explain_text, keep, kept, replay
from waypost.core.route import Candidate, decide
from waypost.core.types import Attempt, Call, Decision
from waypost.dialects import openai_chat
from waypost.gateway import ask_of, judged
from waypost.world import Caller, World

HELP = "show which model a request would go to and why; or why a past one went where it did"
EXAMPLE = 'waypost explain --max-cost-usd 0.01 "Summarize this report in three bullet points: ..."'

IDLE = "Nobody was called: every provider is taken as ready, no latency is measured yet, and the draw is 0.\n"
_OPTIONS = ("deadline_ms", "max_cost_usd", "min_quality", "segment")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", metavar="PROMPT", nargs="?", help="what the user says; - reads it from standard input")
    parser.add_argument("--body", metavar="FILE", help="a whole chat-completions request as JSON instead of PROMPT; - reads standard input")
    parser.add_argument("--request", metavar="REQ_ID", help="a past request by its x-request-id: show its decision and replay it")
    parser.add_argument("--config", metavar="FILE", type=Path, help="default: waypost.toml if there is one, else keys from the environment")
    parser.add_argument("--db", metavar="FILE", type=Path, help="with --request: the ledger (default: storage.url of the configuration)")
    parser.add_argument("--model", metavar="NAME", help="model or route to ask for (default: auto)")
    parser.add_argument("--max-tokens", metavar="N", type=int, help="the request's max_tokens")
    parser.add_argument("--stream", action="store_true", help="the request streams")
    parser.add_argument("--deadline-ms", metavar="MS", help="as the header x-waypost-deadline-ms")
    parser.add_argument("--max-cost-usd", metavar="USD", help="as the header x-waypost-max-cost-usd")
    parser.add_argument("--min-quality", metavar="Q", help="as the header x-waypost-min-quality, 0 to 1")
    parser.add_argument("--segment", metavar="NAME", help="as the header x-waypost-segment")
    parser.add_argument("--json", action="store_true", help="the decision with all its inputs as JSON")


def run(args: argparse.Namespace) -> int:
    """0: decided, or replayed to the same; 1: refused, not found, or now decided otherwise; 2: the command line is wrong."""
    if sum(given is not None for given in (args.prompt, args.body, args.request)) != 1:
        print("waypost explain: give one of PROMPT, --body FILE or --request REQ_ID", file=sys.stderr)
        return 2
    world = check.read(args.config)
    if world is None:
        return 1
    try:
        return _past(args, world) if args.request is not None else _new(args, world)
    except Refused as refused:
        print(f"waypost explain: would be refused with {refused.status} {refused.code}: {refused.message}", file=sys.stderr)
    except (LedgerError, OSError, ValueError, apsw.Error) as error:
        print(f"waypost explain: {error}", file=sys.stderr)
    return 1


# --- a new request -----------------------------------------------------------------------------------------------------------


def _new(args: argparse.Namespace, world: World) -> int:
    call = openai_chat.parse(_body(args))
    headers = [(options.PREFIX + name.replace("_", "-").encode(), value.encode()) for name in _OPTIONS if (value := getattr(args, name))]
    decision = decision_for(world, call, options.read(headers, call.fields))
    for warning in dict.fromkeys(world.warnings):
        print(f"warning: {warning}", file=sys.stderr)
    _show(decision, as_json=args.json, note=IDLE)
    return 0


def decision_for(world: World, call: Call, own: options.Options) -> Decision:
    """The decision on an idle day. Raises Refused as the gateway would."""
    wish, route, deployments = world.resolve(call, Caller())
    need = judged(call, is_free=route is not None or len(deployments) > 1)
    ask = ask_of(call, need, own.bounds, segment=own.segment or "", today=world.today)
    candidates = [Candidate(deployment, group=group) for deployment, group in deployments]
    _, decision = decide(wish, ask, candidates, route=route, config=world.fingerprint)
    return keep(wish, ask, candidates, decision)


def _body(args: argparse.Namespace) -> bytes:
    if args.body is not None:
        text = sys.stdin.buffer.read() if args.body == "-" else Path(args.body).read_bytes()
        fields = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    else:
        prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
        fields = {"model": _raw("auto"), "messages": _raw([{"role": "user", "content": prompt}])}
    given = {"model": args.model, "max_tokens": args.max_tokens, "stream": args.stream or None}
    return msgspec.json.encode(fields | {name: _raw(value) for name, value in given.items() if value is not None})


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


# --- a past request ----------------------------------------------------------------------------------------------------------


def _past(args: argparse.Namespace, world: World) -> int:
    database: Path = args.db or database_path(world.config.storage.url)
    decision = recorded(database, args.request)
    if decision is None:
        attempts = _attempts(database, args.request)
        print(_undecided(args.request, attempts, database), file=sys.stdout if attempts else sys.stderr)
        return 0 if attempts else 1
    served = {name: d for name in (p.deployment for p in decision.predictions) if (d := world.deployment(name)) is not None}
    again = replay(kept(decision), world.routes, served, config=world.fingerprint)
    verdict = "replayed to the same decision" if again.same else "replayed to another decision"
    _show(decision, as_json=args.json, note=verdict + (f": {again.note}" if again.note else "") + "\n")
    return 0 if again.same else 1


def recorded(database: Path, request_id: str) -> Decision | None:
    """From the journal, where the newest are, else from the ledger: in this order, since rows move from one to the other."""
    for worker in workers(journal_directory(database)):
        for path in segments(journal_directory(database), worker):
            try:
                found = _journalled(path, request_id)
            except FileNotFoundError:
                continue  # fed and deleted while we looked
            if found is not None:
                return found
    ledger = SqliteLedger(database, read_only=True)
    try:
        return ledger.decision(request_id)
    finally:
        ledger.close()


def _journalled(path: Path, request_id: str) -> Decision | None:
    for _, record in Segment(path):
        if isinstance(record, Settled) and record.attempt.request_id == request_id and record.decision != NO_DECISION:
            return msgspec.json.decode(record.decision, type=Decision)
    return None


def _attempts(database: Path, request_id: str) -> list[Attempt]:
    ledger = SqliteLedger(database, read_only=True)
    try:
        return [attempt for attempt in ledger.attempts() if attempt.request_id == request_id]
    finally:
        ledger.close()


def _undecided(request_id: str, attempts: list[Attempt], database: Path) -> str:
    if not attempts:
        return f"waypost explain: {database} knows no request {request_id[:80]!r}; its id stands in the answer's x-request-id header"
    models = ", ".join(dict.fromkeys(attempt.model for attempt in attempts))
    return f"{request_id}: nothing was decided, the caller named {models} and nothing else could serve it"


def _show(decision: Decision, *, as_json: bool, note: str) -> None:
    if as_json:
        print(msgspec.json.encode(decision).decode())
        print(note, end="", file=sys.stderr)
    else:
        print(explain_text(decision), end="")
        print(note, end="")
