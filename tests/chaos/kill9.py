"""kill -9 proof: workers that write the ledger are killed at random moments; every acknowledged row must be there once.

    python tests/chaos/kill9.py --rounds 60

Each round starts two workers on one database. They acknowledge each intent and each result in a file, the moment the journal has
returned; they rotate small segments, overflow a small queue and feed SQLite all the while. Then both are killed, now and then one
in the middle of the other's recovery. At the end a new worker recovers, and the ledger is compared with the acknowledgements.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import apsw
from msgspec.structs import replace

from waypost.adapters.journal import Journal
from waypost.adapters.segments import pending
from waypost.adapters.sqlite import SqliteLedger
from waypost.core.types import Attempt, Usage

IN_FLIGHT = 8
WORST_CASE_NUSD = 10**9


class Figures(NamedTuple):
    rounds: int
    acknowledged: int
    lost: int  # acknowledged results that are not in the ledger as they were
    doubled: int
    intents_lost: int  # acknowledged intents without any row
    interrupted: int
    strangers: int  # rows that nobody wrote
    report_differs: int  # rounds in which the report before recovery was not the ledger after it
    integrity: str

    @property
    def is_proof(self) -> bool:
        bad = self.lost + self.doubled + self.intents_lost + self.strangers + self.report_differs
        return bad == 0 and self.integrity == "ok" and self.acknowledged > 0


def work(db: Path, acknowledgements: Path, seed: int) -> None:
    """Write rows until killed. A line `o ID` or `s ID` in the file promises that the intent or the result is durable."""
    draw = random.Random(seed)
    journal = Journal(db, every_s=0.003, segment_bytes=32_000, queue_rows=100)
    promise = os.open(acknowledgements, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    flying: list[Attempt] = []
    for number in range(10**9):
        row = Attempt(f"{seed}-{number}", 1, 1_790_000_000_000 + number, "key", "chaos", "auto", "lab/small", "lab", "ok", usage=Usage(9))
        journal.opened(row, WORST_CASE_NUSD)
        os.write(promise, f"o {row.request_id}\n".encode())
        flying.append(row)
        while len(flying) >= IN_FLIGHT:
            done = flying.pop(draw.randrange(len(flying)))
            journal.settled(replace(done, usage=Usage(9, output_tokens=3), cost_nusd=number), None)
            os.write(promise, f"s {done.request_id}\n".encode())


def prove(rounds: int, *, seed: int, directory: Path) -> Figures:
    draw = random.Random(seed)
    db, files = directory / "waypost.db", list[Path]()
    SqliteLedger(db).close()
    differs = 0
    for number in range(rounds):
        started = [start_worker(db, directory / f"{number}-{worker}.ack", draw.randrange(10**12)) for worker in range(2)]
        files += [file for file, _ in started]
        wait_until_working([file for file, _ in started])
        time.sleep(draw.uniform(0.0, 0.08))
        for _, process in started:
            process.send_signal(signal.SIGKILL)
            process.wait()
            time.sleep(draw.choice((0.0, 0.005)))
        if number % 3 == 0:  # else the next workers inherit, and may be killed while they do
            reported = seen(db, whole=True)
            Journal(db, thread=False).close()
            differs += reported != seen(db, whole=False)
    Journal(db, thread=False).close()
    return judge(db, files, rounds=rounds, differs=differs)


def start_worker(db: Path, acknowledgements: Path, seed: int) -> tuple[Path, subprocess.Popen[bytes]]:
    return acknowledgements, subprocess.Popen([sys.executable, __file__, "--work", str(db), str(acknowledgements), str(seed)])


def wait_until_working(files: list[Path]) -> None:
    give_up_at = time.monotonic() + 20
    while not all(file.exists() and file.stat().st_size > 500 for file in files):
        if time.monotonic() > give_up_at:
            raise TimeoutError("the workers do not start")
        time.sleep(0.005)


def seen(db: Path, *, whole: bool) -> Counter[tuple[str, str, int | None]]:
    unfed = pending(db) if whole else []
    ledger = SqliteLedger(db, read_only=True)
    ledger.overlay(unfed)
    rows = Counter((row.request_id, row.outcome, row.cost_nusd) for row in ledger.attempts())
    ledger.close()
    return rows


def judge(db: Path, files: list[Path], *, rounds: int, differs: int) -> Figures:
    # A killed worker may leave half a line: only whole ones are promises.
    promises = [line.split() for file in files for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
    intents = {request for kind, request in promises if kind == "o"}
    results = {request for kind, request in promises if kind == "s"}
    rows = seen(db, whole=False)
    copies = Counter(request for request, _, _ in rows.elements())
    outcome = {request: outcome for request, outcome, _ in rows}
    seeds = {request.split("-")[0] for request in intents}
    connection = apsw.Connection(str(db))
    integrity = str(connection.execute("PRAGMA integrity_check").get)
    connection.close()
    return Figures(
        rounds=rounds,
        acknowledged=len(results),
        lost=sum(outcome.get(request) != "ok" for request in results),
        doubled=sum(count > 1 for count in copies.values()),
        intents_lost=len(intents - copies.keys()),
        interrupted=sum(kind == "interrupted" for kind in outcome.values()),
        strangers=sum(request.split("-")[0] not in seeds for request in copies),
        report_differs=differs,
        integrity=integrity,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--work", nargs=3, metavar=("DB", "FILE", "SEED"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(Path(args.work[0]), Path(args.work[1]), int(args.work[2]))
    with tempfile.TemporaryDirectory() as directory:
        figures = prove(args.rounds, seed=args.seed, directory=Path(directory))
    print(f"seed {args.seed}:", ", ".join(f"{name} {value}" for name, value in figures._asdict().items()))
    return 0 if figures.is_proof else 1


if __name__ == "__main__":
    sys.exit(main())
