"""Fit: which deployments may serve a call at all, what each is predicted to cost and take, and why the others may not.

Hard bounds only; taste is `route`'s business. A fact that nobody knows never rejects by itself: an empty capability set means
"unknown", an unknown latency passes, an unknown price falls out only where a price or cost is bounded. Pure; a rejection's
reason carries the numbers that decided it, never a word of the prompt.
"""

from collections.abc import Iterable, Sequence

from msgspec import Struct

from waypost.core import price
from waypost.core.faults import Refused
from waypost.core.types import Bounds, Deployment, Need, Prediction, Rejection

READY = "ready"
TIGHT = 4  # weight in `misses` of a prompt that probably does not fit


class Candidate(Struct, frozen=True):
    """A deployment as it stands now. `why` says in words why it is not ready. `None` figures are not known yet."""

    deployment: Deployment
    standing: str = READY  # ready | probe | held | open | dead
    why: str = ""
    in_flight: int = 0
    ttft_s: float | None = None  # peak-sensitive moving average
    tokens_per_s: float | None = None
    quality: float | None = None  # learned for this task; else the card's prior
    group: int = 0  # place of its model in the caller's list of fallback models: 0 is what was asked for


class Ask(Struct, frozen=True):
    """One call as routing sees it: what it needs, what binds it, and the few facts that rules may look at."""

    need: Need
    bounds: Bounds = Bounds()
    max_output_tokens: int | None = None
    n: int = 1
    tools: bool = False
    stream: bool = False
    format_kind: str = "text"
    segment: str = ""
    parameters: frozenset[str] = frozenset()
    today: str = ""  # ISO date; "" = deprecation is not judged


class Option(Struct):
    """A candidate measured against one ask. `misses`: soft wishes it does not meet, which order it later. Built once, then read."""

    name: str
    candidate: Candidate
    prediction: Prediction
    cost: float  # inf when unknown
    quality: float | None
    rank: int  # 0 ready, then by how soon it may answer
    misses: int = 0


_RANKS = {READY: 0, "probe": 1, "held": 2, "open": 3, "dead": 4}
_MODALITIES = frozenset({"vision", "audio", "pdf"})
_JSON = frozenset({"json_object"})
_HARD = frozenset({"vision", "audio", "pdf", "tools", "json_schema"})
_ESTIMATE_SLACK = 0.75  # prompt estimates lean upwards by about a quarter: below this share a prompt certainly does not fit
_UNKNOWN = float("inf")


def measure(candidate: Candidate, ask: Ask) -> Option:
    """Predict cost, time and quality of one candidate; no bound is judged here."""
    deployment, need = candidate.deployment, ask.need
    card = deployment.model
    output = need.expected_output_tokens
    cost = price.expected(need.prompt_tokens, output, card.price)
    ttft_s, speed = candidate.ttft_s, candidate.tokens_per_s
    total_s = None if ttft_s is None or not speed else ttft_s + output / max(ask.n, 1) / speed
    quality = card.quality if candidate.quality is None else candidate.quality
    return Option(
        card.name,
        candidate,
        Prediction(card.name, cost, ttft_s, total_s, quality),
        _UNKNOWN if cost is None else float(cost),
        quality,
        _RANKS.get(candidate.standing, 3),
        _misses(candidate, ask),
    )


def rejection(option: Option, ask: Ask, *, pinned: bool) -> Rejection | None:
    """The first hard bound that `option` breaks, cheapest test first; `None` if it may serve.

    A pin is judged by what the request needs and what the caller's policy forbids, not by quality: naming a model is a judgement.
    """
    deployment = option.candidate.deployment
    broken = (
        _not_allowed(deployment, ask, pinned=pinned)
        or (_lacks(deployment, ask) if ask.need.capabilities or ask.parameters else None)
        or _too_long(deployment, ask)
        or _too_dear(option, ask)
    )
    if broken is None and not pinned:
        floor = ask.bounds.min_quality
        if floor is not None and option.quality is not None and option.quality < floor:
            broken = "quality", f"quality {option.quality:.2f} is below the asked {floor:.2f}"
    return None if broken is None else Rejection(option.name, *broken)


