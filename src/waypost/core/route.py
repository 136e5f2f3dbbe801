"""Route: where a call goes first and what follows when that fails, from the wish, the bounds and how things stand.

Deterministic: the same inputs and the same draw give the same decision, so every decision can be replayed. Knows no clock, no
health rule and no request body. `fit` decides who may serve; this file only orders them:

    ready before not ready  >  the caller's list of models  >  the order or place the wish gives  >  soft wishes met  >  objective

Where a plan starts (`rules`) is kept apart from what is tried after a failure, so "did not apply" and "failed" cannot be confused.
Choice among equals is the power of two choices on peak-EWMA load (Mitzenmacher 2001; Finagle); one model at several providers is
drawn with weight 1/cost² as OpenRouter documents it. Propensities are exact, so that logs can be evaluated later.
"""

from collections.abc import Callable, Sequence
from math import log10
from typing import Literal

from msgspec import Struct

from waypost.core.fit import TIGHT, Ask, Candidate, Option, measure, named, refusal, rejection
from waypost.core.types import Bounds, Decision, Objective, Rejection, Task

__all__ = ["Ask", "Candidate", "Route", "Rule", "When", "Wish", "decide", "split_suffix"]


class When(Struct, frozen=True):
    """A condition of a rule: all that is given must hold. A closed set, not a language."""

    task: Task | None = None
    min_prompt_tokens: int | None = None
    max_prompt_tokens: int | None = None
    capability: str | None = None
    tools: bool | None = None
    segment: str | None = None
    stream: bool | None = None
    format: str | None = None


class Rule(Struct, frozen=True):
    when: When
    use: tuple[str, ...]


class Route(Struct, frozen=True):
    """A name that delegates. `candidates` are the deployments in play; `order`, `weights` or else `objective` order them."""

    name: str
    objective: Objective = "balanced"
    min_quality: float | None = None
    max_ttft_s: float | None = None
    candidates: tuple[str, ...] = ()
    order: tuple[str, ...] = ()
    weights: tuple[tuple[str, float], ...] = ()
    rules: tuple[Rule, ...] = ()
    cascade: bool = False


class Wish(Struct, frozen=True):
    """What the caller asked for: `pin` = one deployment, `models` = a bare name that several may serve, `route` = a route's name."""

    kind: Literal["pin", "route", "models"]
    name: str
    suffix: str = ""  # "floor" | "nitro" | "exacto" | ""


_SUFFIXES = ("floor", "nitro", "exacto")
_SAME_QUALITY = 0.05  # priors closer than this are not told apart
_TIE = 0.01
_PRIOR_TOTAL_S = 5.0  # an unmeasured deployment is neither fast nor slow
_PRIOR_QUALITY = 0.5
Score = Callable[[Option], float]  # lower is better; inf = nothing known
Key = Callable[[Option], tuple[float, ...]]


def split_suffix(name: str) -> tuple[str, str]:
    """("lab/small:floor") -> ("lab/small", "floor"); other colons belong to the name ("ollama/llama3:8b")."""
    head, colon, suffix = name.rpartition(":")
    return (head, suffix) if colon and head and suffix in _SUFFIXES else (name, "")


