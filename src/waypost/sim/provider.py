"""Provider simulator: scripted providers on real sockets, and the truth about what they generated.

    async with Simulator(seed=7, rules=[Rule(model="gpt-*", script=["fail-503", "ok"])]) as sim:
        ...  # send requests to sim.base_url("openai-chat")
        sim.log, sim.bill("marker")

Decides who gets which script (rules first, then the model's name) and keeps the log. Every draw is a function of the seed and of
the attempt's identity, never of arrival order. What the words mean is in docs/simulator.md and in `waypost sim --list`.
"""

import asyncio
import contextlib
import ssl
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from waypost.sim import records, scripts
from waypost.sim.answers import Memory
from waypost.sim.asks import Ask
from waypost.sim.beats import Pace
from waypost.sim.box import Box, Direction, credential
from waypost.sim.door import HttpRequest
from waypost.sim.paths import Place
from waypost.sim.records import Bill, Record
from waypost.sim.scripts import Chance, Rule, Script, Spread, spread

LOG_LIMIT = 100_000
COUNTED_REQUESTS = 100_000
DEFAULT_TOKENS = 40
VERSIONS = {"openai-chat": "/v1", "openai-responses": "/v1", "anthropic-messages": "/v1", "gemini": "/v1beta", "embeddings": "/v1"}
_OK = Script()


