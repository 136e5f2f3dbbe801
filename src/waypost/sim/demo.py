"""Demo: simulated providers, the real gateway and live traffic in one process, told as a story with a bad day in it.

Everything runs on real sockets; the gateway is the one that `waypost serve` runs, with its journal and SQLite in a temporary
directory. Decides when the story goes on and when it ends; what is shown is `demo_view`'s, what is counted `demo_tally`'s.
"""

import asyncio
import contextlib
import logging
import random
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from msgspec import Struct

from waypost.adapters.sqlite import SqliteLedger
from waypost.app import App
from waypost.core.types import Outcome, Price
from waypost.sim import demo_story as story
from waypost.sim import demo_words as words
from waypost.sim.demo_caller import ask
from waypost.sim.demo_story import CHAPTERS, FALLEN, FRONTIER, Chapter
from waypost.sim.demo_tally import RECENT_S, Check, Tally, check
from waypost.sim.demo_view import END, Scene, Screen
from waypost.sim.provider import Simulator

now_s = time.monotonic

FRAME_S = 0.2
SAMPLE_S = 0.45  # between two lines of the feed: as fast as one can read
STATUS_S = 4.0  # between two status lines where there is no terminal
IN_FLIGHT = 64  # callers at once
MOST_REQUESTS = 40_000  # forgotten in a window it ends by itself, before the simulator's log (100,000 attempts) forgets what it billed
DRAIN_S = 4.0
AFTER_OPENING_S = 3.0  # the breaker's first spell lasts 4 to 6 s: the next chapter must have begun when its probe goes out
BACK_ANSWERS = 4  # answers of the recovered provider that make it "back in service"


class Options(Struct, frozen=True):
    seconds: float
    speed: float = 1.0
    seed: int = 7
    port: int = 0
    live: bool = False  # draw, and run on after the story


class Result(Struct, frozen=True):
    tally: Tally
    check: Check
    complaints: list[str]  # what the gateway logged meanwhile
    finished: bool  # the story came to its end