def decide(
    wish: Wish, ask: Ask, candidates: Sequence[Candidate], *, route: Route | None = None, draw: float = 0.0, config: str = ""
) -> tuple[tuple[Candidate, ...], Decision]:
    """The candidates to try, first to last, and the decision that says why. Raises Refused when none may serve.

    `candidates`: every deployment that the wish may mean; `route` when `wish.kind` is "route"; `draw` uniform in [0, 1).
    """
    if len(candidates) == 1 and route is None:
        return _only(wish, ask, candidates[0], draw, config)
    options = [measure(candidate, ask) for candidate in candidates]
    rule, matched = _first_match(route, ask)
    fitting, rejected, notes = _filter(options, wish, ask, route, matched)
    if not fitting:
        raise refusal(wish.name, rejected)
    objective = _objective(wish, ask, route)
    chosen, propensity, why = _choose(fitting, wish, ask, route, matched, objective, draw)
    if matched is not None and chosen.name not in matched.use and not ask.bounds.order:
        notes.append("what the rule names is not available")
    ordered = _follow(chosen, fitting, wish, ask, route, objective)
    if not ask.bounds.allow_fallbacks and not ask.bounds.order:
        ordered = ordered[:1]
        notes.append("fallbacks are off")
    decision = Decision(
        wish=wish.name,
        route=route.name if route is not None else "",
        rule=rule,
        chosen=chosen.name,
        propensity=propensity,
        need=ask.need,
        predictions=tuple([option.prediction for option in options]),
        rejected=tuple(rejected),
        order=tuple([option.name for option in ordered]),
        reasons=(why, *notes, *_standing_notes(fitting)),
        objective=objective,
        draw=draw,
        config=config,
    )
    return tuple([option.candidate for option in ordered]), decision


def _only(wish: Wish, ask: Ask, candidate: Candidate, draw: float, config: str) -> tuple[tuple[Candidate, ...], Decision]:
    """The common case, a pin or a name that one deployment serves: nothing to order, only the hard bounds to check."""
    option = measure(candidate, ask)
    broken = rejection(option, ask, pinned=wish.kind == "pin")
    if broken is not None:
        raise refusal(wish.name, (broken,))
    why = "pinned by the caller" if wish.kind == "pin" else "the only deployment of this name"
    objective = _objective(wish, ask, None)
    name = option.name
    reasons = (why,) if option.rank == 0 else (why, *_standing_notes([option]))
    predictions = (option.prediction,)
    return (candidate,), Decision(wish.name, "", "", name, 1.0, ask.need, predictions, (), (name,), reasons, objective, draw, config)


def _objective(wish: Wish, ask: Ask, route: Route | None) -> Objective:
    """The caller's sort and suffix win over the route; an explicit `order` switches suffixes off, as OpenRouter has it."""
    sort = ask.bounds.sort
    if sort is None and wish.suffix and not ask.bounds.order:
        return "cost" if wish.suffix == "floor" else "latency" if wish.suffix == "nitro" else "quality"
    if sort is not None:
        return "cost" if sort == "price" else "latency"
    return route.objective if route is not None else "cost"


# --- who is left ------------------------------------------------------------------------------------------------------


def _first_match(route: Route | None, ask: Ask) -> tuple[str, Rule | None]:
    for number, rule in enumerate(route.rules if route is not None else (), start=1):
        if _holds(rule.when, ask):
            return f"{number}: {_spell(rule.when)}", rule
    return "", None


def _holds(when: When, ask: Ask) -> bool:
    need = ask.need
    return (
        (when.task is None or when.task == need.task)
        and (when.min_prompt_tokens is None or need.prompt_tokens >= when.min_prompt_tokens)
        and (when.max_prompt_tokens is None or need.prompt_tokens <= when.max_prompt_tokens)
        and (when.capability is None or when.capability in need.capabilities)
        and (when.tools is None or when.tools == ask.tools)
        and (when.segment is None or when.segment == ask.segment)
        and (when.stream is None or when.stream == ask.stream)
        and (when.format is None or when.format == ask.format_kind)
    )


def _spell(when: When) -> str:
    given = [(field, getattr(when, field)) for field in when.__struct_fields__]
    return ", ".join(f"{field} = {value}" for field, value in given if value is not None) or "always"


def _filter(
    options: list[Option], wish: Wish, ask: Ask, route: Route | None, matched: Rule | None
) -> tuple[list[Option], list[Rejection], list[str]]:
    """Hard bounds first, then the two that look at the whole field: the quality floor and the first-token bound."""
    fitting: list[Option] = []
    rejected: list[Rejection] = []
    notes: list[str] = []
    for option in options:
        broken = rejection(option, ask, pinned=wish.kind == "pin" and option.candidate.group == 0)
        if broken is None:
            fitting.append(option)
        else:
            rejected.append(broken)
    if wish.kind == "pin":
        return fitting, rejected, notes
    fitting = _above_floor(fitting, rejected, notes, ask, route, matched.use if matched is not None else ())
    return _in_time(fitting, rejected, notes, ask, route), rejected, notes