Broken = tuple[str, str] | None


def _not_allowed(deployment: Deployment, ask: Ask, *, pinned: bool) -> Broken:
    bounds, provider, card = ask.bounds, deployment.provider, deployment.model
    if card.mode != "chat":
        return "modality", f"is a model for {card.mode}, not for chat"
    if bounds.only is not None and not named(deployment, bounds.only):
        return "not_allowed", f"not among the allowed providers: {_list(bounds.only)}"
    if bounds.ignore and named(deployment, bounds.ignore):
        return "ignored", f"ignored by the request or the key: {_list(bounds.ignore)}"
    if not bounds.allow_fallbacks and bounds.order and not named(deployment, bounds.order):
        return "not_allowed", f"fallbacks are off and it is not in the order: {', '.join(bounds.order)}"
    if bounds.data_collection_deny and provider.trains_on_data:
        return "data_policy", f"{provider.name} may train on data, the request denies data collection"
    if bounds.zero_retention and not provider.zero_retention:
        return "data_policy", f"{provider.name} does not promise zero retention"
    if ask.today and not pinned and card.deprecated_on is not None and card.deprecated_on <= ask.today:
        return "deprecated", f"retired by its provider on {card.deprecated_on}"
    return None


def _lacks(deployment: Deployment, ask: Ask) -> Broken:
    known, needed = deployment.model.capabilities, ask.need.capabilities
    if ask.bounds.require_parameters:
        dropped = deployment.provider.drop & ask.parameters
        if dropped:
            return "parameters", f"{deployment.provider.name} does not take {_list(dropped)}, and all parameters are required"
    if not known:
        return None
    missing = needed - known
    if "json_schema" in known:  # a model that keeps to a schema can also write plain JSON
        missing -= _JSON
    if not ask.bounds.require_parameters:
        missing &= _HARD
    if not missing:
        return None
    if media := missing & _MODALITIES:
        return "modality", f"takes no {_list(media)}"
    if "tools" in missing:
        return "tools", "has no tool calls"
    if "json_schema" in missing:
        return "json_schema", "has no JSON schema output"
    return "parameters", f"lacks {_list(missing)}, and all parameters are required"


def _too_long(deployment: Deployment, ask: Ask) -> Broken:
    """Prompt and answer against the window. Output beyond what the model can give is clamped later, so it is not counted here.

    Only what is certainly too long is rejected; what is probably too long is ordered last (see `_misses`), since the prompt's
    size is an estimate that leans upwards and the provider counts exactly.
    """
    window = deployment.model.context_tokens
    if window is None:
        return None
    prompt, output = ask.need.prompt_tokens, _output_wish(deployment, ask)
    if int(prompt * _ESTIMATE_SLACK) + output <= window:
        return None
    return "context_length", f"about {prompt:,} prompt + {output:,} output tokens exceed its window of {window:,}"


def _too_dear(option: Option, ask: Ask) -> Broken:
    bounds, card = ask.bounds, option.candidate.deployment.model
    for side, cap, rate in (
        ("input", bounds.max_input_nusd_per_mtok, card.price.input_nusd_per_mtok),
        ("output", bounds.max_output_nusd_per_mtok, card.price.output_nusd_per_mtok),
    ):
        if cap is None:
            continue
        if rate is None:
            return "unknown_price", f"its {side} price is unknown and the price is capped at ${price.usd(cap)} per million tokens"
        if rate > cap:
            return "max_price", f"{side} at ${price.usd(rate)} per million tokens is over the cap of ${price.usd(cap)}"
    cap = bounds.max_cost_nusd
    if cap is None:
        return None
    cost = option.prediction.cost_nusd
    if ask.max_output_tokens is not None:
        cost = price.worst_case(ask.need.prompt_tokens, _output_wish(option.candidate.deployment, ask), ask.n, card.price)
    if cost is None:
        return "unknown_price", f"its price is unknown and the cost is capped at ${price.usd(cap)}"
    if cost > cap:
        return "max_cost", f"may cost ${price.usd(cost)}, the cap is ${price.usd(cap)}"
    return None


