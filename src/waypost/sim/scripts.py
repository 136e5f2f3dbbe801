"""Scripts: what a simulated provider shall do with a request, said in words.

A model name may end in a script, `gpt-sim.stall-5-n50`: the same words stand in rules. This file knows the words (one table: the
help, the documentation's test and the parser read it), the rules that hand out scripts by provider, model, key, attempt, time and
probability, and the distributions of waits. It knows nothing of sockets or dialects. The words cover the knobs listed in docs/simulator.md.
"""

import random
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import lru_cache
from hashlib import blake2b
from typing import Literal

import msgspec
from msgspec import Struct


class Word(Struct, frozen=True):
    """One word. `takes` is the shape of its argument, `usual` the argument when none is written (None: none needed)."""

    group: str  # answer | verdict | status | wait | stream | body | bytes | capacity | strict | knob | detail
    says: str
    takes: Literal["", "whole", "number"] = ""
    usual: float | None = None


WORDS: dict[str, Word] = {
    "ok": Word("answer", "answers"),
    "tool": Word("answer", "calls the request's first tool, arguments made from its schema"),
    "tools2": Word("answer", "calls two tools in parallel"),
    "think": Word("answer", "reasons before it answers"),
    "json": Word("answer", "answers with JSON, after the request's schema if there is one"),
    "refusal": Word("verdict", "refuses, in the dialect's way"),
    "filter": Word("verdict", "stops half way with the dialect's content-filter reason"),
    "blocked-prompt": Word("verdict", "blocks the prompt: 400 or 403; on gemini a 200 without candidates"),
    "empty": Word("verdict", "a finished, billed answer without content"),
    "ignore-max": Word("verdict", "goes on past max_tokens to its natural length"),
    "stop-at-max": Word("verdict", "cut at max_tokens, yet reports a natural stop and no usage"),
    "fail": Word("status", "answers with this status and the provider's error body", "whole", 500),
    "redirect": Word("status", "307 to another host name, where the simulator logs whoever follows"),
    "refuse": Word("wait", "reset as soon as the request is read (in a rule with `at: accept`: as soon as the connection is accepted)"),
    "reset": Word("wait", "reset before headers, after the first-token wait"),
    "silence": Word("wait", "no byte before the headers for this many seconds", "number", 3600),
    "slow": Word("wait", "headers at once, first content after this many seconds", "number", 20),
    "comments": Word("wait", "keep-alive comments for this many seconds before content", "number", 30),
    "pings": Word("wait", "pings (comments where the dialect has none) between tokens, and for this many seconds before", "number", 0),
    "blank-lines": Word("wait", "blank lines for this many seconds before content, streamed or not", "number", 30),
    "drip": Word("wait", "this many milliseconds between tokens", "number", 500),
    "stall": Word("stream", "nothing more after token k", "whole", 5),
    "cut": Word("stream", "FIN after token k", "whole", 5),
    "rst": Word("stream", "reset after token k", "whole", 5),
    "malformed": Word("stream", "a broken JSON event after token k, then goes on", "whole", 5),
    "error": Word("stream", "the dialect's error event after token k, inside a 200", "whole", 5),
    "cut-last": Word("stream", "FIN after the last token: no finish, no usage, no terminal marker"),
    "clean-cut": Word("stream", "after token k a clean end of the body, as if all were said", "whole", 5),
    "no-done": Word("stream", "no terminal marker"),
    "no-finish": Word("stream", "no finish reason"),
    "no-usage": Word("stream", "no usage"),
    "zero-usage": Word("stream", "usage full of zeros"),
    "usage-in-choice": Word("stream", "usage in a chunk that has choices"),
    "dup-finish": Word("stream", "the finish said twice"),
    "empty-choices": Word("stream", "chunks with empty choices before and between"),
    "unknown-event": Word("stream", "events of a type nobody knows, before and between"),
    "giant-line": Word("stream", "one line of this many megabytes before content", "number", 10),
    "endless": Word("stream", "never stops, whatever max_tokens says"),
    "burst": Word("stream", "releases k tokens at a time", "whole", 10),
    "error-200": Word("body", "200 with an error body"),
    "empty-200": Word("body", "200 without a body"),
    "html-200": Word("body", "200 with a web page"),
    "wrong-type": Word("body", "the right body under text/plain"),
    "not-stream": Word("body", "a whole answer although a stream was asked for"),
    "gzip-bomb": Word("body", "200, gzip, a thousand times larger than it looks"),
    "early-hints": Word("body", "103 before the answer"),
    "split": Word("bytes", "writes of k bytes, also inside a character", "whole", 1),
    "crlf": Word("bytes", "CR LF line ends"),
    "cr": Word("bytes", "CR line ends"),
    "bom": Word("bytes", "a byte order mark first"),
    "u2028": Word("bytes", "U+2028, U+2029 and U+0085 in the text"),
    "full": Word("capacity", "429 while more than k requests are in flight on this model", "whole", 1),
    "servers": Word("capacity", "prompt cache on k servers, chosen by prompt_cache_key, else at random", "whole", 4),
    "strict-thinking": Word("strict", "400 if replayed thinking was altered or lost its signature"),
    "strict-reasoning": Word("strict", "400 if, with tools, a later assistant turn lacks reasoning_content"),
    "strict-system": Word("strict", "400 for a system message after the first turn"),
    "strict-tools": Word("strict", "400 for anyOf, oneOf or allOf at a tool schema's root"),
    "strict-items": Word("strict", "400 for replayed response items with `status` or a foreign id"),
    "strict-max": Word("strict", "400 for max_tokens above k", "whole", 8192),
    "no-prefill": Word("strict", "400 if the last message is the assistant's"),
    "no-forced-tool": Word("strict", "400 for a forced tool choice"),
    "ra": Word("detail", "Retry-After of k seconds", "number", 1),
    "ms": Word("detail", "retry-after-ms of k", "number", 1000),
    "date": Word("detail", "Retry-After as an HTTP date two seconds ahead"),
    "garbage": Word("detail", "Retry-After that is no time at all"),
    "negative": Word("detail", "Retry-After of -1"),
    "quota": Word("detail", "the quota or credit variant of the status"),
    "context": Word("detail", "the context-length variant of 400"),
    "moderation": Word("detail", "the moderation variant of 400 or 403"),
    "arrears": Word("detail", "an unpaid bill as a 400 (qwen, anthropic, gemini)"),
    "slow-down": Word("detail", "traffic grew too fast"),
    "in-flight": Word("detail", "the 402 that is worth retrying (openrouter)"),
    "html": Word("detail", "a web page as the error body"),
    "bare": Word("detail", "no error body"),
    "n": Word("knob", "tokens of the answer", "whole", 40),
    "d": Word("knob", "milliseconds to the first byte", "number", 0),
    "g": Word("knob", "milliseconds between tokens", "number", 0),
    "p": Word("knob", "probability that the faults of this script apply", "number", 1),
    "x": Word("knob", "only the first k attempts of a request fail", "whole", 1),
    "s": Word("knob", "seconds that a stall lasts before the stream goes on", "number", 3600),
}
KEPT = {"answer", "knob"}  # what is left of a script whose faults do not apply
_NUMBER = {"": "", "whole": r"\d+", "number": r"\d+(?:\.\d+)?"}


