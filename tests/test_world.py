"""What a configuration means: names, providers that are off, routes of routes, what can never be reached, `auto` from nothing."""

import hashlib
from pathlib import Path

import pytest

from waypost import config, world
from waypost.catalog import tiers
from waypost.catalog.load import Catalog
from waypost.config import ConfigError, Problem
from waypost.core.faults import Refused
from waypost.core.types import Call, ModelCard, Price
from waypost.world import Caller, World

CATALOG = Catalog.load()
TODAY = "2026-11-23"
REFERENCE = Path(__file__).parent.parent / "examples" / "reference.toml"
LAB = '[providers.lab]\nwire = "openai-chat"\nbase_url = "http://127.0.0.1:9100/v1"\napi_key = "none"\n'
SMALL = '[[models]]\nname = "lab/small"\ninput_usd_per_mtok = 0.1\noutput_usd_per_mtok = 0.4\ncontext_tokens = 8000\nquality = 0.6\n'
BLIND = SMALL + 'capabilities = ["tools"]\n'
OPENAI = "[providers.openai]\n"
ON = {"OPENAI_API_KEY": "sk-1", "KEY": "wp-1"}


def build(text: str, env: dict[str, str] | None = None) -> World:
    return world.build(config.parse(text), CATALOG, ON if env is None else env, today=TODAY)


def problems(text: str, env: dict[str, str] | None = None) -> list[Problem]:
    read, found = config.examine(text)
    assert not found, found
    return world.examine(read, CATALOG, ON if env is None else env, today=TODAY)[1]


def only(text: str, env: dict[str, str] | None = None) -> Problem:
    found = problems(text, env)
    assert len(found) == 1, "\n".join(map(str, found))
    return found[0]


def call(model: str, *fallbacks: str) -> Call:
    return Call("openai-chat", model, b"{}", fallback_models=fallbacks)


def meant(built: World, model: str, *fallbacks: str) -> list[tuple[str, int]]:
    return [(d.name, group) for d, group in built.resolve(call(model, *fallbacks), Caller())[2]]


# --- the contract ------------------------------------------------------------------------------------------------------------


def test_the_reference_means_what_its_comments_say() -> None:
    env = {"OPENAI_API_KEY": "sk-1", "ANTHROPIC_API_KEY": "sk-2", "TEAM_SEARCH_KEY": "wp-3"}
    built = world.read(REFERENCE, CATALOG, env, today=TODAY)
    assert (list(built.providers), built.warnings) == (["openai", "anthropic", "lab", "spare"], [])
    small, large = built.deployment("lab/small"), built.deployment("spare/large")
    assert small is not None and large is not None
    assert (small.model.upstream, small.model.quality, small.failure_domain) == ("small-v1", 0.62, "lab-rack-1")
    assert small.model.price == Price(100_000_000, 400_000_000, 10_000_000)
    assert (large.model.upstream, large.provider.wire, large.failure_domain) == ("large", "anthropic-messages", "spare")
    assert (built.routes["stable"].order, dict(built.routes["spread"].weights)) == (
        ("lab/small", "spare/large"),
        {"lab/small": 3, "spare/large": 1},
    )
    assert built.aliases == {"gpt-4o-mini": "auto"}
    caller = built.callers[hashlib.sha256(b"wp-3").digest()]
    assert (caller.name, caller.budget_nusd, caller.budget_per, caller.tokens_per_minute) == ("team-search", 100 * 10**9, "month", 200_000)
    assert [caller.allows(name) for name in ("auto", "lab/small", "spare/large")] == [True, True, False]


def test_without_keys_the_reference_still_loads_with_warnings() -> None:
    built = world.read(REFERENCE, CATALOG, {}, today=TODAY)
    assert list(built.providers) == ["lab", "spare"]
    assert built.warnings == [
        "providers.openai is off: the variable OPENAI_API_KEY is not set",
        "providers.anthropic is off: the variable ANTHROPIC_API_KEY is not set",
        "keys[team-search] is off: the variable TEAM_SEARCH_KEY is not set",
    ]


