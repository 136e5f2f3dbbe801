"""Journal: durable intent and result of every attempt, on the local disk, before the answer's last byte.

A record is copied into a mapped file: no system call, no lock, nobody to wait for, and in the kernel's hands at once, so it survives
kill -9; a power cut after the next sync, at most `every_s` later. (By write(2) it took 25 us a record while the thread synced the same
file.) The space of a segment is allocated when it begins: a full disk says so then, never in the middle of a record. A thread syncs
and feeds the ledger; it may lag or fail without anybody waiting for it.

Laws. (1) A segment is deleted only when SQLite has synced all results in it and its open intents were copied onward. (2) The position
up to which a segment is fed is committed with the rows: fed once, whatever happens. (3) An intent whose worker died becomes one
"interrupted" row. (4) Closing is recovering from a tidy death (crash-only software, Candea & Fox 2003): one path, always tested.

The files are described in `adapters.segments`. `opened`, `received` and `settled` belong to one thread, the event loop's. A journal
must be opened after fork, not before: a forked copy would hold the lock.
"""

import errno
import mmap
import os
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import apsw
from msgspec import MsgspecError, Raw, Struct

from waypost.adapters.segments import (
    NO_DECISION,
    Estate,
    Key,
    Opened,
    Received,
    Record,
    Segment,
    Settled,
    claim,
    dead,
    encode,
    framed,
    journal_directory,
    segments,
    sync_directory,
    workers,
)
from waypost.adapters.sqlite import Row, SqliteLedger
from waypost.core.types import Attempt, Decision

SEGMENT_BYTES = 8 << 20  # some 15,000 records: a recovery reads it in a fraction of a second
BATCH_ROWS = 500  # group commit; past some hundred rows the gain is flat
QUEUE_ROWS = 8192  # beyond it, rows are read back from the segment: memory stays bounded, nothing is lost
UNWRITTEN_ROWS = 1024  # results held in memory while the disk refuses; beyond it no new work is taken
RECOVER_EVERY_S = 15.0  # how soon a living worker settles for a dead one


def allocate(fd: int, size: int) -> None:
    """Take the space now. Raises OSError (ENOSPC) rather than let a later store into the mapping fail by signal."""
    os.posix_fallocate(fd, 0, size)


class Area(NamedTuple):
    """A segment's file, its mapping, and how much of it is written."""

    fd: int
    area: mmap.mmap
    size: int

    def close(self) -> None:
        self.area.close()
        os.ftruncate(self.fd, self.size)
        os.close(self.fd)


class Position(Struct, frozen=True, order=True, gc=False):
    segment: int
    end: int


class Queued(Struct, frozen=True):
    previous: Position  # of the settled record before: a gap shows that the queue overflowed
    position: Position
    record: Settled


class Batch(NamedTuple):
    rows: list[Row]
    position: Position


class Status(Struct, frozen=True):
    """For readiness and metrics. `failing` names the first thing that does not work now; None when all is well."""

    failing: str | None
    unwritten_rows: int  # results the disk refused, held in memory
    queued_rows: int  # journalled, on their way to SQLite
    torn_records: int  # half-written records met in recovery
    recovered_rows: int  # results of dead workers fed from their segments
    interrupted_rows: int  # intents of dead workers settled as interrupted


