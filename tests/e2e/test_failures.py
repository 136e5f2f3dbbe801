"""Every failure of a provider, seen by a caller: each script x streaming or not x alone or with an equivalent second x wire.

A caller gets a whole answer, one clean error, or, once content was delivered, a typed error event: never an answer that looks whole and is
not. All cells are asked at once, of one `waypost serve`; what each got is judged one by one, and against the simulator's own record.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

import pytest
from e2e_kit import SECRET, WIRES, Answer, Serving, chat, free_port, model, provider, route, told

from waypost.sim.provider import Simulator
from waypost.sim.records import Record
from waypost.sim.texts import verify, verify_prefix

FIRST_TOKEN_MS, IDLE_MS = 1000, 800
CHAT, ANTHROPIC, GEMINI = WIRES
Fate = Literal["whole", "before", "after", "own", "cut", "either"]
Mode = Literal["stream", "gathered", "direct"]  # gathered: the caller does not stream, the gateway does; direct: nobody does


class Script(NamedTuple):
    """What a provider does, and what becomes of it when the answer is streamed upstream and when it is not.

    whole: an answer. before: fails with nothing delivered. after: fails with content delivered. own: the caller's own fault. cut: ended
    by us at the ceiling. either: a whole answer or a failure, the provider's words leave both open.
    """

    words: str
    streamed: Fate
    direct: Fate
    statuses: set[int] = frozenset()  # type: ignore[assignment]
    wires: tuple[str, ...] = WIRES


SCRIPTS = [
    Script("ok", "whole", "whole"),
    Script("fail-500", "before", "before", {502}),
    Script("fail-502", "before", "before", {502}),
    Script("fail-503", "before", "before", {503}),
    Script("fail-503-html", "before", "before", {502, 503}),
    Script("fail-503-bare", "before", "before", {503}),
    Script("fail-504", "before", "before", {502, 504}),
    Script("fail-529", "before", "before", {503}),
    Script("fail-429", "before", "before", {429}),
    Script("fail-429-ra2", "before", "before", {429}),
    Script("fail-429-ms1500", "before", "before", {429}),
    Script("fail-429-date", "before", "before", {429}),
    Script("fail-429-garbage", "before", "before", {429}),
    Script("fail-429-negative", "before", "before", {429}),
    Script("fail-429-quota", "before", "before", {503, 429}),
    Script("fail-401", "before", "before", {503}),
    Script("fail-402", "before", "before", {503}),
    Script("fail-403", "before", "before", {503}),
    Script("fail-404", "before", "before", {503}),
    Script("refused", "before", "before", {502}),  # nobody listens; not a word of the simulator
    Script("refuse", "before", "before", {502}),
    Script("reset", "before", "before", {502}),
    Script("silence-3600", "before", "before", {504}),
    Script("slow-20", "before", "before", {504}),
    Script("comments-30", "before", "before", {504}),
    Script("blank-lines-30", "before", "before", {504}),
    Script("pings-30", "before", "before", {504}),
    Script("redirect", "before", "before", {502}),
    Script("error-200", "before", "before", {502, 503}),
    Script("empty-200", "before", "before", {502}),
    Script("html-200", "before", "before", {502}),
    Script("gzip-bomb", "before", "before", {502}),
    Script("error-0", "before", "before", {502, 503}),
    Script("malformed-0", "before", "before", {502}),
    Script("stall-0", "before", "before", {504}),
    Script("cut-0", "before", "before", {502}),
    Script("rst-0", "before", "before", {502}),
    Script("stall-5", "after", "before", {504}),
    Script("cut-5", "after", "before", {502}),
    Script("rst-5", "after", "before", {502}),
    Script("error-5", "after", "before", {502, 503}),
    Script("malformed-5", "after", "before", {502}),
    Script("clean-cut-5", "after", "whole", {502}),
    Script("cut-last", "after", "before", {502}),
    Script("no-done", "after", "either", {502}, (CHAT, ANTHROPIC)),
    Script("no-finish", "either", "either", {502}),
    Script("wrong-type", "either", "either", {502}),
    Script("giant-line-10", "either", "either", {502, 504}),  # ten megabytes may also outlast the first-token clock
    Script("fail-400", "own", "own", {400}),
    Script("fail-413", "own", "own", {400, 413}),
    Script("fail-422", "own", "own", {400, 422}),
    Script("blocked-prompt", "own", "own", {400}),
    Script("endless", "cut", "before", {502, 504}),
    Script("ignore-max-n900", "cut", "either", {502}),
    Script("no-usage", "whole", "whole"),
    Script("zero-usage", "whole", "whole"),
    Script("usage-in-choice", "whole", "whole", wires=(CHAT,)),
    Script("dup-finish", "whole", "whole"),
    Script("empty-choices", "whole", "either", {502}),
    Script("unknown-event", "whole", "whole"),
    Script("not-stream", "whole", "whole"),
    Script("early-hints", "whole", "whole"),
    Script("pings-0.2", "whole", "whole"),
    Script("comments-0.2", "whole", "whole"),
    Script("blank-lines-0.2", "whole", "whole"),
    Script("burst-10", "whole", "whole"),
    Script("split-1", "whole", "whole"),
    Script("crlf", "whole", "whole"),
    Script("cr", "whole", "whole"),
    Script("bom", "whole", "whole"),
    Script("u2028", "whole", "whole"),
]
MODES: tuple[Mode, ...] = ("stream", "gathered", "direct")
MAX_TOKENS = {"stream": 100, "gathered": 100, "direct": 24}  # at 50 tokens a second, 24 come within the first-token clock, 100 do not


class Cell(NamedTuple):
    number: int
    script: Script
    wire: str
    mode: Mode
    is_alone: bool

    @property
    def name(self) -> str:
        return f"{self.script.words}-{self.wire.split('-')[0]}-{self.mode}-{'alone' if self.is_alone else 'first'}"

    @property
    def provider(self) -> str:
        return f"p{self.number}"

    @property
    def marker(self) -> str:
        return f"cell{self.number}"

    @property
    def second(self) -> str:
        """The equivalent provider: of every wire in turn, and several, so that the failovers of hundreds of cells are no storm on one."""
        return f"good{self.number % 40}-{WIRES[self.number % 40 % 3]}"

    @property
    def fate(self) -> Fate:
        """What becomes of it at the first provider. A caller who does not stream has nothing yet, so nothing is delivered to him."""
        script = self.script
        fate = script.direct if self.mode == "direct" else script.streamed
        return "before" if fate == "after" and self.mode == "gathered" else fate

    @property
    def upstream(self) -> str:
        """The model's name as the simulator reads it: an answer shorter than the ceiling, unless the script says how long."""
        words = "ok" if self.script.words == "refused" else self.script.words
        return f"m.{words}" if "-n" in words else f"m.{words}-n20"


