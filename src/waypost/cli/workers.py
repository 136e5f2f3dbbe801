"""Workers: several processes on one port. Each is a whole gateway; the kernel spreads connections (SO_REUSEPORT).

The parent only watches: a worker that dies is started again (slower each time if it keeps dying), SIGTERM, SIGINT and SIGHUP
are passed on. Limits of keys are divided among the workers, so that together they never exceed the whole.
"""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable

import msgspec

from waypost.app import App
from waypost.app import run as run_loop
from waypost.cli import serve

STABLE_S = 10.0  # a worker that lived this long died of something new
SLOWEST_S = 10.0


def supervise(app: App, workers: int, *, host: str | None, port: int | None) -> int:
    """Fork before any loop or thread exists; returns when all workers have ended."""
    server = app.config.server
    wanted = server.port if port is None else port
    place = _reserve(host or server.host, wanted)
    address = place.getsockname()[:2]
    app.world.config = msgspec.structs.replace(app.world.config, server=msgspec.structs.replace(server, workers=workers))
    serve.greet(app, address)
    serve.say(f"  workers  {workers}")
    return _Parent(lambda: _work(app, address)).watch(workers)


def _reserve(host: str, port: int) -> socket.socket:
    """Holds the port without listening, so that port 0 means one port for all and a taken one is an error now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    place = socket.socket(family, socket.SOCK_STREAM)
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    place.bind((host, port))
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return place


def _work(app: App, address: tuple[str, int]) -> int:
    sock = socket.create_server(address, family=socket.AF_INET6 if ":" in address[0] else socket.AF_INET, backlog=4096, reuse_port=True)
    return run_loop(lambda: serve.serve(app, sock=sock, quiet=True))


class _Parent:
    def __init__(self, work: Callable[[], int]) -> None:
        self.work = work
        self.born: dict[int, float] = {}
        self.stopping = False
        self.wait_s = 0.1

    def watch(self, workers: int) -> int:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._pass_on)
        for _ in range(workers):
            self._fork()
        while self.born:
            try:
                pid, status = os.wait()
            except InterruptedError:
                continue
            except ChildProcessError:
                break
            lived_s = time.monotonic() - self.born.pop(pid, time.monotonic())
            if self.stopping:
                continue
            self.wait_s = 0.1 if lived_s > STABLE_S else min(SLOWEST_S, self.wait_s * 2)
            serve.say(f"worker {pid} ended ({_how(status)}); starting another")
            time.sleep(self.wait_s)
            if not self.stopping:
                self._fork()
        return 0

    def _fork(self) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            self.born[pid] = time.monotonic()
            return
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        code = 1
        try:
            _end_with(parent)
            code = self.work()
        finally:
            os._exit(code)  # the parent's stack is not ours to unwind

    def _pass_on(self, number: int, frame: object) -> None:
        if number != signal.SIGHUP:
            self.stopping = True
        for pid in list(self.born):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass


def _end_with(parent: int) -> None:
    """Have the kernel send us SIGTERM when the parent dies, even by kill -9: a worker nobody watches would keep the port with an old
    configuration. Linux only (prctl(2), PR_SET_PDEATHSIG); elsewhere workers outlive a killed parent."""
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if os.getppid() != parent:  # it died before we asked
        os.kill(os.getpid(), signal.SIGTERM)


def _how(status: int) -> str:
    return f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {os.waitstatus_to_exitcode(status)}"
