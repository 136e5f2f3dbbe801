"""The configuration file: every kind of error with its path, the value seen and the fix; no secret is ever shown."""

import re
import tomllib
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypost import config
from waypost.config import Config, ConfigError, Problem, When
from waypost.core.fit import Ask, Candidate
from waypost.core.route import Route, Rule, Wish, decide
from waypost.core.route import When as RouteWhen
from waypost.core.types import Deployment, ModelCard, Need, ProviderCard

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "examples" / "reference.toml"
SECRET = "sk-live-4f9c1e7a2b8d3056"


def problems(text: str) -> list[Problem]:
    return config.examine(text)[1]


def only(text: str) -> Problem:
    found = problems(text)
    assert len(found) == 1, "\n".join(map(str, found))
    return found[0]


# --- the contract ------------------------------------------------------------------------------------------------------------


def test_the_reference_configuration_loads_and_every_value_of_it_arrives() -> None:
    told, read = tomllib.loads(REFERENCE.read_text()), msgspec.to_builtins(config.load(REFERENCE))

    def arrives(value: object, at: object, path: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                arrives(inner, at[key], f"{path}.{key}")  # type: ignore[index]
        elif isinstance(value, list):
            assert len(value) == len(at), path  # type: ignore[arg-type]
            for i, inner in enumerate(value):
                arrives(inner, at[i], f"{path}[{i}]")  # type: ignore[index]
        else:
            assert at == value, path

    arrives(told, read, "")


def test_the_reference_is_the_contract_to_the_byte() -> None:
    contract = ROOT.parent / "shared" / "reference.toml"
    if not contract.exists():
        pytest.skip("the contract stands only beside the project's own checkout")
    assert REFERENCE.read_bytes() == contract.read_bytes()


def test_an_empty_file_is_the_default_configuration() -> None:
    assert config.parse("") == Config()


def test_a_byte_order_mark_is_no_error() -> None:
    assert config.parse("\ufeff[server]\nport = 1") == config.parse("[server]\nport = 1")


# --- errors of grammar and range ---------------------------------------------------------------------------------------------

KEY = '[[keys]]\nname = "k"\nkey = "env:A"\n'
MODEL_AB = '[[models]]\nname = "a/b"\n'
RULE = '[routes.r]\ncandidates = ["a/b"]\n[[routes.r.rules]]\n'
ROUTE = '[routes.r]\ncandidates = ["a/b"]\n'
CASES = [
    ("unknown option", "[server]\nprot = 1", "server.prot", "1", "did you mean `port`?"),
    ("unknown section", "[sever]\n", "sever", "a table", "did you mean `server`?"),
    ("unknown, nothing near", "[server]\nzzz = true", "server.zzz", "True", "known here: content_logging, drain_s"),
    ("wrong type", '[server]\nport = "4000"', "server.port", "'4000'", "expected `int`, got `str`"),
    ("a bool is no number", "[server]\nport = true", "server.port", "True", "expected `int`, got `bool`"),
    ("below the range", "[server]\nworkers = 0", "server.workers", "0", ">= 1"),
    ("above the range", "[server]\nport = 70000", "server.port", "70000", "<= 65535"),
    ("infinite", "[server]\ndrain_s = inf", "server.drain_s", "inf", "finite"),
    ("not a number", "[retries]\nbudget_ratio = nan", "retries.budget_ratio", "nan", "finite"),
    ("not of the set", '[timeouts]\nstream_upstream = "yes"', "timeouts.stream_upstream", "'yes'", "one of auto, always, never"),
    ("nearly of the set", '[routes.r]\norder = ["a/b"]\nobjective = "costs"', "routes.r.objective", "'costs'", "did you mean `cost`?"),
    ("a table for a list", '[keys.k]\nkey = "env:A"', "keys", "a table", "write [[keys]] once for each"),
    ("a value for a table", "server = 1", "server", "1", "must be a table"),
    ("a list's item", '[routes.r]\norder = ["a/b", 7]', "routes.r.order[1]", "7", "expected `str`"),
    ("a map's value", '[routes.r]\nweights = { "a/b" = -1, "c/d" = 1 }', "routes.r.weights.a/b", "-1", ">= 0"),
    ("a table's item", MODEL_AB + 'quality = 7', "models[a/b].quality", "7", "<= 1"),
    ("a missing value", '[[models]]\nupstream = "x"', "models[0].name", "", "is missing"),
    ("a missing list", RULE + 'when = { task = "code" }', "routes.r.rules[0].use", "", "is missing"),
    ("unknown capability", MODEL_AB + 'capabilities = ["tool"]', "models[a/b].capabilities[0]", "'tool'", "did you mean `tools`?"),
    ("unknown quirk", '[providers.p]\nquirks = ["empty_choice"]', "providers.p.quirks[0]", "'empty_choice'", "`empty_choices`"),
    ("unknown task", RULE + 'when = { task = "poetry" }\nuse = ["a/b"]', "routes.r.rules[0].when.task", "'poetry'", "creative"),
    ("model without provider", '[[models]]\nname = "small"', "models[small].name", "'small'", "provider/model"),
    ("model twice", MODEL_AB + '[[models]]\nname = "a/b"', "models[a/b]", "", "twice"),
    ("key twice", KEY + '[[keys]]\nname = "k"\nkey = "env:B"', "keys[k]", "", "twice"),
    ("two keys, one secret", KEY + '[[keys]]\nname = "l"\nkey = "env:A"', "keys[l].key", "env:A", "same secret"),
    ("nameless key", '[[keys]]\nname = ""\nkey = "env:A"', "keys[].name", "''", "length >= 1"),
    ("key without models", KEY + 'models = []', "keys[k].models", "[]", "allows nothing"),
    ("key is none", '[[keys]]\nname = "k"\nkey = "none"', "keys[k].key", "'none'", "cannot be none"),
    ("reference to nothing", '[[keys]]\nname = "k"\nkey = "env:"', "keys[k].key", "'env:'", "nothing after the colon"),
    ("budget below a nano-dollar", KEY + 'budget = { usd = 1e-12 }', "keys[k].budget.usd", "1e-12", "nano-dollar"),
    ("budget of nothing", KEY + 'budget = { usd = 0 }', "keys[k].budget.usd", "0", "> 0"),
    ("limit below the workers", KEY + 'concurrency = 3\n[server]\nworkers = 4', "keys[k].concurrency", "3", "workers = 4"),
    ("segment no header can name", KEY + 'segment = "a b"', "keys[k].segment", "'a b'", "matching regex"),
    ("auth without keys", "[auth]\nrequired = true", "auth.required", "true", "add [[keys]]"),
    ("route of nobody", '[routes.r]\nobjective = "cost"', "routes.r", "", "nobody to call"),
    ("order and weights", '[routes.r]\norder = ["a/b"]\nweights = { "a/b" = 1 }', "routes.r", "", "exclude each other"),
    ("weights of zero", '[routes.r]\nweights = { "a/b" = 0 }', "routes.r.weights", "", "every weight is 0"),
    ("route like a model", '[routes."a/b"]\norder = ["c/d"]', "routes.a/b", "'a/b'", "no slash"),
    ("route with a suffix", '[routes."r:floor"]\norder = ["c/d"]', "routes.r:floor", "", "can never be asked for"),
    ("alias with a suffix", '[aliases]\n"x:nitro" = "auto"', "aliases.x:nitro", "", "can never be asked for"),
    ("alias like a route", ROUTE + '[aliases]\nr = "auto"', "aliases.r", "", "same name"),
    ("rule that uses nobody", RULE + 'when = { task = "code" }\nuse = []', "routes.r.rules[0].use", "[]", "names no model"),
    ("provider with a slash", '[providers."a/b"]\n', "providers.a/b", "'a/b'", "no slash"),
    ("base URL without scheme", '[providers.p]\nbase_url = "localhost:1"', "providers.p.base_url", "'localhost:1'", "http://host"),
    ("base URL with a query", '[providers.p]\nbase_url = "http://h/v1?a=1"', "providers.p.base_url", "", "no query"),
    ("broken header", '[providers.p]\nheaders = { "x y" = "1" }', "providers.p.headers.x y", "", "no HTTP header"),
    ("header with a line break", '[providers.p]\nheaders = { x = "1\\r\\ny: 2" }', "providers.p.headers.x", "", "no HTTP header"),
    ("header of the connection", '[providers.p]\nheaders = { Content-Length = "1" }', "providers.p.headers.Content-Length", "", "itself"),
    ("warm above the pool", "[providers.p]\nconnections = 4\nprewarm = 5", "providers.p.prewarm", "5", "connections = 4"),
    ("half of TLS", '[server]\ntls_cert = "c.pem"', "server.tls_cert", "", "go together"),
    ("another store", '[storage]\nurl = "postgresql://u:pw@h/db"', "storage.url", "'postgresql:...'", "sqlite:waypost.db"),
    ("a store in memory", '[storage]\nurl = "sqlite::memory:"', "storage.url", "'sqlite:...'", "sqlite:waypost.db"),
    ("later: content logging", "[server]\ncontent_logging = true", "server.content_logging", "", "not available in this version"),
    ("later: redis", '[storage]\nredis = "redis://h"', "storage.redis", "", "not available in this version"),
    ("later: semantic cache", "[cache]\nsemantic = { enabled = true }", "cache.semantic.enabled", "", "not available"),
    ("later: context", '[context]\nmode = "auto"', "context.mode", "", "not available"),
    ("later: cascade", ROUTE + "cascade = true", "routes.r.cascade", "", "not available"),
    ("later: OTLP", '[telemetry]\notlp = [{ endpoint = "http://h" }]', "telemetry.otlp", "", "not available"),
    ("no TOML", "[server\n", "config", "", "not valid TOML"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "path", "seen", "fix"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_each_error_has_its_path_the_value_seen_and_the_fix(text: str, path: str, seen: str, fix: str) -> None:
    found = only(text)
    assert (found.path, found.seen) == (path, seen)
    assert fix in found.fix
    assert path in str(found) and fix in str(found)


def test_all_errors_are_told_at_once_and_echoes_are_not() -> None:
    text = '[server]\nport = -1\nhots = 1\n[routes.r]\ncandidats = ["a/b"]\n[[routes.r.rules]]\nuse = 3\n[[keys]]\nname = "k"\n'
    assert {p.path for p in problems(text)} == {"server.port", "server.hots", "routes.r.candidats", "routes.r.rules[0].use", "keys[k].key"}


def test_what_is_readable_is_read_beside_what_is_not() -> None:
    read, found = config.examine("[server]\nport = -1\nworkers = 3\n[retries]\nattempts = 5")
    assert (len(found), read.server.port, read.server.workers, read.retries.attempts) == (1, 4000, 3, 5)


@pytest.mark.parametrize(
    ("make", "fix"),
    [
        (lambda p: None, "cannot be read: No such file"),
        (lambda p: p.write_bytes(b"a = '\xff'"), "is not UTF-8"),
        (lambda p: p.mkdir(), "cannot be read: Is a directory"),
    ],
)
def test_an_unreadable_file_is_an_error_with_the_way_out(tmp_path: Path, make, fix: str) -> None:
    path = tmp_path / "w.toml"
    make(path)
    with pytest.raises(ConfigError, match=re.escape(fix)):
        config.load(path)


@given(st.text(alphabet="[]{}=\"'#\n.,ab1-:_ \\", max_size=60))
def test_no_text_breaks_the_reader(text: str) -> None:
    read, found = config.examine(text)
    assert isinstance(read, Config)
    assert all(p.path and p.fix for p in found)


# --- secrets -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        '[providers.p]\napi_key = "{}"',
        '[providers.p]\napikey = "{}"',
        '[providers.p]\napi_key = ["{}"]',
        '[providers.p]\napi_key = {{ env = "{}" }}',
        '[providers.p]\nheaders = {{ authorization = "Bearer {}\\n" }}',
        '[providers.p]\nheaders = "{}"',
        '[providers.p]\nbase_url = "{}"',
        '[providers.p]\nbase_url = "ftp://me:{}@h/v1"',
        '[providers.p]\nbase_url = "https://me:{}@h/v1"',
        '[providers.p]\nwire = "{}"',
        '[[keys]]\nname = "k"\nkey = "{}"',
        '[[keys]]\nname = "k"\nsecret = "{}"\nkey = "env:A"',
        KEY + 'budget = "{}"',
        'keys = ["{}"]',
        '[storage]\nurl = "postgresql://me:{}@h/db?password={}"',
        '[storage]\nredis = "redis://:{}@h"',
        '[telemetry]\notlp = [{{ api_key = "{}", project = 3 }}]',
        '[telemetry]\ntoken = "{}"',
        'OPENAI_API_KEY = "{}"',
    ],
)
def test_a_secret_written_into_the_file_is_never_shown(text: str) -> None:
    found = problems(text.replace("{}", SECRET).replace("{{", "{").replace("}}", "}"))
    assert found
    assert SECRET not in "\n".join(map(str, found))


@pytest.mark.parametrize("text", ['[providers.p]\npasswort = "hunter2"', '[providers.p]\napi_key = "hunter2"', 'headers = "hunter2"'])
def test_a_secret_that_does_not_look_like_one_is_not_shown_either(text: str) -> None:
    assert "hunter2" not in str(only(text))


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("env:A", ("value", "")),
        ("env:EMPTY", (None, "the variable EMPTY is not set")),
        ("env:MISSING", (None, "the variable MISSING is not set")),
        ("none", ("", "")),
    ],
)
def test_a_reference_reads_the_environment(reference: str, expected: tuple[str | None, str]) -> None:
    assert config.secret(reference, {"A": " value\n", "EMPTY": "  "}) == expected


