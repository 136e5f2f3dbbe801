"""Race: which attempts to start, cancel and commit for one request.

Pure: time comes in as `now_s`, random numbers from a callable, I/O goes out as actions; `wake_at_s` says when `tick` is due. Commit
happens at the first content delta, because providers may answer 200 and fail afterwards; before it failover is free, after it
nothing of another attempt is ever started. Knows nothing of wire formats, bodies, prices or the caller's dialect.

Three claims before giving up: a leg that is ready; else one probe of a leg whose time out is over; else a forced dispatch to the
first leg that does not ask for patience, at the very last to one whose credential was refused. A leg that may be probed keeps its
place in the plan for a request's first attempt, or it would
never come back while others are ready; such a probe gets an *escort*: if it is slow, a ready leg is started beside it.

Sources: hedging after Dean & Barroso, "The Tail at Scale" (2013), and gRPC proposal A6; full jitter after the AWS Architecture
Blog (2015); the three claims after Experiential's gateway (Apache-2.0, read 2026-11).
"""

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Literal

from msgspec import Struct, structs

from waypost.core.faults import FAULTS
from waypost.core.health import Health, Standing, Target
from waypost.core.types import Failure, Fault, Leg, Plan

CancelWhy = Literal["hedge_lost", "timeout", "caller_left"]


class Place(Struct, frozen=True):
    """What a race must know of a deployment. Built once per configuration."""

    credential: str  # label of provider and key, never the key
    domain: str  # deployments of one domain fail together
    context_tokens: int | None = None


class RetryPolicy(Struct, frozen=True):
    attempts: int = 3
    budget_ratio: float = 0.2  # attempts beyond the first, as a share of requests
    hedge: bool = False
    hedge_quantile: float = 0.95
    hedge_share: float = 0.05
    backoff_s: float = 0.25  # x 2^n, full jitter, only before the same deployment is tried again
    backoff_cap_s: float = 4.0
    escort_s: float = 2.0  # a probe without content for this long is joined by a ready leg
    wait_s: float = 10.0  # longest wait for the end of a hold, from the request's start; never beyond the first-token clock
    byte_idle_s: float = 60.0  # upper end of the clock that any byte resets; at least the leg's own idle clock


class Dispatch(Struct, frozen=True, gc=False):
    n: int  # 1, 2, ...
    leg: Leg


class Cancel(Struct, frozen=True, gc=False):
    """Close attempt `n` at once. `failure` is set when a clock of ours ended it."""

    n: int
    why: CancelWhy
    failure: Failure | None = None


class Commit(Struct, frozen=True, gc=False):
    n: int


class GiveUp(Struct, frozen=True, gc=False):
    """The race is lost. `committed`: content was delivered, so the caller gets an error event instead of an error answer."""

    failure: Failure
    committed: bool = False


Action = Dispatch | Cancel | Commit | GiveUp
Actions = Sequence[Action]

NOTHING: Actions = ()
_COMMITS: tuple[Actions, ...] = tuple((Commit(n),) for n in range(33))  # the happy path makes no new one
_READY, _PROBE, _HELD, _OPEN, _DEAD = Standing.READY, Standing.PROBE, Standing.HELD, Standing.OPEN, Standing.DEAD

# Preference among legs once the first choice is gone; see `_rank`.
_ELSEWHERE, _NEIGHBOUR, _AGAIN, _PROBING, _FORCED, _WAIT, _FORCED_HELD, _FORCED_DEAD = range(8)

# Of several failures the caller sees the one that says most about what to do next.
_TELLING: dict[Fault, int] = {
    fault: place
    for place, fault in enumerate(
        (
            *(
                Fault.CONTENT_FILTER,
                Fault.BAD_REQUEST,
                Fault.CONTEXT_LENGTH,
                Fault.RATE_LIMITED,
                Fault.OVERLOADED,
                Fault.TIMEOUT,
                Fault.SERVER,
            ),
            *(Fault.TRUNCATED, Fault.MALFORMED, Fault.TRANSPORT, Fault.REDIRECT, Fault.MODEL_UNAVAILABLE, Fault.QUOTA_EXHAUSTED),
            *(Fault.AUTH, Fault.CANCELLED),
        )
    )
}


class _Attempt(Struct, eq=False):
    """One attempt in flight."""

    n: int
    index: int
    leg: Leg
    target: Target
    began_s: float
    due_s: float
    claim: float  # of a probe; 0.0: none
    content_s: float | None = None
    has_headers: bool = False


