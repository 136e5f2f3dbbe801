"""Texts: the words a simulated model says, and the proof that they arrived whole.

A text ("leaf") is a pure function of its number and its length in pieces, and its first words name both: so anybody who holds
the text can grow it again and compare. A truncated, doubled or spliced answer cannot pass `verify`. One piece of four code
points is one token: the simulator's own tokenizer, hence the billing truth. Knows nothing of dialects, sockets or prompts.
"""

import re
from functools import lru_cache
from hashlib import blake2b

PIECE = 4
LEAVES = 997
# Quotes, backslashes, line ends and every UTF-8 width, because escaping and splitting inside a character are what breaks readers.
SENTENCES = (
    "The river keeps no record of the bridges it has passed under. ",
    "A door that sticks in winter is honest about the weather. ",
    'She wrote "return by noon" on the slate, and nobody did. ',
    "Salt was carried over the pass in autumn, letters in spring. ",
    "Der Müller zählt die Säcke, nicht die Körner. ",
    "He measured the field twice; it was the same field both times. ",
    "Une échelle prêtée revient toujours plus courte. ",
    "The lamp was lit late — and still too early for the moths. ",
    "Keep the path C:\\north\\mill if the ford is closed. ",
    "山の上に雪がある、谷に花がある。 ",
    "Whoever winds the clock also chooses the silence. ",
    "The orchard paid its debts in pears. ",
    "Three boats left at dawn 🚣🚣🚣 and four came back. ",
    "A good hedge is a conversation between neighbours. ",
    "Дорога помнит только колёса. ",
    "The inventory was short: one kettle, two maps, no excuse.\n",
    "What the tide brings on Monday it takes on Tuesday. ",
    "El puente es más viejo que el río de sus canciones. ",
    "Every locksmith was once a curious child. ",
    "The bread was late, the apology warm. ",
    "\tIndented, as the old ledgers were, one line for each cow. ",
    "Nothing is as punctual as a leak. ",
    "Thus ended the survey of the northern wall. ",
)
# Too short for a first line that names them: so each length has its own words, none the beginning of another.
SHORT = (
    "",
    "Yes.",
    "Just so.",
    "That is it.\n",
    "Here it is: all.",
    "This is all there is",
    "No more than this, sir.\n",
    "It was a very short reply...",
)
SEPARATORS = ("\u2028", "\u2029", "\u0085")  # line ends to Unicode, not to SSE
_AS_SPACE = str.maketrans(dict.fromkeys(SEPARATORS, " "))
_HEADER = re.compile(r"Leaf (\d{1,3}), (\d{1,7}) tokens\. ")
_HEADER_BEGUN = re.compile(r"L(e(a(f( (\d{1,3}(,( (\d{1,7}( (t(o(k(e(n(s(\.)?)?)?)?)?)?)?)?)?)?)?)?)?)?)?)?")


def count(text: str) -> int:
    """Tokens of a text. O(1)."""
    return -(-len(text) // PIECE)


def pieces(text: str) -> list[str]:
    """The text as its tokens, in order; joined they are the text."""
    return [text[i : i + PIECE] for i in range(0, len(text), PIECE)]


def checksum(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def leaf_for(prompt: str) -> int:
    """Which leaf answers a prompt: the same one everywhere and always."""
    return int.from_bytes(blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=4).digest(), "big") % LEAVES


@lru_cache(maxsize=4096)
def compose(leaf: int, tokens: int) -> str:
    """Leaf number `leaf`, exactly `tokens` pieces long."""
    if tokens < len(SHORT):
        return SHORT[max(tokens, 0)]
    parts = [f"Leaf {leaf}, {tokens} tokens. "]
    length, turn = len(parts[0]), leaf
    while length < tokens * PIECE:
        sentence = SENTENCES[turn % len(SENTENCES)]
        parts.append(sentence)
        length += len(sentence)
        turn += 1 + leaf % 5
    return "".join(parts)[: tokens * PIECE - 1] + "."


def with_separators(text: str) -> str:
    """The same text with some spaces replaced by U+2028, U+2029 and U+0085; `verify` takes them for spaces."""
    words = text.split(" ")
    return "".join(word + (SEPARATORS[i % 3] if i % 4 == 1 else " ") for i, word in enumerate(words))[:-1]


def verify(text: str) -> bool:
    """Is this one whole leaf, and nothing else?"""
    plain = text.translate(_AS_SPACE)
    if plain in SHORT:
        return bool(plain)
    header = _HEADER.match(plain)
    return header is not None and plain == compose(int(header[1]), int(header[2]))


def verify_prefix(text: str) -> bool:
    """Is this the beginning of one leaf (or all of it): what a cut stream or a reached ceiling may leave?"""
    plain = text.translate(_AS_SPACE)
    if any(short.startswith(plain) for short in SHORT):
        return True
    header = _HEADER.match(plain)
    if header is None:
        return _HEADER_BEGUN.fullmatch(plain) is not None
    return compose(int(header[1]), int(header[2])).startswith(plain)
