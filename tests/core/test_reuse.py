"""The exact cache: the same question by the same key, within its time and its bytes; anything else is another question."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from waypost.core.reuse import Entry, ExactCache, key_of
from waypost.core.types import Call

QUESTION: dict[str, object] = {
    "model": "auto",
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is a waypost?"}],
    "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}],
    "temperature": 0.5,
}


def call(fields: dict[str, object], **facts: object) -> Call:
    return Call("openai-chat", str(fields.get("model", "")), msgspec.json.encode(fields), **facts)  # type: ignore[arg-type]


def key(fields: dict[str, object] = QUESTION, *, tenant: str = "t", wish: str = "auto", **facts: object) -> bytes:
    return key_of(call(fields, **facts), tenant, wish)


@pytest.mark.parametrize(
    "change",
    [
        {"messages": [{"role": "system", "content": "Be long."}, {"role": "user", "content": "What is a waypost?"}]},
        {"messages": [{"role": "user", "content": "What is a waypost?"}]},
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is a waypost? "}]},
        {"tools": []},
        {"tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "string"}}}]},
        {"temperature": 0.6},
        {"seed": 1},
        {"max_tokens": 5},
        {"response_format": {"type": "json_object"}},
        {"a_field_of_tomorrow": True},
    ],
)
def test_whatever_may_change_the_answer_makes_another_question(change: dict[str, object]) -> None:
    assert key(QUESTION | change) != key()


def test_tenants_never_share() -> None:
    assert key(tenant="a") != key(tenant="b")
    assert key(tenant="") != key(tenant="a")


def test_models_never_share() -> None:
    assert key(wish="lab/small") != key(wish="spare/large")
    assert key(fallback_models=("lab/small",)) != key()


def test_tenant_and_wish_cannot_be_shifted_into_one_another() -> None:
    assert key(tenant="ab", wish="c") != key(tenant="a", wish="bc")


@pytest.mark.parametrize("name", ["stream", "stream_options", "user", "metadata"])
def test_how_it_is_delivered_and_accounted_does_not_matter(name: str) -> None:
    assert key(QUESTION | {name: {"a": 1}}) == key()


NESTED = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


def shuffled(value: object) -> object:
    if isinstance(value, dict):
        return {name: shuffled(inner) for name, inner in reversed(value.items())}
    return [shuffled(inner) for inner in value] if isinstance(value, list) else value


@given(st.dictionaries(st.text(max_size=5), NESTED, max_size=4))
def test_the_order_of_keys_and_white_space_do_not_matter(fields: dict[str, object]) -> None:
    spaced = msgspec.json.format(msgspec.json.encode(shuffled(fields)), indent=3)
    assert key_of(Call("openai-chat", "", spaced), "t", "w") == key(fields, wish="w")


@given(st.dictionaries(st.text(max_size=3), NESTED, max_size=4), st.dictionaries(st.text(max_size=3), NESTED, max_size=4))
def test_equal_keys_mean_equal_questions(one: dict[str, object], other: dict[str, object]) -> None:
    def seen(fields: dict[str, object]) -> bytes:
        return msgspec.json.encode(fields, order="deterministic")  # generated names are too short to be set aside

    assert (key(one) == key(other)) == (seen(one) == seen(other))


# --- time and space ----------------------------------------------------------------------------------------------------------


def test_an_entry_lives_its_time_and_no_longer() -> None:
    cache = ExactCache(ttl_s=10, max_bytes=10_000, by_default=True)
    cache.put(b"k", Entry(b"answer", "lab/small", at_s=100.0))
    assert cache.get(b"k", 110.0) is not None
    assert cache.get(b"k", 110.1) is None
    assert (len(cache), cache.held_bytes) == (0, 0)


def test_the_least_recently_used_goes_first() -> None:
    cache = ExactCache(ttl_s=10, max_bytes=3 * 500, by_default=True)
    for name in (b"a", b"b", b"c"):
        cache.put(name, Entry(b"x" * 100, "m", 0.0))
    cache.get(b"a", 1.0)
    cache.put(b"d", Entry(b"x" * 100, "m", 0.0))
    assert [name for name in (b"a", b"b", b"c", b"d") if cache.get(name, 1.0)] == [b"a", b"c", b"d"]


def test_an_answer_larger_than_the_cache_is_not_kept_and_drops_the_stale_one() -> None:
    cache = ExactCache(ttl_s=10, max_bytes=1000, by_default=True)
    cache.put(b"k", Entry(b"old", "m", 0.0))
    cache.put(b"k", Entry(b"x" * 1000, "m", 1.0))
    assert (cache.get(b"k", 1.0), cache.held_bytes) == (None, 0)


class Bounded(RuleBasedStateMachine):
    """Against a dictionary that never forgets: what is given is what was put last; the bytes never exceed the bound."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = ExactCache(ttl_s=5, max_bytes=4_000, by_default=False)
        self.put: dict[bytes, Entry] = {}
        self.now_s = 0.0

    @rule(key=st.sampled_from([b"a", b"b", b"c", b"d", b"e"]), size=st.integers(0, 5_000))
    def store(self, key: bytes, size: int) -> None:
        self.put[key] = Entry(b"x" * size, "m", self.now_s)
        self.cache.put(key, self.put[key])

    @rule(key=st.sampled_from([b"a", b"b", b"c", b"d", b"e"]))
    def ask(self, key: bytes) -> None:
        found = self.cache.get(key, self.now_s)
        assert found is None or (found is self.put[key] and self.now_s - found.at_s <= 5)

    @rule(by_s=st.floats(0, 4))
    def wait(self, by_s: float) -> None:
        self.now_s += by_s

    @invariant()
    def is_bounded(self) -> None:
        assert 0 <= self.cache.held_bytes <= 4_000
        assert (self.cache.held_bytes == 0) == (len(self.cache) == 0)


TestBounded = Bounded.TestCase
