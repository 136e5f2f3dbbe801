"""Gateway: the straight line of one request, from a parsed call to its dispatch.

    resolve the wish -> need -> candidates -> plan (pure) -> admit the worst case -> exact cache -> flight

`Gateway.serve` is that line. It never waits: it runs to the first dispatch in one go, and everything after it is driven by what
the sockets tell a Flight. Decisions are the core's (`route`, `race`, `admit`); what stands here is their order.
"""

import asyncio
import time
from collections.abc import Callable

import msgspec

from waypost.core.admit import Account, Budget, Hold
from waypost.core.classify import expected_output, need_of
from waypost.core.health import Health, HealthPolicy, Standing
from waypost.core.race import RetryPolicy
from waypost.core.replay import keep
from waypost.core.reuse import ExactCache, key_of
from waypost.core.route import Ask, Candidate, Route, Wish, decide
from waypost.core.types import UNBOUND, Bounds, Call, Decision, Deployment, Need, Outcome, Plan
from waypost.dialects import openai_chat
from waypost.flight import Flight
from waypost.lane import Asked, Lane, Lanes, Places, Policy
from waypost.ports import Journal, Responder, Upstream
from waypost.world import Caller, World

now_s = time.monotonic

PINS = 10_000  # names of models that callers sent, remembered
SWEEP_S = 0.25  # resolution of clocks that are far away; near ones get a timer of their own


