"""Gateway: the straight line of one request, from a parsed call to its dispatch.

    resolve the wish -> need -> candidates -> plan (pure) -> admit the worst case -> exact cache -> flight

`Gateway.serve` is that line. It never waits: it runs to the first dispatch in one go, and everything after it is driven by what
the sockets tell a Flight. Decisions are the core's (`route`, `race`, `admit`); what stands here is their order.
"""

import asyncio
import time
from collections.abc import Callable

import msgspec
from msgspec import Struct

from waypost.core import price
from waypost.core.admit import Account, Budget, Hold
from waypost.core.classify import expected_output, need_of
from waypost.core.faults import Refused
from waypost.core.health import Health, HealthPolicy, Standing
from waypost.core.race import Place, RetryPolicy
from waypost.core.reuse import ExactCache, key_of
from waypost.core.route import Ask, Candidate, Route, Wish, decide, split_suffix
from waypost.core.types import Bounds, Call, Decision, Deployment, Leg, Need, Outcome, Plan
from waypost.dialects import openai_chat
from waypost.flight import Flight, Policy
from waypost.ports import Journal, Responder, Upstream
from waypost.world import Caller, World

now_s = time.monotonic

UNMEASURED_TOKENS_PER_S = 50.0  # a common pace of hosted models (their published medians lie between 40 and 150)
WORST_OUTPUT_TOKENS = 4096  # where neither the caller nor the card sets a ceiling