def test_a_reference_reads_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("value\n")
    (tmp_path / "empty").write_text("\n")
    assert config.secret(f"file:{tmp_path}/key", {}) == ("value", "")
    assert config.secret(f"file:{tmp_path}/empty", {})[0] is None
    assert "cannot be read (FileNotFoundError)" in config.secret(f"file:{tmp_path}/none", {})[1]


def test_the_fingerprint_changes_with_any_value_and_with_nothing_else() -> None:
    base = config.parse("[server]\nport = 1\nworkers = 2")
    assert config.fingerprint(base) == config.fingerprint(config.parse("[server]\nworkers = 2\nport = 1 # same"))
    assert config.fingerprint(base) != config.fingerprint(config.parse("[server]\nport = 1\nworkers = 3"))


# --- rules that can never fire -----------------------------------------------------------------------------------------------


def rules(*whens: str) -> str:
    return ROUTE + "".join(f'[[routes.r.rules]]\nwhen = {{ {when} }}\nuse = ["a/b"]\n' for when in whens)


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("", 'task = "code"'),
        ('task = "code"', 'task = "code"'),
        ('task = "code"', 'task = "code", stream = true'),
        ("min_prompt_tokens = 100", "min_prompt_tokens = 200"),
        ("max_prompt_tokens = 200", "max_prompt_tokens = 100"),
        ("min_prompt_tokens = 0", "stream = false"),
        ("tools = true", 'capability = "tools"'),
        ('capability = "json_schema"', 'format = "json_schema"'),
    ],
)
def test_a_rule_that_an_earlier_one_always_forestalls_is_an_error(earlier: str, later: str) -> None:
    found = only(rules(earlier, later))
    assert found.path == "routes.r.rules[1]"
    assert "can never fire: rules[0]" in found.fix


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ('task = "code"', ""),
        ('task = "code", stream = true', 'task = "code"'),
        ("min_prompt_tokens = 200", "min_prompt_tokens = 100"),
        ("max_prompt_tokens = 100", "stream = true"),
        ("max_prompt_tokens = 100", "min_prompt_tokens = 50"),
        ("tools = false", 'capability = "vision"'),
        ('format = "text"', 'format = "json_object"'),
        ('segment = "a"', 'segment = "b"'),
    ],
)
def test_a_rule_that_may_still_fire_is_none(earlier: str, later: str) -> None:
    assert problems(rules(earlier, later)) == []


