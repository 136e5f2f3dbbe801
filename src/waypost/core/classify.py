"""Classify: which kind of task a call is, from signs and intent words, with the reasons in words.

A table of words, not a model: microseconds, no weights, every answer explainable. It judges what the last user turn asks; earlier
turns and the system prompt only speak when that turn is silent. It knows nothing of models, prices or quality, and it keeps no
prompt text: reasons quote the table, never the caller. Long texts are judged by their ends (an instruction stands before or
after its material). Every expression is linear: no nested quantifiers, bounded input.

Stripping harness reminders before judging, and judging the user's turn instead of the whole transcript, follows what coding
agents taught the routers of LiteLLM and Plano.
"""

import re
from typing import Final

from waypost.core.intents import CJK, ENVELOPES, TASKS, WORDS
from waypost.core.types import Call, Need, Task

TURN: Final = "\x1e"  # may separate turns in the text; without it the whole text is one turn

_HEAD, _TAIL = 2048, 6144  # characters judged of a bounded text
_MOST = 65_536  # characters searched for envelopes
_EDGE = 640  # characters at either end of a turn in which intent words count
_PUNCTUATION = "-\t\n\r.,;:!?\"()[]{}<>/\\|`*_~='“”„«»¿¡…’–—：，。"
_SPACES = str.maketrans(dict.fromkeys(_PUNCTUATION, " "))
# All alternatives start within one character class, so that the search skips prose at the speed of a table look-up.
_FORMULA = re.compile(
    r"[0-9\\^∫∑√∞≤≥≠π](?:(?<=[0-9])[a-z²³]? ?[-+*/^×÷=] ?[0-9]|(?<=\^)[0-9n({]|(?<=\\)(?:frac|int|sum|sqrt|lim|cdot)|(?<=[∫∑√∞≤≥≠π]))"
)
_NUMBER = re.compile(r"[0-9]+")
_OPTION = re.compile(r"\b[A-D][).:] ")
_EAST_ASIAN = re.compile("[぀-鿿]")
_TRACES = (
    "Traceback (most recent", "Exception in thread", "\n    at ", "\n\tat ", "panicked at", "error[E", "Segmentation fault", "TypeError",
    "ValueError", "KeyError", "SyntaxError", "ReferenceError", "AttributeError", "ImportError", "NullPointerException",
    "ModuleNotFoundError",
)  # fmt: skip
_CODE_SIGNS = (
    "();", ") {", "=> ", " == ", "def ", "return ", "import ", "#include", "const ", "SELECT ", " = [", "&&", "self.", "\n    ", "};",
)  # fmt: skip
_QUESTION = ("?", "？")

# Output tokens to expect by task until evidence is learned: deliberate round figures, not measurements; it is their order that
# matters to a choice. (Models of 2024 averaged 110 to 180 tokens of chain of thought on GSM8K, CRUXEval and MMLU-Pro; answers have grown.)
_OUTPUT_TOKENS: dict[Task, int] = {
    "chat": 300, "code": 700, "summarize": 250, "classify": 16, "extract": 150, "translate": 0, "math": 350, "reasoning": 900,
    "creative": 800,
}  # fmt: skip
_REASONING_FACTOR = 3  # hidden thoughts are billed as output


def need_of(call: Call, text: str) -> Need:
    """The demand of a call: its measured facts and the judged task. Output tokens are those of all `n` choices together."""
    task, confidence, reasons = classify(text, tools=call.tools, format_kind=call.format_kind, turns=call.turns)
    capabilities = set(call.modalities)
    if call.tools:
        capabilities.add("tools")
    if call.format_kind in ("json_schema", "json_object"):
        capabilities.add(call.format_kind)
    if call.reasoning:
        capabilities.add("reasoning")
    return Need(
        task=task,
        prompt_tokens=call.prompt_tokens,
        expected_output_tokens=expected_output(
            task, call.prompt_tokens, reasoning=call.reasoning, max_output_tokens=call.max_output_tokens, n=call.n
        ),
        capabilities=frozenset(capabilities),
        reasons=reasons,
        confidence=confidence,
    )