def _pattern(name: str, word: Word) -> str:
    if not word.takes:
        return re.escape(name)
    number = f"({_NUMBER[word.takes]})"
    if word.group in ("knob", "detail"):
        return re.escape(name) + number
    return f"{re.escape(name)}-{number}" if name == "fail" else f"{re.escape(name)}(?:-{number})?"


# Longest first, so that `cut-last` is not read as `cut` and `error-200` not as `error` after 200 tokens.
_NAMES = sorted(WORDS, key=len, reverse=True)
_ONE = re.compile("|".join(f"(?:{_pattern(name, WORDS[name])})(?=$|[-+])" for name in _NAMES))
_STARTS = re.compile(r"(?:^|(?<=[./:@-]))")


class Script(Struct, frozen=True):
    """A parsed script. `name` is what was written ("ok" where nothing was)."""

    name: str = "ok"
    words: tuple[tuple[str, float | None], ...] = ()

    def __contains__(self, word: str) -> bool:
        return any(name == word for name, _ in self.words)

    def number(self, word: str, absent: float = 0.0) -> float:
        """The word's argument, its usual one where none was written, `absent` where the word does not stand."""
        for name, value in self.words:
            if name == word:
                usual = WORDS[word].usual
                return value if value is not None else usual if usual is not None else absent
        return absent

    def calm(self) -> "Script":
        """What is left when the faults do not apply this time."""
        return Script(name=self.name, words=tuple((name, value) for name, value in self.words if WORDS[name].group in KEPT))


def parse(text: str) -> Script | None:
    """A whole script (`stall-5-n50`, `think+tool`), or None if any part of it is no word."""
    words: list[tuple[str, float | None]] = []
    at = 0
    while at < len(text):
        match = _ONE.match(text, at)
        if match is None:
            return None
        argument = next((group for group in match.groups() if group is not None), None)
        words.append((_name_of(match[0], argument), None if argument is None else float(argument)))
        at = match.end() + 1
    return Script(name=text, words=tuple(words)) if words else None


def _name_of(written: str, argument: str | None) -> str:
    return written if argument is None else written[: -len(argument)].removesuffix("-")


