"""Flight: one request from its first dispatch to its settled bill.

Carries out what the race says (dispatch, cancel, commit, give up) and tells it what its runs see. Every attempt stands in the
journal before the network is touched and again before the answer's last byte; every request ends exactly once, by an answer, a
clean error, or the caller's leaving. An answer that only we hold yet (the caller does not stream) may still be replaced.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from waypost.core import price, sse
from waypost.core.admit import Account, Hold
from waypost.core.faults import FAULTS, Refused
from waypost.core.fold import fold, unfold
from waypost.core.race import Action, Cancel, Commit, GiveUp, Race
from waypost.core.race import Dispatch as Start
from waypost.core.replay import header_json
from waypost.core.reuse import Entry, ExactCache
from waypost.core.types import (
    Attempt,
    AttemptOutcome,
    Decision,
    Delta,
    Failure,
    Fault,
    Leg,
    Outcome,
    Plan,
    Prompt,
    Reply,
    Usage,
)
from waypost.dialects import caller_side, openai_chat, provider_side
from waypost.dialects.contract import Dispatch, Passage
from waypost.dialects.openai_passage import OpenAIPassage
from waypost.dialects.openai_whole import Glance, priced, told
from waypost.dialects.passage import Gather, Translation
from waypost.lane import Asked, Lane, Policy
from waypost.ports import Responder, UpstreamRequest
from waypost.relay import Run
from waypost.world import World

if TYPE_CHECKING:
    from waypost.gateway import Gateway

log = logging.getLogger("waypost")
now_s = time.monotonic

JSON = (b"content-type", b"application/json")
EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")
UNBUFFERED = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
_BYPASS, _MISS = (b"x-waypost-cache", b"bypass"), (b"x-waypost-cache", b"miss")
NEAR_S = 0.5  # a clock nearer than this rings by a timer of its own
REMEMBERED_BYTES = 1024 * 1024  # of a streamed answer, for the exact cache


class Flight:
    """Exactly one `_end` per flight. All methods run on the event loop and never wait."""

    __slots__ = (
        *(
            "account",
            "asked",
            "attempts",
            "base",
            "cache",
            "cache_key",
            "ceiling_tokens",
            "decided",
            "dialect",
            "dispatched_s",
            "done",
            "dropped",
        ),
        *("gateway", "hold", "is_paused", "is_stopping", "lanes", "plan", "policy", "prompt", "prompt_tokens", "race", "responder", "runs"),
        *("safe_events", "started", "timer", "winner", "world"),
    )

    def __init__(
        self,
        gateway: "Gateway",
        asked: Asked,
        plan: Plan,
        decision: Decision | None,
        responder: Responder,
        account: Account | None,
        hold: Hold | None,
    ) -> None:
        """`decision` None: a pin that needed none; `decision` makes it when somebody asks."""
        call = asked.call
        self.gateway = gateway
        self.world: World = gateway.world
        self.lanes = gateway.lanes
        self.policy: Policy = gateway.policy
        self.asked = asked
        self.dialect = call.dialect
        self.plan = plan
        self.decided = decision
        self.responder = responder
        self.account = account
        self.hold = hold
        self.cache: ExactCache | None = None
        self.cache_key = b""
        self.prompt: Prompt | None = None
        self.prompt_tokens = call.prompt_tokens
        self.ceiling_tokens = None if call.max_output_tokens is None else call.max_output_tokens * call.n
        self.safe_events = 1 << 60 if self.ceiling_tokens is None else self.ceiling_tokens
        self.attempts: list[Attempt] = []
        self.base = 0  # attempts of earlier races of this request
        self.runs: list[Run] = []
        self.winner: Run | None = None
        self.dispatched_s = 0.0
        self.dropped = asked.dropped
        self.done = self.started = self.is_paused = self.is_stopping = False
        self.timer: asyncio.TimerHandle | None = None
        self.race = self._new_race(plan)

    def _new_race(self, plan: Plan) -> Race:
        asked, gateway = self.asked, self.gateway
        deadline_s = asked.bounds.deadline_s
        return Race(
            plan,
            self.policy.retry,
            gateway.health,
            self.policy.places,
            gateway.random,
            started_s=asked.started_s,
            deadline_s=None if deadline_s is None else asked.started_s + deadline_s,
            prompt_tokens=self.prompt_tokens,
        )

    def start(self) -> None:
        responder = self.responder
        responder.on_close = self.caller_left
        responder.on_pause = self._pause
        responder.on_resume = self._resume
        self._begin()

    def _begin(self) -> None:
        now = now_s()
        self._apply(self.race.begin(now), now)

    @property
    def decision(self) -> Decision:
        if self.decided is None:
            self.decided = self.gateway.decision_of(self.asked)
        return self.decided

    # --- what runs tell ------------------------------------------------------------------------------------------------

    def content(self, run: Run) -> None:
        now = now_s()
        self._apply(self.race.content(run.number - self.base, now), now)

    def finished(self, run: Run) -> None:
        usage = run.usage()
        now = now_s()
        is_whole = run.whole is not None
        self._apply(self.race.complete(run.number - self.base, now, usage.output_tokens, is_whole=is_whole), now)
        if self.done or run is not self.winner:
            return
        cost = self._settle(run, "length_cut" if run.is_cut else "ok", usage)
        self._deliver(run, cost)
        self._end(200)

    def failed(self, run: Run, failure: Failure) -> None:
        self._settle(run, "failed", self._billed(run, failure), failure)
        now = now_s()
        self._apply(self.race.failed(run.number - self.base, failure, now), now)

    def received(self, run: Run) -> None:
        """A live stream has delivered more: the bill should this process die now."""
        usage = run.usage()
        self.gateway.journal.received(self._row(run, "interrupted", usage, price.cost(usage, run.lane.price), None))

    def caller_left(self) -> None:
        if not self.done:
            now = now_s()
            self._apply(self.race.caller_left(now), now)
            self._end(499)

    def cut(self) -> None:
        """The gateway stops and this answer outlasted the drain: say so, rather than leave the caller with half of one."""
        if self.done:
            return
        self.is_stopping = True
        now = now_s()
        self._apply(self.race.caller_left(now), now)
        side, request_id = caller_side(self.asked.call.dialect), self.asked.request_id
        if self.started:
            self.responder.finish(side.error_event(Failure(Fault.CANCELLED, "the gateway stops"), request_id=request_id))
        else:
            message = "The gateway is stopping. Try again."
            refuse(
                self.responder, Refused(503, "gateway_stopping", message, error_type="server", retry_after_s=1.0), self.dialect, request_id
            )
        self._end(503, "gateway_stopping")

    def _pause(self) -> None:
        self.is_paused = True
        if self.winner is not None and self.winner.exchange is not None:
            self.winner.exchange.pause()

    def _resume(self) -> None:
        self.is_paused = False
        run = self.winner
        if run is not None and run.exchange is not None:
            run.byte_at_s = run.content_at_s = now_s()  # the silence was ours
            run.exchange.resume()

    # --- what the race says --------------------------------------------------------------------------------------------

    def _apply(self, actions: Sequence[Action], now: float) -> None:
        for action in actions:
            kind = action.__class__
            if kind is Commit:
                self._commit(action.n)  # type: ignore[union-attr]  # an isinstance chain costs more than the commit itself
            elif kind is Start:
                self._dispatch(action.n + self.base, action.leg)  # type: ignore[union-attr]
            elif kind is Cancel:
                self._cancel(action)  # type: ignore[arg-type]
            elif kind is GiveUp:
                self._give_up(action)  # type: ignore[arg-type]
        wake_at_s = self.race.wake_at_s
        if wake_at_s is not None and wake_at_s < now + NEAR_S:
            if self.timer is not None:
                self.timer.cancel()
                self.timer = None
            self.arm()

    def _commit(self, n: int) -> None:
        run = self.winner = self.runs[n + self.base - 1]
        if self.asked.call.stream:
            self.started = True
            self.responder.start(200, self._headers(run, EVENTS, None) + UNBUFFERED)
            run.commit()
        else:
            run.committed = True

    def _cancel(self, action: Cancel) -> None:
        place = action.n + self.base - 1
        if place == len(self.runs):
            return  # it never left us: there is nothing to close and nothing to bill
        run = self.runs[place]
        run.stop()
        if action.failure is not None:
            self._settle(run, "failed", self._billed(run, action.failure), action.failure)
        else:
            left: AttemptOutcome = "cancelled" if self.is_stopping else "caller_left"
            outcome = left if action.why == "caller_left" else "hedge_lost"
            self._settle(run, outcome, self._billed(run, None))

    def _give_up(self, action: GiveUp) -> None:
        failure = action.failure
        if action.committed and not self.started and self._race_again():
            return
        status, body = caller_side(self.asked.call.dialect).error(failure, request_id=self.asked.request_id)
        if self.started:
            self.responder.finish(caller_side(self.asked.call.dialect).error_event(failure, request_id=self.asked.request_id))
        else:
            headers = self._headers(self.runs[-1] if self.runs else None, JSON, None)
            if self.runs:  # our own retries are spent; where none was made, the caller's may help
                headers.append((b"x-should-retry", b"false"))
            if failure.retry_after_s is not None:
                headers.append((b"retry-after", b"%d" % max(1, round(failure.retry_after_s + 0.499))))
            self.responder.answer(status, headers, body)
        self._end(status, failure.fault.value)

    def _race_again(self) -> bool:
        """The race believes that content was delivered, but the caller does not stream and has nothing yet: go on elsewhere."""
        tried = {run.leg.deployment for run in self.runs}
        legs = tuple(leg for leg in self.plan.legs if leg.deployment not in tried)
        left = self.plan.attempts - len(self.runs)
        if not legs or left < 1:
            return False
        self.base = len(self.runs)
        self.winner = None
        self.race = self._new_race(Plan(legs, self.plan.total_s, left))
        self._begin()
        return True

    def _dispatch(self, n: int, leg: Leg) -> None:
        call, gateway = self.asked.call, self.gateway
        lane = self.lanes[leg.deployment]
        stream = lane.streams(call, self.policy)
        try:
            sending = self._sending(lane, stream=stream)
        except Refused as refused:
            self._refuse(refused)
            return
        now = now_s()
        late_ms = 0 if n == 1 else int((now - self.asked.started_s) * 1000)
        run = Run(self, n, leg, lane, self._passage(lane, stream=stream), now, self.asked.at_ms + late_ms, sending.dropped)
        if self.cache is not None and call.stream:
            run.copy = []
        worst_nusd = lane.worst_case(call) if self.hold is None or n > 1 else self.hold.nusd
        if n == 1:
            self.dispatched_s = run.started_s
        elif not self._may_spend(worst_nusd):
            self._refuse(Refused(429, "insufficient_quota", "The budget does not hold another attempt.", error_type="payment_required"))
            return
        try:
            gateway.journal.opened(self._row(run, "interrupted", Usage(self.prompt_tokens, source="estimated"), None, None), worst_nusd)
        except OSError:
            message = "The ledger cannot be written, and nothing is served that cannot be accounted for. Try again later."
            self._refuse(Refused(503, "ledger_unavailable", message, error_type="server", retry_after_s=5.0))
            return
        self.runs.append(run)
        endpoint, card = lane.endpoint, lane.provider
        run.exchange = gateway.upstream.send(
            UpstreamRequest(
                endpoint.origin,
                endpoint.path + sending.path,
                endpoint.headers + sending.headers if sending.headers else endpoint.headers,
                sending.body,
                "POST",
                leg.connect_s,
                card.http2,
                card.connections,
            ),
            run,
        )

    def _may_spend(self, worst_nusd: int | None) -> bool:
        """A further attempt: the hold must cover what earlier ones have cost, what is in flight, and this one's worst case."""
        if self.account is None or self.hold is None:
            return True
        spent = sum(a.cost_nusd or 0 for a in self.attempts)
        live = len(self.runs) - len(self.attempts) + 1
        if worst_nusd is None:
            return True  # unknown prices were refused at admission where there is a budget
        missing = spent + live * worst_nusd - self.hold.nusd
        return missing <= 0 or self.account.extend(self.hold, missing, wall_ms=self.asked.at_ms)

    def _refuse(self, refused: Refused) -> None:
        """The line broke on our side after the race began: whatever is in flight is stopped."""
        now = now_s()
        self._apply(self.race.caller_left(now), now)
        refuse(self.responder, refused, self.asked.call.dialect, self.asked.request_id)
        self._end(refused.status, refused.code)

    def _sending(self, lane: Lane, *, stream: bool) -> Dispatch:
        """The request for one provider: the caller's own bytes in the caller's dialect, else the prompt written anew."""
        call = self.asked.call
        if lane.wire == call.dialect:
            return openai_chat.patch(call, lane.deployment, stream=stream)
        if self.prompt is None:
            self.prompt = caller_side(call.dialect).prompt(call)
        return lane.side.dispatch(self.prompt, lane.deployment, stream=stream)

    def _passage(self, lane: Lane, *, stream: bool) -> Passage | None:
        if not stream:
            return None
        call = self.asked.call
        if not call.stream:
            return Gather(lane.side.reader(lane.provider.quirks))
        rate = lane.price

        def cost_of(usage: Usage) -> int | None:
            return price.cost(usage, rate)

        if lane.wire == call.dialect:
            return OpenAIPassage(call, cost_of=cost_of, ends_bare="no_done_marker" in lane.provider.quirks)
        encoder = caller_side(call.dialect).encoder(call, request_id=self.asked.request_id, model=lane.name, cost_of=cost_of)
        return Translation(lane.side.reader(lane.provider.quirks), encoder)

    # --- the answer ----------------------------------------------------------------------------------------------------

    def _deliver(self, run: Run, cost_nusd: int | None) -> None:
        """The answer's end (streamed) or all of it (whole). The bill is durable by now."""
        call = self.asked.call
        passage = run.passage if run.whole is None else None
        seen = run.reply
        is_reported = self.attempts[-1].usage.source == "reported"
        if isinstance(passage, Gather):
            seen = passage.reply
        if call.stream:
            tail = run.ending or (passage.tail if passage is not None else b"")
            if isinstance(seen, Reply):  # a whole answer although a stream was asked for: told as a stream
                tail = self._as_stream(unfold(seen), run.lane.name)
            elif isinstance(passage, OpenAIPassage) and not is_reported and not run.is_cut:
                tail = passage.tail_with(self.attempts[-1].usage)
            self.responder.finish(tail)
            self._remember_stream(run, tail)
            return
        if isinstance(seen, Glance):
            body = priced(seen, cost_nusd) if is_reported else told(seen, self.attempts[-1].usage, cost_nusd)
        else:
            assert seen is not None, "a whole answer of another dialect has been read"
            billed = msgspec.structs.replace(seen, usage=self.attempts[-1].usage)
            side = caller_side(call.dialect)
            body = side.render(billed, request_id=self.asked.request_id, model=run.lane.name, cost_nusd=cost_nusd)
        self.responder.answer(200, self._headers(run, JSON, cost_nusd), body)
        if self.cache is not None and not run.is_cut:
            self.cache.put(self.cache_key, Entry(body, run.lane.name, now_s()))

    def _as_stream(self, deltas: list[Delta], model: str) -> bytes:
        side, asked = caller_side(self.asked.call.dialect), self.asked
        encoder = side.encoder(asked.call, request_id=asked.request_id, model=model, cost_of=lambda usage: self._price(model, usage))
        return b"".join(encoder.encode(delta) for delta in deltas)

    def _remember_stream(self, run: Run, tail: bytes) -> None:
        if self.cache is None or run.copy is None or run.is_cut or run.copied_bytes > REMEMBERED_BYTES:
            return
        side = provider_side(self.asked.call.dialect)
        reader = side.reader()
        reply = fold(delta for event in sse.Decoder().feed(b"".join(run.copy) + tail) for delta in reader.feed(event))
        body = caller_side(self.asked.call.dialect).render(
            reply, request_id=self.asked.request_id, model=run.lane.name, cost_nusd=self.attempts[-1].cost_nusd
        )
        self.cache.put(self.cache_key, Entry(body, run.lane.name, now_s()))

    def answer_from(self, cache: ExactCache, key: bytes) -> bool:
        """Answer from the exact cache: a new id, no usage, no cost. False on a miss, which this flight will then fill."""
        self.cache, self.cache_key = cache, key
        entry = cache.get(key, now_s())
        if entry is None or self.asked.cache == "refresh":
            return False
        call, asked = self.asked.call, self.asked
        reply = provider_side(call.dialect).reply(entry.body)
        if not isinstance(reply, Reply):
            return False
        fresh = msgspec.structs.replace(reply, id=asked.request_id, usage=Usage())
        age_s = int(now_s() - entry.at_s)
        headers = [(b"x-request-id", asked.request_id.encode()), (b"x-waypost-model", entry.model.encode()), (b"x-waypost-attempts", b"0")]
        headers += [(b"x-waypost-cache", b"exact; age=%d" % age_s), (b"x-waypost-cost-usd", b"0")]
        headers.append((b"x-waypost-overhead-ms", b"%.3f" % ((now_s() - asked.started_s) * 1000)))
        if asked.explain:
            headers.append((b"x-waypost-explain", header_json(self.decision)))
        row = Attempt(
            request_id=asked.request_id,
            attempt=0,
            at_ms=asked.at_ms,
            key=asked.caller.name,
            segment=asked.segment,
            route="" if self.decided is None else self.decided.route,
            model=entry.model,
            provider=entry.model.split("/", 1)[0],
            outcome="cache",
            status=200,
            cost_nusd=0,
            stream=call.stream,
            task="" if self.decided is None else self.decided.need.task,
            config=self.world.fingerprint,
        )
        self.gateway.journal.settled(row, None)
        if call.stream:
            self.responder.start(200, [*headers, EVENTS, *UNBUFFERED])
            side = caller_side(call.dialect)
            encoder = side.encoder(call, request_id=asked.request_id, model=entry.model, cost_of=lambda usage: 0)
            self.responder.finish(b"".join(encoder.encode(delta) for delta in unfold(fresh)))
        else:
            body = caller_side(call.dialect).render(fresh, request_id=asked.request_id, model=entry.model, cost_nusd=0)
            self.responder.answer(200, [*headers, JSON], body)
        self._end(200, cache="exact")
        return True

    def _headers(self, run: Run | None, kind: tuple[bytes, bytes], cost_nusd: int | None) -> list[tuple[bytes, bytes]]:
        asked = self.asked
        headers = [
            kind,
            (b"x-request-id", asked.request_id.encode()),
            (b"x-waypost-attempts", b"%d" % len(self.runs)),
            _BYPASS if self.cache is None else _MISS,
            (b"x-waypost-overhead-ms", b"%.3f" % self.overhead_ms),
        ]
        if run is not None:
            headers.append(run.lane.model_header)
            if run.dropped or self.dropped:
                headers.append((b"x-waypost-dropped", ", ".join((*self.dropped, *run.dropped)).encode("ascii", "replace")))
        if cost_nusd is not None:
            headers.append((b"x-waypost-cost-usd", price.usd(cost_nusd).encode()))
        if asked.explain:
            headers.append((b"x-waypost-explain", header_json(self.decision)))
        if self.account is not None:
            headers += self.account.headers()
        return headers

    # --- the bill ------------------------------------------------------------------------------------------------------

    def _settle(self, run: Run, outcome: AttemptOutcome, usage: Usage, failure: Failure | None = None) -> int | None:
        """One durable row of an attempt that has ended. Gives its cost."""
        cost = price.cost(usage, run.lane.price)
        row = self._row(run, outcome, usage, cost, failure)
        decision = self.decided if not self.attempts else None
        self.attempts.append(row)
        self.gateway.journal.settled(row, decision)
        return cost

    def _billed(self, run: Run, failure: Failure | None) -> Usage:
        """What an attempt that gave no answer is likely to be billed: what was received; the prompt where work on it had begun, or,
        by the table of faults, may have; nothing when it was refused."""
        if run.events or (run.passage is not None and run.passage.usage is not None):
            return run.usage()
        if failure is not None and FAULTS[failure.fault].bill == "none":
            return Usage(source="estimated")  # refused, be it within a 200
        may = failure is not None and FAULTS[failure.fault].bill == "estimate" and failure.phase != "connect"
        return Usage(self.prompt_estimate, source="estimated") if may or run.status == 200 else Usage(source="estimated")

    @property
    def prompt_estimate(self) -> int:
        return openai_chat.prompt_tokens_of(self.asked.call)

    def _price(self, model: str, usage: Usage) -> int | None:
        return price.cost(usage, self.lanes[model].price)

    def _row(self, run: Run, outcome: AttemptOutcome, usage: Usage, cost: int | None, failure: Failure | None) -> Attempt:
        asked, decided, lane = self.asked, self.decided, run.lane
        return Attempt(
            asked.request_id,
            run.number,
            run.wall_ms,
            asked.caller.name,
            asked.segment,
            "" if decided is None else decided.route,
            lane.name,
            lane.provider.name,
            outcome,
            "" if failure is None else failure.fault.value,
            run.status if failure is None else failure.status or run.status,
            usage,
            cost,
            None if run.ttft_s is None else run.ttft_s * 1000,
            (now_s() - run.started_s) * 1000,
            asked.call.stream,
            "" if decided is None else decided.need.task,
            self.world.fingerprint,
        )

    def _end(self, status: int, error: str = "", cache: str = "") -> None:
        """The one end of a request: timers off, reservation settled, outcome told."""
        if self.done:
            return
        self.done = True
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        responder = self.responder
        responder.on_close = responder.on_pause = responder.on_resume = None
        self.gateway.flights.discard(self)
        self.runs, self.winner = [], None  # a run knows its flight: letting go here frees both without the collector
        if self.account is not None and self.hold is not None:
            if len(self.attempts) == 1:
                self.account.settle(self.hold, self.attempts[0].usage, self.attempts[0].cost_nusd)
            else:
                self.account.settle(self.hold, *_sum(self.attempts))
        asked = self.asked
        self.gateway.observe(
            Outcome(
                asked.request_id,
                asked.at_ms,
                asked.caller.name,
                asked.segment,
                status,
                self.decided,
                tuple(self.attempts),
                cache or ("bypass" if self.cache is None else "miss"),
                self.dropped,
                self.overhead_ms,
                error,
            )
        )

    @property
    def overhead_ms(self) -> float:
        """Time in the gateway before the first dispatch."""
        return (self.dispatched_s - self.asked.started_s) * 1000 if self.dispatched_s else 0.0

    # --- the clock -----------------------------------------------------------------------------------------------------

    def arm(self) -> None:
        """A timer of this flight's own, for a clock that is near; the gateway's sweep looks after those that are not."""
        wake_at_s = self.race.wake_at_s
        if self.timer is None and wake_at_s is not None and not self.done:
            self.timer = self.gateway.loop.call_later(max(0.0, wake_at_s - now_s()), self._ring)

    def _ring(self) -> None:
        self.timer = None
        if self.done:
            return
        now, run = now_s(), self.winner
        if run is None:
            self._apply(self.race.tick(now), now)
        elif self.is_paused:
            self._apply(self.race.tick(now, now, now), now)
        else:
            self._apply(self.race.tick(now, run.byte_at_s, run.content_at_s), now)


def refuse(responder: Responder, refused: Refused, dialect: str, request_id: str, *more: tuple[bytes, bytes]) -> None:
    """The gateway's own no, in the caller's dialect. A retry helps only where a time is given."""
    headers = [JSON, (b"x-request-id", request_id.encode()), *more]
    if refused.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, round(refused.retry_after_s + 0.499))))
    if refused.retry_after_s is None or refused.code == "insufficient_quota":
        headers.append((b"x-should-retry", b"false"))
    responder.answer(refused.status, headers, caller_side(dialect).refusal(refused, request_id=request_id))


def _sum(attempts: list[Attempt]) -> tuple[Usage, int | None]:
    """Tokens and cost of all attempts of a request; cost None as soon as one is unknown."""
    tokens = Usage(input_tokens=sum(a.usage.input_tokens for a in attempts), output_tokens=sum(a.usage.output_tokens for a in attempts))
    costs = [a.cost_nusd for a in attempts]
    return tokens, None if None in costs else sum(c for c in costs if c is not None)
