"""The journal where it differs from memory: death, torn files, full disks, overflow, rotation, several workers."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from zlib import crc32

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from waypost.adapters import journal as journal_module
from waypost.adapters.journal import Journal
from waypost.adapters.memory import MemoryLedger
from waypost.adapters.segments import pending
from waypost.adapters.sqlite import LedgerError, SqliteLedger, database_path
from waypost.core.types import Attempt, Usage


def attempt(request: str, number: int = 1, **facts: object) -> Attempt:
    usual: dict[str, object] = {
        "at_ms": 1_790_000_000_000,
        "key": "team",
        "segment": "",
        "route": "auto",
        "model": "lab/small",
        "provider": "lab",
    }
    usual |= {"outcome": "ok", "usage": Usage(100, 0, 0, 50), "cost_nusd": 1000}
    return Attempt(request_id=request, attempt=number, **(usual | facts))  # type: ignore[arg-type]


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "waypost.db"


def rows(db: Path) -> dict[str, str]:
    """Request -> outcome; fails if an attempt stands there twice."""
    ledger = SqliteLedger(db, read_only=True)
    found = [(row.request_id, row.outcome) for row in ledger.attempts()]
    ledger.close()
    assert len(found) == len(dict(found))
    return dict(found)


def logs(db: Path) -> list[Path]:
    return sorted(Path(f"{db}.journal").glob("*.log"))


def dies(work: Callable[[], None]) -> None:
    """Do `work` in a process that ends as by kill -9: nothing is closed, flushed or run at exit."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


class Disk:
    """Space as the journal takes it: as much as wanted, or, when `is_full`, refused as a full disk does."""

    def __init__(self) -> None:
        self.is_full = False

    def __call__(self, fd: int, size: int) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        journal_module.allocate(fd, size)


def written(log: Path) -> bytes:
    """A segment's content without the space that was allocated and not used."""
    return log.read_bytes().rstrip(b"\0")


# --- death -----------------------------------------------------------------------------------------------------------


def test_what_a_dead_worker_settled_is_fed_and_what_it_left_open_is_interrupted(db: Path):
    def work() -> None:
        journal = Journal(db, thread=False)
        journal.opened(attempt("open", usage=Usage(100)), 9000)
        journal.opened(attempt("done"), 9000)
        journal.settled(attempt("done"), None)

    dies(work)
    journal = Journal(db, thread=False)
    assert rows(db) == {"done": "ok", "open": "interrupted"}
    assert (journal.status().recovered_rows, journal.status().interrupted_rows) == (1, 1)
    journal.close()
    assert logs(db) == []


def test_a_worker_that_dies_after_feeding_is_not_fed_again(db: Path):
    def work() -> None:
        journal = Journal(db, thread=False)
        journal.settled(attempt("a"), None)
        journal.tick()
        journal.settled(attempt("b"), None)

    dies(work)
    journal = Journal(db, thread=False)
    assert rows(db) == {"a": "ok", "b": "ok"}
    assert journal.status().recovered_rows == 1
    journal.close()


def test_a_living_workers_files_are_left_alone(db: Path):
    first, second = Journal(db, thread=False), Journal(db, thread=False)
    first.opened(attempt("a"), 1)
    first.settled(attempt("b"), None)
    second.recover()
    assert rows(db) == {}
    first.settled(attempt("a"), None)
    first.close()
    second.close()
    assert rows(db) == {"a": "ok", "b": "ok"}


def test_a_living_worker_settles_for_a_dead_one(db: Path):
    survivor = Journal(db, thread=False)
    dies(lambda: Journal(db, thread=False).opened(attempt("a"), 1))
    survivor.recover()
    assert rows(db) == {"a": "interrupted"}
    survivor.close()


def test_a_report_sees_unfed_rows_of_all_and_open_attempts_of_the_dead_only(db: Path):
    alive = Journal(db, thread=False)
    alive.settled(attempt("alive-done"), None)
    alive.opened(attempt("alive-open"), 1)

    def work() -> None:
        Journal(db, thread=False).opened(attempt("dead-open"), 1)

    dies(work)
    ledger = SqliteLedger(db, read_only=True)
    ledger.overlay(pending(db))
    assert {row.request_id: row.outcome for row in ledger.attempts()} == {"alive-done": "ok", "dead-open": "interrupted"}
    assert ledger.totals()[0].attempts == 2
    ledger.close()
    assert rows(db) == {}  # it only looked
    alive.close()