CELLS = [
    Cell(number, script, wire, mode, is_alone)
    for number, (script, wire, mode, is_alone) in enumerate(
        (script, wire, mode, is_alone) for script in SCRIPTS for wire in script.wires for mode in MODES for is_alone in (False, True)
    )
]


class Got(NamedTuple):
    answer: Answer
    rows: list[dict[str, str]]
    records: list[Record]


@pytest.fixture(scope="module")
def every(sim: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Got]]:
    with Serving(_config(sim), tmp_path_factory.mktemp("failures")) as gateway:
        with ThreadPoolExecutor(24) as pool:
            answers = list(pool.map(lambda cell: _ask(gateway, cell), CELLS))
        assert gateway.get("/livez").status == 200
        rows: dict[str, list[dict[str, str]]] = {}
        for row in gateway.rows():
            rows.setdefault(row["request_id"], []).append(row)
    records: dict[str, list[Record]] = {}
    for record in sim.log:
        records.setdefault(record.marker, []).append(record)
    yield {
        cell.number: Got(answer, rows.get(answer.headers["x-request-id"], []), records.get(cell.marker, []))
        for cell, answer in zip(CELLS, answers, strict=True)
    }


def _config(sim: Simulator) -> str:
    parts = [f"[timeouts]\nfirst_token_ms = {FIRST_TOKEN_MS}\nidle_ms = {IDLE_MS}\n"]
    for name in {cell.second: None for cell in CELLS}:
        parts += [provider(name, f"{sim.box.origin}/p/{name}", name.partition("-")[2]), model(f"{name}/m", "m.ok-n20")]
    nobody = f"http://127.0.0.1:{free_port()}"
    for cell in CELLS:
        name = cell.provider
        origin = nobody if cell.script.words == "refused" else f"{sim.box.origin}/p/{name}"
        parts += [
            provider(name, origin, cell.wire),
            model(f"{name}/m", cell.upstream),
            route(f"r{cell.number}", f"{name}/m", f"{cell.second}/m"),
        ]
    return "\n".join(parts)


