"""The simulated texts: whole ones pass, and no damaged one does."""

from hypothesis import given
from hypothesis import strategies as st

from waypost.sim import texts

leaves = st.integers(0, texts.LEAVES - 1)
lengths = st.integers(1, 400)


@given(leaves, lengths)
def test_a_leaf_has_exactly_the_tokens_asked_for_and_passes(leaf: int, tokens: int) -> None:
    text = texts.compose(leaf, tokens)
    assert texts.count(text) == tokens == len(texts.pieces(text))
    assert "".join(texts.pieces(text)) == text
    assert texts.verify(text)


@given(leaves, lengths, st.data())
def test_a_truncated_leaf_never_passes_but_is_a_prefix(leaf: int, tokens: int, data: st.DataObject) -> None:
    text = texts.compose(leaf, tokens)
    cut = text[: data.draw(st.integers(1, len(text) - 1))]
    assert not texts.verify(cut)
    assert texts.verify_prefix(cut)


@given(leaves, lengths)
def test_a_doubled_leaf_never_passes(leaf: int, tokens: int) -> None:
    text = texts.compose(leaf, tokens)
    assert not texts.verify(text + text)
    assert not texts.verify_prefix(text + text)


@given(leaves, leaves, st.integers(8, 200), st.integers(1, 30), st.integers(0, 120))
def test_the_beginning_of_one_leaf_with_the_end_of_another_never_passes(a: int, b: int, tokens: int, begun: int, resumed: int) -> None:
    first, second = texts.compose(a, tokens), texts.compose(b, tokens)
    spliced = first[:begun] + second[resumed:]
    assert texts.verify(spliced) == (spliced in (first, second))


@given(leaves, lengths, st.integers(0, 1600))
def test_a_leaf_with_one_character_lost_never_passes(leaf: int, tokens: int, at: int) -> None:
    text = texts.compose(leaf, tokens)
    at %= len(text)
    assert not texts.verify(text[:at] + text[at + 1 :])


def test_unicode_separators_are_taken_for_spaces_but_not_for_nothing() -> None:
    text = texts.with_separators(texts.compose(5, 60))
    assert "\u2028" in text and "\u2029" in text and "\u0085" in text
    assert texts.verify(text)
    assert not texts.verify(text.replace("\u2028", ""))


def test_leaves_hold_what_breaks_readers() -> None:
    everything = texts.compose(0, 400)
    assert {len(c.encode()) for c in everything} == {1, 2, 3, 4}
    assert '"' in everything and "\\" in everything and "\n" in everything
