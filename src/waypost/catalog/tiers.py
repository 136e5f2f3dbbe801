"""Tiers: a provider's current general chat models, one cheap, one in the middle and one strong, judged by name and price alone.

For the route `auto` that nobody wrote. The catalogue knows no quality, so price stands in for it within one provider's own line-up:
vendors price their models by what they can do. Nothing is compared across providers. Rules, in this order:

    1. chat models with known prices that call tools, have a window of 32k tokens and no date of retirement (each where any has)
    2. general ones: no word of a special purpose or of a trial in the name
    3. of each line (the name without its version) the newest version
    4. of the provider's main name ("gpt", "claude") the newest generations, as many as it takes for three lines
    5. by price: the cheapest, the median, the upper quartile (the very dearest is often a special model)

Deterministic; knows nothing of configuration and of which providers are on.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from waypost.core.route import Route, Rule, When
from waypost.core.types import ModelCard, Task

_SPECIAL = frozenset((
    "agent", "audio", "base", "beta", "build", "cli", "code", "coder", "codestral", "codex", "computer", "cyber", "customtools",
    "devstral", "embed", "exp", "experimental", "fim", "free", "guard", "guardian", "gv2", "image", "instant", "law", "math", "medical",
    "moderation", "ocr", "preview", "prover", "realtime", "robotics", "rosalind", "safeguard", "safety", "search", "sec", "speech",
    "transcribe", "translate", "tts", "uncensored", "vibe", "video", "vision", "vl", "voxtral",
))  # fmt: skip
_VERSION = re.compile(r"v?(\d{1,2}(?:\.\d{1,2})?)[a-z]?")  # 4, 4.1, v3, 4o; not 70b-like sizes (see _SIZE)
_SIZE = re.compile(r"\d+(?:\.\d+)?[bmk]|a\d+b")
_GLUED = re.compile(r"([a-z]{3,})(\d.*)")  # qwen3.8
CANDIDATES = 9  # of the default route: three providers' three tiers; more would not be looked at before the attempts run out
_PROVIDERS = 4
_CHEAP: tuple[Task, ...] = ("chat", "code", "summarize", "classify", "extract", "translate")
_STRONG: tuple[Task, ...] = ("reasoning", "math")
_ROOM_TOKENS = 32_000  # what a general model's window held at least by 2024; smaller ones are left-overs
_GENERATION = 3  # lines that make a generation a whole line-up


class Tiers(Struct, frozen=True):
    """One provider's choice. The same card may stand in several places where there are fewer than three."""

    cheap: ModelCard
    middle: ModelCard
    strong: ModelCard


class _Line(Struct, frozen=True):
    head: str
    name: str
    version: float
    rank: tuple[float, bool, int, str]  # the greatest is the newest, most plainly named
    card: ModelCard


