"""Segments: the journal's files. What a record is, how whole and torn ones are told apart, whose worker lives.

    <database>.journal/<worker>.lock      flock held as long as the worker lives: the kernel tells the living from the dead
    <database>.journal/<worker>-<n>.log   records: length, CRC-32 (both 4 bytes, little endian), JSON

Knows nothing of SQLite and of threads. `adapters.journal` writes and inherits segments, `waypost report` only reads them. POSIX only.
"""

import fcntl
import os
import struct
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from zlib import crc32

import msgspec
from msgspec import Raw, Struct

from waypost.adapters.memory import interrupted
from waypost.core.types import Attempt

_HEADER = struct.Struct("<II")
NO_DECISION = Raw(b"null")
_NOTHING = bytes(_HEADER.size)


class Opened(Struct, frozen=True, tag="opened", tag_field="is"):
    attempt: Attempt
    worst_case_nusd: int | None


class Received(Struct, frozen=True, tag="received", tag_field="is"):
    """What a stream has delivered so far; replaces the worst case should the worker die."""

    attempt: Attempt


class Settled(Struct, frozen=True, tag="settled", tag_field="is"):
    attempt: Attempt
    decision: Raw = NO_DECISION  # JSON; msgspec decodes no `Raw | None`


Record = Opened | Received | Settled
Key = tuple[str, int]
encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Record).decode


class Segment:
    """The whole records of one file, each with the offset of its end. Half a record at the end counts as torn, a broken one too.

    Raises msgspec.MsgspecError on a whole record of a kind unknown here.
    """

    def __init__(self, path: Path, *, start: int = 0) -> None:
        self._path, self._start = path, start
        self.torn = 0

    def __iter__(self) -> Iterator[tuple[int, Record]]:
        with self._path.open("rb") as file:
            end = file.seek(self._start)
            while header := file.read(_HEADER.size):
                if header == _NOTHING:  # allocated and not written yet
                    return
                length, checksum = _HEADER.unpack(header) if len(header) == _HEADER.size else (0, 0)
                payload = file.read(length)
                if length == 0 or len(payload) < length:
                    self.torn += 1
                    return
                end += _HEADER.size + length
                if crc32(payload) != checksum:
                    self.torn += 1
                    continue
                yield end, _decode(payload)


class Estate:
    """What a dead worker leaves: `read` its segments in order, then ask for the attempts it left open."""

    def __init__(self) -> None:
        self._open: dict[Key, Opened | Received] = {}
        self.torn = 0

    def read(self, path: Path) -> Iterator[tuple[int, Record]]:
        segment = Segment(path)
        for end, record in segment:
            key = (record.attempt.request_id, record.attempt.attempt)
            if isinstance(record, Settled):
                self._open.pop(key, None)
            else:
                self._open[key] = record
            yield end, record
        self.torn += segment.torn

    def interrupted(self) -> list[Attempt]:
        """Billed at what was received where that is known, else at the worst case: the provider may charge for either."""
        return [
            interrupted(record.attempt, record.worst_case_nusd if isinstance(record, Opened) else record.attempt.cost_nusd)
            for record in self._open.values()
        ]


def pending(database: Path | str) -> list[Attempt]:
    """What the journal knows and the ledger may not yet: results of all workers, and interrupted attempts of dead ones.

    Reads only. Some rows may be in the ledger already; `SqliteLedger.overlay` keeps those out. Read this first, the ledger second.
    """
    directory = journal_directory(database)
    rows: list[Attempt] = []
    for worker in workers(directory):
        with dead(directory, worker, shared=True) as is_dead:
            estate = Estate()
            for path in segments(directory, worker):
                try:
                    rows += [record.attempt for _, record in estate.read(path) if isinstance(record, Settled)]
                except FileNotFoundError:
                    continue  # fed and deleted while we looked
            if is_dead:
                rows += estate.interrupted()
    return rows


def journal_directory(database: Path | str) -> Path:
    return Path(f"{database}.journal")


def framed(record: Record) -> tuple[bytes, bytes]:
    """Header and payload."""
    payload = encode(record)
    return _HEADER.pack(len(payload), crc32(payload)), payload


def segments(directory: Path, worker: str) -> list[Path]:
    return sorted(directory.glob(f"{worker}-??????.log"))


def workers(directory: Path) -> list[str]:
    names = [path.name for path in directory.glob("*")]
    locks = {name.removesuffix(".lock") for name in names if name.endswith(".lock")}
    logs = {name.rsplit("-", 1)[0] for name in names if name.endswith(".log")}
    return sorted(locks | logs)


def claim(path: Path) -> int:
    """Create and hold a worker's lock. A recovery may delete the file before we hold it: then begin again."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_ino == path.stat().st_ino:
                return fd
        except FileNotFoundError:
            pass
        os.close(fd)


@contextmanager
def dead(directory: Path, worker: str, *, shared: bool = False) -> Generator[bool]:
    """Hold the lock of a worker that no longer does; False while it lives (or another recovery is at it)."""
    path = directory / f"{worker}.lock"
    try:
        fd = os.open(path, (os.O_RDONLY if shared else os.O_RDWR | os.O_CREAT) | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        yield False  # recovered between listing and looking: its rows are in the ledger
        return
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        yield False
        return
    try:
        yield True
    finally:
        os.close(fd)


def sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