@pytest.mark.parametrize(
    "when",
    [
        "min_prompt_tokens = 10, max_prompt_tokens = 9",
        'tools = false, capability = "tools"',
        'capability = "json_schema", format = "text"',
        'capability = "web_search"',
    ],
)
def test_a_rule_that_contradicts_itself_is_an_error(when: str) -> None:
    found = only(rules(when))
    assert found.path == "routes.r.rules[0].when"
    assert "can never fire" in found.fix


WHENS = st.builds(
    When,
    task=st.sampled_from([None, "code", "chat"]),
    min_prompt_tokens=st.sampled_from([None, 0, 10, 20]),
    max_prompt_tokens=st.sampled_from([None, 15, 25]),
    capability=st.sampled_from([None, "tools", "vision", "json_schema"]),
    tools=st.sampled_from([None, True, False]),
    stream=st.sampled_from([None, True]),
    format=st.sampled_from([None, "text", "json_schema"]),
)


ASKS = [
    Ask(Need(task, tokens, 5, frozenset(needs)), tools="tools" in needs, stream=stream, format_kind=kind)
    for task in ("code", "chat")
    for tokens in (5, 12, 18, 30)
    for stream in (True, False)
    for kind in ("text", "json_schema")
    for media in ((), ("vision",))
    for tools in ((), ("tools",))
    for needs in [{*media, *tools, *((kind,) if kind != "text" else ())}]
]
MODEL = Deployment(ModelCard("a/b", "a", "b"), ProviderCard("a", "openai-chat", "http://h"))


