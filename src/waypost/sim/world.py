"""World: a virtual clock that drives Race and Health through scripted incidents, without sockets and without waiting.

It decides what each provider does at each moment and plays the gateway's part of the contract (dispatch, events, `tick` at
`wake_at_s`), so that what is measured here is the policy that serves. Late events of cancelled attempts are delivered on purpose.
Knows nothing of wire formats. The idea is FoundationDB's and TigerBeetle's: the real code on a simulated clock, from a seed.

    python -m waypost.sim.world [--hours 20] [--seed 1] [--trace stress|realistic]

The traces: each provider breaks at random, independently, in one of seven ways. `stress`: every 15 minutes for 3 on average;
`realistic`: every 12 hours for 4 minutes. Both means are of exponential distributions; requests arrive as a Poisson process.
"""

import argparse
import random as _random
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush
from typing import Literal

from msgspec import Struct

from waypost.core.health import Health
from waypost.core.race import Actions, Cancel, Commit, Dispatch, GiveUp, Place, Race, RetryPolicy
from waypost.core.types import Failure, Fault, Leg, Plan

Kind = Literal["refused", "errors", "limited", "silent", "slow", "cut", "stall", "key_dead"]
RANDOM_KINDS: tuple[Kind, ...] = ("refused", "errors", "limited", "silent", "slow", "cut", "stall")
SLOW_S = 20.0  # added to the first token in a `slow` incident
RETRY_AFTER_S = 10.0  # what a `limited` provider asks for
PATIENCE_S = 10.0  # a first token later than this counts as a failure


class Incident(Struct, frozen=True):
    kind: Kind
    from_s: float
    until_s: float


class Provider(Struct, frozen=True):
    """One scripted deployment. In an incident every call that begins within it is hit; `refused` also cuts streams in flight."""

    name: str
    incidents: tuple[Incident, ...] = ()
    ttft_s: float = 0.5  # median; log-normal with sigma 0.3
    tokens: int = 250  # mean of an answer
    tokens_per_s: float = 60.0

    def now_in(self, at_s: float) -> Incident | None:
        for incident in self.incidents:
            if incident.from_s <= at_s < incident.until_s:
                return incident
        return None

    def broken_within(self, from_s: float, until_s: float) -> Incident | None:
        """The next `refused` incident that begins within the span: it cuts what is streaming then."""
        for incident in self.incidents:
            if incident.kind == "refused" and from_s < incident.from_s < until_s:
                return incident
        return None


class Setting(Struct, frozen=True):
    """What a policy is allowed to do in one run."""

    name: str
    legs: int
    attempts: int
    retry: RetryPolicy
    learned_clock: bool = True
    first_token_s: float = 10.0


class Result(Struct):
    """Counts of one run. Mutable while it runs."""

    requests: int = 0
    calls: int = 0
    complete: int = 0
    in_time: int = 0  # complete with the first token within PATIENCE_S
    truncated: int = 0  # ended with an error after content was delivered; the caller was told
    failed: int = 0  # ended with an error before any content
    left: int = 0
    doomed: int = 0  # arrived while every leg of the setting was in an incident: about what no policy can save
    held_calls: int = 0  # calls inside a Retry-After hold: must be 0
    leaked: int = 0  # permits still taken after the last request: must be 0
    ttfts_s: list[float] = []
    calls_to: dict[str, int] = {}

    def share(self, count: int) -> float:
        return 100.0 * count / max(1, self.requests)

    @property
    def calls_per_request(self) -> float:
        return self.calls / max(1, self.requests)

    def ttft_s(self, q: float) -> float:
        return sorted(self.ttfts_s)[min(len(self.ttfts_s) - 1, int(q * len(self.ttfts_s)))] if self.ttfts_s else 0.0


class _Request:
    """One request in flight: its race, and the scripted progress of its attempts."""

    __slots__ = ("first_s", "open", "race", "started_s", "streams", "wake_s")

    def __init__(self, race: Race, started_s: float) -> None:
        self.race = race
        self.started_s = started_s
        self.wake_s: float | None = None
        self.first_s: float | None = None
        self.open: set[int] = set()  # attempts whose socket the gateway holds
        self.streams: dict[int, tuple[float, float]] = {}  # attempt -> last content moves from .. to