class _Past:
    """What went wrong so far in one race. Made at the first failure, so that a happy race does not pay for it."""

    __slots__ = ("domains", "failures", "min_context", "repeats")

    def __init__(self) -> None:
        self.failures: list[Failure] = []
        self.domains: set[str] = set()
        self.repeats: dict[int, int] = {}  # leg -> times it may still be tried again
        self.min_context: int | None = None  # only legs with a larger window are left


class Race(Struct, eq=False):
    """One request. Feed it events, do what it says, call `tick` at `wake_at_s`. It ends exactly once (`ended`)."""

    plan: Plan
    policy: RetryPolicy
    health: Health
    places: Mapping[str, Place]  # every deployment of the plan
    random: Callable[[], float]
    started_s: float
    deadline_s: float | None = None  # absolute, on the clock of `started_s`
    prompt_tokens: int = 0
    end_s: float = inf  # the deadline or the plan's, whichever is nearer; known from `begin` on
    attempts: int = 0
    committed: int = 0  # the attempt whose content the caller gets; 0: none yet
    ended: bool = False
    wake_at_s: float | None = None
    _live: list[_Attempt] = []
    _tried: int = 0  # bit set of legs
    _past: _Past | None = None
    _pending: int = -1  # a leg that waits for its backoff or the end of a hold
    _pending_at_s: float = inf
    _retries: int = 0
    _hedge_at_s: float = inf

    # --- events ------------------------------------------------------------------------------------------------------

    def begin(self, now_s: float) -> Actions:
        end_s = self.started_s + self.plan.total_s
        self.end_s = end_s if self.deadline_s is None or self.deadline_s > end_s else self.deadline_s
        self.health.request(now_s)
        if now_s < self.end_s and self.plan.legs:
            target = self._target(0)
            if target.standing(now_s) is _READY and target.take():
                return (self._start(0, target, now_s, 0.0),)
        return self._advance(now_s, [])

    def headers(self, n: int, now_s: float) -> Actions:
        """A status line came. It proves nothing and resets no clock (some providers send 200 before admission)."""
        attempt = self._find(n)
        if attempt is not None:
            attempt.has_headers = True
        return NOTHING

    def content(self, n: int, now_s: float) -> Actions:
        """First content, reasoning or tool-call delta of attempt `n`: the commit point. Later ones are not told."""
        attempt = self._find(n)
        if attempt is None or self.committed:
            return NOTHING
        attempt.content_s = now_s
        return self._commit(attempt, now_s)

    def complete(self, n: int, now_s: float, output_tokens: int = 0, *, is_whole: bool = False) -> Actions:
        """Attempt `n` ended well: its terminal marker was seen. Commits an answer that had no content.

        `is_whole`: content and end came in one piece, so `content` was not told.
        """
        attempt = self._find(n)
        if attempt is None:
            return NOTHING
        actions = NOTHING if self.committed else self._commit(attempt, now_s)
        self._end()
        target, began_s = attempt.target, attempt.began_s
        content_s = now_s if is_whole else attempt.content_s
        target.give()
        ttft_s = None if content_s is None else content_s - began_s
        target.succeeded(now_s, ttft_s, output_tokens, now_s - began_s, self.prompt_tokens)
        return actions

    def failed(self, n: int, failure: Failure, now_s: float) -> Actions:
        """Attempt `n` broke. Before commit: fail over or give up; after it: the caller gets the error."""
        attempt = self._find(n)
        if attempt is None:
            return NOTHING  # news of a cancelled attempt
        self._lose(attempt, failure, now_s)
        if self.committed:
            self._end()
            return (GiveUp(failure, committed=True),)
        return self._advance(now_s, []) if self._may_go_on(attempt, failure) else self._give_up(failure, now_s, [])

    def caller_left(self, now_s: float) -> Actions:
        if self.ended:
            return NOTHING
        return tuple(self._cancel_all("caller_left", now_s))

    def tick(self, now_s: float, byte_at_s: float | None = None, content_at_s: float | None = None) -> Actions:
        """Judge the clocks. The two times are the last byte and the last content of the committed attempt.

        `content_at_s` None: a body whose content is not understood, so only bytes count. While the relay itself holds the
        provider back for a slow caller, it passes `now_s` for both.
        """
        if self.ended:
            return NOTHING
        if self.committed:
            return self._tick_committed(now_s, byte_at_s, content_at_s)
        actions: list[Action] = []
        for attempt in [a for a in self._live if a.due_s <= now_s and a.due_s <= self.end_s]:
            failure = self._first_token_failure(attempt)
            actions.append(Cancel(attempt.n, "timeout", failure))
            self._lose(attempt, failure, now_s)
            self._may_go_on(attempt, failure)
        if now_s >= self.end_s:
            return self._give_up(self._deadline_failure("first_token"), now_s, actions)
        if actions or now_s >= self._pending_at_s:
            return self._advance(now_s, actions)
        if now_s >= self._hedge_at_s:
            self._hedge(now_s, actions)
        self._rearm()
        return actions or NOTHING

    # --- commit and end ----------------------------------------------------------------------------------------------

    def _commit(self, attempt: _Attempt, now_s: float) -> Actions:
        n = self.committed = attempt.n
        wake_at_s = now_s + attempt.leg.idle_s
        self.wake_at_s = wake_at_s if wake_at_s < self.end_s else self.end_s
        commit = _COMMITS[n] if n < len(_COMMITS) else (Commit(n),)
        if len(self._live) == 1:
            return commit
        losers = [a for a in self._live if a is not attempt]
        self._live = [attempt]
        return (*commit, *(self._beaten(a, now_s) for a in losers))

    def _beaten(self, attempt: _Attempt, now_s: float) -> Cancel:
        attempt.target.give()
        attempt.target.lost(now_s, now_s - attempt.began_s, attempt.claim, self.random(), self.prompt_tokens)
        return Cancel(attempt.n, "hedge_lost")

    def _tick_committed(self, now_s: float, byte_at_s: float | None, content_at_s: float | None) -> Actions:
        attempt = self._live[0]
        leg = attempt.leg
        byte_idle_s = max(leg.idle_s, min(3.0 * leg.idle_s, self.policy.byte_idle_s))
        byte_due_s = (byte_at_s if byte_at_s is not None else attempt.began_s) + byte_idle_s
        content_due_s = inf if content_at_s is None else content_at_s + leg.idle_s
        due_s = min(byte_due_s, content_due_s)
        if now_s < due_s and now_s < self.end_s:
            self.wake_at_s = min(due_s, self.end_s)
            return NOTHING
        if due_s <= self.end_s:
            what, limit_s = ("content", leg.idle_s) if content_due_s <= byte_due_s else ("byte", byte_idle_s)
            failure = Failure(fault=Fault.TIMEOUT, message=f"no {what} for {limit_s:g} s within the stream", phase="stream")
        else:
            failure = self._deadline_failure("stream")
        self._lose(attempt, failure, now_s)
        self._end()
        return (Cancel(attempt.n, "timeout", failure), GiveUp(failure, committed=True))

    def _lose(self, attempt: _Attempt, failure: Failure, now_s: float) -> None:
        """Take an attempt out of the race and let health learn from its failure."""
        self._live.remove(attempt)
        target = attempt.target
        target.give()
        target.failed(now_s, failure, self.random(), attempt.began_s)
        if attempt.claim:
            target.release_probe(attempt.claim)  # without effect when the failure was a verdict

    def _cancel_all(self, why: CancelWhy, now_s: float, failure: Failure | None = None) -> list[Action]:
        actions: list[Action] = []
        for attempt in self._live:
            attempt.target.give()
            if attempt.claim:
                attempt.target.release_probe(attempt.claim)
            actions.append(Cancel(attempt.n, why, failure))
        self._end()
        return actions

    def _end(self) -> None:
        self.ended = True
        self._live.clear()
        self.wake_at_s = None

    def _give_up(self, failure: Failure, now_s: float, actions: list[Action]) -> Actions:
        is_deadline = failure.deadline_bound and failure.fault is Fault.TIMEOUT
        actions += self._cancel_all("timeout" if is_deadline else "hedge_lost", now_s, failure if is_deadline else None)
        actions.append(GiveUp(failure))
        return actions

    # --- clocks of ours ----------------------------------------------------------------------------------------------

    def _first_token_failure(self, attempt: _Attempt) -> Failure:
        phase = "first_token" if attempt.has_headers else "headers"
        return Failure(fault=Fault.TIMEOUT, message=f"no first token within {attempt.leg.first_token_s:g} s", phase=phase)

    def _deadline_failure(self, phase: str) -> Failure:
        message = f"the request's time of {self.end_s - self.started_s:g} s is over"
        return Failure(fault=Fault.TIMEOUT, message=message, phase=phase, code="deadline", deadline_bound=True)

    def _rearm(self) -> None:
        wake_at_s = min(self.end_s, self._pending_at_s, self._hedge_at_s)
        for attempt in self._live:
            if attempt.due_s < wake_at_s:
                wake_at_s = attempt.due_s
        self.wake_at_s = wake_at_s

    # --- starting attempts -------------------------------------------------------------------------------------------

    def _find(self, n: int) -> _Attempt | None:
        for attempt in self._live:
            if attempt.n == n:
                return attempt
        return None

    def _target(self, index: int) -> Target:
        name = self.plan.legs[index].deployment
        return self.health.target(name, self.places[name].credential)

    def _start(self, index: int, target: Target, now_s: float, claim: float) -> Dispatch:
        """The permit is taken and paid for: dispatch."""
        leg = self.plan.legs[index]
        self.attempts = n = self.attempts + 1
        self._tried |= 1 << index
        attempt = _Attempt(n, index, leg, target, now_s, now_s + leg.first_token_s, claim)
        self._live.append(attempt)
        hedge_at_s = inf
        if n == 1 and len(self.plan.legs) > 1:
            if claim:
                hedge_at_s = now_s + self.policy.escort_s
            elif self.policy.hedge:
                delay_s = leg.hedge_after_s
                if delay_s is None:
                    delay_s = target.hedge_delay_s(self.policy.hedge_quantile, self.prompt_tokens)
                hedge_at_s = inf if delay_s is None else now_s + delay_s
        self._hedge_at_s = hedge_at_s
        wake_at_s = attempt.due_s if attempt.due_s < hedge_at_s else hedge_at_s
        self.wake_at_s = wake_at_s if wake_at_s < self.end_s else self.end_s
        return Dispatch(n, leg)

    def _hedge(self, now_s: float, actions: list[Action]) -> None:
        """A second attempt beside a slow first one, elsewhere, if its shares allow; asked once."""
        self._hedge_at_s = inf
        if len(self._live) != 1 or self.attempts >= self._max_attempts:
            return
        first = self._live[0]
        own_domain = self.places[first.leg.deployment].domain
        for index, leg in enumerate(self.plan.legs):
            if self._tried >> index & 1 or self._is_too_small(index):
                continue
            target = self._target(index)
            if (self.places[leg.deployment].domain == own_domain and not first.claim) or target.standing(now_s) is not _READY:
                continue
            if target.is_full or not self.health.may_repeat(target):
                continue
            if not first.claim and not self.health.take_hedge(now_s, self.policy.hedge_share):
                return
            if self.health.take_retry(target, now_s, self.policy.budget_ratio) and target.take():
                actions.append(self._start(index, target, now_s, 0.0))
            return

    @property
    def _max_attempts(self) -> int:
        return min(self.plan.attempts, self.policy.attempts)

    def _may_go_on(self, attempt: _Attempt, failure: Failure) -> bool:
        """Note the failure; False when no other attempt could end differently."""
        past = self._past = self._past or _Past()
        past.failures.append(failure)
        rule = FAULTS[failure.fault]
        if rule.elsewhere == "no":
            return False
        if rule.elsewhere == "larger":
            small = self.places[attempt.leg.deployment].context_tokens or self.prompt_tokens
            past.min_context = max(small, past.min_context or 0)
        if rule.health != "model" and rule.elsewhere != "larger":
            past.domains.add(self.places[attempt.leg.deployment].domain)
        if attempt.index not in past.repeats:
            # What never left us may always be sent again; a refusal for patience may be repeated once the hold is over.
            once_more = not failure.sent or failure.fault is Fault.RATE_LIMITED
            past.repeats[attempt.index] = max(rule.retry_same, int(once_more))
        elif rule.retry_same == 0:
            past.repeats[attempt.index] = 0
        return True

    def _is_too_small(self, index: int) -> bool:
        """After a context-length refusal only windows known to be larger are left."""
        if self._past is None or self._past.min_context is None:
            return False
        window = self.places[self.plan.legs[index].deployment].context_tokens
        return window is None or window <= self._past.min_context

    def _advance(self, now_s: float, actions: list[Action]) -> Actions:
        """Start the best next attempt, or arrange to wait for it, or give up. With an attempt still in flight: only what is ready."""
        if now_s >= self.end_s:
            return self._give_up(self._deadline_failure("first_token"), now_s, actions)
        waited, self._pending, self._pending_at_s = self._pending, -1, inf
        if self.attempts < self._max_attempts:
            for rank, index, at_s in sorted(self._choices(now_s, waited)):
                if self._live and rank > _NEIGHBOUR:
                    break
                if at_s > now_s:
                    self._pending, self._pending_at_s = index, at_s
                    break
                target = self._target(index)
                if target.is_full or not self._pay(rank, target, now_s):
                    if self._past and self._tried >> index & 1:
                        self._past.repeats[index] = 0  # or two legs would wait for each other's backoff
                    continue
                target.take()
                if self._tried >> index & 1 and self._past:
                    self._past.repeats[index] -= 1
                    self._retries += 1
                claim = target.claim_probe(now_s) if target.standing(now_s) is _PROBE else 0.0
                actions.append(self._start(index, target, now_s, claim))
                self._rearm()
                return actions
        if self._live or self._pending >= 0:
            self._rearm()
            return actions or NOTHING
        return self._give_up(self._verdict(now_s), now_s, actions)

    def _pay(self, rank: int, target: Target, now_s: float) -> bool:
        """Every attempt after the first is paid for; the throttle does not stop failover to what is ready (that is the circuit's say)."""
        if not self.attempts:
            return True
        if rank not in (_ELSEWHERE, _NEIGHBOUR, _PROBING) and not self.health.may_repeat(target):
            return False
        return self.health.take_retry(target, now_s, self.policy.budget_ratio)

    def _choices(self, now_s: float, waited: int) -> list[tuple[int, int, float]]:
        """(rank, leg, when) of every leg that may be tried. `waited`: the leg whose backoff has just passed."""
        choices: list[tuple[int, int, float]] = []
        for index in range(len(self.plan.legs)):
            if self._is_too_small(index):
                continue
            choice = self._rank(index, self._target(index), now_s, has_waited=index == waited)
            if choice is not None:
                choices.append((choice[0], index, choice[1]))
        return choices

    def _rank(self, index: int, target: Target, now_s: float, *, has_waited: bool) -> tuple[int, float] | None:
        leg = self.plan.legs[index]
        standing = target.standing(now_s)
        if self._tried >> index & 1 and not self._past_repeats(index):
            return None
        if standing is _HELD:
            until_s = target.held_until_s
            # Spread those who wait, or they all return in the same millisecond.
            at_s = until_s + self.random() * self.policy.backoff_s
            if at_s < min(self.end_s, self.started_s + min(leg.first_token_s, self.policy.wait_s)):
                return _WAIT, at_s
            is_guess = now_s >= target.asked_until_s
            return (_FORCED_HELD, now_s) if is_guess and not self._tried >> index & 1 else None
        if standing is _DEAD:  # the last resort: a 401 may have been about one model, or the key has been mended since
            return None if self._tried >> index & 1 or now_s < target.asked_until_s else (_FORCED_DEAD, now_s)
        if self._tried >> index & 1:
            return (_AGAIN, now_s if has_waited else now_s + self._backoff_s()) if standing is _READY else None
        if standing is _OPEN:
            return _FORCED, now_s
        if standing is _PROBE and self.attempts:
            return _PROBING, now_s
        # For a first attempt no domain has failed yet, and a probe stands where the plan put it.
        is_tainted = self._past is not None and self.places[leg.deployment].domain in self._past.domains
        return (_NEIGHBOUR if is_tainted else _ELSEWHERE), now_s

    def _past_repeats(self, index: int) -> int:
        return self._past.repeats.get(index, 0) if self._past else 0

    def _backoff_s(self) -> float:
        return self.random() * min(self.policy.backoff_cap_s, self.policy.backoff_s * 2.0**self._retries)

    # --- giving up -----------------------------------------------------------------------------------------------------

    def _verdict(self, now_s: float) -> Failure:
        """The failure to show: the most telling one of the attempts, with the earliest time that a retry makes sense."""
        if self._past is None:
            return self._refusal(now_s)
        failures = self._past.failures
        told = min(failures, key=lambda failure: _TELLING[failure.fault])
        waits = [f.retry_after_s for f in failures if f.retry_after_s is not None]
        return structs.replace(told, retry_after_s=min(waits)) if waits else told

    def _refusal(self, now_s: float) -> Failure:
        """Why not even one attempt was made: no leg, all full, all asking for patience, or all credentials dead."""
        targets = [self._target(index) for index in range(len(self.plan.legs))]
        if any(target.is_full and target.standing(now_s) is not _DEAD for target in targets):
            message = "every deployment is at its limit of requests in flight"
            return Failure(fault=Fault.OVERLOADED, message=message, code="busy", phase="connect", retry_after_s=1.0, sent=False)
        held = [target.held_until_s - now_s for target in targets if target.standing(now_s) is _HELD]
        if held:
            message = "every deployment has asked for patience"
            return Failure(fault=Fault.RATE_LIMITED, message=message, code="held", phase="connect", retry_after_s=min(held), sent=False)
        for target in targets:
            known, wait_s = target.credential.failure, target.until_s(now_s)
            if known is not None:
                return structs.replace(known, phase="connect", retry_after_s=wait_s and wait_s - now_s, sent=False)
        return Failure(fault=Fault.MODEL_UNAVAILABLE, message="the plan has no leg to try", code="no_leg", phase="connect", sent=False)