class Simulator:
    """Simulated providers in this process: one box on a main port, more by `add_provider`.

    `time_scale` multiplies every scripted wait and time window. `keys`: the credentials taken (None: any). Use as an async context
    manager on a running loop, or `with sim.run_in_thread():` beside synchronous code; all public methods may then be called
    from any thread.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        rules: Sequence[Rule] = (),
        host: str = "127.0.0.1",
        port: int = 0,
        time_scale: float = 1.0,
        ttft_ms: str | float = 0,
        gap_ms: str | float = 0,
        tokens: int = DEFAULT_TOKENS,
        flavour: str = "",
        keys: Sequence[str] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.seed = seed
        self.host = host
        self.time_scale = time_scale
        self.memory = Memory()
        self.rules: tuple[Rule, ...] = tuple(rules)
        self._ttft = spread(ttft_ms)
        self._gap = spread(gap_ms)
        self._tokens = tokens
        self._tls = tls
        self._log: deque[Record] = deque(maxlen=LOG_LIMIT)
        self._ids = 0
        self._attempts: OrderedDict[tuple[str, str, str], int] = OrderedDict()
        self._rule_counts: Counter[tuple[str, str]] = Counter()
        self._in_flight: Counter[tuple[str, str]] = Counter()
        self._spreads: dict[str | float, Spread] = {}
        self._started_s = time.monotonic()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread_id = 0
        self.boxes: dict[str, Box] = {}
        self.box = self.add_provider("default", port=port, flavour=flavour, keys=keys)

    # --- life

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        self._started_s = time.monotonic()
        for box in self.boxes.values():
            box.up()

    async def stop(self) -> None:
        for box in self.boxes.values():
            await box.shut()
        self._loop = None

    async def __aenter__(self) -> "Simulator":
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    @contextlib.contextmanager
    def run_in_thread(self) -> "Generator[Simulator]":
        """The simulator on a loop of its own in a thread, for synchronous callers."""
        ready, done = threading.Event(), asyncio.Event()
        failed: list[BaseException] = []

        async def live() -> None:
            try:
                await self.start()
            except OSError as error:
                failed.append(error)
                return
            finally:
                ready.set()
            await done.wait()
            await self.stop()

        thread = threading.Thread(target=run_on_fast_loop, args=(live,), name="waypost-sim", daemon=True)
        thread.start()
        ready.wait()
        try:
            if failed:
                raise failed[0]
            yield self
        finally:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(done.set)
            thread.join(timeout=10)

    def _run(self, act: Callable[[], None]) -> None:
        """Run on the loop's thread and wait for it; before the start there is nothing to run."""
        if self._loop is None:
            return
        if threading.get_ident() == self._thread_id:
            act()
            return

        async def acting() -> None:
            act()

        asyncio.run_coroutine_threadsafe(acting(), self._loop).result(timeout=10)

    # --- the public face

    @property
    def port(self) -> int:
        return self.box.port

    def base_url(self, dialect: str = "openai-chat", *, provider: str = "", flavour: str = "") -> str:
        """Where a dialect is served. A provider with a box of its own is at its own port, any other name at `/p/<name>`."""
        box = self.boxes.get(provider or "default")
        prefix = f"/p/{provider}" if box is None else ""
        flavoured = f"/{flavour}" if flavour else ""
        return f"{(box or self.box).origin}{prefix}{flavoured}{VERSIONS.get(dialect, '/v1')}"

    def add_provider(
        self, name: str, port: int = 0, *, rules: Sequence[Rule] = (), flavour: str = "", keys: Sequence[str] | None = None
    ) -> Box:
        """A box of its own, on its own port, up at once if the simulator runs. Its rules come before the simulator's."""
        box = Box(
            self,
            name,
            host=self.host,
            port=port,
            rules=rules,
            flavour=flavour,
            keys=None if keys is None else frozenset(keys),
            tls=self._tls,
            run=self._run,
        )
        self.boxes[name] = box
        box.up()
        return box

    def set_rules(self, rules: Sequence[Rule]) -> None:
        """Replace the simulator's rules; their counts and time windows begin anew."""
        self.rules = tuple(rules)
        self._rule_counts.clear()
        self._started_s = time.monotonic()

    def reset(self) -> None:
        """Forget log, counts and cached prefixes; rules stay."""
        self._log.clear()
        self._attempts.clear()
        self._rule_counts.clear()
        self.memory.clear()
        self._started_s = time.monotonic()

    @property
    def log(self) -> list[Record]:
        """Every attempt, oldest first (the newest 100,000)."""
        return list(self._log)

    def records(self, marker: str) -> list[Record]:
        """The attempts of one request: those whose prompt held `[[marker]]`."""
        return [record for record in self._log if record.marker == marker]

    def bill(self, marker: str | None = None) -> Bill:
        """What the providers would charge: for one request, or for all."""
        return records.bill(self._log if marker is None else self.records(marker))

    # --- Director, for the boxes

    def open_record(self, box: Box, place: Place, request: HttpRequest) -> Record:
        self._ids += 1
        key = credential(request, place)
        record = Record(
            id=f"sim-{self._ids:06d}",
            provider=place.provider or box.name,
            path=request.target.partition("?")[0],
            accept_s=request.accept_s,
            headers_s=request.headers_s,
            body_s=request.body_s,
            connection_requests=request.nth,
            dialect=place.dialect,
            flavour=place.flavour or box.flavour,
            key=blake2b(key.encode(), digest_size=4).hexdigest() if key else "",
            key_in_url=bool(place.key),
        )
        self._log.append(record)
        return record

    def close_record(self, record: Record) -> None:
        if record.attempt:
            self._in_flight[(record.provider, record.model)] -= 1

    def direct(self, box: Box, record: Record, ask: Ask, key: str) -> Direction:
        record.model, record.marker, record.stream = ask.model, ask.marker, ask.stream
        record.attempt = self._count_attempt(record)
        place = (record.provider, record.model)
        self._in_flight[place] += 1
        chance = Chance(self.seed, record.provider, ask.model, ask.marker, record.attempt)
        ruled, pacing = self._by_rules(box, record, key)
        script = self._applied(ruled or scripts.of_model(ask.model), record, chance)
        script = _with_capacity(script, self._in_flight[place])
        record.script = script.name
        ttft = Spread(centre=script.number("d")) if "d" in script else self._spread(pacing.ttft_ms, self._ttft)
        slow_word = "drip" if "drip" in script else "g"
        gap = Spread(centre=script.number(slow_word)) if slow_word in script else self._spread(pacing.gap_ms, self._gap)
        return Direction(script, Pace(ttft.draw_s(chance), gap, chance), self._tokens if pacing.tokens is None else pacing.tokens)

    def at_accept(self, box: Box) -> Script:
        for index, rule in self._rules_of(box):
            if rule.at == "accept" and rule.suits(provider=box.name, model="", dialect="", key="", now_s=self._now_s()):
                text = self._turn(rule, index, "", Chance(self.seed, index, box.name, "accept", self._rule_counts[(index, "")]))
                if text is not None:
                    return scripts.parse(text) or _OK
        return _OK

    def control(self, place: Place, request: HttpRequest) -> tuple[int, bytes]:
        """The control endpoints under `/_sim/`."""
        arguments = dict(place.query)
        try:
            return 200, msgspec.json.encode(self._controlled(request.method, place.rest, arguments, request.body))
        except (msgspec.MsgspecError, ValueError, LookupError) as error:
            return 400, msgspec.json.encode({"error": {"message": str(error), "type": "invalid_request_error"}})

    def models(self) -> list[str]:
        return [written for group, written, _ in scripts.listing() if group not in ("knob", "detail")]

    # --- how a script is found

    def _controlled(self, method: str, rest: str, arguments: dict[str, str], body: bytes) -> Any:
        marker = arguments.get("marker")
        match method, rest:
            case "GET", "log":
                return self.log if marker is None else self.records(marker)
            case "GET", "bill":
                return self.bill(marker)
            case "GET", "rules":
                return self.rules
            case (("PUT" | "POST"), "rules"):
                self.set_rules(scripts.rules_from_json(body))
                return self.rules
            case (("PUT" | "POST"), "reset"):
                self.reset()
                return {}
            case (("PUT" | "POST"), "up"):
                self.boxes[arguments["provider"]].up()
                return {}
            case (("PUT" | "POST"), "down"):
                self.boxes[arguments["provider"]].down(cut="cut" in arguments)
                return {}
            case "GET", "providers":
                return {name: {"origin": box.origin, "up": box.is_up} for name, box in self.boxes.items()}
            case _:
                raise ValueError(f"no control {method} /_sim/{rest}; known: log, bill, rules, reset, up, down, providers")

    def _now_s(self) -> float:
        """Scripted seconds since start, reset or the last change of rules."""
        return (time.monotonic() - self._started_s) / (self.time_scale or 1.0)

    def _rules_of(self, box: Box) -> Iterator[tuple[str, Rule]]:
        for i, rule in enumerate(box.rules):
            yield f"{box.name}:{i}", rule
        for i, rule in enumerate(self.rules):
            yield f":{i}", rule

    def _count_attempt(self, record: Record) -> int:
        key = (record.provider, record.model, record.marker)
        nth = self._attempts.pop(key, 0) + 1
        self._attempts[key] = nth
        if len(self._attempts) > COUNTED_REQUESTS:
            self._attempts.popitem(last=False)
        return nth

    def _by_rules(self, box: Box, record: Record, key: str) -> tuple[Script | None, Rule]:
        """The script that the rules give, if any, and the pace as a rule without patterns."""
        script: Script | None = None
        pacing = Rule()
        now_s = self._now_s()
        for index, rule in self._rules_of(box):
            if rule.at == "accept":
                continue
            if not rule.suits(provider=record.provider, model=record.model, dialect=record.dialect, key=key, now_s=now_s):
                continue
            chance = Chance(self.seed, "rule", index, record.provider, record.model, record.marker, record.attempt)
            text = self._turn(rule, index, record.marker, chance)
            if text is None:
                continue
            if script is None and text:
                script = scripts.parse(text)
            pacing = _first_said(pacing, rule)
        return script, pacing

    def _turn(self, rule: Rule, index: str, marker: str, chance: Chance) -> str | None:
        """The rule's script for this attempt, "" if it only sets the pace, None if it is not this attempt's turn."""
        counted = (index, marker if rule.per_request else "")
        self._rule_counts[counted] += 1
        if rule.probability < 1 and chance.dice().random() >= rule.probability:
            return None
        nth = self._rule_counts[counted]
        if rule.script is None:
            return "" if nth >= rule.first and (rule.last is None or nth <= rule.last) else None
        return rule.script_for(nth)

    def _applied(self, script: Script, record: Record, chance: Chance) -> Script:
        """The script, or what is left of it where `x` or `p` say that its faults rest this time."""
        if "x" in script and record.attempt > script.number("x"):
            return script.calm()
        if "p" in script and chance.dice().random() >= script.number("p"):
            return script.calm()
        return script

    def _spread(self, said: str | float | None, usual: Spread) -> Spread:
        if said is None:
            return usual
        if said not in self._spreads:
            self._spreads[said] = spread(said)
        return self._spreads[said]


def _with_capacity(script: Script, in_flight: int) -> Script:
    """`full-k`: over k, a failure (429 unless the script names one); else the script without that failure."""
    if "full" not in script:
        return script
    if in_flight <= script.number("full"):
        return Script(script.name, tuple(word for word in script.words if word[0] != "fail"))
    return script if "fail" in script else Script(script.name, (*script.words, ("fail", 429.0)))


def _first_said(pacing: Rule, rule: Rule) -> Rule:
    return Rule(
        ttft_ms=rule.ttft_ms if pacing.ttft_ms is None else pacing.ttft_ms,
        gap_ms=rule.gap_ms if pacing.gap_ms is None else pacing.gap_ms,
        tokens=rule.tokens if pacing.tokens is None else pacing.tokens,
    )


def run_on_fast_loop(main: Callable[[], Any]) -> None:
    """`asyncio.run` on uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
        return
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