@pytest.mark.parametrize("path", sorted(REFERENCE.parent.glob("*.toml")), ids=lambda path: path.name)
def test_every_example_is_valid_with_and_without_its_keys(path: Path) -> None:
    names = ("OPENAI", "ANTHROPIC", "OPENROUTER", "AZURE_OPENAI")
    keys = {f"{name}_API_KEY": f"sk-{name}" for name in names} | {f"{name}_KEY": name for name in ("SEARCH", "SUPPORT", "TEAM_SEARCH")}
    assert world.read(path, CATALOG, {}, today=TODAY).warnings
    assert world.read(path, CATALOG, keys | {"AZURE_OPENAI_ENDPOINT": "https://a.example"}, today=TODAY).warnings == []


# --- providers and their names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked", ["google/gemini-2.5-flash", "gemini/gemini-2.5-flash", "Google/Gemini-2.5-Flash", "google-gemini/gemini-2.5-flash"]
)
def test_a_provider_goes_by_its_configured_name_whatever_the_catalogue_calls_it(asked: str) -> None:
    built = build('[providers.google]\napi_key = "env:KEY"\n')
    found = built.deployment(asked)
    assert found is not None
    assert (found.name, found.model.provider, found.provider.name) == ("google/gemini-2.5-flash", "google", "google")
    assert found.provider.name in built.endpoints


def test_an_alias_of_the_catalogue_works_everywhere() -> None:
    built = build(
        '[providers.claude]\napi_key = "env:KEY"\n[[models]]\nname = "claude/mine"\nquality = 0.5\n'
        '[routes.r]\norder = ["anthropic/claude-sonnet-5", "claude/mine"]\n[routes.s]\nweights = { "claude-sonnet-5" = 1 }\n'
    )
    assert built.routes["r"].order == ("claude/claude-sonnet-5", "claude/mine")
    assert dict(built.routes["s"].weights) == {"claude/claude-sonnet-5": 1}
    assert meant(built, "claude-sonnet-5") == meant(built, "anthropic/claude-sonnet-5") == [("claude/claude-sonnet-5", 0)]
    assert {d.provider.name for d in built.chat_models()} == {"claude"}
    assert "claude/mine" in {d.name for d in built.chat_models()}
    assert all(name.startswith("claude/") for name in built.routes["auto"].candidates)
    assert built.nearest("claude/claude-sonet-5")[0].startswith("claude/claude-sonnet")


def test_a_provider_defined_whole_is_never_taken_for_an_alias() -> None:
    built = build('[providers.claude]\nwire = "openai-chat"\nbase_url = "http://127.0.0.1:1/v1"\n')
    found = built.deployment("claude/claude-sonnet-5")
    assert found is not None and (found.model.source, found.provider.wire) == ("named by the caller", "openai-chat")
    assert (found.provider.auth, found.provider.key_env) == ("bearer", ())
    assert built.named("claude-sonnet-5") == ()
    assert built.deployment("anthropic/claude-sonnet-5") is None


def test_a_known_provider_elsewhere_keeps_what_is_known_of_its_models() -> None:
    built = build('[providers.openai]\nwire = "openai-chat"\nbase_url = "http://proxy.internal:8/v1"\n')
    found = built.deployment("openai/gpt-4o-mini")
    assert found is not None and found.model.price.input_nusd_per_mtok == 150_000_000
    assert built.endpoints["openai"].origin == "http://proxy.internal:8"


def test_two_accounts_under_two_names_serve_the_same_models() -> None:
    built = build('[providers.gemini]\napi_key = "env:A"\n[providers.google]\napi_key = "env:B"\n', {"A": "a", "B": "b"})
    assert {d.name for d in built.named("gemini-2.5-flash")} == {"gemini/gemini-2.5-flash", "google/gemini-2.5-flash"}
    assert built.endpoints["gemini"].credential != built.endpoints["google"].credential


def test_a_local_server_takes_any_model_at_the_callers_word_until_some_are_described() -> None:
    assert build(LAB).deployment("lab/anything") is not None
    assert build(LAB + SMALL).deployment("lab/anything") is None


