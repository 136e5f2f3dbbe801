"""Bad input from callers and operators: a clear answer in the caller's dialect, quickly; nothing dies, grows or leaks."""

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import Serve
from e2e_kit import SECRET, Answer, Serving, chat, command, model, provider, request, route

from waypost.sim.provider import Simulator
from waypost.sim.texts import verify

KEYS = {"OPEN": "wp-open-1", "NARROW": "wp-narrow-2", "POOR": "wp-poor-3", "SLOW": "wp-slow-4", "THIN": "wp-thin-5"}
QUICK_S = 1.0  # the promise is 50 ms; this machine is shared


@pytest.fixture(scope="module")
def gateway(sim: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    config = "[server]\nmax_body_mb = 2\n"
    for name in ("alpha", "beta"):
        config += provider(name, f"{sim.box.origin}/p/{name}") + model(f"{name}/small", "m.ok-n20", extra="context_tokens = 8000")
    config += route("stable", "alpha/small", "beta/small")
    with Serving(config, tmp_path_factory.mktemp("bad")) as serving:
        yield serving


@pytest.fixture(scope="module")
def guarded(sim: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    config = "[auth]\nrequired = true\n" + provider("alpha", f"{sim.box.origin}/p/alpha") + model("alpha/small", "m.ok-n20")
    config += model("alpha/large", "m.ok-n20")
    limits = {
        "OPEN": "",
        "NARROW": 'models = ["alpha/small"]',
        "POOR": 'budget = { usd = 0.0001, per = "day" }',
        "SLOW": "requests_per_minute = 2",
        "THIN": "tokens_per_minute = 300",
    }
    for name, limit in limits.items():
        config += f'[[keys]]\nname = "{name.lower()}"\nkey = "env:{name}_KEY"\n{limit}\n'
    env = {f"{name}_KEY": value for name, value in KEYS.items()}
    with Serving(config, tmp_path_factory.mktemp("guarded"), env=env) as serving:
        yield serving


def judge(answer: Answer, status: int | set[int], *, code: str = "", param: str | None = "", says: str = "") -> dict[str, Any]:
    """A clear no in OpenAI's form, quick and without secrets."""
    assert answer.status in ({status} if isinstance(status, int) else status), (answer.status, answer.body[:300])
    assert answer.headers["content-type"].startswith("application/json")
    error = answer.error
    assert not code or error["code"] == code, error
    assert param == "" or error["param"] == param, error
    assert says.lower() in error["message"].lower(), error
    assert len(answer.body) < 4000
    leaks = [
        secret for secret in (SECRET, "127.0.0.1", "Traceback", *KEYS.values()) if secret in answer.body.decode() + str(answer.headers)
    ]
    assert not leaks
    assert answer.seconds < QUICK_S
    return error


# --- bodies --------------------------------------------------------------------------------------------------------------


class Bad(NamedTuple):
    name: str
    body: bytes
    says: str = ""
    status: int = 400


def told_wrong(**fields: Any) -> bytes:
    return json.dumps({**chat("alpha/small"), **fields}).encode()


USER = b'{"role":"user","content":"hi"}'
BODIES = [
    Bad("empty", b""),
    Bad("not json", b"hello"),
    Bad("half", b'{"model": "alpha/small", "messages": ['),
    Bad("trailing", b'{"model": "alpha/small", "messages": [%s]} x' % USER),
    Bad("array", b"[]"),
    Bad("string", b'"alpha/small"'),
    Bad("null", b"null"),
    Bad("number", b"7"),
    Bad("no messages", b'{"model": "alpha/small"}', "messages"),
    Bad("model a number", told_wrong(model=7), "model"),
    Bad("messages a string", told_wrong(messages="hi"), "messages"),
    Bad("messages empty", told_wrong(messages=[]), "messages"),
    Bad("messages null", told_wrong(messages=None), "messages"),
    Bad("message a string", told_wrong(messages=["hi"]), "messages"),
    Bad("no role", told_wrong(messages=[{"content": "hi"}]), "role"),
    Bad("unknown role", told_wrong(messages=[{"role": "wizard", "content": "hi"}]), "role"),
    Bad("content a number", told_wrong(messages=[{"role": "user", "content": 7}]), "content"),
    Bad("stream a string", told_wrong(stream="yes"), "stream"),
    Bad("max_tokens negative", told_wrong(max_tokens=-1), "max_tokens"),
    Bad("max_tokens zero", told_wrong(max_tokens=0), "max_tokens"),
    Bad("max_tokens absurd", told_wrong(max_tokens=10**12), "max_tokens"),
    Bad("max_tokens beyond 64 bits", told_wrong(max_tokens=10**30), "max_tokens"),
    Bad("max_tokens a string", told_wrong(max_tokens="many"), "max_tokens"),
    Bad("max_tokens a float", told_wrong(max_tokens=1.5), "max_tokens"),
    Bad("n absurd", told_wrong(n=10**9), "n"),
    Bad("n zero", told_wrong(n=0), "n"),
    Bad("n a string", told_wrong(n="two"), "n"),
    Bad("temperature a string", told_wrong(temperature="hot"), "temperature"),
    Bad("tools an object", told_wrong(tools={}), "tools"),
    Bad("tool without name", told_wrong(tools=[{"type": "function", "function": {}}]), "tools"),
    Bad("deep", b'{"model":"alpha/small","messages":[%s],"metadata":%s}' % (USER, b"[" * 10**5 + b"]" * 10**5)),
    Bad("deep objects", b'{"model":"alpha/small","messages":[%s],"x":%s}' % (USER, b'{"a":' * 10**5 + b"1" + b"}" * 10**5)),
    Bad("deep content", b'{"model":"alpha/small","messages":[{"role":"user","content":%s}]}' % (b"[" * 10**5 + b"]" * 10**5)),
    Bad("bad utf-8", b'{"model":"alpha/small","messages":[{"role":"user","content":"\xff\xfe"}]}'),
    Bad("bad utf-8 in a field", b'{"model":"alpha/small","messages":[%s],"user":"\xc3\x28"}' % USER),
    Bad("utf-16", json.dumps(chat("alpha/small")).encode("utf-16")),
    Bad("provider unknown key", told_wrong(provider={"orders": ["alpha"]}), "orders"),
    Bad("provider a list", told_wrong(provider=[]), "provider"),
    Bad("provider order a number", told_wrong(provider={"order": 7}), "order"),
    Bad("waypost unknown key", told_wrong(waypost={"deadline": 7}), "deadline"),
    Bad("waypost deadline a string", told_wrong(waypost={"deadline_ms": "soon"}), "deadline_ms"),
    Bad("models a number", told_wrong(models=7), "models"),
    Bad("unknown model", told_wrong(model="alpha/smal"), "alpha/small", 404),
    Bad("unknown provider", told_wrong(model="gamma/small"), "gamma/small", 404),
    Bad("model a path", told_wrong(model="../../etc/passwd"), "", 404),
    Bad("model very long", told_wrong(model="m" * 100_000), "model"),
    Bad("model of controls", told_wrong(model="a\r\nx-evil: 1"), "", 404),
]


@pytest.mark.parametrize("bad", BODIES, ids=lambda bad: bad.name)
def test_a_bad_body_is_told_what_is_wrong_with_it(gateway: Serving, bad: Bad) -> None:
    answer = gateway.ask(bad.body)
    judge(answer, bad.status, says=bad.says)
    assert answer.headers["x-should-retry"] == "false"


def test_no_model_means_auto(gateway: Serving) -> None:
    auto = gateway.ask(b'{"messages":[%s]}' % USER)
    assert verify(auto.text) and auto.headers["x-waypost-model"] in ("alpha/small", "beta/small")


def test_a_duplicate_key_or_an_unknown_field_harms_nobody(gateway: Serving) -> None:
    twice = b'{"model":"nobody/x","model":"alpha/small","messages":[%s]}' % USER
    assert gateway.ask(twice).status in (200, 400, 404)
    assert verify(gateway.ask(told_wrong(frobnicate={"x": [1, 2]}, seed=7)).text)
    many = gateway.ask(told_wrong(**{f"key{i}": i for i in range(50_000)}))
    assert many.status in (200, 400)


def test_an_oversize_body_is_refused_before_it_is_read(gateway: Serving) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as caller:
        began = time.monotonic()
        caller.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99000000000\r\n\r\n{")
        got = caller.recv(65536)
        assert time.monotonic() - began < QUICK_S
    head, _, body = got.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413")
    assert json.loads(body)["error"]["code"] == "request_too_large"


def test_an_oversize_chunked_body_is_refused_on_the_way(gateway: Serving) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as caller:
        caller.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            for _ in range(64):
                caller.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        except OSError:
            pass  # it has already said no and closed
        assert b" 413 " in caller.recv(65536)[:20]


def test_max_tokens_beyond_what_the_model_can_is_refused_or_cut_but_never_obeyed_blindly(gateway: Serving) -> None:
    answer = gateway.ask(chat("alpha/small", max_tokens=2_000_000_000))
    assert answer.status == 400 or verify(answer.text)


# --- requests ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/chat/completions", 405),
        ("POST", "/v1/models", 405),
        ("POST", "/nowhere", 404),
        ("GET", "/v1/models/alpha/nothing", 404),
        ("GET", "/v1/models/%00%ff", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/" + "a" * 5000, 404),
        ("POST", "/v1/completions", 404),
    ],
)
def test_what_is_not_there_is_said_not_to_be_there(gateway: Serving, method: str, path: str, status: int) -> None:
    judge(request(gateway.port, path, b"{}" if method == "POST" else None, method=method), status)


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("x-waypost-deadline-ms", "soon"),
        ("x-waypost-deadline-ms", "-5"),
        ("x-waypost-deadline-ms", "0"),
        ("x-waypost-deadline-ms", "nan"),
        ("x-waypost-deadline-ms", "inf"),
        ("x-waypost-deadline-ms", "1e999"),
        ("x-waypost-max-cost-usd", "cheap"),
        ("x-waypost-max-cost-usd", "nan"),
        ("x-waypost-min-quality", "7"),
        ("x-waypost-cache", "always"),
        ("x-waypost-context", "some"),
        ("x-waypost-on-cut", "cry"),
        ("x-waypost-explain", "please"),
        ("x-waypost-segment", "a b;c\t"),
        ("x-waypost-segment", "s" * 500),
        ("x-waypost-frobnicate", "1"),
    ],
)
def test_a_bound_that_cannot_be_kept_is_refused_by_its_name(gateway: Serving, header: str, value: str) -> None:
    judge(gateway.ask(chat("alpha/small"), headers={header: value}), 400, param=header, says=header)


