"""SQLite ledger: the queryable copy of what the journal knows, one row per attempt.

Fed by `adapters.journal` in batches; knows nothing of segments but their names and positions, which are committed in the same
transaction as the rows: so a row that was fed is never fed again. UNIQUE(request_id, attempt) is the second guard.

synchronous=NORMAL: a power cut may take back the newest transactions, rows and positions together, and the journal feeds them again.
Only before a segment is deleted must SQLite itself be on the disk: that one commit is made with synchronous=FULL, which in WAL mode
syncs the log and with it every earlier transaction (https://sqlite.org/pragma.html#pragma_synchronous).

Few indexes on purpose: a row costs about 4 us with one and shares the interpreter lock with the gateway; a report scans.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import apsw
import msgspec
from msgspec import Struct

from waypost.adapters.memory import ANSWERED, ERRORS, GROUPINGS, By, Total
from waypost.core.types import Attempt, Decision, Usage

BUSY_TIMEOUT_MS = 5000  # another worker's batch takes milliseconds; longer means somebody holds the file by hand

# Append only: position in the tuple is the version a database reaches by it (PRAGMA user_version).
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE attempts (
        request_id TEXT NOT NULL, attempt INTEGER NOT NULL, at_ms INTEGER, key TEXT, segment TEXT, route TEXT, model TEXT, provider TEXT,
        outcome TEXT, fault TEXT, status INTEGER, input_tokens INTEGER, cached_tokens INTEGER, cache_write_tokens INTEGER,
        output_tokens INTEGER, reasoning_tokens INTEGER, usage_source TEXT, cost_nusd INTEGER, ttft_ms REAL, total_ms REAL,
        stream INTEGER, task TEXT, config TEXT, UNIQUE (request_id, attempt));
    CREATE TABLE decisions (request_id TEXT PRIMARY KEY, decision TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE journal_positions (segment TEXT PRIMARY KEY, offset INTEGER NOT NULL) WITHOUT ROWID;
    """,
)

COLUMNS = (
    "request_id, attempt, at_ms, key, segment, route, model, provider, outcome, fault, status, input_tokens, cached_tokens, "
    "cache_write_tokens, output_tokens, reasoning_tokens, usage_source, cost_nusd, ttft_ms, total_ms, stream, task, config"
)
_MARKS = ", ".join("?" * (COLUMNS.count(",") + 1))
_INSERT = f"INSERT INTO attempts ({COLUMNS}) VALUES ({_MARKS}) ON CONFLICT (request_id, attempt) DO NOTHING"
_OVERLAY = (
    f"INSERT INTO temp.unfed ({COLUMNS}) SELECT {_MARKS} "
    "WHERE NOT EXISTS (SELECT 1 FROM main.attempts WHERE request_id = ? AND attempt = ?)"
)


class _Database(Protocol):
    """What is used of apsw.Connection, whose own stubs are not fully typed before Python 3.12."""

    @property
    def in_transaction(self) -> bool: ...
    def execute(self, statements: str, bindings: Sequence[Any] = ..., /) -> "_Cursor": ...
    def executemany(self, statements: str, bindings: Iterable[Sequence[Any]], /) -> "_Cursor": ...
    def set_busy_timeout(self, milliseconds: int, /) -> None: ...
    def close(self) -> None: ...


class _Cursor(Protocol):
    @property
    def get(self) -> Any: ...  # the single value, or None
    def __iter__(self) -> Iterator[tuple[Any, ...]]: ...


class LedgerError(Exception):
    """The file is no ledger that this version can read; the message says what to do."""


class Row(Struct, frozen=True):
    """One settled attempt on its way into the ledger; `decision` is JSON already."""

    attempt: Attempt
    decision: bytes | None = None


def database_path(url: str) -> Path:
    """The file of a `sqlite:FILE` URL; relative paths start at the working directory. Raises ValueError."""
    scheme, _, path = url.partition(":")
    if scheme != "sqlite" or not path or path.startswith(":"):
        raise ValueError(f"storage url {url!r} names no SQLite file; write it as sqlite:waypost.db or sqlite:/var/lib/waypost/waypost.db")
    return Path(path)