def test_a_server_paid_by_the_hour_serves_for_nothing_unless_priced() -> None:
    free = build(LAB + 'hourly_usd = 2\n[[models]]\nname = "lab/a"\n' + SMALL)
    prices = [d.model.price.input_nusd_per_mtok for name in ("lab/a", "lab/small") if (d := free.deployment(name))]
    assert prices == [0, 100_000_000]


def test_the_credential_goes_into_one_header_and_nowhere_else() -> None:
    built = build('[providers.openai]\nheaders = { OpenAI-Organization = "org", Authorization = "Bearer other" }\n')
    headers = dict(built.endpoints["openai"].headers)
    assert headers[b"authorization"] == b"Bearer other"
    assert headers[b"openai-organization"] == b"org"
    deployment = build(OPENAI).deployment("openai/gpt-4o")
    assert "sk-1" not in repr(deployment) and "sk-1" not in build(OPENAI).endpoints["openai"].credential


def test_a_key_no_header_can_carry_is_an_error_that_does_not_show_it() -> None:
    found = only(OPENAI, {"OPENAI_API_KEY": "sk-one\nsk-two"})
    assert found.path == "providers.openai.api_key"
    assert "sk-one" not in str(found)


def test_an_address_that_lacks_a_variable_switches_off_with_a_warning() -> None:
    built = build("[providers.azure]\n", {"AZURE_OPENAI_API_KEY": "k"})
    assert built.providers == {} and "part of its address" in built.warnings[0]


@pytest.mark.parametrize(
    ("text", "path", "fix"),
    [
        ("[providers.opnai]\n", "providers.opnai", "did you mean `openai`?"),
        ('[providers.mine]\nwire = "gemini"\n', "providers.mine", "needs base_url"),
        ('[providers.p]\nwire = "openai-responses"\nbase_url = "http://h"\n', "providers.p.wire", "use openai-chat"),
        (LAB + LAB.replace("providers.lab", "providers.Lab"), "providers.Lab", "cannot be told from providers.lab"),
        (LAB + '[[models]]\nname = "lba/small"\n', "models[lba/small].name", "did you mean `lab`?"),
    ],
)
def test_providers_that_make_no_sense(text: str, path: str, fix: str) -> None:
    found = only(text)
    assert found.path == path and fix in found.fix


# --- routes ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "path", "fix"),
    [
        ('[routes.r]\norder = ["lab/smal"]', "routes.r.order", "nearest known: lab/small"),
        ('[routes.r]\ncandidates = ["openai/gpt-4o"]', "routes.r.candidates", "add [providers.openai]"),
        ('[routes.r]\nweights = { "nobody" = 1 }', "routes.r.weights", "no provider serves it"),
        ('[routes.r]\norder = ["x"]\n[aliases]\nx = "lab/small"', "routes.r.order", "is an alias; name what it stands for: 'lab/small'"),
        ('[routes.a]\norder = ["b"]\n[routes.b]\norder = ["a"]', "routes.a.order", "in a circle: a -> b -> a"),
        ('[routes.a]\norder = ["a", "lab/small"]', "routes.a.order", "in a circle: a -> a"),
        ('[aliases]\na = "b"\nb = "a"', "aliases.a", "in a circle: a -> b -> a"),
        ('[aliases]\na = "lab/smal"', "aliases.a", "nearest known: lab/small"),
        ('[aliases]\n"lab/small" = "auto"', "aliases.lab/small", "can never be reached"),
    ],
)
def test_names_that_lead_nowhere(text: str, path: str, fix: str) -> None:
    found = problems(LAB + SMALL + text)
    assert path in [p.path for p in found]
    assert fix in next(p.fix for p in found if p.path == path)


