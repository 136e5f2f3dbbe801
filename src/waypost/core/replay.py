"""Replay: a decision kept with what it was made from, told to a person, and made again offline.

A record holds the decision and every input that is not configuration: the wish, the ask, how each candidate stood, the draw. The
inputs travel in the decision itself (`keep`), so whoever has the decision, from the ledger or from an answer, can replay it. The
configuration (routes, deployments) is named by its fingerprint and handed in at replay; under another fingerprint the replay
still runs and says so. Derived data only: no prompt text enters here, because none is in a Decision.
"""

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Raw, Struct

from waypost.core.fit import READY, Ask, Candidate
from waypost.core.price import usd
from waypost.core.route import Route, Wish, decide
from waypost.core.types import Decision, Deployment, Prediction, Rejection

_NO_INPUTS = Raw(b"null")
_encode = msgspec.json.Encoder().encode


class Stand(Struct, frozen=True, omit_defaults=True):
    """How one candidate stood: `Candidate` with the deployment's name in place of its card."""

    deployment: str
    standing: str = READY
    why: str = ""
    in_flight: int = 0
    ttft_s: float | None = None
    tokens_per_s: float | None = None
    quality: float | None = None
    group: int = 0


class Inputs(Struct, frozen=True):
    wish: Wish
    ask: Ask
    stands: tuple[Stand, ...]


class Record(Struct, frozen=True):
    wish: Wish
    ask: Ask
    stands: tuple[Stand, ...]
    decision: Decision
    version: int = 1


class Replayed(Struct, frozen=True):
    """`same`: the new decision equals the recorded one. `note` says what differs, "" when nothing does."""

    decision: Decision
    recorded: Decision
    same: bool
    note: str = ""


def keep(wish: Wish, ask: Ask, candidates: Sequence[Candidate], decision: Decision) -> Decision:
    """The decision with its inputs in it."""
    return msgspec.structs.replace(decision, inputs=Raw(_encode(Inputs(wish, ask, _stands(candidates)))))


def kept(decision: Decision) -> bytes:
    """The record of a decision that holds its inputs. Raises ValueError when it holds none."""
    if decision.inputs == _NO_INPUTS:
        raise ValueError("the decision was recorded without its inputs, by an earlier version")
    inputs = msgspec.json.decode(decision.inputs, type=Inputs)
    return _encode(Record(inputs.wish, inputs.ask, inputs.stands, msgspec.structs.replace(decision, inputs=_NO_INPUTS)))


def record(wish: Wish, ask: Ask, candidates: Sequence[Candidate], decision: Decision) -> bytes:
    """JSON of a decision and its inputs; `replay` reads it."""
    return _encode(Record(wish, ask, _stands(candidates), decision))


def _stands(candidates: Sequence[Candidate]) -> tuple[Stand, ...]:
    return tuple(
        [
            Stand(one.deployment.name, one.standing, one.why, one.in_flight, one.ttft_s, one.tokens_per_s, one.quality, one.group)
            for one in candidates
        ]
    )


def replay(recorded: bytes, routes: Mapping[str, Route], deployments: Mapping[str, Deployment], *, config: str = "") -> Replayed:
    """Decide again from a record. `config`: the fingerprint of the configuration handed in, "" if unknown.

    Raises ValueError for bytes that are no record and for routes or deployments the configuration no longer has; Refused when
    under another configuration nothing fits any more.
    """
    try:
        kept = msgspec.json.decode(recorded, type=Record)
    except msgspec.DecodeError as error:
        raise ValueError(f"not a decision record: {error}") from None
    old = kept.decision
    if old.route and old.route not in routes:
        raise ValueError(f"the record names route '{old.route}', which this configuration does not have; known: {_some(routes)}")
    gone = [stand.deployment for stand in kept.stands if stand.deployment not in deployments]
    if gone:
        raise ValueError(f"the record names {', '.join(gone)}, which this configuration does not serve; known: {_some(deployments)}")
    candidates = [
        Candidate(deployments[one.deployment], one.standing, one.why, one.in_flight, one.ttft_s, one.tokens_per_s, one.quality, one.group)
        for one in kept.stands
    ]
    route = routes[old.route] if old.route else None
    _, new = decide(kept.wish, kept.ask, candidates, route=route, draw=old.draw, config=old.config)
    return Replayed(new, old, new == old, _difference(old, new, config))


def _some(names: Mapping[str, object]) -> str:
    return ", ".join(sorted(names)[:8]) or "none"


def _difference(old: Decision, new: Decision, config: str) -> str:
    notes: list[str] = []
    if config and config != old.config:
        notes.append(f"decided under configuration {old.config or 'unknown'}, replayed under {config}")
    changed = [field for field in old.__struct_fields__ if getattr(old, field) != getattr(new, field)]
    if changed:
        notes.append(f"differs in {', '.join(changed)}")
        if old.chosen != new.chosen:
            notes.append(f"would now choose {new.chosen} instead of {old.chosen}")
    return "; ".join(notes)