class Journal:
    """Implements `ports.Journal` on segments that feed the SQLite ledger at `database`.

    Construction settles for dead workers and starts the feeding thread (not with `thread=False`: then call `tick`). Raises OSError,
    apsw.Error or LedgerError when there is no place to write. `write` and `sync` are system calls, or what a test puts in their place.
    """

    def __init__(
        self,
        database: Path | str,
        *,
        every_s: float = 0.2,
        segment_bytes: int = SEGMENT_BYTES,
        queue_rows: int = QUEUE_ROWS,
        allocate: Callable[[int, int], None] = allocate,
        sync: Callable[[int], None] = os.fdatasync,
        thread: bool = True,
    ) -> None:
        self._ledger = SqliteLedger(database)
        self._directory = journal_directory(database)
        self._directory.mkdir(exist_ok=True)
        self._worker = f"{os.getpid()}-{os.urandom(4).hex()}"
        self._lock = claim(self._directory / f"{self._worker}.lock")
        self._allocate, self._fdatasync = allocate, sync
        self._segment_bytes, self._queue_rows, self._every_s = segment_bytes, queue_rows, every_s

        self._open: dict[Key, Opened | Received] = {}
        self._queue: deque[Queued] = deque()
        self._unwritten: deque[Settled] = deque()
        self._retired: deque[Area] = deque()  # full segments: the thread syncs and closes them
        self._fd, self._segment, self._size, self._capacity = -1, 0, 0, 0
        self._must_rotate = False  # the current segment is trusted no more
        self._area: mmap.mmap
        self._faults: dict[str, str] = {}  # what does not work now: journal, sync, ledger, recovery
        self._rotate(0)
        self._last = self._fed = self._dropped = Position(self._segment, 0)
        self._synced = Position(0, 0)
        self._batch: Batch | None = None  # taken from the queue, not yet committed

        self._torn_records = self._recovered = self._interrupted = 0
        self.recover()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="waypost-journal", daemon=True) if thread else None
        if self._thread is not None:
            self._thread.start()

    # --- the hot path: the event loop's thread -----------------------------------------------------------------------

    def opened(self, attempt: Attempt, worst_case_nusd: int | None) -> None:
        """Intent, before the network is touched. Raises OSError when the disk refuses: then nothing may be sent."""
        if len(self._unwritten) >= UNWRITTEN_ROWS:
            raise OSError(errno.ENOSPC, f"{len(self._unwritten)} results wait for the disk")
        if self._faults and "sync" in self._faults:
            raise OSError(errno.EIO, f"the disk does not keep what it is given: {self._faults['sync']}")
        record = Opened(attempt, worst_case_nusd)
        self._append(record)
        self._open[attempt.request_id, attempt.attempt] = record

    def received(self, attempt: Attempt) -> None:
        """What an open attempt has delivered so far, with its cost: the bill should this process die now. Never raises OSError."""
        key = (attempt.request_id, attempt.attempt)
        if key not in self._open:
            return  # settled already: a late report must not open it again
        record = Received(attempt)
        try:
            self._append(record)
        except OSError:
            return  # the worst case stands
        self._open[key] = record

    def settled(self, attempt: Attempt, decision: Decision | None) -> None:
        """Result, before the last byte leaves. Never raises OSError: a refused row waits in memory and `status` says so."""
        record = Settled(attempt, NO_DECISION if decision is None else Raw(encode(decision)))
        try:
            self._append(record)
        except OSError:
            self._unwritten.append(record)
            return
        self._open.pop((attempt.request_id, attempt.attempt), None)
        position = Position(self._segment, self._size)
        if len(self._queue) < self._queue_rows:
            self._queue.append(Queued(self._last, position, record))
        self._last = position

    def _append(self, record: Record) -> None:
        header, payload = framed(record)
        start = self._size
        at = start + len(header)
        end = at + len(payload)
        if end > self._capacity or self._must_rotate:
            self._rotate(end - start)
            start = self._size
            at = start + len(header)
            end = at + len(payload)
        area = self._area
        area[at:end] = payload  # before its header: a reader, or a death in between, sees no record rather than half of one
        area[start:at] = header
        self._size = end

    def _rotate(self, room: int) -> None:
        """Go on in a new segment that begins with the intents still open, so that the old one may be deleted.

        Raises OSError when the disk has no place for it; the old segment stays as it is.
        """
        carried = b"".join([part for record in list(self._open.values()) for part in framed(record)])
        capacity = max(self._segment_bytes, 2 * len(carried) + room)
        path = self._path(self._segment + 1)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                self._allocate(fd, capacity)
                area = mmap.mmap(fd, capacity)
            except OSError:
                os.close(fd)
                path.unlink()
                raise
        except OSError as error:
            self._faults["journal"] = str(error)
            raise
        area[: len(carried)] = carried
        if self._fd >= 0:
            self._retired.append(Area(self._fd, self._area, self._size))
        self._fd, self._area, self._capacity = fd, area, capacity
        self._segment, self._size, self._must_rotate = self._segment + 1, len(carried), False
        self._faults.pop("journal", None)

    # --- the feeding thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        ticks_per_recovery = max(1, round(RECOVER_EVERY_S / self._every_s))
        tick = 0
        while not self._stop.wait(self._every_s):
            tick += 1
            try:
                self.tick()
                if tick % ticks_per_recovery == 0:
                    self.recover()
                self._faults.pop("thread", None)
            except Exception as error:  # a thread that died in silence would be worse than any fault: stay, and say so
                self._faults["thread"] = repr(error)

    def tick(self) -> None:
        """Sync what was appended, then feed until nothing is left. Never raises for the disk's sake: `status` tells."""
        self._sync()
        try:
            while self._feed():
                pass
            self._faults.pop("ledger", None)
        except (apsw.Error, OSError, MsgspecError) as error:
            self._faults["ledger"] = f"{type(error).__name__}: {error}"

    def _sync(self) -> None:
        try:
            while self._retired:
                self._fdatasync(self._retired[0].fd)
                self._retired.popleft().close()
            now = Position(self._segment, self._size)
            if now != self._synced:
                self._fdatasync(self._fd)
                if now.segment != self._synced.segment:
                    sync_directory(self._directory)
                self._synced = now
            self._faults.pop("sync", None)
        except OSError as error:
            # After a failed fsync the kernel may have dropped the pages and call the next sync a success
            # (https://wiki.postgresql.org/wiki/Fsync_Errors): trust this file no more, go on in another.
            self._faults["sync"] = str(error)
            self._must_rotate = True

    def _feed(self) -> bool:
        """Commit one batch; False when there was none. The batch survives a refusal and is tried again."""
        unwritten = [self._unwritten[place] for place in range(min(len(self._unwritten), BATCH_ROWS))]
        self._batch = self._batch or self._next_batch()
        if self._batch is None and not unwritten:
            return False
        rows, position = self._batch or Batch([], self._fed)
        leaves_segment = position.segment > self._dropped.segment and self._synced.segment >= position.segment
        self._ledger.record(
            rows + [_row(record) for record in unwritten],
            position=(self._path(position.segment).name, position.end),
            durable=leaves_segment,
        )
        self._fed, self._batch = position, None
        for record in unwritten:
            self._unwritten.popleft()
            self._open.pop((record.attempt.request_id, record.attempt.attempt), None)
        if leaves_segment:
            self._delete(range(self._dropped.segment, position.segment))
            self._dropped = position
        return True

    def _next_batch(self) -> Batch | None:
        rows: list[Row] = []
        fed = self._fed
        while self._queue and len(rows) < BATCH_ROWS:
            first = self._queue[0]
            if first.previous > fed:
                break  # rows between were not queued
            self._queue.popleft()
            if first.position > fed:  # else it was read back from the segment already
                rows.append(_row(first.record))
                fed = first.position
        if rows:
            return Batch(rows, fed)
        return self._read_back() if self._last > fed else None

    def _read_back(self) -> Batch | None:
        rows: list[Row] = []
        fed = self._fed
        for segment in range(fed.segment, self._segment + 1):
            for end, record in Segment(self._path(segment), start=fed.end if segment == fed.segment else 0):
                if isinstance(record, Settled):
                    rows.append(_row(record))
                    fed = Position(segment, end)
                if len(rows) == BATCH_ROWS:
                    return Batch(rows, fed)
        return Batch(rows, fed) if rows else None

    def _delete(self, segments: range) -> None:
        paths = [self._path(segment) for segment in segments]
        for path in paths:
            path.unlink(missing_ok=True)
        self._ledger.forget(path.name for path in paths)

    # --- life and death ----------------------------------------------------------------------------------------------

    def recover(self) -> None:
        """Settle for workers that died: their results are fed, their open intents become "interrupted", exactly once."""
        self._faults.pop("recovery", None)
        for worker in workers(self._directory):
            try:
                with dead(self._directory, worker) as is_dead:
                    if is_dead:
                        self._inherit(worker)
            except (apsw.Error, OSError, MsgspecError) as error:  # MsgspecError: a newer version's record; left to it
                self._faults["recovery"] = f"{worker}: {type(error).__name__}: {error}"

    def _inherit(self, worker: str) -> None:
        paths = segments(self._directory, worker)
        estate = Estate()
        for path in paths:
            committed, position, rows = self._ledger.position(path.name), 0, list[Row]()
            for position, record in estate.read(path):
                if isinstance(record, Settled) and position > committed:
                    rows.append(_row(record))
                if len(rows) == BATCH_ROWS:
                    self._ledger.record(rows, position=(path.name, position))
                    self._recovered += len(rows)
                    rows = []
            self._ledger.record(rows, position=(path.name, position))
            self._recovered += len(rows)
        lost = estate.interrupted()
        self._ledger.record([Row(attempt) for attempt in lost], durable=True)
        self._interrupted += len(lost)
        self._torn_records += estate.torn
        for path in paths:
            path.unlink(missing_ok=True)
        self._ledger.forget(path.name for path in paths)
        (self._directory / f"{worker}.lock").unlink(missing_ok=True)

    def status(self) -> Status:
        faults = list(self._faults.items())
        return Status(
            failing=f"{faults[0][0]}: {faults[0][1]}" if faults else None,
            unwritten_rows=len(self._unwritten),
            queued_rows=len(self._queue),
            torn_records=self._torn_records,
            recovered_rows=self._recovered,
            interrupted_rows=self._interrupted,
        )

    def close(self) -> None:
        """Feed everything; attempts still open become "interrupted". Raises OSError if results in memory could not be saved."""
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
        self.tick()
        for area in (Area(self._fd, self._area, self._size), *self._retired):
            area.close()
        os.close(self._lock)
        self.recover()
        self._ledger.close()
        if self._unwritten:
            raise OSError(errno.ENOSPC, f"{len(self._unwritten)} results could not be saved: {self.status().failing}")

    def _path(self, segment: int) -> Path:
        return self._directory / f"{self._worker}-{segment:06d}.log"


def _row(record: Settled) -> Row:
    return Row(record.attempt, None if record.decision == NO_DECISION else bytes(record.decision))