def test_routes_name_routes_and_mean_their_models() -> None:
    nested = '[routes.inner]\norder = ["lab/small"]\n[routes.outer]\norder = ["inner", "openai/gpt-4o"]\n'
    ruled = '[routes.ruled]\n[[routes.ruled.rules]]\nwhen = { task = "code" }\nuse = ["inner"]\n[routes.all]\ncandidates = ["ruled"]\n'
    built = build(LAB + SMALL + OPENAI + nested + ruled)
    assert built.routes["outer"].order == ("lab/small", "openai/gpt-4o")
    assert built.routes["ruled"].rules[0].use == ("lab/small",)
    assert built.routes["all"].candidates == ("lab/small",)


def test_routes_nest_eight_deep_and_no_deeper() -> None:
    def chain(depth: int) -> str:
        links = "".join(f'[routes.r{i}]\norder = ["r{i + 1}"]\n' for i in range(depth - 1))
        return LAB + SMALL + links + f'[routes.r{depth - 1}]\norder = ["lab/small"]\n'

    assert build(chain(8)).routes["r0"].order == ("lab/small",)
    assert any("nest deeper than 8" in p.fix for p in problems(chain(9)))


def test_weights_of_one_model_add_up_and_a_bare_name_shares_its_own() -> None:
    built = build(LAB + SMALL + '[routes.r]\nweights = { "lab/small" = 1, "small" = 2 }\n')
    assert dict(built.routes["r"].weights) == {"lab/small": 3}


def test_what_is_off_is_left_out_with_a_warning() -> None:
    built = build(LAB + SMALL + OPENAI + '[routes.r]\norder = ["openai/gpt-4o", "lab/small"]\n[routes.s]\norder = ["gpt-4o"]\n', {})
    assert built.routes["r"].order == ("lab/small",)
    assert "routes.r.order leaves out openai/gpt-4o: its provider is off" in built.warnings
    assert any(w.startswith("routes.s has no live model") for w in built.warnings)
    with pytest.raises(Refused) as refused:
        built.resolve(call("s"), Caller())
    assert (refused.value.status, refused.value.code) == (503, "no_live_model")


def test_a_wrong_model_is_an_error_even_while_its_provider_is_off() -> None:
    assert only(OPENAI + '[routes.r]\norder = ["openai/gpt-44o"]\n', {}).path == "routes.r.order"


def test_a_retired_model_is_warned_of_where_it_is_named_and_offered_nowhere() -> None:
    retired = next(c for c in CATALOG.models("openai") if c.mode == "chat" and c.deprecated_on and c.deprecated_on <= TODAY)
    built = build(OPENAI + f'[routes.r]\norder = ["{retired.name}"]\n')
    assert f"routes.r.order names {retired.name}, which its provider retired on {retired.deprecated_on}" in built.warnings
    assert retired.name not in {d.name for d in built.chat_models()}
    assert meant(built, retired.name) == [(retired.name, 0)]


# --- what can never be reached ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "fix"),
    [
        ('capability = "vision"', "lab/small has no vision"),
        ('format = "json_schema"', "lab/small has no json_schema"),
        ("min_prompt_tokens = 20000", "lab/small holds 8,000 tokens and the rule begins at 20,000"),
    ],
)
def test_a_rule_whose_models_never_take_what_it_sends_is_an_error(when: str, fix: str) -> None:
    found = only(LAB + BLIND + f'[routes.r]\n[[routes.r.rules]]\nwhen = {{ {when} }}\nuse = ["lab/small"]\n')
    assert found.path == "routes.r.rules[0]" and fix in found.fix


@pytest.mark.parametrize("when", ["min_prompt_tokens = 9000", 'capability = "tools"', 'task = "code"', "stream = true"])
def test_a_rule_that_may_lead_somewhere_is_none(when: str) -> None:
    assert problems(LAB + BLIND + f'[routes.r]\n[[routes.r.rules]]\nwhen = {{ {when} }}\nuse = ["lab/small"]\n') == []


def test_unknown_capabilities_and_windows_never_make_a_rule_dead() -> None:
    text = LAB + '[[models]]\nname = "lab/x"\n[routes.r]\n[[routes.r.rules]]\nwhen = { capability = "vision" }\nuse = ["lab/x"]\n'
    assert problems(text) == []