def told(when: When) -> dict[str, object]:
    return {name: value for name in When.__struct_fields__ if (value := getattr(when, name)) is not None}


def written(when: When) -> str:
    return ", ".join(f"{n} = {str(v).lower() if isinstance(v, bool) else repr(v)}" for n, v in told(when).items())


@given(WHENS, WHENS)
def test_what_is_called_unreachable_is_never_reached(first: When, second: When) -> None:
    """Against the router's own reading of conditions, over every kind of call."""
    if not any(p.path.startswith("routes.r.rules[1]") for p in problems(rules(written(first), written(second)))):
        return
    built = Route("r", candidates=("a/b",), rules=tuple(Rule(RouteWhen(**told(when)), ("a/b",)) for when in (first, second)))  # type: ignore[arg-type]
    for ask in ASKS:
        _, decision = decide(Wish("route", "r"), ask, [Candidate(MODEL)], route=built)
        assert not decision.rule.startswith("2:"), ask


def test_every_objective_and_task_of_the_vocabulary_is_taken() -> None:
    from waypost.core.types import Objective, Task

    for objective in get_args(Objective):
        assert config.parse(ROUTE + f'objective = "{objective}"').routes["r"].objective == objective
    for task in get_args(Task):
        assert config.parse(rules(f'task = "{task}"')).routes["r"].rules[0].when.task == task