class World:
    """Providers, one Health and a heap of events. `run` plays arrivals to their ends and returns the counts."""

    def __init__(self, providers: Sequence[Provider], setting: Setting, *, seed: int) -> None:
        self.providers = {provider.name: provider for provider in providers}
        self.order = [provider.name for provider in providers][: setting.legs]
        self.places = {name: Place(f"{name}:0", name) for name in self.order}
        self.setting = setting
        self.health = Health()
        self.result = Result()
        self.random = _random.Random(seed)
        self._heap: list[tuple[float, int, Callable[[float], None]]] = []
        self._seq = 0
        self._asked: dict[str, float] = {}

    def run(self, arrivals: Iterable[float], *, patience_s: float | None = None) -> Result:
        """`patience_s`: callers leave after so long; None: they wait."""
        pending = iter(arrivals)
        following = next(pending, None)
        while following is not None or self._heap:
            if following is not None and (not self._heap or following <= self._heap[0][0]):
                self._arrive(following, patience_s)
                following = next(pending, None)
            else:
                at_s, _, event = heappop(self._heap)
                event(at_s)
        self.result.leaked = sum(view.in_flight for view in self.health.snapshot(0.0))
        return self.result

    def _at(self, at_s: float, event: Callable[[float], None]) -> None:
        self._seq += 1
        heappush(self._heap, (at_s, self._seq, event))

    # --- the gateway's part --------------------------------------------------------------------------------------------

    def _arrive(self, now_s: float, patience_s: float | None) -> None:
        legs = tuple(Leg(name, connect_s=2.0, first_token_s=self._first_token_s(name), idle_s=20.0) for name in self.order)
        plan = Plan(legs=legs, total_s=600.0, attempts=self.setting.attempts)
        race = Race(plan, self.setting.retry, self.health, self.places, self.random.random, started_s=now_s)
        request = _Request(race, now_s)
        self.result.requests += 1
        self.result.doomed += all(self.providers[name].now_in(now_s) is not None for name in self.order)
        self._do(request, race.begin(now_s), now_s)
        if patience_s is not None:
            self._at(now_s + patience_s, lambda at_s: self._leave(request, at_s))

    def _first_token_s(self, name: str) -> float:
        """The learnt clock: three times the p99 first token, between 5 s and the configured value."""
        if not self.setting.learned_clock:
            return self.setting.first_token_s
        learnt_s = self.health.target(name, self.places[name].credential).quantile_s(0.99)
        return self.setting.first_token_s if learnt_s is None else min(self.setting.first_token_s, max(5.0, 3.0 * learnt_s))

    def _do(self, request: _Request, actions: Actions, now_s: float) -> None:
        for action in actions:
            match action:
                case Dispatch(n, leg):
                    request.open.add(n)
                    self._call(request, n, leg.deployment, now_s)
                case Commit():
                    request.first_s = now_s - request.started_s
                    self.result.ttfts_s.append(request.first_s)
                case GiveUp(_, committed):
                    self.result.truncated += committed
                    self.result.failed += not committed
                case Cancel(n):
                    request.open.discard(n)  # the script goes on: its events arrive late, and must not matter
        race = request.race
        if race.wake_at_s is not None and race.wake_at_s != request.wake_s:
            request.wake_s = wake_s = race.wake_at_s
            self._at(wake_s, lambda at_s: self._wake(request, at_s))

    def _wake(self, request: _Request, now_s: float) -> None:
        race = request.race
        if race.ended or request.wake_s != now_s:
            return
        request.wake_s = None
        content_at_s = None
        if race.committed:
            first_s, last_s = request.streams[race.committed]
            content_at_s = max(first_s, min(now_s, last_s))
        self._do(request, race.tick(now_s, content_at_s, content_at_s), now_s)

    def _leave(self, request: _Request, now_s: float) -> None:
        if not request.race.ended:
            self.result.left += 1
            self._do(request, request.race.caller_left(now_s), now_s)

    def _content(self, request: _Request, n: int, now_s: float) -> None:
        self._do(request, request.race.content(n, now_s), now_s)

    def _complete(self, request: _Request, n: int, tokens: int, now_s: float) -> None:
        if request.race.ended or request.race.committed != n:
            request.race.complete(n, now_s, tokens)
            return
        self._do(request, request.race.complete(n, now_s, tokens), now_s)
        self.result.complete += 1
        self.result.in_time += request.first_s is not None and request.first_s <= PATIENCE_S

    def _fail(self, request: _Request, n: int, name: str, failure: Failure, now_s: float) -> None:
        if n in request.open and failure.retry_after_s is not None:  # from the moment it is heard, not from when it was meant
            self._asked[name] = max(self._asked.get(name, 0.0), now_s + failure.retry_after_s)
        request.open.discard(n)
        self._do(request, request.race.failed(n, failure, now_s), now_s)

    # --- the providers' part -------------------------------------------------------------------------------------------

    def _call(self, request: _Request, n: int, name: str, now_s: float) -> None:
        """Write the script of one attempt: everything that will happen to it."""
        provider = self.providers[name]
        self.result.calls += 1
        self.result.calls_to[name] = self.result.calls_to.get(name, 0) + 1
        self.result.held_calls += now_s < self._asked.get(name, 0.0)
        incident = provider.now_in(now_s)
        kind = incident.kind if incident else None
        refusal = _REFUSALS.get(kind) if kind else None
        if refusal is not None:
            wait_s, failure = refusal
            at_s = now_s + wait_s
            self._at(at_s, lambda at_s: self._fail(request, n, name, failure, at_s))
            return
        if kind == "silent":
            return
        first_s = now_s + provider.ttft_s * self.random.lognormvariate(0.0, 0.3) + (SLOW_S if kind == "slow" else 0.0)
        tokens = max(1, int(self.random.expovariate(1.0 / provider.tokens)))
        last_s = first_s + tokens / provider.tokens_per_s
        self._stream(request, n, provider, kind, first_s, last_s, tokens)

    def _stream(self, request: _Request, n: int, provider: Provider, kind: Kind | None, first_s: float, last_s: float, tokens: int) -> None:
        self._at(first_s, lambda at_s: self._content(request, n, at_s))
        if kind in ("cut", "stall"):
            last_s = first_s + self.random.random() * (last_s - first_s)
        broken = provider.broken_within(first_s, last_s)
        if broken is not None:
            last_s = broken.from_s
        request.streams[n] = (first_s, last_s)
        if kind == "cut" or broken is not None:
            self._at(last_s, lambda at_s: self._fail(request, n, provider.name, _CUT, at_s))
        elif kind != "stall":
            self._at(last_s, lambda at_s: self._complete(request, n, tokens, at_s))