def test_a_floor_that_no_candidate_reaches_is_an_error() -> None:
    found = only(LAB + SMALL + '[routes.r]\nmin_quality = 0.9\ncandidates = ["lab/small"]\n')
    assert found.path == "routes.r.min_quality" and "the best is lab/small with 0.6" in found.fix


KEY = '[[keys]]\nname = "k"\nkey = "env:KEY"\n'


@pytest.mark.parametrize(
    ("key", "path", "fix"),
    [
        ('models = ["lba/*"]', "keys[k].models", "matches no route"),
        ('models = ["lab/smal"]', "keys[k].models", "nearest known: lab/small"),
        ('models = ["lab/free"]\nbudget = { usd = 1 }', "keys[k].budget", "every model of this key is free"),
        ('models = ["lab/fr*"]\nbudget = { usd = 1 }', "keys[k].budget", "every model of this key is free"),
        ('models = ["lab/unpriced"]\nbudget = { usd = 1 }', "keys[k].budget", "every call would be refused"),
        ('models = ["dear"]\nbudget = { usd = 1 }', "keys[k].budget", "every call would be refused"),
    ],
)
def test_a_key_or_a_budget_that_can_never_be_used_is_an_error(key: str, path: str, fix: str) -> None:
    free = '[[models]]\nname = "lab/free"\ninput_usd_per_mtok = 0\noutput_usd_per_mtok = 0\n[[models]]\nname = "lab/unpriced"\n'
    found = only(LAB + SMALL + free + '[routes.dear]\norder = ["lab/unpriced"]\n' + KEY + key)
    assert found.path == path and fix in found.fix


@pytest.mark.parametrize(
    "models", ['["auto"]', '["r"]', '["lab/*"]', '["small"]', '["sm*"]', '["lab/small", "openai/gpt-4o"]', '["*"]', '["x"]']
)
def test_a_key_that_may_use_something_is_fine(models: str) -> None:
    text = LAB + SMALL + OPENAI + '[routes.r]\norder = ["lab/small"]\n[aliases]\nx = "r"\n' + KEY
    assert problems(text + f"models = {models}\nbudget = {{ usd = 1 }}\n") == []
    assert problems(text + f"models = {models}\n", {}) == []


def test_two_keys_with_one_secret_are_an_error_that_does_not_show_it() -> None:
    found = only(LAB + KEY + '[[keys]]\nname = "l"\nkey = "env:SAME"\n', {"KEY": "wp-same", "SAME": "wp-same"})
    assert found.path == "keys[l].key" and "same secret as that of key k" in found.fix
    assert "wp-same" not in str(found)


def test_nobody_could_call_is_said() -> None:
    assert "auth.required is true and every key is off: nobody can call" in build(LAB + "[auth]\nrequired = true\n" + KEY, {}).warnings


def test_missing_tls_files_are_an_error() -> None:
    found = problems('[server]\ntls_cert = "/nowhere/c.pem"\ntls_key = "/nowhere/k.pem"\n')
    assert [p.path for p in found] == ["server.tls_cert", "server.tls_key"]


# --- all at once -------------------------------------------------------------------------------------------------------------


def test_grammar_and_meaning_are_told_together(tmp_path: Path) -> None:
    path = tmp_path / "w.toml"
    path.write_text(
        LAB + SMALL + '[server]\nport = -1\n[routes.r]\norder = ["lab/smal"]\n[routes.s]\nobjective = "x"\norder = ["lab/small"]\n'
    )
    with pytest.raises(ConfigError) as error:
        world.read(path, CATALOG, {})
    assert [p.path for p in error.value.problems] == ["server.port", "routes.s.objective", "routes.r.order"]