def test_a_cost_cap_that_no_model_meets_is_refused_before_anything_is_billed(gateway: Serving) -> None:
    error = judge(gateway.ask(chat("stable"), headers={"x-waypost-max-cost-usd": "0.0000001"}), {400, 402, 404, 422})
    assert "cost" in json.dumps(error)


# --- keys ----------------------------------------------------------------------------------------------------------------


def asking(guarded: Serving, key: str | None, name: str = "alpha/small", **fields: Any) -> Answer:
    return guarded.ask(chat(name, **fields), headers={"Authorization": f"Bearer {key}"} if key is not None else {})


def test_a_missing_or_wrong_key_is_401(guarded: Serving) -> None:
    for key in (None, "", "wrong", "wp-open-1x", "x" * 8000):
        judge(asking(guarded, key), 401, code="invalid_api_key")
    judge(guarded.get("/v1/models"), 401)
    assert asking(guarded, KEYS["OPEN"]).status == 200
    assert guarded.ask(chat("alpha/small"), headers={"x-api-key": KEYS["OPEN"]}).status == 200


def test_the_first_thing_wrong_is_the_key(guarded: Serving) -> None:
    judge(guarded.ask(b"{"), 401)
    for path in ("/livez", "/readyz", "/metrics"):
        assert guarded.get(path).status == 200