def _ask(gateway: Serving, cell: Cell) -> Answer:
    wish = f"{cell.provider}/m" if cell.is_alone else f"r{cell.number}"
    return gateway.ask(chat(wish, stream=cell.mode == "stream", marker=cell.marker, max_tokens=MAX_TOKENS[cell.mode]))


# --- the judgement -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_a_caller_never_gets_less_than_he_is_told(cell: Cell, every: dict[int, Got]) -> None:
    got = every[cell.number]
    answer = got.answer
    assert not answer.broken
    leaks = [secret for secret in (SECRET, "127.0.0.1", "/p/p") if secret in answer.body.decode() or secret in str(answer.headers)]
    assert not leaks
    judge = {"whole": _whole, "before": _before, "after": _after, "own": _own, "cut": _cut, "either": _either}[cell.fate]
    judge(cell, got)
    _accounted(cell, got)


def _whole(cell: Cell, got: Got) -> None:
    """A whole answer of the first provider, in one attempt."""
    _is_whole(cell, got.answer)
    assert got.answer.headers["x-waypost-attempts"] == "1"
    assert got.answer.headers["x-waypost-model"] == f"{cell.provider}/m"


def _before(cell: Cell, got: Got) -> None:
    """Nothing was delivered: the second provider answers; where there is none, one clean error."""
    answer = got.answer
    if cell.is_alone:
        _is_clean_error(cell, answer)
        return
    _is_whole(cell, answer)
    assert answer.headers["x-waypost-model"].startswith("good")
    assert int(answer.headers["x-waypost-attempts"]) in (2, 3)


def _after(cell: Cell, got: Got) -> None:
    """Content was delivered: a typed error event ends the stream, and not a byte of anybody else follows."""
    answer = got.answer
    stream = told(answer.body)
    assert answer.status == 200
    assert stream.error is not None and stream.error["type"] and stream.error["message"], answer.body[-400:]
    assert not stream.done and stream.after_error == 0
    assert stream.finish is None or cell.script.words == "no-done"
    assert stream.text and verify_prefix(stream.text)
    assert answer.headers["x-waypost-attempts"] == "1"
    assert len(got.records) == 1


def _own(cell: Cell, got: Got) -> None:
    """The caller's own mistake: one attempt, the provider's reason, no second opinion."""
    _is_clean_error(cell, got.answer)
    assert got.answer.headers["x-waypost-attempts"] == "1"
    assert len(got.records) == 1


def _cut(cell: Cell, got: Got) -> None:
    """Ended by us where the provider should have: at the caller's ceiling, and billed no further."""
    answer = got.answer
    if cell.mode == "stream":
        stream = told(answer.body)
        assert stream.done and stream.error is None
        text, finish, usage = stream.text, stream.finish, stream.usage
    else:
        text, finish, usage = answer.text, answer.finish, answer.json["usage"]
    assert answer.status == 200 and finish == "length"
    # The ceiling + 10 % + 16, counted by a bound that is certainly too low: up to 1.25 of the simulator's tokens, and one read of 1 KiB.
    assert len(text) / 4 <= (MAX_TOKENS[cell.mode] * 1.1 + 16) * 1.25 + 12
    assert usage is not None and usage["completion_tokens"] <= MAX_TOKENS[cell.mode]
    assert got.rows[-1]["outcome"] == "length_cut"
    assert MAX_TOKENS[cell.mode] * 0.7 <= int(got.rows[-1]["output_tokens"]) <= MAX_TOKENS[cell.mode]