@pytest.mark.parametrize(
    "text",
    [
        LAB.replace('"openai-chat"', "7") + SMALL + '[routes.r]\norder = ["lab/small"]\n',
        LAB + '[[models]]\nupstream = "x"\n' + SMALL + '[routes.r]\norder = ["lab/x"]\n',
        LAB + SMALL + '[routes.r]\norder = 3\n[routes.s]\norder = ["r"]\n',
        '[providers]\nlab = "http://h"\n' + SMALL + '[routes.r]\norder = ["lab/small"]\n',
        "this is not TOML",
    ],
)
def test_what_only_follows_from_another_error_is_not_told_again(tmp_path: Path, text: str) -> None:
    path = tmp_path / "w.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        world.read(path, CATALOG, {})
    assert len(error.value.problems) == 1, str(error.value)


# --- what a call means -------------------------------------------------------------------------------------------------------


def test_fallback_models_follow_in_the_callers_order_once_each() -> None:
    built = build(LAB + SMALL + OPENAI + '[routes.r]\norder = ["openai/gpt-4o", "lab/small"]\n')
    assert meant(built, "lab/small", "r", "openai/gpt-4o-mini") == [("lab/small", 0), ("openai/gpt-4o", 1), ("openai/gpt-4o-mini", 2)]


@pytest.mark.parametrize(
    ("asked", "status", "code", "words"),
    [
        ("openai/gpt-4oo", 404, "model_not_found", "Did you mean openai/gpt-4o"),
        ("anthropic/claude-sonnet-5", 404, "model_not_found", "no provider that serves it is switched on"),
        ("lab/other", 404, "model_not_found", "does not exist here"),
        ("", 404, "model_not_found", ""),
    ],
)
def test_unknown_names_are_refused_with_the_nearest_known(asked: str, status: int, code: str, words: str) -> None:
    built = build(LAB + SMALL + OPENAI)
    if not asked:
        assert built.resolve(call(""), Caller())[0].name == "auto"
        return
    with pytest.raises(Refused) as refused:
        built.resolve(call(asked), Caller())
    assert (refused.value.status, refused.value.code) == (status, code)
    assert words in refused.value.message


def test_a_key_is_held_to_its_models_in_every_place_of_the_list() -> None:
    built = build(LAB + SMALL + OPENAI)
    caller = Caller("k", patterns=("lab/*",))
    with pytest.raises(Refused) as refused:
        built.resolve(call("lab/small", "openai/gpt-4o"), caller)
    assert (refused.value.status, refused.value.code) == (403, "model_not_allowed")


def test_the_memory_of_invented_names_is_bounded() -> None:
    built = build(LAB)
    for i in range(20_100):
        built.deployment(f"lab/{i}")
    assert len(built._deployments) <= 20_000


# --- from nothing ------------------------------------------------------------------------------------------------------------


def test_the_keys_in_the_environment_decide_when_no_provider_is_configured() -> None:
    built = build("", {"OPENAI_API_KEY": "a", "DEEPSEEK_API_KEY": "b", "MISTRAL_API_KEY": " "})
    assert list(built.providers) == ["openai", "deepseek"]
    assert built.has_default_auto


def test_auto_from_nothing_has_a_cheap_and_a_strong_model_of_each_provider() -> None:
    built = build("", {"OPENAI_API_KEY": "a", "ANTHROPIC_API_KEY": "b", "GEMINI_API_KEY": "c"})
    route = built.routes["auto"]
    live = [d for name in route.candidates if (d := built.deployment(name))]
    assert 6 <= len(live) == len(route.candidates) <= tiers.CANDIDATES
    assert {d.provider.name for d in live} == {"openai", "anthropic", "gemini"}
    for d in live:
        assert d.model.mode == "chat" and "tools" in d.model.capabilities and d.model.price.output_nusd_per_mtok
        assert d.model.deprecated_on is None
    begins = {rule.when.task: built.deployment(rule.use[0]) for rule in route.rules}
    assert set(begins) == {"chat", "code", "summarize", "classify", "extract", "translate", "reasoning", "math"}
    easy, hard = begins["chat"], begins["math"]
    assert easy is not None and hard is not None
    assert tiers.blended_nusd(easy.model) < tiers.blended_nusd(hard.model)
    assert route.objective == "balanced"