class SqliteLedger:
    """One connection. Writers call `record`; readers open with `read_only=True` and may lay unfed rows over the table.

    Not for two threads at once. Raises apsw.Error when the disk or a lock refuses, LedgerError when the file is none of ours.
    """

    def __init__(self, path: Path | str, *, read_only: bool = False) -> None:
        if read_only and not Path(path).exists():
            raise LedgerError(f"there is no ledger at {path}")
        mode = apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        self._db = cast(_Database, apsw.Connection(str(path), flags=mode))
        self._db.set_busy_timeout(BUSY_TIMEOUT_MS)
        try:
            self._prepare(path, read_only=read_only)
        except BaseException as error:
            self._db.close()
            if isinstance(error, apsw.NotADBError):
                raise LedgerError(f"{path} is not a SQLite database") from error
            raise

    def _prepare(self, path: Path | str, *, read_only: bool) -> None:
        if not read_only:
            _use_wal(self._db)
            _migrate(self._db)
        version = self._scalar("PRAGMA user_version")
        if version != len(MIGRATIONS):
            raise LedgerError(f"{path} has ledger schema {version}; this waypost reads {len(MIGRATIONS)}: use the waypost that wrote it")
        self._db.execute("CREATE TEMP VIEW ledger AS SELECT * FROM main.attempts")

    def close(self) -> None:
        self._db.close()

    # --- writing -----------------------------------------------------------------------------------------------------

    def record(self, rows: Sequence[Row], *, position: tuple[str, int] | None = None, durable: bool = False) -> None:
        """Commit `rows` and the journal position that lies behind them in one transaction; rows already there are left as they are."""
        self._db.execute("PRAGMA synchronous=FULL" if durable else "PRAGMA synchronous=NORMAL")
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany(_INSERT, (_columns(row.attempt) for row in rows))
            decisions = [(row.attempt.request_id, row.decision.decode()) for row in rows if row.decision is not None]
            if decisions:
                self._db.executemany("INSERT INTO decisions VALUES (?, ?) ON CONFLICT DO NOTHING", decisions)
            if position is not None:
                self._db.execute("INSERT INTO journal_positions VALUES (?, ?) ON CONFLICT DO UPDATE SET offset = excluded.offset", position)
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def position(self, segment: str) -> int:
        """How far `segment` is committed; 0 when nothing of it is."""
        return self._scalar("SELECT offset FROM journal_positions WHERE segment = ?", segment) or 0

    def forget(self, segments: Iterable[str]) -> None:
        """Drop the positions of segments whose files are gone."""
        self._db.executemany("DELETE FROM journal_positions WHERE segment = ?", [(segment,) for segment in segments])

    # --- reading -----------------------------------------------------------------------------------------------------

    def overlay(self, attempts: Iterable[Attempt]) -> None:
        """Show `attempts` too where the table lacks them, without writing them; freezes what this connection sees until `close`."""
        self._db.execute("CREATE TEMP TABLE unfed AS SELECT * FROM main.attempts LIMIT 0")
        self._db.execute("BEGIN")  # one snapshot: a row that is fed while we look must not count twice
        self._db.executemany(_OVERLAY, ((*_columns(row), row.request_id, row.attempt) for row in attempts))
        self._db.execute("DROP VIEW temp.ledger")
        self._db.execute("CREATE TEMP VIEW ledger AS SELECT * FROM main.attempts UNION ALL SELECT * FROM temp.unfed")

    def attempts(self, *, since_ms: int = 0) -> Iterator[Attempt]:
        """Oldest first."""
        query = f"SELECT {COLUMNS} FROM ledger WHERE at_ms >= ? ORDER BY at_ms, request_id, attempt"
        for columns in self._db.execute(query, (since_ms,)):
            yield _attempt(columns)

    def totals(self, by: By = "all", *, since_ms: int = 0) -> list[Total]:
        """Dearest first, then by label."""
        assert by in GROUPINGS  # it becomes SQL
        label = "''" if by == "all" else by
        return [Total(*line) for line in self._db.execute(_TOTALS.format(label=label), (since_ms,))]

    def spent(self, key: str, since_ms: int) -> int:
        """Known cost of all attempts of `key` dispatched at or after `since_ms`. Scans; ask once, at start."""
        return self._scalar("SELECT sum(cost_nusd) FROM ledger WHERE key = ? AND at_ms >= ?", key, since_ms) or 0

    def decision(self, request_id: str) -> Decision | None:
        found: str | None = self._scalar("SELECT decision FROM decisions WHERE request_id = ?", request_id)
        return None if found is None else msgspec.json.decode(found, type=Decision)

    def _scalar(self, query: str, *values: str | int) -> Any:
        return self._db.execute(query, values).get


def _set(words: Iterable[str]) -> str:
    return "(" + ", ".join(f"'{word}'" for word in sorted(words)) + ")"


_TOTALS = f"""
    SELECT {{label}} AS label, count(DISTINCT request_id), count(*), sum(outcome IN {_set(ERRORS)}), sum(cost_nusd IS NULL),
        sum(usage_source <> 'reported'), sum(input_tokens), sum(cached_tokens), sum(output_tokens), coalesce(sum(cost_nusd), 0) AS cost,
        percentile(ttft_ms, 50) FILTER (WHERE answered), percentile(ttft_ms, 99) FILTER (WHERE answered),
        percentile(total_ms, 50) FILTER (WHERE answered), percentile(total_ms, 99) FILTER (WHERE answered)
    FROM (SELECT *, outcome IN {_set(ANSWERED)} AS answered FROM ledger) WHERE at_ms >= ?
    GROUP BY 1 ORDER BY cost DESC, label
"""


def _columns(attempt: Attempt) -> tuple[str | int | float | None, ...]:
    """In the order of COLUMNS."""
    a, u = attempt, attempt.usage
    return (
        *(a.request_id, a.attempt, a.at_ms, a.key, a.segment, a.route, a.model, a.provider, a.outcome, a.fault, a.status),
        *(u.input_tokens, u.cached_tokens, u.cache_write_tokens, u.output_tokens, u.reasoning_tokens, u.source),
        *(a.cost_nusd, a.ttft_ms, a.total_ms, a.stream, a.task, a.config),
    )


def _attempt(columns: tuple[Any, ...]) -> Attempt:
    facts: list[Any] = [*columns[:11], Usage(*columns[11:17]), *columns[17:20], bool(columns[20]), *columns[21:]]
    return Attempt(*facts)


def _use_wal(db: _Database) -> None:
    """Workers that start together race for the switch, and SQLite does not wait for a lock there: so we do."""
    give_up_at = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            db.execute("PRAGMA journal_mode=WAL")
            return
        except apsw.BusyError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.01)


def _migrate(db: _Database) -> None:
    db.execute("BEGIN IMMEDIATE")  # workers start together: the second finds the first one's work done
    try:
        version = db.execute("PRAGMA user_version").get
        for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
            db.execute(script)
            db.execute(f"PRAGMA user_version = {number}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