def _above_floor(
    fitting: list[Option], rejected: list[Rejection], notes: list[str], ask: Ask, route: Route | None, exempt: tuple[str, ...]
) -> list[Option]:
    """Quality floor. An unknown quality passes only when no known one does. What a matching rule names is the operator's own
    judgement and passes the route's floor, though not the caller's."""
    caller, own = ask.bounds.min_quality, route.min_quality if route is not None else None
    if caller is None and own is None:
        return fitting
    passing: list[Option] = []
    unknown: list[Option] = []
    for option in fitting:
        floor = max(caller or 0.0, 0.0 if option.name in exempt else own or 0.0)
        if option.quality is None and floor > 0:
            unknown.append(option)
        elif option.quality is not None and option.quality < floor:
            rejected.append(Rejection(option.name, "quality", f"quality {option.quality:.2f} is below the floor {floor:.2f}"))
        else:
            passing.append(option)
    if not passing:
        if unknown:
            notes.append("no candidate is known to reach the quality floor; tried one of unknown quality")
        return unknown
    rejected.extend(Rejection(one.name, "quality", "quality unknown, and others are known to reach the floor") for one in unknown)
    return passing


def _in_time(fitting: list[Option], rejected: list[Rejection], notes: list[str], ask: Ask, route: Route | None) -> list[Option]:
    """First-token bound. Latency is a learned, moving figure: it may exclude some candidates, never the last ones."""
    bounds = [bound for bound in (ask.bounds.max_ttft_s, route.max_ttft_s if route is not None else None) if bound is not None]
    if not bounds:
        return fitting
    bound = min(bounds)
    slow = [option for option in fitting if (option.candidate.ttft_s or 0.0) > bound]
    quick = [option for option in fitting if (option.candidate.ttft_s or 0.0) <= bound]
    if not slow:
        return fitting
    if all(option.rank for option in quick):
        notes.append(f"no ready candidate is expected to start within {bound:g} s; kept all")
        return fitting
    rejected.extend(
        Rejection(one.name, "latency", f"first token expected after {one.candidate.ttft_s:.2f} s, the bound is {bound:g} s") for one in slow
    )
    return quick


def _standing_notes(options: list[Option]) -> list[str]:
    return [
        f"{option.name} is {option.candidate.standing}{': ' + option.candidate.why if option.candidate.why else ''}"
        for option in options
        if option.rank
    ]


# --- who leads --------------------------------------------------------------------------------------------------------


def _choose(
    fitting: list[Option], wish: Wish, ask: Ask, route: Route | None, matched: Rule | None, objective: Objective, draw: float
) -> tuple[Option, float, str]:
    """The leader, the probability with which it leads, and why. Draws only among the best-standing of the first group."""
    rank = min([option.rank for option in fitting])
    leaders = [option for option in fitting if option.rank == rank]
    group = min([option.candidate.group for option in leaders])
    leaders = [option for option in leaders if option.candidate.group == group]
    leaders = [option for option in leaders if option.misses < TIGHT] or leaders
    caller_sorts = _caller_sorts(wish, ask.bounds)
    preferred = _place(ask.bounds.order, leaders)
    if preferred is not None:
        return preferred, 1.0, f"first of the caller's order: {', '.join(ask.bounds.order)}"
    if matched is not None and not caller_sorts:
        used = [option for name in matched.use for option in leaders if option.name == name]
        if used:
            return used[0], 1.0, f"rule: {_spell(matched.when)}"
    if route is not None and route.order and not caller_sorts:
        return min(leaders, key=lambda option: _position(route.order, option)), 1.0, "first available of the route's order"
    if len(leaders) == 1:
        if any(option.candidate.group != group for option in fitting):
            return leaders[0], 1.0, "first ready of the caller's models"
        return leaders[0], 1.0, "the only ready candidate" if len(fitting) > 1 else "the only candidate that fits"
    fewest = min([option.misses for option in leaders])
    leaders = [option for option in leaders if option.misses == fewest]
    if route is not None and route.weights and not caller_sorts:
        weights = dict(route.weights)
        return _draw(leaders, [weights.get(option.name, 0.0) for option in leaders], draw, "drawn by weight")
    if wish.kind == "models" and not caller_sorts:
        return _draw(leaders, _inverse_square(leaders), draw, "drawn by 1/cost² among its providers")
    return _best(
        leaders, _score(wish, ask.bounds, objective), "the caller's sort" if caller_sorts else objective, None if caller_sorts else draw
    )