def tiers(cards: Iterable[ModelCard], *, today: str = "") -> Tiers | None:
    """None when no card is eligible. `today`: ISO date; "" = retirement is not judged."""
    eligible = _eligible(list(cards), today)
    lines = [line for card in eligible if (line := _line(card)) is not None]
    newest: dict[str, _Line] = {}
    for line in lines:
        if line.name not in newest or line.rank > newest[line.name].rank:
            newest[line.name] = line
    general = _main(list(newest.values()))
    chosen = sorted((line.card for line in general), key=_by_price) or sorted(eligible, key=_by_price)
    if not chosen:
        return None
    last = len(chosen) - 1
    return Tiers(chosen[0], chosen[last // 2], chosen[-(-3 * last // 4)])


def declared(cards: Sequence[ModelCard]) -> Tiers | None:
    """The tiers of models that the user described himself: his word is enough, no name is judged; his quality priors count."""
    chat = sorted((card for card in cards if card.mode == "chat"), key=_by_price)
    if not chat:
        return None
    return Tiers(chat[0], chat[(len(chat) - 1) // 2], max(chat, key=lambda card: (card.quality or 0.0, _by_price(card))))


def auto(choices: Mapping[str, Tiers]) -> Route:
    """The route `auto` from one choice of tiers per provider: easy tasks begin with the cheapest cheap model, hard ones with the
    cheapest strong one, anything else is balanced.

    Up to three providers give all three tiers; of more, the first four give cheap and strong ones first. At most CANDIDATES.
    """
    chosen = list(choices.values())[:_PROVIDERS]
    by_tier = ([one.cheap for one in chosen], [one.strong for one in chosen], [one.middle for one in chosen])
    names = list(dict.fromkeys(card.name for tier in by_tier for card in tier))[:CANDIDATES]
    cheap = tuple(card.name for card in sorted(by_tier[0], key=_by_price))
    strong = tuple(card.name for card in sorted(by_tier[1], key=_by_price))
    rules = [*(Rule(When(task=task), cheap) for task in _CHEAP), *(Rule(When(task=task), strong) for task in _STRONG)]
    return Route("auto", candidates=tuple(names), rules=tuple(rules) if cheap != strong else ())


def retired(card: ModelCard, today: str) -> bool:
    return bool(today) and card.deprecated_on is not None and card.deprecated_on <= today


def blended_nusd(card: ModelCard) -> int:
    """Three parts input, one part output: the mix by which price lists are commonly compared."""
    price = card.price
    return 3 * (price.input_nusd_per_mtok or 0) + (price.output_nusd_per_mtok or 0)


def _eligible(cards: list[ModelCard], today: str) -> list[ModelCard]:
    live = [card for card in cards if card.mode == "chat" and not retired(card, today)]
    found = [card for card in live if card.price.input_nusd_per_mtok and card.price.output_nusd_per_mtok]
    found = [card for card in found if "tools" in card.capabilities] or found
    found = [card for card in found if card.deprecated_on is None] or found
    return [card for card in found if (card.context_tokens or 0) >= _ROOM_TOKENS] or found


def _line(card: ModelCard) -> _Line | None:
    """The line and version a name tells; None for special purposes. Read from the family, which has no dates and regions."""
    words = [piece for word in re.split(r"[-_: ]+", card.family or card.upstream.lower()) for piece in _pieces(word)]
    if not words or not _SPECIAL.isdisjoint(words):
        return None
    kept = [word for word in words if not _is_version(word) and not _is_date(word)]
    version = next((float(found[1]) for word in words if _is_version(word) and (found := _VERSION.fullmatch(word))), 0.0)
    is_dated = any(_is_date(word) for word in words)
    rank = (version, not is_dated, -len(card.name), card.name)
    return _Line(kept[0] if kept else "", "-".join(kept), version, rank, card)


def _pieces(word: str) -> tuple[str, ...]:
    glued = _GLUED.fullmatch(word)
    return glued.groups() if glued else (word,)


def _is_version(word: str) -> bool:
    return _VERSION.fullmatch(word) is not None and _SIZE.fullmatch(word) is None


def _is_date(word: str) -> bool:
    return word.isdecimal() and len(word) >= 3


def _main(lines: list[_Line]) -> list[_Line]:
    """The lines of the name that most lines bear, newest generation first, no older ones than a whole line-up needs."""
    heads: dict[str, list[_Line]] = {}
    for line in lines:
        heads.setdefault(line.head, []).append(line)
    if not heads:
        return []
    main = max(heads.values(), key=lambda group: (len(group), max(blended_nusd(line.card) for line in group)))
    held: list[_Line] = []
    generations = sorted({int(line.version) for line in main}, reverse=True)
    for generation in generations:
        if 0 < generation < generations[0] - 1:
            continue  # two behind is past; without a number it is whatever the provider calls by that name now
        held += [line for line in main if int(line.version) == generation]
        if len(held) >= _GENERATION:
            break
    return held


def _by_price(card: ModelCard) -> tuple[int, int, str]:
    return blended_nusd(card), len(card.name), card.name