def _either(cell: Cell, got: Got) -> None:
    """The provider's words can be read both ways; what the caller gets cannot."""
    answer = got.answer
    if answer.status != 200:
        assert cell.is_alone
        _is_clean_error(cell, answer)
    elif cell.mode == "stream" and told(answer.body).error is not None:
        _after(cell, got)
    elif "ignore-max" in cell.script.words and answer.headers["x-waypost-model"] == f"{cell.provider}/m":
        assert verify_prefix(answer.text)
    elif "empty-choices" in cell.script.words and cell.wire == ANTHROPIC:
        assert answer.text == "" and answer.finish == "stop"  # Anthropic's empty `content` is an answer
    else:
        _is_whole(cell, answer)


def _is_whole(cell: Cell, answer: Answer) -> None:
    assert answer.status == 200, answer.body[:400]
    if cell.mode == "stream":
        stream = told(answer.body)
        assert stream.error is None and stream.done, answer.body[-400:]
        text, finish, usage = stream.text, stream.finish, stream.usage
        assert answer.body.rstrip().endswith(b"data: [DONE]") or "cr" in cell.script.words
    else:
        text, finish, usage = answer.text, answer.finish, answer.json.get("usage")
    assert verify(text), text
    assert finish == "stop" or cell.script.words == "no-finish"
    if "usage" not in cell.script.words and cell.fate != "either":
        assert usage is not None and usage["completion_tokens"] == 20 and "cost" in usage


def _is_clean_error(cell: Cell, answer: Answer) -> None:
    assert answer.status in cell.script.statuses, (answer.status, answer.body[:400])
    assert answer.error["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert answer.headers["content-type"].startswith("application/json")


def _accounted(cell: Cell, got: Got) -> None:
    """One row per attempt and no other, and for a whole answer the bill of the provider, to the token."""
    rows = got.rows
    assert len(rows) == int(got.answer.headers["x-waypost-attempts"])
    assert [int(row["attempt"]) for row in rows] == list(range(1, len(rows) + 1))
    asked = rows if cell.script.words != "refused" else [row for row in rows if row["provider"] != cell.provider]
    assert not any(record.redirected for record in got.records)
    for row, record in zip(asked, got.records, strict=True):  # nobody was asked more often than is booked
        assert row["provider"] == record.provider
        if row["outcome"] == "ok" and row["usage_source"] == "reported":
            assert (int(row["input_tokens"]), int(row["output_tokens"])) == (record.prompt_tokens, record.output_tokens)
            assert int(row["cost_nusd"]) == 1000 * record.prompt_tokens + 2000 * record.output_tokens
        if row["outcome"] == "failed" and cell.fate == "after":
            assert row["usage_source"] == "estimated" or cell.wire == GEMINI  # Gemini reports so far in every chunk
            delivered = len(told(got.answer.body).text) / 4
            assert delivered * 0.7 <= int(row["output_tokens"]) <= delivered * 1.4
            assert int(row["input_tokens"]) > 0 and int(row["cost_nusd"]) > 0


def test_a_redirect_is_never_followed(every: dict[int, Got], sim: Simulator) -> None:
    assert any(cell.script.words == "redirect" for cell in CELLS) and every
    assert not [record for record in sim.log if record.redirected]


def test_usage_that_was_not_reported_is_named_an_estimate(every: dict[int, Got]) -> None:
    sources = {cell.name: every[cell.number].rows[0]["usage_source"] for cell in CELLS if cell.script.words in ("no-usage", "zero-usage")}
    assert set(sources.values()) <= {"estimated", "impossible"}, sources