def expected_output(task: Task, prompt_tokens: int, *, reasoning: bool, max_output_tokens: int | None, n: int) -> int:
    """Prior of the output tokens: by task, a translation as long as its text, never beyond the caller's ceiling."""
    tokens = _OUTPUT_TOKENS[task] or max(prompt_tokens, 20)
    if reasoning:
        tokens *= _REASONING_FACTOR
    if max_output_tokens is not None:
        tokens = min(tokens, max_output_tokens)
    return tokens * max(n, 1)


def classify(text: str, *, tools: int = 0, format_kind: str = "text", turns: int = 1) -> tuple[Task, float, tuple[str, ...]]:
    """The task, a confidence in 0..1 (the winner's share of all evidence), and the reasons, strongest first."""
    if len(text) > _MOST:
        text = f"{text[:_HEAD]}\n{text[-_MOST:]}"
    text = _bounded(_strip(text))
    before, _, ask = text.rpartition(TURN)
    evidence = _Evidence()
    _judge(ask, evidence, 1.0)
    if before and evidence.best() < 2.0:
        _judge(before.replace(TURN, "\n"), evidence, 0.4)
    if format_kind == "json_schema":
        evidence.add("extract", 1.3, "answer bound to a JSON schema")
    elif format_kind == "json_object":
        evidence.add("extract", 0.7, "answer asked for as JSON")
    if tools and turns > 2:
        evidence.add("reasoning", 0.3, "tools over several turns")
    return evidence.verdict()


class _Evidence:
    """Scores by task and why. Ties go to the task named first in `TASKS`."""

    __slots__ = ("reasons", "scores")

    def __init__(self) -> None:
        self.scores: dict[Task, float] = dict.fromkeys(TASKS, 0.0)
        self.scores["chat"] = 0.9  # what is left when nothing else speaks
        self.reasons: list[tuple[float, Task, str]] = []

    def add(self, task: Task, weight: float, reason: str) -> None:
        self.scores[task] += weight
        self.reasons.append((weight, task, reason))

    def best(self) -> float:
        return max(self.scores.values())

    def verdict(self) -> tuple[Task, float, tuple[str, ...]]:
        task = max(self.scores, key=self.scores.__getitem__)
        confidence = self.scores[task] / (sum(self.scores.values()) + 0.5)
        told = sorted((reason for reason in self.reasons if reason[1] == task), key=lambda reason: -reason[0])
        return task, round(confidence, 3), tuple(dict.fromkeys(reason for _, _, reason in told[:4])) or ("no sign of a special task",)


def _strip(text: str) -> str:
    """Without the blocks that agents wrap around a turn. A block cut by a bound is removed up to or from its visible tag."""
    if "<" not in text:
        return text
    whole = text
    for tag in ENVELOPES:
        opening, closing = f"<{tag}", f"</{tag}>"
        if opening not in text and closing not in text:
            continue
        kept: list[str] = []
        for piece in text.split(closing):
            kept.append(piece.partition(opening)[0] if opening in piece else piece)
        if opening not in text[: text.find(closing)] and closing in text:
            kept[0] = ""  # its beginning was cut off
        text = "".join(kept)
    return text if text.strip(" \n\t\x1e") else whole


def _bounded(text: str) -> str:
    text = text.strip(" \n\t\x1e")
    return text if len(text) <= _HEAD + _TAIL else text[:_HEAD] + "\n" + text[-_TAIL:]


def _judge(ask: str, evidence: _Evidence, factor: float) -> None:
    edges = ask if len(ask) <= 2 * _EDGE else f"{ask[:_EDGE]}\n{ask[-_EDGE:]}"
    found = _intent_words(_words_of(edges), evidence, factor)
    if not edges.isascii() and _EAST_ASIAN.search(edges):
        for phrase, task, weight in CJK:
            if phrase in edges:
                evidence.add(task, weight * factor, f"says '{phrase}'")
    _name_signs(found, evidence, factor)
    _code_signs(ask, evidence, factor)
    _math_signs(edges, evidence, factor, "how-many" in found)
    _shape(ask, evidence, factor)


