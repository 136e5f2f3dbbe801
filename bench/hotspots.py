"""Hotspots: where the gateway's CPU goes, per request or per relayed chunk, with the configuration of the bench.

    python bench/hotspots.py                 requests, 64 connections
    python bench/hotspots.py --stream        chunks of 512 paced streams
    python bench/hotspots.py --show calls    only that part: sampled, calls, kernel or syscalls

Four looks, each on a process of its own, because each disturbs the others: `sampled` (py-spy: own time by function and thread; needs
`pip install py-spy`), `calls` (cProfile: exact numbers of calls; its times are inflated), `kernel` (perf: which libraries and the kernel)
and `syscalls` (strace). What is not installed is skipped and named.
"""

import argparse
import collections
import contextlib
import pstats
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parent))

from machine import BUILD, BenchError, allow_many_files, build_tools, complaints, drive, start_mock, stopping
from targets import SCENARIOS, Scenario, Target, start_waypost

ATTACHED_S = 3.0
Profile = dict[tuple[str, int, str], tuple[int, int, float, float, object]]
PACKAGE = re.compile(r".*/(?:src|site-packages|lib/python3\.\d+)/")


class Look:
    """One running gateway and the load on it; `per` counts the requests or chunks that were answered."""

    def __init__(self, target: Target, scenario: Scenario) -> None:
        self.target, self.scenario = target, scenario
        self.warmed = 0

    def load(self, seconds: float) -> dict[str, Any]:
        before = self.target.server.cpu_s()
        body = self.target.body(self.scenario)
        run = drive(self.target.port, body, connections=self.scenario.connections, seconds=seconds, headers=self.target.headers)
        for wrong in complaints(run, stream=self.scenario.is_stream):
            print(f"WRONG ANSWERS: {wrong}")
        per = run["events"] if self.scenario.is_stream else run["ok"]
        return run | {"per": max(per, 1), "us": 1e6 * (self.target.server.cpu_s() - before) / max(per, 1)}

    def load_under(self, command: list[str]) -> dict[str, Any]:
        """Load with another program attached for the whole of it."""
        attached = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        time.sleep(0.7)
        run = self.load(ATTACHED_S)
        with contextlib.suppress(ProcessLookupError):
            attached.send_signal(signal.SIGINT)
        attached.communicate(timeout=60)
        return run


@contextlib.contextmanager
def looking(scenario: Scenario, *under: str) -> Generator[Look]:
    mock, upstream = start_mock()
    with stopping(mock):
        target = start_waypost(upstream, under=(sys.executable, *under))
        with stopping(target.server):
            look = Look(target, scenario)
            look.warmed = look.load(1.0)["per"]
            yield look


def py_spy() -> str | None:
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if beside.exists() else shutil.which("py-spy")


def table(title: str, lines: list[tuple[str, ...]]) -> None:
    print(f"\n{title}")
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        print(
            "  "
            + "  ".join(
                cell.ljust(w) if i == len(line) - 1 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
            )
        )


# --- the looks ------------------------------------------------------------------------------------------------------------


def sampled(scenario: Scenario, *, unit: str, top: int) -> None:
    """Own time by function. The kernel says what each thread used, py-spy how it was spent."""
    program = py_spy()
    if program is None:
        print("sampled: py-spy is not installed (pip install py-spy)")
        return
    with looking(scenario) as look:
        before = look.target.server.threads_cpu_s()
        per = look.load(2.0)["per"]
        used = {thread: 1e6 * (s - before.get(thread, 0.0)) / per for thread, s in look.target.server.threads_cpu_s().items()}
        raw = BUILD / "hotspots.collapsed"
        command = [program, "record", "-p", str(look.target.server.pid), "-r", "400", "-d", "600", "-f", "raw", "-t", "-F", "-o", str(raw)]
        look.load_under(command)
    own: dict[str, collections.Counter[str]] = {}
    for line in raw.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        thread, *frames = [frame for frame in stack.split(";") if not frame.startswith("process ")]
        if frames and not frames[-1].startswith("Condition.wait"):  # py-spy takes some waits for work
            own.setdefault(thread, collections.Counter())[PACKAGE.sub("", frames[-1])] += int(count)
    costs = [
        (used.get(thread_id(thread), 0.0) * n / samples.total(), thread, name)
        for thread, samples in own.items()
        for name, n in samples.items()
    ]
    whole = f"of {sum(used.values()):.1f} µs of CPU per {unit}"
    summed(f"by thread, {whole}", [(us, thread) for us, thread, _ in costs], top)
    summed(f"own time by file, {whole}", [(us, re.sub(r".*\((.*):\d+\)", r"\1", name)) for us, _, name in costs], top)
    summed(f"own time by function, {whole}", [(us, name) for us, _, name in costs], top)


def thread_id(label: str) -> int:
    """`thread (4711): MainThread` -> 4711"""
    return int(label.partition("(")[2].partition(")")[0] or 0)


