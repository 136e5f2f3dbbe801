"""The catalogue: what it holds, how it is asked, and that the user's word wins. Prices were copied by hand from the price lists."""

import re
import subprocess
import sys
from dataclasses import dataclass

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypost.catalog.load import Catalog, fill, fold
from waypost.core.types import ModelCard, Price, ProviderCard

USD = 1_000_000_000
WIRES = {"openai-chat", "openai-responses", "anthropic-messages", "gemini"}
AUTHS = {"bearer", "x-api-key", "x-goog-api-key", "api-key", "none"}
MODES = {"chat", "responses", "embedding", "rerank", "moderation"}
CAPABILITIES = {"tools", "json_schema", "json_object", "vision", "audio", "pdf", "reasoning", "prefill", "web_search"}
REQUIRED = [
    *("openai", "anthropic", "gemini", "vertex", "azure", "bedrock", "deepseek", "mistral", "qwen", "dashscope", "xai", "groq", "together"),
    *("fireworks", "cohere", "openrouter", "perplexity", "cerebras", "nvidia", "huggingface"),
    *("ollama", "vllm", "sglang", "llama.cpp", "lm-studio"),
]


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.load()


@pytest.fixture(scope="module")
def cards(catalog: Catalog) -> tuple[ModelCard, ...]:
    return catalog.models()


# --- what it holds -----------------------------------------------------------------------------------------------------


def test_it_holds_1400_models_of_27_providers_with_context_and_price(cards: tuple[ModelCard, ...]) -> None:
    full = [card for card in cards if card.context_tokens and card.price.input_nusd_per_mtok is not None]
    assert len(full) >= 1400
    assert len({card.provider for card in full}) >= 27


def test_the_header_counts_what_is_there(catalog: Catalog, cards: tuple[ModelCard, ...]) -> None:
    assert catalog.header.models == len(cards)
    assert catalog.header.providers == len({card.provider for card in cards})
    assert {source.licence for source in catalog.header.sources.values()} == {"MIT"}


@dataclass
class Known:
    name: str
    input: float
    cached: float | None
    output: float | None
    batch: tuple[float, float] | None
    context: int


@pytest.mark.parametrize(
    "known",
    [
        Known("openai/gpt-4o", 2.5, 1.25, 10, (1.25, 5), 128_000),
        Known("openai/gpt-4o-mini", 0.15, 0.075, 0.6, (0.075, 0.3), 128_000),
        Known("anthropic/claude-sonnet-4-5", 3, 0.3, 15, (1.5, 7.5), 200_000),
        Known("anthropic/claude-haiku-5-5", 0.1, 0.01, 0.5, (0.05, 0.25), 1_000_000),
        Known("gemini/gemini-2.5-flash", 0.3, 0.03, 2.5, (0.15, 1.25), 1_048_576),
        Known("openai/text-embedding-3-large", 0.13, None, 0, (0.065, 0), 8191),
    ],
    ids=lambda known: known.name,
)
def test_prices_are_those_of_the_lists(catalog: Catalog, known: Known) -> None:
    card = catalog.model(known.name)
    assert card is not None
    nusd = lambda usd: None if usd is None else round(usd * USD)  # noqa: E731
    price = card.price
    assert (price.input_nusd_per_mtok, price.cached_input_nusd_per_mtok, price.output_nusd_per_mtok) == (
        nusd(known.input),
        nusd(known.cached),
        nusd(known.output),
    )
    if known.batch:
        assert (price.batch_input_nusd_per_mtok, price.batch_output_nusd_per_mtok) == tuple(map(nusd, known.batch))
    assert card.context_tokens == known.context


def test_every_price_is_a_whole_number_of_nano_dollars_or_unknown(cards: tuple[ModelCard, ...]) -> None:
    for card in cards:
        *prices, steps = msgspec.structs.astuple(card.price)
        for price in (*prices, *(rate for step in steps for rate in msgspec.structs.astuple(step))):
            assert price is None or (type(price) is int and price >= 0), card


def test_nothing_is_free_unless_its_name_says_so(cards: tuple[ModelCard, ...]) -> None:
    free = [c.name for c in cards if c.price.input_nusd_per_mtok == 0 and not c.price.output_nusd_per_mtok and not c.name.endswith(":free")]
    assert free == []