_CUT = Failure(fault=Fault.TRUNCATED, message="the stream ended without its terminal marker", phase="stream")
_REFUSALS: dict[Kind, tuple[float, Failure]] = {
    "refused": (0.001, Failure(fault=Fault.TRANSPORT, message="connection refused", phase="connect", sent=False)),
    "errors": (0.1, Failure(fault=Fault.OVERLOADED, message="overloaded", status=503)),
    "limited": (0.05, Failure(fault=Fault.RATE_LIMITED, message="slow down", status=429, retry_after_s=RETRY_AFTER_S)),
    "key_dead": (0.05, Failure(fault=Fault.AUTH, message="invalid key", status=401)),
}


# --- traces ------------------------------------------------------------------------------------------------------------


def arrivals(random: _random.Random, *, per_s: float, span_s: float) -> Iterable[float]:
    """A Poisson process over `span_s` seconds."""
    at_s = random.expovariate(per_s)
    while at_s < span_s:
        yield at_s
        at_s += random.expovariate(per_s)


def incidents(random: _random.Random, *, between_s: float, lasting_s: float, span_s: float) -> tuple[Incident, ...]:
    """A provider's life: well for a time, then broken in one of seven ways for a time, and again."""
    found: list[Incident] = []
    at_s = random.expovariate(1.0 / between_s)
    while at_s < span_s:
        until_s = at_s + random.expovariate(1.0 / lasting_s)
        found.append(Incident(random.choice(RANDOM_KINDS), at_s, until_s))
        at_s = until_s + random.expovariate(1.0 / between_s)
    return tuple(found)