class Gateway:
    """Serves one World at a time; `swap` changes it between two requests. One per process."""

    def __init__(
        self,
        world: World,
        *,
        upstream: Upstream,
        journal: Journal,
        random: Callable[[], float],
        observe: Callable[[Outcome], None],
        spent: Callable[[str, int], int],
    ) -> None:
        self.upstream = upstream
        self.journal = journal
        self.random = random
        self.observe = observe
        self.health = Health(HealthPolicy())
        self.flights: set[Flight] = set()
        self.cache = ExactCache(ttl_s=0, max_bytes=0, by_default=False)
        self.loop = asyncio.get_running_loop()
        self.policy: Policy
        self.world: World
        self._spent = spent
        self._accounts: dict[str, Account | None] = {}  # None: a key without limits
        self.swap(world)
        self._sweeper = self.loop.call_later(SWEEP_S, self._sweep)

    # --- the line ------------------------------------------------------------------------------------------------------

    def serve(self, asked: Asked, responder: Responder) -> None:
        """Answer one call, now or when a provider does. Raises Refused when nothing may be tried; then nothing was billed."""
        call = asked.call
        lane = self._pinned(asked)
        if lane is not None:  # the common case: nothing to choose, nothing to forbid
            plan, decision, wish_name = self._plan_of(lane, call), None, lane.name
        else:
            wish, route, deployments = self.world.resolve(call, asked.caller)
            plan, decision = self.plan(asked, wish, route, deployments)
            wish_name = wish.name
            if asked.explain == "only":
                responder.answer(200, [(b"content-type", b"application/json")], msgspec.json.encode(decision))
                return
        account = self._accounts[asked.caller.name] if asked.caller.name in self._accounts else self._account(asked.caller, asked.at_ms)
        hold = None if account is None else self._admit(account, asked, plan)
        flight = Flight(self, asked, plan, decision, responder, account, hold)
        if self._uses_cache(asked) and flight.answer_from(self.cache, key_of(call, asked.caller.name, wish_name)):
            return
        self.flights.add(flight)
        flight.start()

    def _uses_cache(self, asked: Asked) -> bool:
        return self.cache.by_default if asked.cache == "" else asked.cache != "off"

    # --- pins ----------------------------------------------------------------------------------------------------------

    def _pinned(self, asked: Asked) -> Lane | None:
        """The one deployment this call can only mean, if no bound, need or wish of it asks for a closer look."""
        call = asked.call
        if asked.bounds is not UNBOUND or asked.explain or call.fallback_models or call.tools or call.modalities or call.reasoning:
            return None
        key = (call.model, asked.caller.name)
        if key in self._pins:
            lane = self._pins[key]
        else:
            if len(self._pins) > PINS:
                self._pins.clear()
            lane = self._pins[key] = self._pin_of(call.model, asked.caller)
        if lane is None or call.format_kind != "text" or (call.max_output_tokens or 0) + call.prompt_tokens > lane.window_tokens:
            return None
        return lane

    def _pin_of(self, name: str, caller: Caller) -> Lane | None:
        target = name if self.world.deployment(name) is not None else self.world.aliases.get(name, name)
        deployment = self.world.deployment(target)
        if deployment is None or target in self.world.routes or deployment.model.mode != "chat":
            return None
        return self.lanes[deployment.name] if caller.allows(name) or caller.allows(target) else None

    def _plan_of(self, lane: Lane, call: Call) -> Plan:
        """Its plans are kept for a moment: they differ only by ceiling and the pace that was seen."""
        key = -1 if call.stream else call.max_output_tokens or 0
        plan = lane.plans.get(key)
        if plan is None:
            plan = lane.plans[key] = Plan((lane.leg(call, self.policy),), self.policy.total_s, self.policy.retry.attempts)
        return plan

    def decision_of(self, asked: Asked) -> Decision:
        """The decision behind a pin, for whoever asks; the plan did not need it."""
        return self.plan(asked, *self.world.resolve(asked.call, asked.caller))[1]

    # --- the plan ------------------------------------------------------------------------------------------------------

    def plan(self, asked: Asked, wish: Wish, route: Route | None, deployments: list[tuple[Deployment, int]]) -> tuple[Plan, Decision]:
        call, now = asked.call, now_s()
        need = judged(call, is_free=route is not None or len(deployments) > 1)
        candidates = [self._candidate(d, group, need, now) for d, group in deployments]
        ask = ask_of(call, need, asked.bounds, segment=asked.segment, today=self.today())
        chosen, decision = decide(wish, ask, candidates, route=route, draw=self.random(), config=self.world.fingerprint)
        decision = keep(wish, ask, candidates, decision)
        legs = tuple([self.lanes[c.deployment.name].leg(call, self.policy) for c in chosen])
        return Plan(legs, self.policy.total_s, self.policy.retry.attempts), decision

    def _candidate(self, deployment: Deployment, group: int, need: Need, now: float) -> Candidate:
        target = self.lanes[deployment.name].target
        standing = target.standing(now)
        seen = target.ttfts.total > 0
        return Candidate(
            deployment,
            # One that may be probed keeps its place, or it would never come back: the race sends a probe and escorts it.
            "ready" if standing in (Standing.READY, Standing.PROBE) else standing.value,
            target.why(now) if standing is not Standing.READY else "",
            target.in_flight,
            target.ttft_s(need.prompt_tokens, now) if seen else None,
            target.tokens_per_s,
            group=group,
        )

    def today(self) -> str:
        return time.strftime("%Y-%m-%d", time.gmtime())

    # --- money ---------------------------------------------------------------------------------------------------------

    def _admit(self, account: Account, asked: Asked, plan: Plan) -> Hold:
        """Reserve the dearest leg's worst case. Further attempts extend the hold (see Flight)."""
        call = asked.call
        worst: int | None = 0
        most_output = call.max_output_tokens or 0
        for leg in plan.legs:
            lane = self.lanes[leg.deployment]
            cost = lane.worst_case(call)
            if cost is None or worst is None:
                worst = None
            elif cost > worst:
                worst = cost
            if not call.max_output_tokens and lane.held_tokens > most_output:
                most_output = lane.held_tokens
        return account.admit(call.prompt_tokens + most_output * call.n, worst, now_s=asked.started_s, wall_ms=asked.at_ms)

    def _account(self, caller: Caller, wall_ms: int) -> Account | None:
        account = self._open_account(caller, wall_ms) if caller.is_limited else None
        self._accounts[caller.name] = account
        return account

    def _open_account(self, caller: Caller, wall_ms: int) -> Account:
        """With several workers each keeps its share of every limit: never more than the whole, at the price of some of it idle."""
        share = self.world.config.server.workers
        budget = None
        if caller.budget_nusd is not None:
            budget = Budget(caller.budget_nusd // share, per=caller.budget_per, wall_ms=wall_ms)
            budget.spent_nusd = -(-self._spent(caller.name, budget.starts_ms) // share)
        return Account(
            caller.name,
            requests_per_minute=_part(caller.requests_per_minute, share),
            tokens_per_minute=_part(caller.tokens_per_minute, share),
            concurrency=_part(caller.concurrency, share),
            budget=budget,
        )

    # --- clocks --------------------------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        """Give a timer to every flight whose next clock is near; forget the plans made at an older pace."""
        near_s = now_s() + 2 * SWEEP_S
        for flight in list(self.flights):
            if flight.race.wake_at_s is not None and flight.race.wake_at_s < near_s:
                flight.arm()
        for lane in self.lanes.values():
            if lane.plans:
                lane.plans.clear()
        self._sweeper = self.loop.call_later(SWEEP_S, self._sweep)

    def close(self) -> None:
        self._sweeper.cancel()

    # --- change --------------------------------------------------------------------------------------------------------

    def swap(self, world: World) -> None:
        """From the next request on. Flights keep the world they began with; health and accounts outlive it where names do."""
        config = world.config
        t, r = config.timeouts, config.retries
        old = getattr(self, "world", None)
        self.world = world
        self.lanes = Lanes(world, self.health)
        self._pins: dict[tuple[str, str], Lane | None] = {}
        self.policy = Policy(
            connect_s=t.connect_ms / 1000,
            first_token_s=t.first_token_ms / 1000,
            patient_first_token_s=max(t.first_token_ms / 1000, 180.0),
            idle_s=t.idle_ms / 1000,
            total_s=t.total_ms / 1000,
            stream_upstream=t.stream_upstream,
            retry=RetryPolicy(
                attempts=r.attempts,
                budget_ratio=r.budget_ratio,
                hedge=r.hedge.enabled,
                hedge_quantile=r.hedge.quantile,
                hedge_share=r.hedge.max_share,
            ),
            places=Places(self.lanes),
        )
        exact = config.cache.exact
        if old is None or old.config.cache.exact != exact:
            self.cache = ExactCache(ttl_s=exact.ttl_s, max_bytes=exact.max_mb * 2**20, by_default=exact.enabled)
        callers = {c.name: c for c in world.callers.values()}
        if old is not None:
            before = {c.name: c for c in old.callers.values()}
            self._accounts = {n: a for n, a in self._accounts.items() if callers.get(n) == before.get(n)}
        for name, card in world.providers.items():
            if card.prewarm:
                self.upstream.warm(world.endpoints[name].origin, connections=card.prewarm, http2=card.http2)


def judged(call: Call, *, is_free: bool) -> Need:
    """The demand of a call. Where there is nothing to choose nobody reads the text."""
    if is_free:
        call.prompt_tokens = openai_chat.prompt_tokens_of(call)  # rules and windows look at it, so count the words, not the JSON
        return need_of(call, openai_chat.text_of(call))
    facts = (("tools", call.tools > 0), (call.format_kind, call.format_kind != "text"), ("reasoning", call.reasoning))
    capabilities = call.modalities | {name for name, holds in facts if holds}
    output = expected_output("chat", call.prompt_tokens, reasoning=call.reasoning, max_output_tokens=call.max_output_tokens, n=call.n)
    return Need("chat", call.prompt_tokens, output, capabilities)


def ask_of(call: Call, need: Need, bounds: Bounds, *, segment: str, today: str) -> Ask:
    """One call as routing sees it."""
    parameters = openai_chat.parameters_of(call) if bounds.require_parameters else frozenset[str]()
    return Ask(need, bounds, call.max_output_tokens, call.n, call.tools > 0, call.stream, call.format_kind, segment, parameters, today)


def _part(limit: int | None, share: int) -> int | None:
    return None if limit is None else max(1, limit // share)
