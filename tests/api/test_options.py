"""What a caller may say beside the dialect: read whole or refused by name, never believed in vain."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from waypost.api import options
from waypost.api.options import Options
from waypost.core.faults import Refused
from waypost.core.types import Bounds


def read(headers: dict[str, str] | None = None, **fields: object) -> Options:
    return options.read(
        [(name.encode(), value.encode("latin-1")) for name, value in (headers or {}).items()],
        {name: Raw(msgspec.json.encode(value)) for name, value in fields.items()},
    )


def test_the_common_request_says_nothing_and_binds_nothing() -> None:
    assert read({"authorization": "Bearer x", "x-request-id": "7"}, model="a", temperature=1) == Options()


@pytest.mark.parametrize("name", ["waypost", "provider"])
def test_null_says_nothing(name: str) -> None:
    assert read(**{name: None}) == Options()


BOUNDS = [
    ("deadline-ms", "1500", 1500, Bounds(deadline_s=1.5)),
    ("max-cost-usd", "0.001", 0.001, Bounds(max_cost_nusd=1_000_000)),
    ("max-cost-usd", "0", 0, Bounds(max_cost_nusd=0)),
    ("min-quality", "0.7", 0.7, Bounds(min_quality=0.7)),
]


@pytest.mark.parametrize(("name", "text", "value", "bounds"), BOUNDS)
def test_headers_and_body_say_the_same(name: str, text: str, value: object, bounds: Bounds) -> None:
    assert read({f"x-waypost-{name}": text}).bounds == bounds
    assert read(waypost={name.replace("-", "_"): value}).bounds == bounds


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("cache", "off", Options(cache="off")),
        ("cache", "refresh", Options(cache="refresh")),
        ("cache", "semantic", Options(cache="exact", dropped=("cache->exact(semantic is not available in this version)",))),
        ("context", "full", Options()),
        ("context", "auto", Options(dropped=("context->full(auto is not available in this version)",))),
        ("on-cut", "error", Options()),
        ("on-cut", "restart", Options(dropped=("on-cut->error(restart is not available in this version)",))),
        ("segment", "team:search/eu", Options(segment="team:search/eu")),
        ("segment", "", Options(segment="")),
        ("explain", "only", Options(explain="only")),
        ("explain", "true", Options(explain="header")),
        ("explain", "1", Options(explain="header")),
        ("explain", "no", Options()),
    ],
)
def test_switches(name: str, value: str, expected: Options) -> None:
    assert read({f"x-waypost-{name}": value}) == expected


def test_the_body_wins_over_a_header_and_leaves_the_others_standing() -> None:
    said = read({"x-waypost-min-quality": "0.5", "x-waypost-cache": "off", "x-waypost-explain": "1"}, waypost={"min_quality": 0.9})
    assert (said.bounds.min_quality, said.cache, said.explain) == (0.9, "off", "header")
    assert read({"x-waypost-explain": "1"}, waypost={"explain": False}).explain == ""


def test_every_preference_of_openrouter_that_binds_is_kept() -> None:
    preferences = {
        "order": ["openai", "azure"],
        "only": ["openai", "azure", "lab"],
        "ignore": ["groq"],
        "allow_fallbacks": False,
        "require_parameters": True,
        "data_collection": "deny",
        "zdr": True,
        "sort": "throughput",
        "max_price": {"prompt": 0.5, "completion": 2},
    }
    said = read(provider=preferences)
    assert said.dropped == ()
    assert said.bounds == Bounds(
        only=frozenset({"openai", "azure", "lab"}),
        ignore=frozenset({"groq"}),
        order=("openai", "azure"),
        allow_fallbacks=False,
        require_parameters=True,
        data_collection_deny=True,
        zero_retention=True,
        sort="throughput",
        max_input_nusd_per_mtok=500_000_000,
        max_output_nusd_per_mtok=2_000_000_000,
    )


def test_an_empty_allow_list_allows_nobody() -> None:
    assert read(provider={"only": []}).bounds.only == frozenset()


@pytest.mark.parametrize(
    ("preferences", "dropped"),
    [
        ({"quantizations": ["fp8"]}, "provider.quantizations"),
        ({"preferred_min_throughput": 50}, "provider.preferred_min_throughput"),
        ({"preferred_max_latency": {"p90": 3}}, "provider.preferred_max_latency"),
        ({"sort": "exacto"}, "provider.sort->(exacto is not available in this version)"),
        ({"sort": {"by": "price", "partition": "none"}}, "provider.sort.partition->model"),
        ({"max_price": {"image": 1}}, "provider.max_price.image"),
    ],
)
def test_a_preference_that_is_not_kept_is_reported(preferences: dict[str, object], dropped: str) -> None:
    assert read(provider=preferences).dropped == (dropped,)


REFUSED_HEADERS = [
    ("x-waypost-budget", "1", "unknown_option", "known: x-waypost-deadline-ms"),
    ("x-waypost-", "1", "unknown_option", "is not known"),
    ("x-waypost-retrieve", "{}", "unknown_option", "is not known"),
    ("x-waypost-deadline-ms", "0", "invalid_option", "> 0"),
    ("x-waypost-deadline-ms", "soon", "invalid_option", "'soon'"),
    ("x-waypost-deadline-ms", "99999999999", "invalid_option", "<="),
    ("x-waypost-deadline-ms", "null", "invalid_option", "Expected a value"),
    ("x-waypost-max-cost-usd", "-1", "invalid_option", ">= 0"),
    ("x-waypost-max-cost-usd", "nan", "invalid_option", "'nan'"),
    ("x-waypost-max-cost-usd", "inf", "invalid_option", "'inf'"),
    ("x-waypost-max-cost-usd", "", "invalid_option", "''"),
    ("x-waypost-min-quality", "1.01", "invalid_option", "<= 1"),
    ("x-waypost-cache", "on", "invalid_option", "exact"),
    ("x-waypost-context", "half", "invalid_option", "full"),
    ("x-waypost-on-cut", "panic", "invalid_option", "restart"),
    ("x-waypost-segment", "two words", "invalid_option", "regex"),
    ("x-waypost-segment", "s" * 129, "invalid_option", "128"),
    ("x-waypost-segment", "\xe9 x", "invalid_option", "regex"),
    ("x-waypost-explain", "please", "invalid_option", "true or only"),
]


@pytest.mark.parametrize(("name", "value", "code", "fix"), REFUSED_HEADERS)
def test_a_bad_header_is_refused_by_its_name(name: str, value: str, code: str, fix: str) -> None:
    with pytest.raises(Refused) as refused:
        read({name: value})
    assert (refused.value.status, refused.value.code, refused.value.param) == (400, code, name)
    assert name in refused.value.message and fix in refused.value.message


REFUSED_BODIES = [
    ("waypost", [], "Expected `object`"),
    ("waypost", {"budget": 1}, "unknown field `budget`"),
    ("waypost", {"deadline_ms": "100"}, "$.deadline_ms"),
    ("waypost", {"max_cost_usd": 1e300}, "$.max_cost_usd"),
    ("waypost", {"min_quality": True}, "$.min_quality"),
    ("waypost", {"explain": "loudly"}, "$.explain"),
    ("provider", "openai", "Expected `object`"),
    ("provider", {"only": "openai"}, "$.only"),
    ("provider", {"order": [1]}, "$.order[0]"),
    ("provider", {"sort": "vibes"}, "$.sort"),
    ("provider", {"sort": {"by": "price", "then": "latency"}}, "unknown field `then`"),
    ("provider", {"max_price": {"prompt": -1}}, "$.max_price.prompt"),
    ("provider", {"max_price": {"prompt": 1e300}}, "$.max_price.prompt"),
    ("provider", {"max_price": {"tokens": 1}}, "unknown field `tokens`"),
    ("provider", {"data_collection": "maybe"}, "$.data_collection"),
    ("provider", {"allow_fallback": True}, "unknown field `allow_fallback`"),
]


@pytest.mark.parametrize(("name", "value", "fix"), REFUSED_BODIES)
def test_a_bad_field_is_refused_by_its_place(name: str, value: object, fix: str) -> None:
    with pytest.raises(Refused) as refused:
        read(**{name: value})
    assert (refused.value.status, refused.value.code, refused.value.param) == (400, "invalid_option", name)
    assert fix in refused.value.message


@pytest.mark.parametrize(
    ("name", "value", "param"),
    [
        ("waypost", {"retrieve": {"collection": "c"}}, "waypost.retrieve"),
        ("provider", {"enforce_distillable_text": True}, "provider.enforce_distillable_text"),
    ],
)
def test_what_this_version_cannot_do_is_refused(name: str, value: object, param: str) -> None:
    with pytest.raises(Refused) as refused:
        read(**{name: value})
    assert (refused.value.code, refused.value.param) == ("unsupported_option", param)


FIELDS = st.sampled_from(["order", "only", "sort", "max_price", "prompt", "by", "zdr"])
JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from([f"x-waypost-{name}" for name in ("deadline-ms", "max-cost-usd", "cache", "explain", "segment", "zz")])
LATIN = st.text(max_size=12, alphabet=st.characters(max_codepoint=255))


@given(st.dictionaries(NAMES, LATIN), JSON, JSON)
def test_anything_else_is_a_clear_refusal_too(headers: dict[str, str], own: object, provider: object) -> None:
    try:
        said = read(headers, waypost=own, provider=provider)
    except Refused as refused:
        assert refused.status == 400 and refused.param
    else:
        assert isinstance(said, Options)