class Demo:
    """One run. `stop` may be called at any time, from a signal handler too; twice, it waits for nobody."""

    def __init__(self, options: Options, out: TextIO) -> None:
        self.options = options
        self.out = out
        self.sim = Simulator(seed=options.seed, time_scale=1 / options.speed)
        for name in story.WIRES:
            self.sim.add_provider(name)
        self.stopping, self.hurrying = asyncio.Event(), asyncio.Event()
        self.feed: deque[Outcome] = deque(maxlen=64)
        self.notable: deque[Outcome] = deque(maxlen=64)
        self.headline, self.place, self.curl = CHAPTERS[0].says, "", ""
        self.check: Check | None = None
        self.tally: Tally
        self.app: App
        self.address = ("", 0)
        self.began_s = now_s()
        self.finished = False
        self._sampled_s = 0.0
        self._paused = False
        self._opened_s: float | None = None
        self._calls: set[asyncio.Task[None]] = set()

    def stop(self) -> None:
        (self.hurrying if self.stopping.is_set() else self.stopping).set()

    async def run(self) -> Result:
        """Leaves nothing behind: no task, no socket, no file."""
        with tempfile.TemporaryDirectory(prefix="waypost-demo-") as directory, _gathered_log() as complaints:
            ledger = Path(directory) / "waypost.db"
            async with self.sim:
                await self._open(ledger)
                try:
                    await self._play()
                finally:
                    await self._rest()
                    await self.app.stop()
                return Result(self.tally, self._compare(ledger), complaints, self.finished)

    # --- parts ---------------------------------------------------------------------------------------------------------

    async def _open(self, ledger: Path) -> None:
        random.seed(self.options.seed)  # the gateway draws from it too
        self.app = App(config=story.configuration(self.sim, str(ledger)), env={})
        frontier = self.app.world.deployment(FRONTIER)
        self.tally = Tally(story.MODELS, frontier.model.price if frontier else Price())
        self.address = await self.app.start(port=self.options.port)
        gateway, usual = self.app.gateway, self.app.gateway.observe

        def observe(outcome: Outcome) -> None:
            usual(outcome)
            self._observe(outcome)

        gateway.observe = observe

    @property
    def base_url(self) -> str:
        return f"http://{self.address[0]}:{self.address[1]}/v1"

    async def _play(self) -> None:
        self.began_s = now_s()
        show = self._draw if self.options.live else self._tell
        async with asyncio.TaskGroup() as group:
            side = [group.create_task(self._traffic()), group.create_task(show())]
            telling = group.create_task(self._story())
            stopped = group.create_task(self.stopping.wait())
            await asyncio.wait((telling, stopped), return_when=asyncio.FIRST_COMPLETED)
            if self.options.live and not self.stopping.is_set():
                await self.stopping.wait()
            for task in (*side, telling, stopped):
                task.cancel()

    def _observe(self, outcome: Outcome) -> None:
        self.tally.observe(outcome, now_s())
        if words.is_notable(outcome):
            self.notable.append(outcome)
            if not self.options.live:
                self._say_request(outcome)
        elif now_s() - self._sampled_s >= SAMPLE_S:
            self._sampled_s = now_s()
            self.feed.append(outcome)

    # --- callers -------------------------------------------------------------------------------------------------------

    async def _traffic(self) -> None:
        """Independent callers: exponential gaps, at most `IN_FLIGHT` at once."""
        draw = random.Random(self.options.seed)
        number = 0
        while True:
            await asyncio.sleep(draw.expovariate(story.REQUESTS_PER_S * self.options.speed))
            if self._paused or len(self._calls) >= IN_FLIGHT:
                continue
            number += 1
            if number > MOST_REQUESTS:
                self.stop()
                return
            call = asyncio.create_task(self._call(story.question(draw, number)))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _call(self, question: story.Question) -> None:
        self.tally.hear(await ask(*self.address, question))

    async def _rest(self) -> None:
        """No new callers; those under way may finish."""
        self._paused = True
        calls = asyncio.gather(*self._calls, return_exceptions=True)
        hurry = asyncio.ensure_future(self.hurrying.wait())
        await asyncio.wait((calls, hurry), timeout=DRAIN_S, return_when=asyncio.FIRST_COMPLETED)
        for waiting in (hurry, *self._calls):
            waiting.cancel()
        await calls

    def _compare(self, ledger: Path) -> Check:
        rows = SqliteLedger(ledger, read_only=True)
        try:
            return check(rows.attempts(), self.sim.log)
        finally:
            rows.close()

    # --- the story -----------------------------------------------------------------------------------------------------

    async def _story(self) -> None:
        for number, chapter in enumerate(CHAPTERS, start=1):
            self.headline, self.place = chapter.says, f"{number}/{len(CHAPTERS)}"
            self.sim.set_rules(story.rules(chapter))
            if not self.options.live:
                self._say(f"\n{words.clock(now_s() - self.began_s)}  {self.place} {chapter.says}")
            await self._chapter(chapter)
        self.finished = True
        if self.options.live:
            await self._epilogue()
        else:
            self._say_status()

    async def _chapter(self, chapter: Chapter) -> None:
        began_s, length_s = now_s(), chapter.share * self.options.seconds
        answers = self.tally.served[FALLEN].ok
        latest_s = began_s + length_s + 0.5 * self.options.seconds  # it waits, but not for ever
        self._opened_s = None
        while now_s() < latest_s:
            await asyncio.sleep(0.05)
            match chapter.ends:
                case "opened":
                    if self._standing() == "open":
                        self._opened_s = self._opened_s or now_s()
                    done = self._opened_s is not None and now_s() >= self._opened_s + min(length_s, AFTER_OPENING_S)
                case "back":
                    is_back = self._standing() == "ready" and self.tally.served[FALLEN].ok >= answers + BACK_ANSWERS
                    done = is_back and now_s() >= began_s + length_s
                case _:
                    done = now_s() >= began_s + length_s
            if done:
                return

    def _standing(self) -> str:
        return next((v.standing for v in self.app.gateway.health.snapshot(now_s()) if v.deployment == FALLEN), "ready")

    async def _epilogue(self) -> None:
        """At a terminal: the check of the books, then the gateway stays for whoever wants to try it."""
        self.headline, self.place = "The story is over. Waiting for the last answers, to check the books.", ""
        await self._rest()
        ledger = Path(self.app.config.storage.url.removeprefix("sqlite:"))
        found = self._compare(ledger)
        for _ in range(30):  # the ledger is fed five times a second; what still differs after three seconds is a difference
            await asyncio.sleep(0.1)
            found = self._compare(ledger)
            if found.is_exact:
                break
        self.check = found
        self.headline, self._paused = story.AFTER, False
        body = '{"model":"auto","messages":[{"role":"user","content":"hi"}]}'
        self.curl = f"curl {self.base_url}/chat/completions -d '{body}'"

    # --- how it is told ------------------------------------------------------------------------------------------------

    async def _draw(self) -> None:
        def on_key(key: str) -> None:
            if key in ("q", "Q", "\x1b", END):
                self.stop()

        with Screen(self.out, on_key) as screen:
            while True:
                screen.paint(self._scene())
                await asyncio.sleep(FRAME_S)

    def _scene(self) -> Scene:
        now = now_s()
        return Scene(
            headline=self.headline,
            place=self.place,
            elapsed_s=now - self.began_s,
            now_s=now,
            base_url=self.base_url,
            wires=story.WIRES,
            frontier=FRONTIER,
            tally=self.tally,
            feed=self.feed,
            notable=self.notable,
            health={view.deployment: view for view in self.app.gateway.health.snapshot(now)},
            check=self.check,
            curl=self.curl,
        )

    async def _tell(self) -> None:
        """Plain lines, for pipes and logs: what is notable at once, the totals now and then."""
        while True:
            await asyncio.sleep(STATUS_S)
            self._say_status()

    def _say_status(self) -> None:
        self._say(f"      {words.counts(self.tally)}   {FALLEN} is {self._standing()}")
        self._say(f"      answers in the last {RECENT_S:.0f} s: {words.shares(self.tally, now_s())}")

    def _say_request(self, outcome: Outcome) -> None:
        self._say(f"      {words.task(outcome):<10}{words.chain(outcome, '->')}  ({words.why(outcome)})")

    def _say(self, line: str) -> None:
        """Called from within the gateway as well: a reader who left (`| head`) ends the demo, not a request."""
        try:
            print(line, file=self.out, flush=True)
        except OSError:
            self.stop()