def test_auto_is_bounded_and_the_same_every_time() -> None:
    env = {name: "k" for card in CATALOG.providers() for name in card.key_env}
    first, second = build("", env).routes["auto"], build("", env).routes["auto"]
    assert first == second
    assert len(first.candidates) == tiers.CANDIDATES


def test_auto_that_somebody_wrote_is_left_alone() -> None:
    assert build(LAB + SMALL + '[routes.auto]\norder = ["lab/small"]\n').routes["auto"].order == ("lab/small",)
    aliased = build(LAB + SMALL + '[aliases]\nauto = "lab/small"\n')
    assert "auto" not in aliased.routes and meant(aliased, "") == [("lab/small", 0)]


def test_auto_takes_the_users_own_models_at_his_word() -> None:
    text = LAB + SMALL + '[[models]]\nname = "lab/big"\ninput_usd_per_mtok = 1\noutput_usd_per_mtok = 2\nquality = 0.9\n'
    route = build(text).routes["auto"]
    assert set(route.candidates) == {"lab/small", "lab/big"}
    assert {r.when.task: r.use for r in route.rules}["reasoning"] == ("lab/big",)


def test_without_any_provider_auto_says_what_is_missing() -> None:
    with pytest.raises(Refused) as refused:
        build("", {}).resolve(call("auto"), Caller())
    assert refused.value.code == "no_live_model"


def test_the_fingerprint_changes_with_the_users_own_facts() -> None:
    assert len({build(t).fingerprint for t in (LAB, LAB + SMALL, LAB + SMALL.replace("0.4", "0.5"), LAB.replace("9100", "9101"))}) == 4


# --- tiers -------------------------------------------------------------------------------------------------------------------


def card(name: str, usd: float, **facts: object) -> ModelCard:
    price = Price(int(usd * 1e9), int(usd * 4e9))
    usual: dict[str, object] = {"price": price, "context_tokens": 128_000, "capabilities": frozenset({"tools"}), "family": name}
    return ModelCard(f"v/{name}", "v", name, **(usual | facts))  # type: ignore[arg-type]


def tiers_of(*cards: ModelCard) -> tuple[str, ...]:
    found = tiers.tiers(cards, today=TODAY)
    return () if found is None else tuple(c.upstream for c in (found.cheap, found.middle, found.strong))


LINE_UP = (card("m-3-mini", 0.1), card("m-3", 1), card("m-3-max", 5))


@pytest.mark.parametrize(
    "odd",
    [
        card("m-2-mini", 0.05),
        card("m-3-mini-preview", 0.01),
        card("m-3-code", 9),
        card("m-3-ultra", 50, deprecated_on="2027-01-01"),
        card("m-3-ultra", 50, deprecated_on="2026-01-01"),
        card("m-3-nano", 0.01, capabilities=frozenset({"vision"})),
        card("m-3-nano", 0.01, context_tokens=8_000),
        card("m-3-nano", 0.01, mode="embedding"),
        card("m-3-pro", 50, mode="responses"),
        card("m-3-free", 0),
        card("m-3-unpriced", 1, price=Price()),
        card("other-9", 0.01),
    ],
    ids=lambda c: c.upstream,
)
def test_only_current_general_priced_models_make_a_tier(odd: ModelCard) -> None:
    assert tiers_of(*LINE_UP, odd) == tiers_of(odd, *LINE_UP) == ("m-3-mini", "m-3", "m-3-max")


def test_generations_that_are_two_behind_are_past_even_where_few_are_left() -> None:
    assert tiers_of(card("m-6-mini", 1), card("m-5", 4), card("m-4-turbo", 10)) == ("m-6-mini", "m-6-mini", "m-5")


def test_the_very_dearest_of_five_is_left_out() -> None:
    assert tiers_of(*LINE_UP, card("m-3-ultra", 20), card("m-3-omega", 90)) == ("m-3-mini", "m-3-max", "m-3-ultra")


def test_one_model_is_every_tier_and_none_is_no_tier() -> None:
    assert tiers_of(card("m", 1)) == ("m", "m", "m")
    assert tiers_of() == ()