@lru_cache(maxsize=4096)
def of_model(model: str) -> Script:
    """The script at the end of a model name; `ok` for a name that holds none.

    It may start at the beginning or after `.`, `/`, `:` or `@`; after a mere dash only if its first word is not a knob, so that
    a real model name that ends in `-n1` or `-x2` is left alone.
    """
    for start in (match.start() for match in _STARTS.finditer(model)):
        script = parse(model[start:])
        if script is None:
            continue
        if start and model[start - 1] == "-" and WORDS[script.words[0][0]].group in ("knob", "detail"):
            continue
        return script
    return Script()


def listing() -> Iterable[tuple[str, str, str]]:
    """(group, how it is written, what it says) of each word, in the table's order."""
    for name, word in WORDS.items():
        argument = "" if not word.takes else f"{word.usual:g}" if word.usual is not None else "k"
        dash = "" if not word.takes or word.group in ("knob", "detail") else "-"
        yield word.group, f"{name}{dash}{argument}", word.says


# --- waits -----------------------------------------------------------------------------------------------------------


class Spread(Struct, frozen=True):
    """A distribution of milliseconds: `300`, `exponential:40` (mean) or `lognormal:300:0.6` (median, sigma)."""

    kind: Literal["constant", "exponential", "lognormal"] = "constant"
    centre: float = 0.0
    sigma: float = 0.0

    def draw_s(self, chance: "Chance") -> float:
        match self.kind:
            case "constant":
                return self.centre / 1000
            case "exponential":
                return chance.dice().expovariate(1 / self.centre) / 1000 if self.centre else 0.0
            case "lognormal":
                return self.centre * chance.dice().lognormvariate(0.0, self.sigma) / 1000


def spread(text: str | float | int) -> Spread:
    """Parse a distribution. Raises ValueError with the value seen."""
    kind, _, rest = str(text).partition(":")
    try:
        if not rest:
            return Spread(centre=float(kind))
        if kind == "exponential":
            return Spread(kind="exponential", centre=float(rest))
        if kind == "lognormal":
            centre, sigma = rest.split(":")
            return Spread(kind="lognormal", centre=float(centre), sigma=float(sigma))
    except ValueError:
        pass
    raise ValueError(f"no distribution: {text!r}; write 300, exponential:40 or lognormal:300:0.6 (milliseconds)")


class Chance:
    """Seeded draws of one attempt: a function of seed and identity, not of the order in which requests arrive."""

    def __init__(self, *identity: str | int) -> None:
        self._identity = identity
        self._dice: random.Random | None = None

    def dice(self) -> random.Random:
        if self._dice is None:
            digest = blake2b("\0".join(map(str, self._identity)).encode("utf-8", "surrogatepass"), digest_size=8).digest()
            self._dice = random.Random(int.from_bytes(digest, "big"))
        return self._dice


# --- rules -----------------------------------------------------------------------------------------------------------


class Rule(Struct, frozen=True, forbid_unknown_fields=True):
    """Who gets which script. Patterns are globs. Times are seconds of scripted time since start or reset.

    `script` None leaves the script to the next rule or the model's name and sets only the pace. A list hands out one script per
    matching attempt and is then spent. `first`, `last` bound the n-th matching attempt, counted per rule, or per request
    (the prompt's marker) with `per_request`.
    """

    script: str | list[str] | None = None
    provider: str = "*"
    model: str = "*"
    dialect: str = "*"
    key: str = "*"
    first: int = 1
    last: int | None = None
    per_request: bool = False
    after_s: float = 0.0
    until_s: float | None = None
    probability: float = 1.0
    at: Literal["request", "accept"] = "request"
    ttft_ms: str | float | None = None
    gap_ms: str | float | None = None
    tokens: int | None = None

    def __post_init__(self) -> None:
        for script in [self.script] if isinstance(self.script, str) else self.script or []:
            if parse(script) is None:
                raise ValueError(f"no script: {script!r}; `waypost sim --list` shows the words")
        for wait in (self.ttft_ms, self.gap_ms):
            if wait is not None:
                spread(wait)

    def suits(self, *, provider: str, model: str, dialect: str, key: str, now_s: float) -> bool:
        """Do the patterns and the time window fit?"""
        if now_s < self.after_s or (self.until_s is not None and now_s >= self.until_s):
            return False
        return (
            fnmatchcase(model, self.model)
            and fnmatchcase(provider, self.provider)
            and fnmatchcase(dialect, self.dialect)
            and fnmatchcase(key, self.key)
        )

    def script_for(self, nth: int) -> str | None:
        """The script of the n-th matching attempt (1, 2, ...)."""
        if nth < self.first or (self.last is not None and nth > self.last):
            return None
        if isinstance(self.script, list):
            turn = nth - self.first
            return self.script[turn] if turn < len(self.script) else None
        return self.script


def rules_from_json(body: bytes) -> tuple[Rule, ...]:
    """A JSON list of rules. Raises msgspec.ValidationError or DecodeError with the path of the fault."""
    return tuple(msgspec.json.decode(body, type=list[Rule]))