@contextlib.contextmanager
def _gathered_log():
    """The gateway's log would tear the picture: keep it for the end."""
    log = logging.getLogger("waypost")
    complaints: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if len(complaints) < 100:
                complaints.append(f"{record.levelname.lower()}: {record.getMessage()}")

    keep, propagated = Keep(logging.WARNING), log.propagate
    log.addHandler(keep)
    log.propagate = False
    try:
        yield complaints
    finally:
        log.removeHandler(keep)
        log.propagate = propagated


async def play(options: Options, out: TextIO = sys.stdout) -> Result:
    """Run the demo until its story ends, or with `live` until Ctrl-C or q. Ctrl-C ends it early and tidily."""
    demo = Demo(options, out)
    loop = asyncio.get_running_loop()
    numbers = [n for name in ("SIGINT", "SIGTERM", "SIGHUP") if (n := getattr(signal, name, None)) is not None]
    for number in numbers:
        with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):  # not on Windows, not outside the main thread
            loop.add_signal_handler(number, demo.stop)
    try:
        return await demo.run()
    finally:
        for number in numbers:
            with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
                loop.remove_signal_handler(number)


def summary(result: Result, say: Callable[[str], None]) -> None:
    """What remains on the screen."""
    tally = result.tally
    told, silent = words.promises(tally)
    say("waypost demo: " + words.counts(tally))
    say(f"  {told}{silent}")
    say(f"  {words.latency(tally)}")
    say(f"  {words.costs(tally, FRONTIER)}")
    for line in words.verdict(result.check):
        say(f"  {line}")
    for trouble, count in tally.troubles.items():
        say(f"  callers met with {trouble}: {count}")
    for complaint in result.complaints:
        say(f"  the gateway logged {complaint}")
    say("")
    say("Next:")
    say("  OPENAI_API_KEY=... waypost serve     the gateway with your own keys")
    say("  curl http://127.0.0.1:4000/v1/chat/completions \\")
    say('    -d \'{"model":"auto","messages":[{"role":"user","content":"hi"}]}\'')
    say("  waypost sim --list                   the failures providers were made to play")