def test_a_key_sees_and_uses_only_its_models(guarded: Serving) -> None:
    mine = {"Authorization": f"Bearer {KEYS['NARROW']}"}
    judge(asking(guarded, KEYS["NARROW"], "alpha/large"), 403, code="model_not_allowed", param="model")
    assert verify(asking(guarded, KEYS["NARROW"]).text)
    assert [row["id"] for row in guarded.get("/v1/models", headers=mine).json["data"]] == ["alpha/small"]
    judge(guarded.get("/v1/models/alpha%2Flarge", headers=mine), 404)
    judge(asking(guarded, KEYS["NARROW"], "alpha/small", models=["alpha/large"]), 403)


def test_requests_per_minute(guarded: Serving) -> None:
    answers = [asking(guarded, KEYS["SLOW"]) for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 429, 429]
    error = judge(answers[-1], 429, says="minute")
    assert error["type"] == "rate_limit_error"
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
    assert "x-should-retry" not in answers[-1].headers  # waiting does help


def test_tokens_per_minute(guarded: Serving) -> None:
    assert asking(guarded, KEYS["THIN"], max_tokens=100).status == 200
    too_many = asking(guarded, KEYS["THIN"], max_tokens=250)
    judge(too_many, 429)
    assert int(too_many.headers["retry-after"]) >= 1
    never = asking(guarded, KEYS["THIN"], max_tokens=5000)  # more than any minute holds
    judge(never, {400, 429})
    assert never.headers.get("x-should-retry") == "false" or never.status == 429