def _score(wish: Wish, bounds: Bounds, objective: Objective) -> Score:
    fastest = bounds.sort == "throughput" or (bounds.sort is None and wish.suffix == "nitro" and not bounds.order)
    return _by_pace if fastest else _SCORES[objective]


def _caller_sorts(wish: Wish, bounds: Bounds) -> bool:
    return bounds.sort is not None or (bool(wish.suffix) and not bounds.order)


def _place(order: tuple[str, ...], options: list[Option]) -> Option | None:
    for name in order:
        for option in options:
            if named(option.candidate.deployment, (name,)):
                return option
    return None


def _position(order: tuple[str, ...], option: Option) -> int:
    return order.index(option.name) if option.name in order else len(order)


def _draw(options: list[Option], weights: list[float], draw: float, why: str) -> tuple[Option, float, str]:
    """One option by weight. Without any positive weight the first leads: drained everywhere is still better than no answer."""
    total = sum(weights)
    if total <= 0:
        return options[0], 1.0, "all weights are zero: first named"
    threshold, reached = draw * total, 0.0
    chosen = max(range(len(options)), key=weights.__getitem__)  # where rounding leaves the last step
    for index, weight in enumerate(weights):
        reached += weight
        if threshold < reached:
            chosen = index
            break
    share = weights[chosen] / total
    return options[chosen], share, f"{why} (share {share:.2f})"


def _inverse_square(options: list[Option]) -> list[float]:
    """1/cost² of this request, costs taken relative to the cheapest. Free ones share everything; unknown prices get nothing
    unless all are unknown."""
    cheapest = min([option.cost for option in options])
    if cheapest in (0.0, float("inf")):
        return [1.0 if option.cost == cheapest else 0.0 for option in options]
    return [(cheapest / option.cost) ** 2 for option in options]


def _best(leaders: list[Option], score: Score, by: str, draw: float | None) -> tuple[Option, float, str]:
    """The best by score, then by cost, then by quality; among equals the less loaded of two drawn ones (none drawn: the first)."""
    ranked = sorted(
        [(score(option), option.cost, -(option.quality or 0.0), option.name, option) for option in leaders], key=_without_option
    )
    best, _, _, _, first = ranked[0]
    equals = [
        option for value, _, _, _, option in ranked if _near(value, best) and _near(option.cost, first.cost) and _alike(option, first)
    ]
    if len(equals) == 1 or draw is None:
        return first, 1.0, f"best by {by}"
    loads = [_load(option, equals) for option in equals]
    count = len(equals)
    pair = min(int(draw * count * (count - 1)), count * (count - 1) - 1)  # one of the ordered pairs
    one, other = divmod(pair, count - 1)
    other += other >= one
    winner = one if loads[one] <= loads[other] else other
    beaten = sum([load > loads[winner] for load in loads])
    level = sum([load == loads[winner] for load in loads]) - 1
    propensity = (beaten + level / 2) * 2 / (count * (count - 1))
    return equals[winner], propensity, f"best by {by}; less loaded of two drawn among {count} equals"


def _without_option(entry: tuple[float, float, float, str, Option]) -> tuple[float, float, float, str]:
    return entry[:4]


def _near(value: float, best: float) -> bool:
    """Within 1 %. Equal infinities (nothing known) are near too."""
    return value == best or abs(value - best) <= abs(best) * _TIE