def test_every_model_says_where_its_facts_come_from(cards: tuple[ModelCard, ...]) -> None:
    for card in cards:
        assert re.match(r"(genai-prices|litellm) \d", card.source), card
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", card.as_of), card
        assert card.deprecated_on is None or re.fullmatch(r"\d{4}-\d\d-\d\d", card.deprecated_on), card


def test_every_model_speaks_the_closed_vocabulary(cards: tuple[ModelCard, ...]) -> None:
    assert {card.mode for card in cards} <= MODES
    assert frozenset[str]().union(*(card.capabilities for card in cards)) <= CAPABILITIES
    assert all(card.quality is None for card in cards)


def test_every_model_is_at_a_known_provider_and_found_by_its_name(catalog: Catalog, cards: tuple[ModelCard, ...]) -> None:
    assert len({card.name.casefold() for card in cards}) == len(cards)
    for card in cards:
        assert catalog.provider(card.provider) is not None, card
        assert catalog.model(card.name) is card


# --- providers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REQUIRED)
def test_the_promised_provider_is_there(catalog: Catalog, name: str) -> None:
    assert catalog.provider(name) is not None


@pytest.mark.parametrize("card", Catalog.load().providers(), ids=lambda card: card.name)
def test_a_provider_card_is_well_formed(card: ProviderCard) -> None:
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]*", card.name)
    assert card.wire in WIRES and card.auth in AUTHS and card.display and card.source
    every = {
        name: "https://filled.example" if name.endswith(("ENDPOINT", "HOST")) else "filled"
        for name in re.findall(r"[A-Z0-9_]{3,}", card.base_url)
    }
    filled, missing = fill(card, every)
    assert missing == ()
    assert re.fullmatch(r"https?://[a-z0-9.:-]+(/[A-Za-z0-9/._-]*[A-Za-z0-9])?|filled", filled.base_url), filled.base_url
    assert all(re.fullmatch(r"[A-Z][A-Z0-9_]+", name) for name in card.key_env)
    assert bool(card.key_env) == (card.auth != "none")


def test_quirks_are_those_that_the_file_explains(catalog: Catalog) -> None:
    from waypost.catalog.load import _data

    explained = set(re.findall(r"^#   ([a-z0-9_-]+)  ", _data.toml.decode().partition("# Quirks")[2], re.M))
    used = frozenset[str]().union(*(card.quirks for card in catalog.providers()))
    assert used <= explained


def test_no_two_providers_share_a_spelling(catalog: Catalog) -> None:
    from waypost.catalog.load import _data

    spellings = [spelling for name, table in _data.tables.items() for spelling in {fold(s) for s in (name, *table.aliases)}]
    assert len(set(spellings)) == len(spellings)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("OpenAI", "openai"),
        ("amazon-bedrock", "bedrock"),
        ("AMAZON_BEDROCK", "bedrock"),
        ("google", "gemini"),
        ("google-vertex", "vertex"),
        ("together_ai", "together"),
        ("llama.cpp", "llama-cpp"),
        ("x-ai", "xai"),
        ("nobody", None),
        ("", None),
    ],
)
def test_a_provider_is_found_under_its_usual_spellings(catalog: Catalog, spelling: str, name: str | None) -> None:
    card = catalog.provider(spelling)
    assert (card.name if card else None) == name


# --- placeholders ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base_url", "env", "expected"),
    [
        ("https://a/v1", {}, ("https://a/v1", ())),
        ("{E}/v1", {"E": "https://e/"}, ("https://e/v1", ())),
        ("{E}/v1", {}, ("{E}/v1", ("E",))),
        ("{E}/v1", {"E": " "}, ("{E}/v1", ("E",))),
        ("https://{A|B}.x", {"B": "b", "A": ""}, ("https://b.x", ())),
        ("https://{A|B}.x", {"A": "a", "B": "b"}, ("https://a.x", ())),
        ("https://{A|B}.x/{A|B}/{C}", {}, ("https://{A|B}.x/{A|B}/{C}", ("A or B", "C"))),
        ("{U=http://127.0.0.1:1/v1}", {}, ("http://127.0.0.1:1/v1", ())),
        ("{U=http://127.0.0.1:1/v1}", {"U": "http://h:2/v1/"}, ("http://h:2/v1", ())),
    ],
)
def test_placeholders_are_filled_from_the_environment(base_url: str, env: dict[str, str], expected: tuple[str, tuple[str, ...]]) -> None:
    card, missing = fill(ProviderCard(name="p", wire="openai-chat", base_url=base_url), env)
    assert (card.base_url, missing) == expected