TRACES: dict[str, tuple[float, float, float]] = {  # between incidents, their length, requests per second
    "stress": (900.0, 180.0, 2.0),
    "realistic": (43_200.0, 240.0, 2.0),
}

DIRECT = Setting("direct, one provider", 1, 1, RetryPolicy(attempts=1), learned_clock=False, first_token_s=60.0)
WAYPOST = Setting("waypost", 3, 3, RetryPolicy())
HEDGED = Setting("waypost, hedged 5 %", 3, 3, RetryPolicy(hedge=True))


def play(setting: Setting, *, trace: str, hours: float, seed: int) -> Result:
    """One run. The same trace and seed give every setting the same incidents and arrivals."""
    between_s, lasting_s, per_s = TRACES[trace]
    span_s = hours * 3600.0
    random = _random.Random(seed)
    providers = [
        Provider(name, incidents(random, between_s=between_s, lasting_s=lasting_s, span_s=span_s))
        for name in ("first/model", "second/model", "third/model")
    ]
    world = World(providers, setting, seed=seed + 1)
    return world.run(arrivals(random, per_s=per_s, span_s=span_s))


def happy_race_us(races: int = 20_000) -> float:
    """CPU microseconds of one happy race: made, begun, first content, complete. Printed, never asserted: machines differ."""
    health, policy = Health(), RetryPolicy()
    plan = Plan((Leg("first/model", 2.0, 10.0, 20.0), Leg("second/model", 2.0, 10.0, 20.0)), 600.0)
    places = {leg.deployment: Place(leg.deployment, leg.deployment) for leg in plan.legs}
    draw = _random.Random(1).random
    began = time.process_time()
    for k in range(races):
        now_s = k / 1000.0
        race = Race(plan, policy, health, places, draw, started_s=now_s, prompt_tokens=1000)
        race.begin(now_s)
        race.content(1, now_s + 0.3)
        race.complete(1, now_s + 0.9, 100)
    return (time.process_time() - began) / races * 1e6


def table(rows: Sequence[tuple[str, Result]]) -> str:
    """One line a setting, in percent of requests."""
    titles = ("requests", "complete", "+10 s", "cut, told", "failed", "all down", "calls/req", "ttft p50", "p99")
    head = f"{'policy':24}" + "".join(f"{title:>11}" for title in titles)
    lines = [head, "-" * len(head)]
    for name, r in rows:
        shares = "".join(f"{r.share(count):>10.2f}%" for count in (r.complete, r.in_time, r.truncated, r.failed, r.doomed))
        times = "".join(f"{r.ttft_s(q):>9.2f} s" for q in (0.5, 0.99))
        lines.append(f"{name:24}{r.requests:>11,}{shares}{r.calls_per_request:>11.4f}{times}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="waypost.sim.world", description="Play incidents against Race and Health on a virtual clock.")
    parser.add_argument("--hours", type=float, default=20.0, help="virtual hours (default 20; about 0.2 s of CPU per policy and hour)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trace", choices=sorted(TRACES), default="stress")
    wish = parser.parse_args(argv)
    began = time.process_time()
    rows: list[tuple[str, Result]] = []
    for setting in (DIRECT, WAYPOST, HEDGED):
        print(f"playing {setting.name} ...", file=sys.stderr, flush=True)
        rows.append((setting.name, play(setting, trace=wish.trace, hours=wish.hours, seed=wish.seed)))
    print(f"trace {wish.trace}, {wish.hours:g} virtual hours, seed {wish.seed}, {time.process_time() - began:.1f} s of CPU\n")
    print(table(rows))
    print("\n+10 s: complete with the first token within 10 s. cut, told: ended by an error after content, never silently.")
    print("all down: arrived while every provider of the policy was broken; a perfect policy would lose about these.")
    print(f"one happy race: {happy_race_us():.1f} us of CPU")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