def summed(title: str, costs: list[tuple[float, str]], top: int) -> None:
    sums: dict[str, float] = {}
    for us, name in costs:
        sums[name] = sums.get(name, 0.0) + us
    table(title, [(f"{us:.1f} µs", name) for name, us in sorted(sums.items(), key=lambda item: -item[1])[:top]])


def calls(scenario: Scenario, *, unit: str, top: int) -> None:
    """Calls of functions in the main thread, Python's and C's, by own time under cProfile."""
    stats = BUILD / "hotspots.pstats"
    with looking(scenario, "-m", "cProfile", "-o", str(stats)) as look:
        per = look.warmed + look.load(3.0)["per"]
    # (file, line, name) -> calls without recursion, calls, own seconds, seconds in all, callers; line 0 is a function in C
    found = cast(Profile, pstats.Stats(str(stats)).stats)  # type: ignore[attr-defined]  # typeshed leaves it out
    rows = [(own, n, f"{PACKAGE.sub('', file)}:{line} {name}" if line else name) for (file, line, name), (_, n, own, *_) in found.items()]
    python = sum(n for (_, line, _), (_, n, *_) in found.items() if line)
    everything = sum(n for _, n, *_ in found.values())
    print(f"\ncalls per {unit}: {everything / per:.1f}, of them {python / per:.1f} of Python functions (start included)")
    rows.sort(reverse=True)
    table(
        f"own time under cProfile per {unit}", [(f"{1e6 * own / per:.1f} µs", f"{n / per:.2f} calls", name) for own, n, name in rows[:top]]
    )


def kernel(scenario: Scenario, *, unit: str, top: int) -> None:
    """Shares of the kernel, the interpreter and the C libraries."""
    if not shutil.which("perf"):
        print("kernel: perf is not installed (apt-get install linux-perf)")
        return
    recorded = BUILD / "hotspots.perf"
    with looking(scenario) as look:
        us = look.load_under(["perf", "record", "-q", "-F", "999", "-g", "-p", str(look.target.server.pid), "-o", str(recorded)])["us"]
    for keys, share in (("comm,dso", 12), ("dso,symbol", top)):
        command = [
            "perf",
            "report",
            "-i",
            str(recorded),
            "--no-children",
            "-g",
            "none",
            "--sort",
            keys,
            "--stdio",
            "--percent-limit",
            "0.4",
        ]
        out = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        lines = [line.strip() for line in out.splitlines() if re.match(r"\s+\d+\.\d+%", line)][:share]
        print(f"\nperf by {keys}, µs of {us:.1f} per {unit} (perf's own cost included)")
        for line in lines:
            percent, _, rest = line.partition("%")
            print(f"  {us * float(percent) / 100:7.1f} µs  {percent:>6} %  {' '.join(rest.split())}")


def syscalls(scenario: Scenario, *, unit: str, top: int) -> None:
    if not shutil.which("strace"):
        print("syscalls: strace is not installed (apt-get install strace)")
        return
    summary = BUILD / "hotspots.strace"
    with looking(scenario) as look:
        per = look.load_under(["strace", "-c", "-f", "-o", str(summary), "-p", str(look.target.server.pid)])["per"]
    rows = [line.split() for line in summary.read_text().splitlines()]
    counts = sorted(((int(r[3]), r[-1]) for r in rows if len(r) >= 5 and r[3].isdigit() and r[-1] != "total"), reverse=True)
    table(f"syscalls per {unit}: {sum(n for n, _ in counts) / per:.2f}", [(f"{n / per:.3f}", name) for n, name in counts[:top]])


LOOKS: dict[str, Callable[..., None]] = {"sampled": sampled, "calls": calls, "kernel": kernel, "syscalls": syscalls}


def main() -> int:
    parser = argparse.ArgumentParser(description="Where the gateway's CPU goes, per request or per chunk.")
    parser.add_argument("--stream", action="store_true", help="512 paced streams, per chunk, instead of requests")
    parser.add_argument("--show", default=",".join(LOOKS), metavar="A,B", help=f"of {', '.join(LOOKS)}")
    parser.add_argument("--top", type=int, default=25, help="lines of each table (default 25)")
    parser.add_argument("--connections", type=int, help="instead of 64 or 512")
    args = parser.parse_args()
    asked = [name.strip() for name in args.show.split(",")]
    if unknown := sorted(set(asked) - set(LOOKS)):
        parser.error(f"--show names {', '.join(unknown)}; known: {', '.join(LOOKS)}")
    scenario = SCENARIOS["paced512" if args.stream else "max"]
    if args.connections:
        scenario = Scenario(scenario.model, args.connections, scenario.seconds, scenario.title)
    allow_many_files()
    build_tools()
    try:
        for name in asked:
            LOOKS[name](scenario, unit="chunk" if args.stream else "request", top=args.top)
    except BenchError as error:
        print(f"hotspots: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
