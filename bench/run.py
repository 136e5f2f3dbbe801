"""Run: Waypost beside nginx and the direct path, in one session, and a verdict on each target.

Each scenario is run by all targets one after the other before the next one, and all of it some times over, so that a disturbance meets
all. The gateway has one core to itself; upstream and driver, both small C programs, share another. Method and figures: docs/benchmarks.md.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import memory
import report
from machine import (
    BUILD,
    CORES,
    GATEWAY_CORE,
    BenchError,
    allow_many_files,
    build_tools,
    complaints,
    describe,
    drive,
    nginx_path,
    provide,
    start_mock,
    stopping,
)
from targets import SCENARIOS, WARM, Scenario, Target, start_nginx, start_waypost

PARTS = (*report.TARGETS, "memory", "start")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="CPU, latency and memory of Waypost beside nginx and the direct path, in one run.")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="repeats of the comparison (default 3)")
    parser.add_argument("--quick", action="store_true", help="one repeat at half the length: is it in the right region?")
    parser.add_argument("--only", default=",".join(PARTS), metavar="A,B", help=f"parts to run, of {', '.join(PARTS)}")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--json", action="store_true", help="print the record that .bench/results.jsonl gets")
    args = parser.parse_args()
    args.parts = [part.strip() for part in args.only.split(",")]
    if unknown := sorted(set(args.parts) - set(PARTS)):
        parser.error(f"--only names {', '.join(unknown)}; known: {', '.join(PARTS)}")
    return args


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# --- one repeat -----------------------------------------------------------------------------------------------------------


def start_targets(parts: list[str], upstream: int) -> list[Target]:
    started: list[Target] = []
    try:
        if "direct" in parts:  # the upstream alone, where the gateways are: the limit of the harness
            mock, port = start_mock(core=GATEWAY_CORE)
            started.append(Target("direct", mock, port))
        if "nginx" in parts and nginx_path():
            started.append(start_nginx(upstream))
        if "waypost" in parts:
            started.append(start_waypost(upstream))
    except BenchError:
        for target in started:
            target.server.stop()
        raise
    return started


def measure(target: Target, scenario: Scenario, *, seconds: float) -> dict[str, Any]:
    """One drive and the CPU that the target used for it."""
    before = target.server.cpu_s()
    try:
        run = drive(target.port, target.body(scenario), connections=scenario.connections, seconds=seconds, headers=target.headers)
    except BenchError as error:
        raise BenchError(f"{target.name}, {scenario.title}: {error}; {target.server.last_words()}") from error
    used = target.server.cpu_s() - before
    run |= {"cpu_s": round(used, 3), "core": round(used / run["seconds"], 3)}
    run["us_per_request"] = round(1e6 * used / run["ok"], 2) if run["ok"] else 0.0
    run["us_per_event"] = round(1e6 * used / run["events"], 2) if run["events"] else 0.0
    return run


def repeat_once(parts: list[str], number: int, *, scale: float, problems: list[str]) -> dict[str, dict[str, Any]]:
    mock, upstream = start_mock()
    with stopping(mock):
        targets = start_targets(parts, upstream)
        with stopping(*(t.server for t in targets)):
            for target in targets:
                for scenario in WARM:
                    measure(target, scenario, seconds=scenario.seconds)
            found: dict[str, dict[str, Any]] = {target.name: {} for target in targets}
            for name, scenario in SCENARIOS.items():
                for target in targets if number % 2 else targets[::-1]:
                    run = found[target.name][name] = measure(target, scenario, seconds=scenario.seconds * scale)
                    wrong = complaints(run, stream=scenario.is_stream)
                    run["is_wrong"] = bool(wrong)
                    if wrong:
                        problems.append(f"{target.name}, {scenario.title}: {'; '.join(wrong)}")
            return found


# --- the session ----------------------------------------------------------------------------------------------------------


def compare(args: argparse.Namespace, problems: list[str]) -> list[dict[str, dict[str, Any]]]:
    if not set(args.parts) & set(report.TARGETS):
        return []
    repeats: list[dict[str, dict[str, Any]]] = []
    for number in range(1, 2 if args.quick else args.repeat + 1):
        found = repeat_once(args.parts, number, scale=0.5 if args.quick else 1.0, problems=problems)
        repeats.append(found)
        per = ", ".join(
            f"{n} {r['max']['us_per_request']:.0f} µs/request {r['paced512']['us_per_event']:.0f} µs/chunk" for n, r in found.items()
        )
        say(f"repeat {number}: {per}")
    return repeats


def measure_memory(problems: list[str]) -> dict[str, memory.Held]:
    held = memory.measure_held()
    problems += [f"memory, {name}: {text}" for name, each in held.items() for text in each.problems]
    return held


def main() -> int:
    args = arguments()
    began = time.monotonic()
    problems: list[str] = []
    can_load = True
    for sentence in provide():
        say(f"warning: {sentence}")
        can_load = can_load and not sentence.startswith("gcc")
    if len(CORES) == 1:
        say("warning: one core only, shared by load and gateway: latencies and requests per second say little, CPU per request still holds")
    allow_many_files()
    try:  # children inherit it; keeps other work on the machine out of the way
        os.setpriority(os.PRIO_PROCESS, 0, -15)
    except OSError:
        pass
    BUILD.mkdir(exist_ok=True)
    if can_load:
        build_tools()
    machine = describe()
    say(machine)
    try:
        starts = "start" in args.parts
        import_ms, start = (memory.import_cpu_ms(), memory.measure_start()) if starts else (None, None)
        repeats = compare(args, problems) if can_load else []
        held = measure_memory(problems) if can_load and "memory" in args.parts else {}
    except BenchError as error:
        say(f"bench: {error}")
        return 2
    table = report.rows(repeats, held=held, start=start, import_ms=import_ms)
    record = {"at": int(time.time()), "machine": machine, "rows": report.as_record(table), "repeats": repeats, "problems": problems}
    with (BUILD / "results.jsonl").open("a") as out:
        out.write(json.dumps(record) + "\n")
    print(json.dumps(record) if args.json else report.as_markdown(table) if args.markdown else f"\n{report.as_text(table)}")
    say(f"\n{time.monotonic() - began:.0f} s; record appended to .bench/results.jsonl")
    if problems:
        say("\nWRONG ANSWERS OR LOAD: the figures marked VOID do not count\n  " + "\n  ".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