class Asked(Struct, frozen=True):
    """One request as it enters the line."""

    request_id: str
    call: Call
    caller: Caller
    bounds: Bounds
    segment: str
    cache: str  # "" as configured | off | exact | refresh
    explain: str  # "" | header | only
    dropped: tuple[str, ...]
    started_s: float
    at_ms: int


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
        self._accounts: dict[str, Account] = {}
        self.swap(world)

    # --- the line ------------------------------------------------------------------------------------------------------

    def serve(self, asked: Asked, responder: Responder) -> None:
        """Answer one call, now or when a provider does. Raises Refused when nothing may be tried; then nothing was billed."""
        call = asked.call
        wish, route, deployments = self.resolve(call, asked.caller)
        plan, decision = self.plan(asked, wish, route, deployments)
        if asked.explain == "only":
            responder.answer(200, [(b"content-type", b"application/json")], msgspec.json.encode(decision))
            return
        account, hold = self._admit(asked, plan)
        flight = Flight(self, asked, plan, decision, responder, account, hold)
        if self._uses_cache(asked) and flight.answer_from(self.cache, key_of(call, asked.caller.name, wish.name)):
            return
        self.flights.add(flight)
        flight.start()

    def _uses_cache(self, asked: Asked) -> bool:
        return self.cache.by_default if asked.cache == "" else asked.cache != "off"

    # --- who may serve -------------------------------------------------------------------------------------------------

    def resolve(self, call: Call, caller: Caller) -> tuple[Wish, Route | None, list[tuple[Deployment, int]]]:
        """The wish behind `model` and `models`, with every deployment it may mean and its place in the caller's list."""
        names = [call.model, *(m for m in call.fallback_models if m != call.model)] if call.model else list(call.fallback_models)
        if not names:
            names = ["auto"]
            if "auto" not in self.world.routes:
                raise Refused(400, "missing_model", "`model` is missing; name a model as provider/model or a route", param="model")
        wish, route, found = self._mean(names[0], caller)
        for group, name in enumerate(names[1:], start=1):
            _, _, more = self._mean(name, caller)
            held = {d.name for d, _ in found}
            found += [(d, group) for d, _ in more if d.name not in held]
        return wish, route, found

    def _mean(self, asked: str, caller: Caller) -> tuple[Wish, Route | None, list[tuple[Deployment, int]]]:
        world = self.world
        exact = world.deployment(asked) if "/" in asked else None
        name, suffix = (asked, "") if exact is not None else split_suffix(asked)
        target = world.aliases.get(name, name)
        if not caller.allows(name) and not caller.allows(target):
            raise Refused(
                403,
                "model_not_allowed",
                f"This key may not use {name!r}; it may use {', '.join(caller.patterns)}.",
                param="model",
                error_type="permission_denied",
            )
        route = world.routes.get(target)
        if route is not None:
            live = [d for n in route.candidates if (d := world.deployment(n)) is not None]
            if not live:
                raise Refused(
                    503, "no_live_model", f"Route {target!r} has no model whose provider is switched on.", error_type="provider_unavailable"
                )
            return Wish("route", target, suffix), route, [(d, 0) for d in live]
        pinned = exact or world.deployment(target)
        if pinned is not None:
            return Wish("pin", pinned.name, suffix), None, [(pinned, 0)]
        served = world.named(target) if "/" not in target else ()
        if served:
            return Wish("models", target, suffix), None, [(d, 0) for d in served]
        raise self._unknown(asked)

    def _unknown(self, name: str) -> Refused:
        near = self.world.nearest(name)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        slug = name.split("/", 1)[0]
        known = self.world.catalog.model(name) is not None or bool("/" not in name and self.world.catalog.named(name))
        if known and slug not in self.world.providers:
            message = f"The model {name[:200]!r} exists, but no provider that serves it is switched on here.{hint}"
        else:
            message = f"The model {name[:200]!r} does not exist here.{hint} GET /v1/models lists what does."
        return Refused(404, "model_not_found", message, param="model", error_type="not_found")

    # --- the plan ------------------------------------------------------------------------------------------------------

    def plan(self, asked: Asked, wish: Wish, route: Route | None, deployments: list[tuple[Deployment, int]]) -> tuple[Plan, Decision]:
        call = asked.call
        now = now_s()
        if route is None and len(deployments) == 1:  # nothing to choose: nobody reads the text, nobody asks how others are
            need = self._bare_need(call)
            candidates = [Candidate(deployments[0][0])]
        else:
            need = need_of(call, openai_chat.text_of(call))
            candidates = [self._candidate(d, group, need, now) for d, group in deployments]
        ask = Ask(
            need,
            asked.bounds,
            call.max_output_tokens,
            call.n,
            call.tools > 0,
            call.stream,
            call.format_kind,
            asked.segment,
            call.parameters,
        )
        chosen, decision = decide(wish, ask, candidates, route=route, draw=self.random(), config=self.world.fingerprint)
        legs = tuple([self._leg(c.deployment, call, need, now) for c in chosen])
        policy = self.policy
        total_s = policy.total_s if asked.bounds.deadline_s is None else min(policy.total_s, asked.bounds.deadline_s)
        return Plan(legs, total_s, policy.retry.attempts), decision

    def _bare_need(self, call: Call) -> Need:
        capabilities = call.modalities
        extra = [
            n for n, on in (("tools", call.tools > 0), (call.format_kind, call.format_kind != "text"), ("reasoning", call.reasoning)) if on
        ]
        if extra:
            capabilities = capabilities | frozenset(extra)
        output = expected_output("chat", call.prompt_tokens, reasoning=call.reasoning, max_output_tokens=call.max_output_tokens, n=call.n)
        return Need("chat", call.prompt_tokens, output, capabilities)

    def _candidate(self, deployment: Deployment, group: int, need: Need, now: float) -> Candidate:
        place = self.policy.places[deployment.name]
        target = self.health.target(deployment.name, place.credential)
        standing = target.standing(now)
        seen = target.ttfts.total > 0
        return Candidate(
            deployment,
            # One that may be probed keeps its place, or it would never come back: the race sends a probe and escorts it.
            "ready" if standing in (Standing.READY, Standing.PROBE) else standing.value,
            target.why(now) if standing is not Standing.READY else "",
            target.in_flight,
            target.ttft_s(need.prompt_tokens) if seen else None,
            target.tokens_per_s,
            group=group,
        )

    def _leg(self, deployment: Deployment, call: Call, need: Need, now: float) -> Leg:
        """The clocks of one attempt. A whole answer must come within the first-token clock and the time its tokens take."""
        policy = self.policy
        first_s = policy.patient_first_token_s if self._thinks(deployment, call) else policy.first_token_s
        if not call.stream and not self.streams_upstream(deployment, call):
            first_s += self.generation_s(deployment, call)
        return Leg(deployment.name, policy.connect_s, first_s, policy.idle_s)

    def _thinks(self, deployment: Deployment, call: Call) -> bool:
        """Whether thoughts that are not streamed may come before the first token (OpenAI's reasoning models on chat completions)."""
        if "reasoning" not in deployment.model.capabilities:
            return False
        return call.reasoning or "hidden_reasoning" in deployment.provider.quirks

    def generation_s(self, deployment: Deployment, call: Call) -> float:
        """How long the answer may take to generate: up to its ceiling, at the pace this deployment was seen to have."""
        place = self.policy.places[deployment.name]
        pace = self.health.target(deployment.name, place.credential).tokens_per_s or UNMEASURED_TOKENS_PER_S
        return (call.max_output_tokens or deployment.model.max_output_tokens or WORST_OUTPUT_TOKENS) / pace

    def streams_upstream(self, deployment: Deployment, call: Call) -> bool:
        """Law 11: a caller who does not stream is still guarded by the clocks of a stream when the answer may outlast them."""
        mode = self.policy.stream_upstream
        if call.stream or mode == "always":
            return True
        return mode == "auto" and self.generation_s(deployment, call) > self.policy.first_token_s

    # --- money ---------------------------------------------------------------------------------------------------------

    def _admit(self, asked: Asked, plan: Plan) -> tuple[Account | None, Hold | None]:
        account = self._account(asked.caller, asked.at_ms)
        if account is None:
            return None, None
        call = asked.call
        worst: int | None = 0
        most_output = 0
        for leg in plan.legs:
            deployment = self.world.deployment(leg.deployment)
            assert deployment is not None, "a plan names only deployments of its world"
            cost, output = self.worst_case(deployment, call)
            worst = None if cost is None or worst is None else max(worst, cost)
            most_output = max(most_output, output)
        tokens = call.prompt_tokens + (call.max_output_tokens or min(most_output, WORST_OUTPUT_TOKENS)) * call.n
        return account, account.admit(tokens, worst, now_s=asked.started_s, wall_ms=asked.at_ms)

    def worst_case(self, deployment: Deployment, call: Call) -> tuple[int | None, int]:
        """(nano-dollars, output tokens) that one attempt may cost at most; None: the price is unknown."""
        card = deployment.model
        output = call.max_output_tokens or card.max_output_tokens or WORST_OUTPUT_TOKENS
        return price.worst_case(call.prompt_tokens, output, call.n, card.price), output

    def _account(self, caller: Caller, wall_ms: int) -> Account | None:
        """The account of a key with limits; None for one without any."""
        if not caller.is_limited:
            return None
        account = self._accounts.get(caller.name)
        if account is None:
            account = self._accounts[caller.name] = self._open_account(caller, wall_ms)
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

    # --- change --------------------------------------------------------------------------------------------------------

    def swap(self, world: World) -> None:
        """From the next request on. Flights keep the world they began with; health and accounts outlive it where names do."""
        config = world.config
        t, r = config.timeouts, config.retries
        old = getattr(self, "world", None)
        self.world = world
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
            places=_Places(world, self.health),
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


class _Places(dict[str, Place]):
    """What a race must know of a deployment, looked up on first use."""

    def __init__(self, world: World, health: Health) -> None:
        super().__init__()
        self._world = world
        self._health = health

    def __missing__(self, name: str) -> Place:
        deployment = self._world.deployment(name)
        assert deployment is not None, "a plan names only deployments of its world"
        endpoint = self._world.endpoints[deployment.provider.name]
        place = self[name] = Place(endpoint.credential, deployment.failure_domain, deployment.model.context_tokens)
        if endpoint.max_in_flight is not None:
            self._health.target(name, endpoint.credential).bind(endpoint.max_in_flight)
        return place


def _part(limit: int | None, share: int) -> int | None:
    return None if limit is None else max(1, limit // share)
