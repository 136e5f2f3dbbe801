"""One contract, two ledgers: what memory answers, the journal with SQLite answers too."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from waypost.adapters.journal import Journal
from waypost.adapters.memory import GROUPINGS, MemoryLedger
from waypost.adapters.sqlite import SqliteLedger
from waypost.core.types import Attempt, Decision, Need, Usage

T0 = 1_790_000_000_000


def attempt(request: str, number: int = 1, **facts: object) -> Attempt:
    usual: dict[str, object] = {
        "at_ms": T0,
        "key": "team",
        "segment": "search",
        "route": "auto",
        "model": "lab/small",
        "provider": "lab",
        "outcome": "ok",
    }
    usual |= {"usage": Usage(100, 20, 5, 50, 10), "cost_nusd": 1000, "ttft_ms": 200.0, "total_ms": 900.0, "status": 200, "stream": True}
    return Attempt(request_id=request, attempt=number, **(usual | facts))  # type: ignore[arg-type]


def decision() -> Decision:
    need = Need(task="code", prompt_tokens=10, expected_output_tokens=20, capabilities=frozenset({"tools"}), reasons=("has code",))
    return Decision("auto", "auto", "", "lab/small", 0.5, need, (), (), ("lab/small",), ("cheapest",), "cost", 0.25, "abc")


class Book(Protocol):
    """The writing side and, by `read()`, the reading side once everything is fed."""

    writes: Journal | MemoryLedger

    def read(self) -> SqliteLedger | MemoryLedger: ...


class InMemory:
    def __init__(self) -> None:
        self.writes = MemoryLedger()

    def read(self) -> MemoryLedger:
        return self.writes


class OnDisk:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.writes = Journal(path, thread=False)
        self._readers: list[SqliteLedger] = []

    def read(self) -> SqliteLedger:
        self.writes.tick()
        self._readers.append(SqliteLedger(self._path, read_only=True))
        return self._readers[-1]

    def close(self) -> None:
        for reader in self._readers:
            reader.close()


@pytest.fixture(params=["memory", "sqlite"])
def book(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Book]:
    if request.param == "memory":
        yield InMemory()
        return
    on_disk = OnDisk(tmp_path / "waypost.db")
    yield on_disk
    on_disk.close()
    on_disk.writes.close()


def test_a_row_comes_back_as_it_went_in(book: Book):
    row = attempt("r1", fault="truncated", task="code", config="abc", ttft_ms=None, cost_nusd=None)
    book.writes.opened(row, 5000)
    book.writes.settled(row, None)
    assert list(book.read().attempts()) == [row]


def test_an_open_attempt_is_no_row_yet(book: Book):
    book.writes.opened(attempt("r1"), 5000)
    assert list(book.read().attempts()) == []


def test_settling_the_same_attempt_twice_keeps_the_first(book: Book):
    book.writes.settled(attempt("r1", cost_nusd=1), None)
    book.writes.settled(attempt("r1", cost_nusd=2), None)
    assert [row.cost_nusd for row in book.read().attempts()] == [1]


def test_rows_are_given_by_time_and_from_a_time_on(book: Book):
    for request, at_ms in (("c", T0 + 2), ("b", T0), ("a", T0 + 1)):
        book.writes.settled(attempt(request, at_ms=at_ms), None)
    assert [row.request_id for row in book.read().attempts()] == ["b", "a", "c"]
    assert [row.request_id for row in book.read().attempts(since_ms=T0 + 1)] == ["a", "c"]


def test_a_request_with_two_attempts_counts_once(book: Book):
    book.writes.settled(attempt("r1", 1, outcome="failed", cost_nusd=0, usage=Usage(), ttft_ms=None, model="lab/big"), None)
    book.writes.settled(attempt("r1", 2), None)
    (total,) = book.read().totals()
    assert (total.requests, total.attempts, total.errors, total.cost_nusd) == (1, 2, 1, 1000)
    assert [line.label for line in book.read().totals("model")] == ["lab/small", "lab/big"]


def test_an_unknown_price_is_counted_not_summed(book: Book):
    book.writes.settled(attempt("r1", cost_nusd=None), None)
    book.writes.settled(attempt("r2", cost_nusd=700), None)
    (total,) = book.read().totals()
    assert (total.cost_nusd, total.unknown_prices) == (700, 1)


def test_estimated_and_impossible_usage_is_counted(book: Book):
    for source in ("reported", "estimated", "impossible"):
        book.writes.settled(attempt(source, usage=Usage(1, 0, 0, 1, 0, source)), None)  # type: ignore[arg-type]
    assert book.read().totals()[0].estimated == 2


def test_latency_is_that_of_answers(book: Book):
    for request, outcome, ms in (("a", "ok", 100.0), ("b", "length_cut", 300.0), ("c", "failed", 9e5), ("d", "cache", 0.1)):
        book.writes.settled(attempt(request, outcome=outcome, ttft_ms=ms, total_ms=ms), None)
    (total,) = book.read().totals()
    assert (total.ttft_p50_ms, total.total_p50_ms, total.total_p99_ms) == (200.0, 200.0, 298.0)


def test_spent_is_what_one_key_cost_since_a_time(book: Book):
    for request, key, at_ms, cost in (
        ("a", "team", T0, 1),
        ("b", "team", T0 + 5, 10),
        ("c", "other", T0 + 5, 100),
        ("d", "team", T0 + 9, None),
    ):
        book.writes.settled(attempt(request, key=key, at_ms=at_ms, cost_nusd=cost), None)
    assert (book.read().spent("team", 0), book.read().spent("team", T0 + 5), book.read().spent("nobody", 0)) == (11, 10, 0)


def test_a_decision_is_found_again(book: Book):
    book.writes.settled(attempt("r1"), decision())
    book.writes.settled(attempt("r2"), None)
    assert (book.read().decision("r1"), book.read().decision("r2")) == (decision(), None)


@pytest.mark.parametrize(("report", "cost_nusd"), [(False, 5000), (True, 70)])
def test_what_is_open_at_the_end_is_interrupted_at_what_was_received_or_the_worst_case(
    make_book: Callable[[], "tuple[Journal | MemoryLedger, Callable[[], list[Attempt]]]"], report: bool, cost_nusd: int
):
    writes, rows = make_book()
    writes.opened(attempt("r1", usage=Usage(input_tokens=100), cost_nusd=None), 5000)
    if report:
        writes.received(attempt("r1", usage=Usage(100, 0, 0, 7), cost_nusd=70))
    writes.close()
    (row,) = rows()
    assert (row.outcome, row.cost_nusd, row.usage.source) == ("interrupted", cost_nusd, "estimated")


def test_a_late_report_opens_nothing_again(make_book: Callable[[], "tuple[Journal | MemoryLedger, Callable[[], list[Attempt]]]"]):
    writes, rows = make_book()
    writes.opened(attempt("r1"), 5000)
    writes.settled(attempt("r1"), None)
    writes.received(attempt("r1", cost_nusd=70))
    writes.received(attempt("never opened"))
    writes.close()
    assert rows() == [attempt("r1")]


@pytest.fixture(params=["memory", "sqlite"])
def make_book(request: pytest.FixtureRequest, tmp_path: Path) -> "Callable[[], tuple[Journal | MemoryLedger, Callable[[], list[Attempt]]]]":
    """A book to be closed by the test, and how to read it then."""

    def make() -> "tuple[Journal | MemoryLedger, Callable[[], list[Attempt]]]":
        if request.param == "memory":
            ledger = MemoryLedger()
            return ledger, lambda: list(ledger.attempts())
        path = tmp_path / "closed.db"
        return Journal(path, thread=False), lambda: list(SqliteLedger(path, read_only=True).attempts())

    return make


ROWS = st.lists(
    st.builds(
        attempt,
        request=st.sampled_from("abcdef"),
        number=st.integers(1, 3),
        at_ms=st.integers(T0, T0 + 100),
        key=st.sampled_from(("k1", "k2")),
        segment=st.sampled_from(("", "s")),
        model=st.sampled_from(("lab/small", "spare/large")),
        outcome=st.sampled_from(("ok", "failed", "cancelled", "interrupted", "length_cut", "cache")),
        cost_nusd=st.one_of(st.none(), st.integers(0, 10**12)),
        ttft_ms=st.one_of(st.none(), st.floats(0, 1e6)),
        total_ms=st.floats(0, 1e6),
    ),
    max_size=30,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, since_ms=st.integers(T0, T0 + 100))
def test_both_ledgers_give_the_same_totals(tmp_path_factory: pytest.TempPathFactory, rows: list[Attempt], since_ms: int):
    memory, disk = MemoryLedger(), OnDisk(tmp_path_factory.mktemp("law") / "waypost.db")
    for row in rows:
        memory.settled(row, None)
        disk.writes.settled(row, None)
    for by in GROUPINGS:
        for ours, reference in zip(disk.read().totals(by, since_ms=since_ms), memory.totals(by, since_ms=since_ms), strict=True):
            for field in reference.__struct_fields__:
                assert getattr(ours, field) == pytest.approx(getattr(reference, field)), (by, field)
    disk.close()
    disk.writes.close()