def test_a_budget_is_never_overspent(guarded: Serving) -> None:
    with ThreadPoolExecutor(8) as pool:  # 100,000 nano-dollars; one call may cost 9,000 + 20 x 2,000
        answers = list(pool.map(lambda _: asking(guarded, KEYS["POOR"], max_tokens=20), range(16)))
    assert {answer.status for answer in answers} == {200, next(a.status for a in answers if a.status != 200)}
    refused = next(answer for answer in answers if answer.status != 200)
    error = judge(refused, {402, 429}, says="budget")
    assert error["code"]
    spent = sum(int(row["cost_nusd"]) for row in guarded.rows() if row["key"] == "poor")
    assert 0 < spent <= 100_000
    free = asking(guarded, KEYS["OPEN"])
    assert free.status == 200


# --- nothing dies, nothing grows -----------------------------------------------------------------------------------------


def test_it_lives_through_all_of_it_without_growing(gateway: Serving) -> None:
    for bad in BODIES:
        gateway.ask(bad.body)
    before = gateway.rss_mib()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda bad: gateway.ask(bad.body), BODIES * 6))
    assert gateway.rss_mib() - before < 15
    assert verify(gateway.ask(chat("stable")).text)
    assert "Traceback" not in gateway.text
    assert not [row for row in gateway.rows() if row["outcome"] != "ok"]


# --- the operator's mistakes ---------------------------------------------------------------------------------------------

BROKEN = """
[server]
prot = 4000
port = 70000
[providers.lab]
wire = "openai-caht"
base_url = "ftp://somewhere"
api_key = "sk-live-in-the-file"
[routes.auto]
order = ["lab/x", "nobody/y"]
[timeouts]
first_token_ms = "soon"
[frobnicate]
x = 1
"""


@pytest.mark.parametrize("verb", ["serve", "check"])
def test_every_mistake_of_a_configuration_is_told_at_once(tmp_path: Path, verb: str) -> None:
    (tmp_path / "broken.toml").write_text(BROKEN)
    run = command(verb, "--config", "broken.toml", cwd=tmp_path)
    assert run.returncode == 1
    for told in (
        "server.prot",
        "port",
        "server.port",
        "70000",
        "providers.lab.wire",
        "base_url",
        "api_key",
        "timeouts.first_token_ms",
        "frobnicate",
    ):
        assert told in run.stderr, told
    assert "sk-live-in-the-file" not in run.stderr and "Traceback" not in run.stderr


@pytest.mark.parametrize(("text", "says"), [("[server\n", "TOML"), ("\xff", "UTF-8"), (None, "cannot be read")])
def test_a_file_that_is_no_configuration(tmp_path: Path, text: str | None, says: str) -> None:
    if text is not None:
        (tmp_path / "w.toml").write_bytes(text.encode("latin-1"))
    run = command("check", "--config", "w.toml", cwd=tmp_path)
    assert run.returncode == 1 and says in run.stderr and "Traceback" not in run.stderr


def test_a_route_that_names_nobody_says_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "w.toml").write_text(provider("lab", "http://127.0.0.1:1") + model("lab/small", "m") + route("auto", "lab/smal"))
    run = command("check", "--config", "w.toml", cwd=tmp_path, env={"SIM_KEY": "x"})
    assert run.returncode == 1 and "routes.auto" in run.stderr and "lab/small" in run.stderr


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        run = command("serve", "--port", str(taken.getsockname()[1]), cwd=tmp_path)
    assert run.returncode == 1
    assert str(taken.getsockname) and "in use" in run.stderr.lower() and "--port" in run.stderr and "Traceback" not in run.stderr


def test_a_ledger_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "waypost.toml").write_text('[storage]\nurl = "sqlite:nowhere/deep/waypost.db"\n')
    (tmp_path / "nowhere").write_text("a file, no directory")
    run = command("serve", "--port", "0", cwd=tmp_path)
    assert run.returncode == 1 and "Traceback" not in run.stderr and "nowhere" in run.stderr


def test_a_provider_without_its_key_is_off_with_a_warning(serve: Serve) -> None:
    gateway = serve('[providers.openai]\napi_key = "env:NOT_SET_ANYWHERE"\n')
    assert "NOT_SET_ANYWHERE" in gateway.text
    judge(gateway.ask(chat("openai/gpt-4o-mini")), 404, says="switched on")