def test_an_overlay_counts_no_row_twice(db: Path):
    journal = Journal(db, thread=False)
    journal.settled(attempt("a"), None)
    unfed = pending(db)
    journal.tick()
    ledger = SqliteLedger(db, read_only=True)
    ledger.overlay(unfed)
    assert [row.request_id for row in ledger.attempts()] == ["a"]
    ledger.close()
    journal.close()


# --- torn and broken files -------------------------------------------------------------------------------------------


def settle_three(db: Path) -> None:
    journal = Journal(db, thread=False)
    for request in "abc":
        journal.settled(attempt(request), None)


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        (lambda content: content[:-1], "ab"),
        (lambda content: content[: len(content) * 2 // 3 + 3], "ab"),
        (lambda content: content + b"\xff" * 7, "abc"),
        (lambda content: content.replace(b'"request_id":"b"', b'"request_id":"X"'), "ac"),
    ],
    ids=["last byte lost", "header cut", "tail of noise", "flipped in the middle"],
)
def test_a_damaged_record_is_counted_and_hides_no_whole_one(db: Path, damage: Callable[[bytes], bytes], left: str):
    dies(lambda: settle_three(db))
    (log,) = logs(db)
    log.write_bytes(damage(written(log)))
    journal = Journal(db, thread=False)
    assert "".join(sorted(rows(db))) == left
    assert journal.status().torn_records == 1
    journal.close()


def test_a_record_of_a_newer_version_is_left_to_it(db: Path):
    dies(lambda: settle_three(db))
    (log,) = logs(db)
    payload = b'{"is":"invented-later","attempt":{}}'
    log.write_bytes(written(log) + len(payload).to_bytes(4, "little") + crc32(payload).to_bytes(4, "little") + payload)
    journal = Journal(db, thread=False)
    assert (journal.status().failing or "").startswith("recovery:")
    assert log.exists()
    journal.close()  # nor does closing stumble over it


# --- the disk refuses ------------------------------------------------------------------------------------------------


def fill(journal: Journal, disk: Disk) -> int:
    """Open attempts until the disk refuses one; gives how many it took."""
    disk.is_full = True
    for taken in range(10_000):
        try:
            journal.opened(attempt(f"f{taken}"), 1)
        except OSError as error:
            assert error.errno == errno.ENOSPC
            return taken
    raise AssertionError("the disk never refused")


def test_a_full_disk_refuses_new_work_and_forgets_nothing(db: Path):
    disk = Disk()
    journal = Journal(db, thread=False, allocate=disk, segment_bytes=4000)
    taken = fill(journal, disk)
    with pytest.raises(OSError, match="No space left"):
        journal.opened(attempt("c"), 1)
    assert (journal.status().failing or "").startswith("journal:")
    disk.is_full = False
    journal.opened(attempt("d"), 1)
    assert journal.status().failing is None
    for request in ("d", *(f"f{number}" for number in range(taken))):
        journal.settled(attempt(request), None)
    journal.close()
    assert rows(db) == {"d": "ok"} | {f"f{number}": "ok" for number in range(taken)}


def test_a_result_the_disk_refuses_waits_in_memory_and_reaches_the_ledger(db: Path):
    disk = Disk()
    journal = Journal(db, thread=False, allocate=disk, segment_bytes=4000)
    taken = fill(journal, disk)
    for number in range(taken):
        journal.settled(attempt(f"f{number}"), None)
    assert journal.status().unwritten_rows > 0
    journal.tick()
    assert journal.status().unwritten_rows == 0
    disk.is_full = False
    journal.close()
    assert rows(db) == {f"f{number}": "ok" for number in range(taken)}


def test_space_that_was_allocated_and_not_used_is_given_back(db: Path):
    journal = Journal(db, thread=False, segment_bytes=1 << 20)
    journal.settled(attempt("a"), None)
    (log,) = logs(db)
    assert log.stat().st_size == 1 << 20
    kill(journal)
    Journal(db, thread=False).close()
    assert logs(db) == []
    assert rows(db) == {"a": "ok"}