# --- asking ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("openai/gpt-4o", "openai/gpt-4o"),
        ("OpenAI/GPT-4o", "openai/gpt-4o"),
        ("google/gemini-2.5-flash", "gemini/gemini-2.5-flash"),
        ("fireworks/deepseek-r1", "fireworks/deepseek-r1"),
        ("fireworks/accounts/fireworks/models/deepseek-r1", "fireworks/deepseek-r1"),
        ("openrouter/openai/gpt-4o", "openrouter/openai/gpt-4o"),
        ("openai/gpt-4o-latest", "openai/gpt-4o"),
        ("openai/gpt-5-chat", "openai/gpt-5-chat"),
        ("openai/gpt-4o-2031-01-01", None),  # a snapshot nobody listed may cost something else
        ("gpt-4o", None),
        ("openai/", None),
        ("nobody/gpt-4o", None),
        ("", None),
    ],
)
def test_a_model_is_found_by_its_name_and_never_guessed(catalog: Catalog, asked: str, found: str | None) -> None:
    card = catalog.model(asked)
    assert (card.name if card else None) == found


def test_a_name_may_leave_out_latest(catalog: Catalog) -> None:
    latest = next(c for c in catalog.models() if c.name.endswith("-latest") and catalog.model(c.name.removesuffix("-latest")) is c)
    assert latest.upstream.endswith("-latest")


def test_a_bare_name_finds_its_vendor_first_and_routers_last(catalog: Catalog) -> None:
    names = [card.name for card in catalog.named("GPT-4o")]
    assert names[:2] == ["openai/gpt-4o", "azure/gpt-4o"]
    assert "openrouter/openai/gpt-4o" in names
    assert catalog.named("no-such-model") == ()


def test_equivalents_are_at_other_providers_and_of_one_mode(catalog: Catalog, cards: tuple[ModelCard, ...]) -> None:
    sonnet = catalog.model("anthropic/claude-sonnet-4-5")
    assert sonnet is not None
    family = catalog.family(sonnet)
    assert {"bedrock", "openrouter"} <= {card.provider for card in family}
    assert all(card.provider != "anthropic" and card.mode == "chat" and card.family == sonnet.family for card in family)
    assert catalog.family(msgspec.structs.replace(sonnet, family="")) == ()


def test_equivalence_is_symmetric(catalog: Catalog, cards: tuple[ModelCard, ...]) -> None:
    for card in cards[::40]:
        for other in catalog.family(card):
            assert card in catalog.family(other)


def test_a_stepped_price_shows_its_steps(catalog: Catalog) -> None:
    sonnet = catalog.model("anthropic/claude-sonnet-4-5")
    gpt = catalog.model("openai/gpt-4o")
    assert sonnet is not None and gpt is not None
    (step,) = sonnet.price.steps
    assert (step.above_tokens, step.input_nusd_per_mtok, step.output_nusd_per_mtok) == (200_000, 6 * USD, 22_500_000_000)
    assert gpt.price.steps == ()


# --- nearest -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("gtp-4o-mni", "openai/gpt-4o-mini"),
        ("openai/gpt-4-o", "openai/gpt-4o"),
        ("claud-sonnet-4-5", "anthropic/claude-sonnet-4-5"),
        ("antropic/claude-sonnet-4-5", "anthropic/claude-sonnet-4-5"),
        ("google/gemini-2.5-flsh", "gemini/gemini-2.5-flash"),
        ("deepseek-v4-pr", "deepseek/deepseek-v4-pro"),
    ],
)
def test_a_misspelt_name_finds_the_one_that_was_meant(catalog: Catalog, asked: str, expected: str) -> None:
    assert catalog.nearest(asked)[0] == expected


def test_nearest_says_nothing_rather_than_nonsense(catalog: Catalog) -> None:
    for asked in ("xyzzy", "", "/", "openai/", "\n", "a\nb", "é" * 10_000):
        assert catalog.nearest(asked) == ()