def _output_wish(deployment: Deployment, ask: Ask) -> int:
    """Output tokens one answer may take here: what the caller asked, as far as the model can give it."""
    wish, most = ask.max_output_tokens, deployment.model.max_output_tokens
    if wish is None:
        return 0
    return wish if most is None else min(wish, most)


def _misses(candidate: Candidate, ask: Ask) -> int:
    """Soft wishes not met: unknown or missing capabilities, an answer that would be clamped, a prompt that only just fits."""
    card = candidate.deployment.model
    needed, known = ask.need.capabilities, card.capabilities
    misses = 0
    if needed:
        missing = needed - known
        if missing and not (missing == _JSON and "json_schema" in known):
            misses = 1
    wish, window = ask.max_output_tokens, card.context_tokens
    if wish is not None and card.max_output_tokens is not None and wish > card.max_output_tokens:
        misses += 1
    if window is not None and ask.need.prompt_tokens + _output_wish(candidate.deployment, ask) > window:
        misses += TIGHT
    return misses


def named(deployment: Deployment, names: Iterable[str]) -> bool:
    """Whether a list of provider slugs or deployment names means this deployment; case, `-` and `_` are one."""
    if deployment.provider.name in names or deployment.name in names:
        return True
    folded = (_fold(deployment.provider.name), _fold(deployment.name))
    return any(_fold(name) in folded for name in names)


def _fold(name: str) -> str:
    return name.lower().replace("_", "-")


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


# How far a candidate came before it fell out: later tests are nearer misses.
_STAGES = (
    "not_allowed", "ignored", "deprecated", "data_policy", "modality", "tools", "json_schema", "parameters", "unknown_price",
    "context_length", "max_price", "max_cost", "quality", "latency",
)  # fmt: skip
_BOUND_NAMES = {
    "not_allowed": "the allowed providers", "ignored": "the ignored providers", "deprecated": "retirement by the provider",
    "data_policy": "the data policy", "modality": "the media sent", "tools": "the tools sent", "json_schema": "the JSON schema asked for",
    "parameters": "the required parameters", "unknown_price": "the cost bound (price unknown)", "context_length": "the context window",
    "max_price": "the price cap", "max_cost": "the cost cap", "quality": "the quality floor", "latency": "the latency bound",
}  # fmt: skip


def refusal(wish: str, rejected: Sequence[Rejection]) -> Refused:
    """What the caller is told when nothing fits: the bounds that decided, and the three nearest deployments with their reasons."""
    if not rejected:
        return Refused(404, "no_endpoints", f"'{wish}' has no deployment that could serve it.", param="model", error_type="not_found")
    nearest = sorted(rejected, key=lambda one: -_STAGES.index(one.code))[:3]
    codes = {one.code for one in rejected}
    bounds = " and ".join(_BOUND_NAMES[code] for code in _STAGES if code in codes)
    detail = "; ".join(f"{one.deployment}: {one.reason}" for one in nearest)
    message = f"No deployment of '{wish}' satisfies {bounds}. Nearest: {detail}."
    excluded = tuple((one.deployment, one.reason) for one in nearest)
    if codes == {"context_length"}:
        return Refused(400, "context_length_exceeded", message, param="messages", error_type="context_length_exceeded", excluded=excluded)
    code = "privacy_restricted" if codes == {"data_policy"} else "model_deprecated" if codes == {"deprecated"} else "constraint_filtered"
    return Refused(404, code, message, param="model", error_type="not_found", excluded=excluded)