def _words_of(edges: str) -> list[str]:
    lower = edges.lower()
    if lower.isascii():
        return lower.translate(_SPACES).split()  # a table look-up per byte; beyond ASCII it would be a dict look-up per character
    for mark in ("'", "’", "`", "/", "-"):
        lower = lower.replace(mark, " ")
    return [word.strip(_PUNCTUATION) for word in lower.split()]


def _intent_words(words: list[str], evidence: _Evidence, factor: float) -> set[str]:
    """Weigh the words and phrases of the table, each once; the opening and closing words count fully, those between half.

    Returns the groups found, among them the names of languages, as "human:german" and "programming:python".
    """
    found: set[str] = set()
    last = len(words) - 14
    for position, word in enumerate(words):
        if word not in WORDS:
            continue
        after = words[position + 1] if position < len(words) - 1 else ""
        for rest, task, weight, group in WORDS[word]:
            if rest and (rest[0] != after or words[position + 1 : position + 1 + len(rest)] != rest):
                continue
            key = group or word
            if key in found:
                continue
            found.add(key)
            if not weight:
                continue
            if position < 3:
                weight *= 1.4
            elif 12 <= position < last:
                weight *= 0.5
            evidence.add(task, weight * factor, f"says '{' '.join((word, *rest))}'")
    return found


def _name_signs(found: set[str], evidence: _Evidence, factor: float) -> None:
    """Names of languages: a human one makes a translation likelier, a programming one makes it code."""
    human = min((group[6:] for group in found if group.startswith("human:")), default="")
    programming = min((group[12:] for group in found if group.startswith("programming:")), default="")
    if programming:
        evidence.add("code", 1.7 * factor, f"names {programming}")
    if evidence.scores["translate"] > 0:
        if human:
            evidence.add("translate", 1.5 * factor, f"word 'translate' + language name ({human})")
        elif programming:
            evidence.add("code", 3.0 * factor, f"translation into {programming}")


def _code_signs(ask: str, evidence: _Evidence, factor: float) -> None:
    if "```" in ask:
        evidence.add("code", 2.0 * factor, "code fence")
    sample = ask if len(ask) <= 2048 else ask[:1024] + ask[-1024:]
    if "(" in sample or "{" in sample or " = " in sample:  # no code without one of them; most prose stops here
        signs = sum([sample.count(sign) for sign in _CODE_SIGNS])
        dense = signs * 400 / (len(sample) + 200)
        if dense >= 1.5:
            evidence.add("code", min(1.0 + dense / 3, 2.5) * factor, "dense in code signs")
    if any(sign in ask for sign in _TRACES):
        evidence.add("code", 2.5 * factor, "stack trace or error class")


def _math_signs(edges: str, evidence: _Evidence, factor: float, asks_how_many: bool) -> None:
    formulas = len(_FORMULA.findall(edges))
    if formulas and evidence.scores["code"] < 2.0:
        alone = 1.0 if len(edges) < 80 else 0.0
        evidence.add("math", min(1.0 + 0.4 * formulas, 2.6) * factor + alone, "formulas")
    asks = edges.endswith(_QUESTION)
    if not (asks or asks_how_many):
        return
    numbers = len(_NUMBER.findall(edges))
    if asks_how_many and numbers >= 2:
        evidence.add("math", 1.6 * factor, "asks for an amount, gives several numbers")
    elif asks and numbers >= 3 and len(edges) < _EDGE and evidence.scores["code"] < 2.0:
        evidence.add("math", 1.4 * factor, "question over several numbers")


def _shape(ask: str, evidence: _Evidence, factor: float) -> None:
    """Length and layout: long material under a short question, answer options."""
    if "?" in ask and ("B)" in ask or "B." in ask or "B:" in ask) and len(_OPTION.findall(ask[-1200:])) >= 3:
        evidence.add("reasoning", 1.2 * factor, "question with answer options")
    if len(ask) < 2400 or evidence.scores["code"] >= 1.5:
        return
    first, last = ask[:200].partition("\n")[0], ask[-200:].rpartition("\n")[2]
    if any(mark in first or mark in last for mark in _QUESTION):
        evidence.add("extract", 1.0 * factor, "short question on long material")
    else:
        evidence.add("summarize", 0.6 * factor, "long material")
