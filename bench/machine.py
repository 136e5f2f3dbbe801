"""Machine: cores, pinned processes, what they use of CPU and memory, and the C tools and packages that the bench needs.

Knows nothing of gateways. CPU time is read from /proc for every process of a server's session: microseconds of CPU per request move
far less than requests per second when other work shares the machine. Linux only.
"""

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent / ".bench"
CORES = sorted(os.sched_getaffinity(0))
LOAD_CORE = CORES[0]
GATEWAY_CORE = CORES[1] if len(CORES) > 1 else CORES[0]
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """Something outside the measured program is missing or does not work; the text says what to do."""


# Without byte code every start compiles the whole package: another program's cost than the one that is installed.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


# --- what must be there ---------------------------------------------------------------------------------------------------


def nginx_path() -> str | None:
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def quietly(*command: str) -> None:
    """Run, whatever comes of it: what counts is whether the program is there afterwards."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)


def provide() -> list[str]:
    """Install what is missing where that is possible (Debian, root); gives a sentence for each thing that stays missing."""
    asked = [p for p, there in (("gcc libc6-dev", shutil.which("gcc")), ("nginx-light", nginx_path())) if not there]
    if asked and os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"installing {' '.join(asked)}", flush=True)
        quietly("apt-get", "update", "-qq")
        for packages in asked:
            quietly("apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages.split())
        if "nginx-light" in asked and Path("/run/systemd/system").exists():  # the package would leave a web server running
            quietly("systemctl", "disable", "--now", "nginx")
    missing: list[str] = []
    if not shutil.which("gcc"):
        missing.append("gcc is missing, so nothing can be loaded: apt-get install gcc libc6-dev")
    if not nginx_path():
        missing.append("nginx is missing, so there are no ratios: apt-get install nginx-light")
    return missing


def build_tools() -> None:
    """Compile mock and drive into .bench when their source is newer."""
    BUILD.mkdir(exist_ok=True)
    for tool in ("mock", "drive"):
        source, made = HERE / "tools" / f"{tool}.c", BUILD / tool
        if not made.exists() or made.stat().st_mtime < source.stat().st_mtime:
            subprocess.run(["gcc", "-O2", "-o", str(made), str(source)], check=True)


def allow_many_files() -> int:
    """Raise the soft limit of open files to the hard one; children inherit it. Gives the limit."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def describe() -> str:
    """The machine in one line, for the head of a table."""
    model = next(
        (line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "?"
    )
    return f"{model}, {len(CORES)} cores, Linux {os.uname().release}, load average {os.getloadavg()[0]:.1f}"


def free_port() -> int:
    """Below the range that outgoing connections take theirs from: waiting for a listener there would sometimes reach itself."""
    for port in random.sample(range(20_000, 32_000), 50):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise BenchError("no free port between 20000 and 32000")


# --- processes ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Memory:
    rss_kib: int
    pss_kib: int


class Server:
    """A process pinned to one core, in a session of its own so that all its children are counted and ended."""

    def __init__(self, command: Sequence[str], *, core: int, log: Path, env: Mapping[str, str] | None = None) -> None:
        self.log, self.command = log, " ".join(command)
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                command,
                env={**ENVIRONMENT, **(env or {})},
                cwd=BUILD,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: os.sched_setaffinity(0, {core}),
            )
        self.pid = self.process.pid

    def pids(self) -> list[int]:
        found: list[int] = []
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                if name.isdigit() and os.getsid(int(name)) == self.pid:
                    found.append(int(name))
        return found

    def cpu_s(self) -> float:
        """User and system seconds of all its processes so far, in steps of a clock tick (10 ms)."""
        ticks = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks * TICK_S

    def threads_cpu_s(self) -> dict[int, float]:
        """Seconds of CPU of each thread of its first process so far."""
        found: dict[int, float] = {}
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found[int(task.name)] = int((task / "schedstat").read_text().split()[0]) / 1e9
        return found

    def memory(self) -> Memory:
        sums = {"Rss:": 0, "Pss:": 0}
        for pid in self.pids():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    key, _, rest = line.partition(" ")
                    if key in sums:
                        sums[key] += int(rest.split()[0])
        return Memory(sums["Rss:"], sums["Pss:"])

    def wait_listening(self, port: int, *, limit_s: float = 20.0) -> None:
        """Until the port accepts. Raises BenchError with the end of the log when the process dies or stays silent."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return
            time.sleep(0.005)
        raise BenchError(f"nothing listens on {port}; {self.last_words()}")

    def last_words(self) -> str:
        """Whether it still runs, and the end of its log."""
        code = self.process.poll()
        life = "runs" if code is None else f"exited with {code}"
        return f"{self.command[:120]} {life}: {self.log.read_text(errors='replace')[-600:]}"

    def stop(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in self.pids():
                with contextlib.suppress(OSError):
                    os.kill(pid, number)
            end = time.monotonic() + 4.0
            while time.monotonic() < end:
                self.process.poll()
                if not self.pids():
                    return
                time.sleep(0.02)


def start_mock(*, core: int = LOAD_CORE) -> tuple[Server, int]:
    port = free_port()
    mock = Server([str(BUILD / "mock"), str(port)], core=core, log=BUILD / "mock.log")
    mock.wait_listening(port)
    return mock, port


@contextlib.contextmanager
def stopping(*servers: Server) -> Generator[None]:
    try:
        yield
    finally:
        for server in servers:
            server.stop()


# --- load -----------------------------------------------------------------------------------------------------------------


def drive_command(port: int, body: bytes, *, connections: int, seconds: float, headers: Sequence[str]) -> list[str]:
    payload = BUILD / "body.json"
    payload.write_bytes(body)
    return [str(BUILD / "drive"), str(port), "/v1/chat/completions", str(payload), str(connections), str(seconds), "0", *headers]


def drive(port: int, body: bytes, *, connections: int, seconds: float, headers: Sequence[str] = ()) -> dict[str, Any]:
    """Closed loop from the load core; the driver's JSON line. Raises BenchError when it cannot run."""
    command = drive_command(port, body, connections=connections, seconds=seconds, headers=headers)
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds + 60, check=False, preexec_fn=lambda: os.sched_setaffinity(0, {LOAD_CORE})
    )
    if done.returncode:
        raise BenchError(f"drive: {done.stderr[-300:]}")
    return json.loads(done.stdout)


def complaints(run: Mapping[str, Any], *, stream: bool) -> list[str]:
    """What was wrong with the answers of one drive; empty when every one was right and whole."""
    found = [f"{run[key]} {what}" for key, what in (("bad", "not 200"), ("lost", "cut"), ("unfinished", "without an end")) if run[key]]
    if stream and run["dones"] != run["ok"]:
        found.append(f"{run['ok'] - run['dones']} streams without [DONE]")
    if not run["ok"]:
        found.append("no answer at all")
    if found and run["error"]:
        found.append(f"first: {run['error'][:160]}")
    return found