def test_a_disk_that_fails_to_sync_takes_no_new_work_until_it_syncs_again(db: Path):
    faults = iter([OSError(errno.EIO, "Input/output error")])

    def sync(fd: int) -> None:
        if fault := next(faults, None):
            raise fault
        os.fdatasync(fd)

    journal = Journal(db, thread=False, sync=sync)
    journal.opened(attempt("a"), 1)
    journal.tick()
    with pytest.raises(OSError, match="does not keep"):
        journal.opened(attempt("b"), 1)
    journal.settled(attempt("a"), None)  # what runs may finish, in a new segment
    assert len(logs(db)) == 2
    journal.tick()
    journal.opened(attempt("b"), 1)
    journal.settled(attempt("b"), None)
    journal.close()
    assert rows(db) == {"a": "ok", "b": "ok"}


def test_no_new_work_is_taken_while_too_many_results_wait(db: Path, tmp_path: Path):
    disk = Disk()
    journal = Journal(db, thread=False, allocate=disk, segment_bytes=2000)
    fill(journal, disk)
    number = 0
    while journal.status().unwritten_rows < journal_module.UNWRITTEN_ROWS:
        journal.settled(attempt(f"r{number}"), None)
        number += 1
    disk.is_full = False
    with pytest.raises(OSError, match="wait for the disk"):
        journal.opened(attempt("one more"), 1)
    journal.tick()
    journal.opened(attempt("one more"), 1)
    journal.close()
    assert sum(request.startswith("r") for request in rows(db)) == number


def refuse_rows(db: Path, refuse: bool) -> None:
    """Let SQLite itself say no, as it does on a full or broken disk."""
    alter(db, "CREATE TRIGGER no BEFORE INSERT ON attempts BEGIN SELECT RAISE(ABORT, 'no'); END" if refuse else "DROP TRIGGER no")


def alter(db: Path, statement: str) -> None:
    # By apsw, never by the sqlite3 module: two SQLite libraries in one process undo each other's file locks
    # (https://sqlite.org/howtocorrupt.html, 2.2.1).
    side = apsw.Connection(str(db))
    side.execute(statement)
    side.close()


def test_a_refusing_database_delays_rows_and_loses_none(db: Path):
    journal = Journal(db, thread=False, queue_rows=3)
    refuse_rows(db, True)
    for number in range(20):
        journal.settled(attempt(f"r{number}"), None)
    journal.tick()
    assert (journal.status().failing or "").startswith("ledger:")
    refuse_rows(db, False)
    journal.tick()
    assert (journal.status().failing, len(rows(db))) == (None, 20)
    journal.close()


def test_what_could_not_be_fed_at_close_is_fed_by_the_next_start(db: Path):
    journal = Journal(db, thread=False)
    refuse_rows(db, True)
    journal.settled(attempt("a"), None)
    journal.close()
    assert rows(db) == {}
    refuse_rows(db, False)
    Journal(db, thread=False).close()
    assert rows(db) == {"a": "ok"}


# --- overflow, rotation, threads -------------------------------------------------------------------------------------


def test_rows_beyond_the_queue_are_read_back_from_the_segment(db: Path):
    journal = Journal(db, thread=False, queue_rows=4, segment_bytes=4000)
    for number in range(1200):
        journal.settled(attempt(f"r{number:04d}"), None)
        if number == 700:
            journal.tick()
    journal.tick()
    assert list(rows(db)) == [f"r{number:04d}" for number in range(1200)]
    journal.close()


def test_full_segments_are_deleted_but_open_intents_live_on(db: Path):
    def work() -> None:
        journal = Journal(db, thread=False, segment_bytes=2000)
        journal.opened(attempt("long"), 7777)
        for number in range(100):
            journal.settled(attempt(f"r{number}"), None)
            if number % 10 == 9:
                journal.tick()

    dies(work)
    assert len(logs(db)) <= 4
    journal = Journal(db, thread=False)
    assert rows(db) == {"long": "interrupted"} | {f"r{number}": "ok" for number in range(100)}
    journal.close()


def test_the_thread_feeds_while_the_loop_appends(db: Path):
    journal = Journal(db, every_s=0.001, segment_bytes=100_000, queue_rows=50)
    for number in range(3000):
        journal.opened(attempt(f"r{number}"), 1)
        journal.settled(attempt(f"r{number}"), None)
    journal.close()
    assert (len(rows(db)), logs(db)) == (3000, [])