@given(st.text(max_size=200), st.integers(0, 8))
def test_nearest_gives_at_most_k_known_names_for_any_text(asked: str, k: int) -> None:
    catalog = Catalog.load()
    found = catalog.nearest(asked, k)
    assert len(found) <= k
    assert all(catalog.model(name) is not None for name in found)


# --- the user's word ---------------------------------------------------------------------------------------------------

MINE = ModelCard(name="openai/gpt-4o", provider="openai", upstream="gpt-4o", price=Price(1, 2), source="configuration")
LAB = ModelCard(name="lab/small", provider="lab", upstream="Llama-3.3-70B-Instruct", source="configuration")


def test_the_users_card_replaces_the_known_one(catalog: Catalog) -> None:
    mine = catalog.override([MINE])
    card = mine.model("OPENAI/gpt-4o")
    assert card is not None and card.price == Price(1, 2)
    assert [c.price for c in mine.models("openai") if c.name == "openai/gpt-4o"] == [Price(1, 2)]
    assert [c.source for c in mine.named("gpt-4o") if c.provider == "openai"] == ["configuration"]
    assert len(mine.models()) == len(catalog.models())


def test_an_override_leaves_the_catalogue_it_came_from_alone(catalog: Catalog) -> None:
    catalog.override([MINE])
    card = catalog.model("openai/gpt-4o")
    assert card is not None and card.price.input_nusd_per_mtok == 2_500_000_000


def test_a_model_of_the_users_own_is_found_everywhere(catalog: Catalog) -> None:
    mine = catalog.override([LAB])
    assert mine.models("lab") == (mine.model("lab/small"),)
    assert mine.named("small")[0].name == "lab/small"
    assert mine.named("llama-3.3-70b-instruct")[0].name == "lab/small"
    assert mine.nearest("lab/smal")[0] == "lab/small" or mine.nearest("smal")[0] == "lab/small"
    groq = catalog.model("deepinfra/meta-llama/Llama-3.3-70B-Instruct")
    assert groq is not None
    assert mine.family(groq)[0].name == "lab/small"


def test_overrides_add_up_and_the_later_wins(catalog: Catalog) -> None:
    dearer = msgspec.structs.replace(MINE, price=Price(9, 9))
    both = catalog.override([LAB, MINE]).override([dearer])
    card = both.model("openai/gpt-4o")
    assert card is not None and card.price == Price(9, 9)
    assert both.model("lab/small") is not None


def test_a_fireworks_model_is_overridden_by_its_short_name(catalog: Catalog) -> None:
    known = catalog.model("fireworks/deepseek-r1")
    assert known is not None
    mine = catalog.override([msgspec.structs.replace(known, price=Price(1, 1))])
    assert [c.price for c in mine.models("fireworks") if c.name == known.name] == [Price(1, 1)]
    assert [c.price for c in mine.named("deepseek-r1") if c.provider == "fireworks" and c.name == known.name] == [Price(1, 1)]


def test_a_provider_of_the_users_own_is_never_an_alias(catalog: Catalog) -> None:
    claude = ProviderCard(name="claude", wire="openai-chat", base_url="http://127.0.0.1:9/v1", auth="none")
    card = ModelCard(name="claude/x", provider="claude", upstream="x")
    mine = catalog.override([card], [claude])
    assert mine.provider("Claude") is claude
    assert mine.model("claude/x") is not None
    assert claude in mine.providers()


def test_the_fingerprint_changes_with_any_fact(catalog: Catalog) -> None:
    prints = {catalog.fingerprint, catalog.override([MINE]).fingerprint, catalog.override([LAB]).fingerprint}
    assert len(prints) == 3
    assert catalog.fingerprint == Catalog.load().fingerprint
    assert catalog.override([MINE]).fingerprint == catalog.override([MINE]).fingerprint


def test_importing_the_catalogue_reads_no_file() -> None:
    script = (
        "import sys\n"
        "seen = []\n"
        "sys.addaudithook(lambda event, args: seen.append(str(args[0])) if event == 'open' else None)\n"
        "from waypost.catalog.load import Catalog\n"
        "Catalog.load()\n"
        "assert not [name for name in seen if name.endswith(('.toml', '.jsonl'))], seen\n"
        "Catalog.load().model('openai/gpt-4o')\n"
        "assert [name for name in seen if name.endswith('.jsonl')]\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