# --- telling it ---------------------------------------------------------------------------------------------------------


def explain_text(decision: Decision) -> str:
    """A table for a person: the task and why, the choice and why, every alternative with its figures, and what fell out."""
    need = decision.need
    lines = [
        f"asked for    {decision.wish}" + (f"  (route {decision.route})" if decision.route and decision.route != decision.wish else ""),
        f"task         {need.task}, confidence {need.confidence:.2f}: {'; '.join(need.reasons) or 'not judged'}",
        f"size         about {need.prompt_tokens:,} prompt + {need.expected_output_tokens:,} output tokens"
        + (f"; needs {', '.join(sorted(need.capabilities))}" if need.capabilities else ""),
        f"chosen       {decision.chosen}  (probability {decision.propensity:.3g}, draw {decision.draw:.4f})",
        f"because      {'; '.join(decision.reasons)}",
        f"objective    {decision.objective}",
    ]
    if decision.rule:
        lines.append(f"rule         {decision.rule}")
    predicted = {one.deployment: one for one in decision.predictions}
    rows = [("", "deployment", "cost USD", "first token", "total", "quality", "")]
    for place, name in enumerate(decision.order, start=1):
        rows.append((str(place), name, *_figures(predicted.get(name)), "chosen" if name == decision.chosen else ""))
    for one in decision.rejected:
        rows.append(("x", one.deployment, *_figures(predicted.get(one.deployment)), f"{one.code}: {one.reason}"))
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    table = ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[6]]).rstrip() for row in rows]
    return "\n".join([*lines, "", *table, "", f"configuration {decision.config or 'unknown'}"]) + "\n"


def _figures(one: Prediction | None) -> tuple[str, str, str, str]:
    if one is None:
        return "?", "?", "?", "?"
    return (
        "?" if one.cost_nusd is None else usd(one.cost_nusd),
        "?" if one.ttft_s is None else f"{one.ttft_s:.2f} s",
        "?" if one.total_s is None else f"{one.total_s:.1f} s",
        "?" if one.quality is None else f"{one.quality:.2f}",
    )


def header_json(decision: Decision, limit: int = 6000) -> bytes:
    """Compact ASCII JSON for a response header, at most `limit` bytes and always valid: the farthest alternatives go first.

    `more` counts what was left out. Servers and proxies commonly refuse header blocks over 8 KiB; the rest needs room as well.
    """
    need = decision.need
    by_name = {one.deployment: one for one in decision.predictions}
    alternatives = [_alternative(by_name.get(name), name) for name in decision.order]
    alternatives += [_rejected(by_name.get(one.deployment), one) for one in decision.rejected]
    head: dict[str, object] = {
        "wish": decision.wish,
        "route": decision.route,
        "rule": decision.rule,
        "chosen": decision.chosen,
        "propensity": round(decision.propensity, 6),
        "draw": decision.draw,
        "objective": decision.objective,
        "task": need.task,
        "confidence": need.confidence,
        "task_reasons": need.reasons,
        "prompt_tokens": need.prompt_tokens,
        "expected_output_tokens": need.expected_output_tokens,
        "reasons": decision.reasons,
        "config": decision.config,
    }
    kept = len(alternatives)
    while True:
        encoded = _ascii({**head, "alternatives": alternatives[:kept], "more": len(alternatives) - kept})
        if len(encoded) <= limit:
            return encoded
        if kept == 0:
            break
        kept = kept // 2 if kept > 8 else kept - 1
    least = _ascii({"chosen": decision.chosen, "more": len(alternatives)})
    return least if len(least) <= limit else b"{}"


def _alternative(one: Prediction | None, name: str) -> dict[str, object]:
    figures: dict[str, object] = {"deployment": name}
    if one is None:
        return figures
    figures["cost_usd"] = None if one.cost_nusd is None else usd(one.cost_nusd)
    figures["ttft_s"] = None if one.ttft_s is None else round(one.ttft_s, 4)
    figures["total_s"] = None if one.total_s is None else round(one.total_s, 3)
    figures["quality"] = one.quality
    return figures


def _rejected(prediction: Prediction | None, one: Rejection) -> dict[str, object]:
    return {**_alternative(prediction, one.deployment), "rejected": one.code, "reason": one.reason}


def _ascii(value: dict[str, object]) -> bytes:
    """JSON in ASCII only: HTTP headers are Latin-1 at best."""
    text = msgspec.json.encode(value).decode()
    if text.isascii():
        return text.encode()
    spelled: list[str] = []
    for char in text:
        if char.isascii():
            spelled.append(char)
        else:
            units = char.encode("utf-16-be")
            spelled.extend(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
    return "".join(spelled).encode()