def _load(option: Option, equals: list[Option]) -> float:
    """Peak-EWMA load: expected first token x requests in flight. An unmeasured one counts as the fastest, so that it gets measured."""
    ttft_s = option.candidate.ttft_s
    if ttft_s is None:
        ttft_s = min([one.candidate.ttft_s for one in equals if one.candidate.ttft_s is not None], default=1.0)
    return ttft_s * (option.candidate.in_flight + 1)


# --- what follows -----------------------------------------------------------------------------------------------------


def _follow(chosen: Option, fitting: list[Option], wish: Wish, ask: Ask, route: Route | None, objective: Objective) -> list[Option]:
    """The whole plan: the leader, then the others as fallbacks. Nobody who fits is ever left out, the unhealthy come last."""
    others = [option for option in fitting if option is not chosen]
    if len(others) > 1:
        others.sort(key=_fallback_key(chosen, _score(wish, ask.bounds, objective), wish, ask, route))
    return [chosen, *others]


def _fallback_key(chosen: Option, score: Score, wish: Wish, ask: Ask, route: Route | None) -> Key:
    """Standing and the caller's list first; then the caller's order, the route's order or weights; else equals in quality first,
    another failure domain first, then the objective."""
    order, sorts = ask.bounds.order, _caller_sorts(wish, ask.bounds)
    weights = dict(route.weights) if route is not None and route.weights else None
    domain = chosen.candidate.deployment.failure_domain

    def place(option: Option) -> float:
        if order:
            deployment = option.candidate.deployment
            return next((float(at) for at, name in enumerate(order) if named(deployment, (name,))), float(len(order)))
        if sorts:
            return score(option)
        if route is not None and route.order:
            return float(_position(route.order, option))
        return -weights.get(option.name, 0.0) if weights is not None else 0.0

    def key(option: Option) -> tuple[float, ...]:
        return (
            option.rank,
            option.candidate.group,
            option.misses >= TIGHT,
            place(option),
            option.misses,
            not _alike(option, chosen),
            option.candidate.deployment.failure_domain == domain,
            score(option),
        )

    return key


def _alike(option: Option, chosen: Option) -> bool:
    """Equal in quality: the same family, or at least as good as priors can tell. A better model is no worse a stand-in."""
    family = chosen.candidate.deployment.model.family
    if family and family == option.candidate.deployment.model.family:
        return True
    if option.quality is None or chosen.quality is None:
        return option.quality is chosen.quality
    return option.quality >= chosen.quality - _SAME_QUALITY


def _by_cost(option: Option) -> float:
    return option.cost


def _by_latency(option: Option) -> float:
    """Seconds to the whole answer; where only the first token is known, a common pace is assumed for the rest."""
    prediction = option.prediction
    if prediction.total_s is not None:
        return prediction.total_s
    return float("inf") if prediction.ttft_s is None else prediction.ttft_s + _PRIOR_TOTAL_S


def _by_pace(option: Option) -> float:
    speed = option.candidate.tokens_per_s
    return float("inf") if not speed else -speed


def _by_quality(option: Option) -> float:
    return 1.0 if option.quality is None else -option.quality


def _by_balance(option: Option) -> float:
    """Minus (quality - 0.1 log10 cost - 0.05 log10 seconds): ten times dearer must be 0.1 better, ten times slower 0.05.

    Logarithms make the comparison of two models independent of every third one (scaling by the pool's extremes does not).
    """
    if option.cost == float("inf"):
        return float("inf")
    quality = _PRIOR_QUALITY if option.quality is None else option.quality
    total_s = option.prediction.total_s
    seconds = _PRIOR_TOTAL_S if total_s is None else max(total_s, 0.05)
    return -(quality - 0.1 * log10(max(option.cost, 1_000.0)) - 0.05 * log10(seconds))


_SCORES: dict[Objective, Score] = {
    "cost": _by_cost,
    "latency": _by_latency,
    "quality": _by_quality,
    "balanced": _by_balance,
}