def test_several_workers_start_together_on_one_new_database(db: Path):
    pids = list[int]()
    for worker in range(4):
        pid = os.fork()
        if pid == 0:
            try:
                journal = Journal(db, every_s=0.01)
                for number in range(200):
                    journal.settled(attempt(f"w{worker}-{number}"), None)
                journal.close()
                os._exit(0)
            finally:
                os._exit(1)
        pids.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0, 0, 0]
    assert len(rows(db)) == 800


# --- the law ---------------------------------------------------------------------------------------------------------

DEEDS = st.lists(
    st.tuples(st.sampled_from(("opened", "received", "settled", "settled", "tick", "die", "full")), st.integers(0, 9)), max_size=60
)


@settings(max_examples=40, deadline=None)
@given(deeds=DEEDS, segment_bytes=st.sampled_from((600, 3000, 1 << 20)), queue_rows=st.sampled_from((1, 5, 1000)))
def test_whatever_happens_the_ledger_holds_what_memory_would(
    tmp_path_factory: pytest.TempPathFactory, deeds: list[tuple[str, int]], segment_bytes: int, queue_rows: int
):
    """Deaths, rotations, overflows and refused writes at any point: the same rows as a ledger that knows no such things."""
    db = tmp_path_factory.mktemp("law") / "waypost.db"
    disk, reference = Disk(), MemoryLedger()

    def start() -> Journal:
        return Journal(db, thread=False, segment_bytes=segment_bytes, queue_rows=queue_rows, allocate=disk)

    journal = start()
    fate: Iterator[int] = iter(range(10**6))
    live = dict[int, Attempt]()
    for deed, which in deeds:
        row = live.get(which)
        if deed == "opened" and row is None:
            live[which] = row = attempt(f"r{next(fate)}", usage=Usage(5))
            journal.opened(row, 1000 + which)
            reference.opened(row, 1000 + which)
        elif deed == "received" and row is not None:
            row = replace(row, cost_nusd=which)
            journal.received(row)
            reference.received(row)
        elif deed == "settled" and row is not None:
            journal.settled(live.pop(which), None)
            reference.settled(row, None)
        elif deed == "tick":
            journal.tick()
        elif deed == "die":
            kill(journal)
            reference.close()
            live.clear()
            journal = start()
        elif deed == "full":
            disk.is_full = True
            late = attempt(f"r{next(fate)}")
            try:
                journal.opened(late, 7)
            except OSError:
                pass
            else:
                reference.opened(late, 7)
            if row is not None:
                journal.settled(live.pop(which), None)
                reference.settled(row, None)
            disk.is_full = False
            journal.tick()
    journal.close()
    reference.close()
    ledger = SqliteLedger(db, read_only=True)
    assert list(ledger.attempts()) == list(reference.attempts())
    ledger.close()


def kill(journal: Journal) -> None:
    """What the kernel does to a killed worker: its descriptors close, nothing else happens."""
    for fd in (journal._fd, journal._lock, *(area.fd for area in journal._retired)):
        os.close(fd)
    journal._ledger.close()


# --- the database file -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("url", "path"), [("sqlite:waypost.db", "waypost.db"), ("sqlite:/var/lib/w.db", "/var/lib/w.db")])
def test_a_storage_url_names_a_file(url: str, path: str):
    assert database_path(url) == Path(path)


@pytest.mark.parametrize("url", ["sqlite:", "sqlite::memory:", "postgresql://h/db", "waypost.db", ""])
def test_another_url_is_refused_with_the_form_that_works(url: str):
    with pytest.raises(ValueError, match=r"sqlite:waypost\.db"):
        database_path(url)


def test_a_database_of_a_newer_version_is_not_touched(db: Path):
    SqliteLedger(db).close()
    alter(db, "PRAGMA user_version = 99")
    with pytest.raises(LedgerError, match="schema 99"):
        SqliteLedger(db)


def test_a_file_that_is_no_database_is_named(db: Path):
    db.write_bytes(b"not a database, " * 100)
    with pytest.raises(LedgerError, match="is not a SQLite database"):
        SqliteLedger(db)
