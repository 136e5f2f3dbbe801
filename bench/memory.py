"""Memory and start: what a live stream holds, what a caller holds who never reads, what an idle process and its import cost.

Growth of the resident set over an idle, warmed process, divided by the number of streams; the largest of the samples counts.
"""

import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from machine import BUILD, ENVIRONMENT, LOAD_CORE, Memory, complaints, drive, drive_command, free_port, start_mock, stopping
from targets import WARM, Target, request_body, start_waypost

LIVE_STREAMS = 1_000
SILENT_CALLERS = 200
SAMPLE_S = 0.25
SLOW = "m-d0-n9-g1000"  # eight seconds of a chunk a second
FLOOD = "m-d0-n2000000-g0"  # 470 MB, as fast as it is taken
# The two models above, and room for the flood: what a request may hold is measured here, not what a plan may cost.
MODELS = "".join(
    f"""
[[models]]
name = "lab/{name}"
input_usd_per_mtok = 1.0
output_usd_per_mtok = 2.0
context_tokens = 8000000
max_output_tokens = 4000000
"""
    for name in (SLOW, FLOOD)
)


@dataclass(frozen=True)
class Held:
    """Memory held by `count` streams: growth in all, per stream, and what was wrong with the measurement."""

    count: int
    kib_each: float
    idle: Memory
    problems: list[str]


def measure_live(target: Target, *, streams: int = LIVE_STREAMS) -> Held:
    """`streams` streams at once, each a chunk a second, read by the driver as they come."""
    idle = warm(target)
    body = request_body(target.prefix + SLOW, stream=True)
    command = drive_command(target.port, body, connections=streams, seconds=1.0, headers=target.headers)
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=lambda: os.sched_setaffinity(0, {LOAD_CORE}))
    time.sleep(3.0)  # connecting and the first chunks
    most = peak(target, seconds=3.0)
    out, _ = driver.communicate(timeout=60)
    problems = complaints(json.loads(out), stream=True) if out else ["the driver died"]
    return Held(streams, (most - idle.rss_kib) / streams, idle, problems)


def measure_silent(target: Target, upstream: int, *, callers: int = SILENT_CALLERS) -> Held:
    """`callers` callers who ask for a flood and never read; their kernel buffers are small so that the pressure reaches the gateway."""
    idle = warm(target)
    body = request_body(target.prefix + FLOOD, stream=True, max_tokens=3_900_000)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    request = (head + "".join(f"{line}\r\n" for line in target.headers) + "\r\n").encode() + body
    open_: list[socket.socket] = []
    try:
        for _ in range(callers):
            caller = socket.socket()
            open_.append(caller)
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            caller.connect(("127.0.0.1", target.port))
            caller.sendall(request)
        held, most, end = 0, 0, time.monotonic() + 6.0
        while time.monotonic() < end:
            time.sleep(SAMPLE_S)
            most, held = max(most, target.server.memory().rss_kib), max(held, stalled(upstream))
        wrong = sum(not answered(caller) for caller in open_)
    finally:
        for caller in open_:
            caller.close()
    problems = [f"{wrong} of {callers} callers were not answered 200"] if wrong else []
    if held < callers * 0.9:
        problems.append(f"the upstream was held back for {held} of {callers} callers only, so the figure shows less than the worst case")
    return Held(callers, (most - idle.rss_kib) / callers, idle, problems)


def warm(target: Target) -> Memory:
    for scenario in WARM:
        drive(target.port, target.body(scenario), connections=scenario.connections, seconds=scenario.seconds, headers=target.headers)
    time.sleep(0.5)
    return target.server.memory()


def peak(target: Target, *, seconds: float) -> int:
    most, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        most = max(most, target.server.memory().rss_kib)
        time.sleep(SAMPLE_S)
    return most


def stalled(port: int) -> int:
    """Connections from `port` whose send queue is not empty: the kernel's table, columns local address and tx_queue."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "01" and not row[4].startswith("00000000") for row in rows)


def answered(caller: socket.socket) -> bool:
    try:
        return caller.recv(12, socket.MSG_DONTWAIT | socket.MSG_PEEK) == b"HTTP/1.1 200"
    except OSError:
        return False


def measure_held() -> dict[str, Held]:
    """Both measures, each on a gateway of its own."""
    held: dict[str, Held] = {}
    for name in ("live", "silent"):
        mock, upstream = start_mock()
        with stopping(mock):
            target = start_waypost(upstream, extra=MODELS)
            with stopping(target.server):
                held[name] = measure_live(target) if name == "live" else measure_silent(target, upstream)
    return held


# --- start ----------------------------------------------------------------------------------------------------------------


def child_cpu_ms(*arguments: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, cwd=BUILD, env=ENVIRONMENT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def import_cpu_ms(runs: int = 5) -> float:
    """CPU of importing the whole gateway in a fresh interpreter, less a bare interpreter; the median of some pairs."""
    child_cpu_ms("-c", "import waypost.app")  # writes the byte code, as an installation does
    pairs = [(child_cpu_ms("-c", "import waypost.app"), child_cpu_ms("-c", "pass")) for _ in range(runs)]
    return statistics.median(full - bare for full, bare in pairs)


@dataclass(frozen=True)
class Start:
    cpu_ms: float
    wall_ms: float
    idle: Memory


def measure_start(upstream: int | None = None) -> Start:
    """`waypost serve` from its start until the port accepts, and the memory of a process that has served nothing."""
    began = time.monotonic()
    target = start_waypost(upstream or free_port())
    with stopping(target.server):
        wall_ms, cpu_ms = 1000 * (time.monotonic() - began), 1000 * target.server.cpu_s()
        time.sleep(1.0)
        return Start(cpu_ms, wall_ms, target.server.memory())
