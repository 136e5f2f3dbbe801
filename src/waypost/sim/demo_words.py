"""Words: how the demo says its numbers, for the live picture, the plain lines and the summary alike. Pure."""

from waypost.core.types import NUSD_PER_USD, Attempt, Outcome
from waypost.sim.demo_tally import Check, Tally, quantile

FAULTS = {"rate_limited": "429", "truncated": "cut", "timeout": "too slow", "transport": "no answer", "malformed": "garbled"}


def milliseconds(ms: float | None) -> str:
    if ms is None:
        return "-"
    return f"{ms:.0f} ms" if ms < 999.5 else f"{ms / 1000:.2f} s"


def dollars(nusd: int) -> str:
    """Four places: the demo spends cents. Integers all the way."""
    steps = (nusd + 50_000) // 100_000
    whole, part = divmod(steps, NUSD_PER_USD // 100_000)
    return f"${whole:,}.{part:04d}"


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def printable(text: str) -> str:
    """Names come from callers: no escape sequence of theirs may reach a terminal."""
    return text if text.isprintable() else "".join(letter if letter.isprintable() else "?" for letter in text)


# --- one request -----------------------------------------------------------------------------------------------------------


def step(attempt: Attempt, *, won: int) -> str:
    """What one attempt came to, in two or three words. `won`: number of the attempt that answered; 0: none."""
    name = printable(attempt.model)
    match attempt.outcome:
        case "ok":
            return f"{name} ok {milliseconds(attempt.ttft_ms if attempt.stream else attempt.total_ms)}"
        case "hedge_lost":
            return f"{name} slow" if attempt.attempt < won else f"{name} not needed"
        case "failed" if attempt.ttft_ms is not None:
            return f"{name} cut after {attempt.usage.output_tokens} tokens"
        case "failed":
            return f"{name} {attempt.status if attempt.status >= 400 else FAULTS.get(attempt.fault, attempt.fault)}"
        case "cache":
            return f"{name} from the cache"
        case _:
            return f"{name} {attempt.outcome.replace('_', ' ')}"


def chain(outcome: Outcome, arrow: str) -> str:
    """The attempts in the order in which they were made. A caller left with half an answer was told so."""
    won = next((a.attempt for a in outcome.attempts if a.outcome == "ok"), 0)
    said = f" {arrow} ".join(step(a, won=won) for a in sorted(outcome.attempts, key=lambda a: a.attempt))
    if outcome.error == "truncated":
        said += ", told"
    return said or f"{outcome.status} {outcome.error}"


def route(outcome: Outcome) -> str:
    return printable(outcome.decision.route or "named") if outcome.decision else "-"


def task(outcome: Outcome) -> str:
    return outcome.decision.need.task if outcome.decision else "-"


def why(outcome: Outcome) -> str:
    """The decision's own reasons, the most telling first: who was passed over, else why this one."""
    decision = outcome.decision
    if decision is None:
        return ""
    passed = next((reason for reason in decision.reasons[1:] if " is open" in reason or " is held" in reason), "")
    first = decision.reasons[0].removeprefix("best by cost; ").replace("two drawn among", "2 among")
    return printable(f"{first}; {passed}" if passed else first)


def is_notable(outcome: Outcome) -> bool:
    """A failure, or a hedge that was needed."""
    won = next((a.attempt for a in outcome.attempts if a.outcome == "ok"), 0)
    return outcome.status >= 400 or any(a.outcome == "failed" or (a.outcome == "hedge_lost" and a.attempt < won) for a in outcome.attempts)


# --- all of them -----------------------------------------------------------------------------------------------------------


def counts(tally: Tally) -> str:
    heard = tally.heard
    unhappy = "".join(f"   {name} {heard[name]}" for name in ("refused", "broken") if heard[name])
    return f"requests {sum(heard.values())}   answered {heard['whole']}   failovers {tally.failovers}   hedges {tally.hedges}{unhappy}"


def promises(tally: Tally) -> tuple[str, str]:
    told = f"cut mid-answer and told so {tally.heard['told']}   silent truncations "
    return told, str(tally.silent)


def latency(tally: Tally) -> str:
    p50, p99 = (quantile(tally.ttfts_s, q) for q in (0.5, 0.99))
    return f"first token, as callers saw it   p50 {_s(p50)}   p99 {_s(p99)}"


def _s(seconds: float | None) -> str:
    return milliseconds(None if seconds is None else seconds * 1000)


def costs(tally: Tally, frontier: str) -> str:
    """The comparison is arithmetic on the same tokens, and says so."""
    line = f"cost {dollars(tally.cost_nusd)}   the same tokens at {frontier}'s price {dollars(tally.frontier_nusd)}"
    return f"{line}   {100 - 100 * tally.cost_nusd // tally.frontier_nusd} % less" if tally.frontier_nusd else line


def verdict(check: Check) -> list[str]:
    """The ledger against the providers' bill; a difference is shown, not explained away."""
    if check.is_exact:
        lines = [f"every token accounted for: {check.ledger_tokens:,} in the ledger = {check.billed_tokens:,} billed by providers"]
    else:
        lines = [
            f"THE BOOKS DIFFER: {check.ledger_tokens:,} tokens in the ledger, {check.billed_tokens:,} of them billed by providers;",
            f"{check.unknown_rows:,} rows without such an answer, {check.unpaid_answers:,} answers without a row",
        ]
    ours, truth = check.broken, check.truth
    if ours.attempts:
        sign = "=" if ours.output_tokens == truth.output_tokens else "for"
        lines += [
            f"{ours.attempts} attempts ended before usage came: output {ours.output_tokens:,} tokens {sign} {truth.output_tokens:,} sent,",
            f"prompts estimated and marked so: {ours.prompt_tokens:,} tokens, {truth.prompt_tokens:,} of them really billed",
        ]
    return lines


def shares(tally: Tally, now_s: float) -> str:
    """Who answered lately."""
    lately = {name: sum(seen.ok for seen in served.window(now_s)) for name, served in tally.served.items()}
    return "   ".join(f"{printable(name)} {count}" for name, count in lately.items())
