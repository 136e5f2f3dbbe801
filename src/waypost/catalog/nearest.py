"""Nearest: which known names a misspelt one may have meant.

Two steps, because comparing a name with thousands by difflib takes a tenth of a second: names that share letter triples with the
asked one are found by one scan of all names, and only the best of them are compared exactly. Knows nothing of models.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from difflib import SequenceMatcher
from itertools import accumulate

_COMPARED = 24
_LONGEST = 80  # characters of the asked name that are looked at: callers send what they like


class Nearest:
    """An index over `names`, written `provider/model`. Equal model parts are compared once."""

    def __init__(self, names: Iterable[str]) -> None:
        self._by_bare: dict[str, list[str]] = {}
        for name in names:
            self._by_bare.setdefault(_bare(name), []).append(name)
        self._bares = list(self._by_bare)
        self._text = "\n".join(self._bares)
        self._starts = list(accumulate((len(bare) + 1 for bare in self._bares), initial=0))

    def find(self, name: str, k: int) -> tuple[str, ...]:
        """Up to `k` names, best first, at least 60 % alike; () when nothing is."""
        asked = _bare(name)[:_LONGEST]
        matcher = SequenceMatcher(b=asked, autojunk=False)
        scored: list[tuple[float, str]] = []
        for bare in self._candidates(asked):
            matcher.set_seq1(bare)
            if matcher.quick_ratio() >= 0.6 and (ratio := matcher.ratio()) >= 0.6:
                scored.append((-ratio, bare))
        prefix = name.partition("/")[0].lower()
        found = [full for _, bare in sorted(scored) for full in self._best_named(bare, prefix)]
        return tuple(found[:k])

    def _best_named(self, bare: str, prefix: str) -> list[str]:
        """Of the names with this model part: those of the asked provider, else the first with the shortest path."""
        names = self._by_bare[bare]
        return [full for full in names if full.partition("/")[0] == prefix] or [min(names, key=lambda full: full.count("/"))]

    def _candidates(self, asked: str) -> list[str]:
        width = 3 if len(asked) > 3 else 1
        pieces = {asked[at : at + width] for at in range(len(asked) - width + 1)}
        if not pieces or "\n" in asked:
            return []
        hits: Counter[int] = Counter()
        for found in re.finditer("(?=" + "|".join(map(re.escape, sorted(pieces))) + ")", self._text):
            hits[bisect_right(self._starts, found.start()) - 1] += 1
        ranked = sorted(hits, key=lambda at: -hits[at] / (len(self._bares[at]) + len(asked)))
        return [self._bares[at] for at in ranked[:_COMPARED]]


def _bare(name: str) -> str:
    return name.rsplit("/", 1)[-1].lower()
