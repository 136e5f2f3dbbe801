"""Health: what is remembered of each deployment between requests, in three memories kept apart.

    box         is it broken?            consecutive strikes or a bad share over 30 s open a circuit that grows and is probed
    credential  is the key dead?         one 401 or an empty account: out for every deployment of that key, alarm, then probed
    patience    is it asking for time?   a hold until the time the provider gave, exactly; a guess that grows when it gave none

(and a flag per deployment for a model that is gone). Beside them stand the in-flight bound with its adaptive limit, the retry
and hedge budgets, and the latency that choice and hedging learn from. A circuit orders a deployment last; whether a call is
made all the same is the race's decision.

Pure and mutable: time comes in as `now_s`, random draws in [0, 1) come in as `draw`. Knows nothing of requests, sockets or clocks.
Sources: circuit after Finagle's FailureAccrual and Envoy's outlier detection; throttle after gRPC proposal A6; retry share after
Finagle's RetryBudget; concurrency after Netflix concurrency-limits (AIMD); load after Finagle's PeakEwma; quantiles after
DDSketch (Masson et al., 2019).
"""

from collections.abc import Iterable
from enum import Enum
from math import exp, inf, log

from msgspec import Struct

from waypost.core.faults import FAULTS
from waypost.core.types import Failure, Fault

_BUCKETS = 128
_GAMMA = 1.1  # 5 % relative error; 128 buckets reach from 1 ms to 200 s
_SCALE = 1.0 / log(_GAMMA)
_OFFSET = log(1000.0) * _SCALE  # bucket 0 holds one millisecond
_HALF_LIFE_S = 300.0
_FRESH_FOR = 32  # samples for which a computed quantile is kept


class HealthPolicy(Struct, frozen=True):
    """Constants of all memories. Origin of each default: see the module's sources."""

    strikes: float = 3.0  # consecutive; a timeout or a stall weighs 2 (FaultRule.strikes)
    window_s: float = 30.0
    window_min: int = 5  # requests in the window before its share counts
    success_share: float = 0.5
    open_s: float = 5.0  # x 2^n
    open_cap_s: float = 120.0
    jitter: float = 0.2  # +- share of every growing time
    probe_s: float = 60.0  # a probe that was never heard of again is given up after this long
    forgive_s: float = 60.0  # one past spell is forgotten per this much time in service
    credential_s: float = 60.0
    credential_cap_s: float = 3600.0  # also caps a provider's own "next month": a topped-up account is back within the hour
    model_s: float = 60.0
    model_cap_s: float = 3600.0
    hold_s: float = 1.0  # without Retry-After, x 2^n
    hold_cap_s: float = 30.0
    retry_after_cap_s: float = 3600.0  # a 429 that asks for more is an empty account, not a busy minute
    throttle_tokens: float = 10.0
    throttle_credit: float = 0.1
    retry_window_s: float = 10.0
    retry_floor_per_s: float = 10.0  # per target, beyond the share
    in_flight: int = 1024  # per deployment: one slow deployment cannot hold every permit
    backoff_ratio: float = 0.9  # of the concurrency limit, per second of 429/529
    decay_s: float = 10.0  # of the peak-EWMA
    prior_ttft_s: float = 1.0
    prompt_unit_tokens: float = 4000.0  # first-token times are compared after division by 1 + prompt_tokens / this
    learned_min: int = 20  # samples before a quantile is believed


class Standing(Enum):
    READY = "ready"
    PROBE = "probe"  # its time out is over; one request at a time may find out
    HELD = "held"  # asked for patience
    OPEN = "open"  # circuit open, or model gone: ordered last
    DEAD = "dead"  # its credential does not work


# Enum members cost a descriptor call on Python 3.11; the hot path reads these.
_READY, _PROBE, _HELD, _OPEN, _DEAD = Standing.READY, Standing.PROBE, Standing.HELD, Standing.OPEN, Standing.DEAD


class Spell:
    """One memory's time out of service: it grows with repetition and is ended by one probe at a time.

    `since_s` separates news from history: an attempt that began before the spell neither lengthens nor ends it.
    """

    __slots__ = ("back_s", "failure", "out", "probe_until_s", "since_s", "times", "until_s")

    def __init__(self) -> None:
        self.out = False
        self.times = 0  # spells not yet forgiven
        self.since_s = -inf
        self.until_s = -inf
        self.back_s = -inf  # when it last came back
        self.probe_until_s = -inf
        self.failure: Failure | None = None

    def blocks(self, now_s: float) -> bool:
        return self.out and (now_s < self.until_s or now_s < self.probe_until_s)

    def begin(self, now_s: float, length_s: float) -> None:
        self.out = True
        self.times += 1
        self.since_s = now_s
        self.until_s = now_s + length_s
        self.probe_until_s = -inf

    def growing_s(self, now_s: float, *, base_s: float, cap_s: float, forgive_s: float) -> float:
        """Length of the next spell before jitter, after forgiving what time in service has earned."""
        if not self.out and self.times:
            self.times = max(0, self.times - int((now_s - self.back_s) / forgive_s))
        return min(cap_s, base_s * 2.0 ** min(self.times, 30))

    def repeats(self, now_s: float, began_s: float) -> bool:
        """Whether a failure of an attempt begun at `began_s` says nothing new."""
        return began_s < self.since_s or began_s < self.back_s or (self.out and now_s < self.until_s)

    def end(self, now_s: float) -> None:
        self.out = False
        self.back_s = now_s
        self.probe_until_s = -inf
        self.failure = None


class Tally:
    """Two counts over a sliding window made of two halves: it sees between half of the window and all of it."""

    __slots__ = ("_edge_s", "_half_s", "a", "b", "old_a", "old_b")

    def __init__(self, window_s: float) -> None:
        self._half_s = window_s / 2
        self._edge_s = 0.0
        self.a = self.b = self.old_a = self.old_b = 0.0

    def add(self, now_s: float, a: float, b: float) -> None:
        """Count; `add(now_s, 0, 0)` only forgets what is too old."""
        if now_s >= self._edge_s:
            stale = now_s >= self._edge_s + self._half_s
            self.old_a, self.old_b = (0.0, 0.0) if stale else (self.a, self.b)
            self.a = self.b = 0.0
            self._edge_s = now_s + self._half_s
        self.a += a
        self.b += b


class Floor:
    """A token bucket that saves up for `saved_s`.

    As in Finagle the reserve is the window's: when a deployment dies under load, all calls in flight there fail in one moment, before
    any circuit has opened, and each has a right to its one failover.
    """

    __slots__ = ("_at_s", "_burst", "_left", "_per_s")

    def __init__(self, per_s: float, saved_s: float) -> None:
        self._per_s = per_s
        self._left = self._burst = per_s * saved_s
        self._at_s = 0.0

    def take(self, now_s: float) -> bool:
        self._left = min(self._burst, self._left + max(0.0, now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


class Quantiles:
    """Log-bucket histogram of seconds whose past halves every five minutes."""

    __slots__ = ("_asked", "_counts", "_fresh", "_halve_at_s", "_value", "total")

    def __init__(self) -> None:
        self._counts = [0.0] * _BUCKETS
        self.total = 0.0
        self._halve_at_s = 0.0
        self._asked = -1.0
        self._value = 0.0
        self._fresh = 0

    def add(self, now_s: float, value_s: float) -> None:
        if now_s >= self._halve_at_s:
            self._halve(now_s)
        index = int(log(value_s) * _SCALE + _OFFSET) if value_s > 0.001 else 0
        self._counts[index if index < _BUCKETS else _BUCKETS - 1] += 1.0
        self.total += 1.0
        self._fresh -= 1

    def _halve(self, now_s: float) -> None:
        if self._halve_at_s:
            times = 1 + int((now_s - self._halve_at_s) / _HALF_LIFE_S)
            self._counts = [count * 0.5**times for count in self._counts]
            self.total = sum(self._counts)
        self._halve_at_s = now_s + _HALF_LIFE_S

    def quantile(self, q: float) -> float:
        """The value below which a share `q` lies; 0.0 when empty."""
        if q == self._asked and self._fresh > 0:
            return self._value
        rank, seen, index = q * self.total, 0.0, 0
        while index < _BUCKETS - 1:
            seen += self._counts[index]
            if self._counts[index] and seen >= rank:
                break
            index += 1
        self._asked, self._fresh = q, _FRESH_FOR
        self._value = _GAMMA ** (index + 0.5) / 1000.0 if self.total else 0.0
        return self._value


class TargetView(Struct, frozen=True):
    """One target as shown by /readyz, metrics and `explain`. Holds no secret: `credential` is a label."""

    deployment: str
    credential: str
    standing: str
    why: str
    until_s: float | None
    in_flight: int
    limit: int
    ttft_s: float
    tokens_per_s: float | None
    retry_tokens: float
    ejections: int
    alarm: bool  # somebody must look at the credential


class Target:
    """A deployment with the credential it is called with. Mutable; one per pair in the process."""

    __slots__ = (
        *("deployment", "credential_name", "policy", "credential", "circuit", "model", "asked_until_s", "bound", "held_until_s"),
        *("in_flight", "limit", "throttle", "floor", "tokens_per_s", "ttfts"),
        *("_consecutive", "_share", "_throttled", "_cut_s", "_ewma_s", "_load_at_s"),
    )

    def __init__(self, deployment: str, credential_name: str, credential: Spell, policy: HealthPolicy) -> None:
        self.deployment = deployment
        self.credential_name = credential_name
        self.policy = policy
        self.credential = credential  # shared by all targets of that credential
        self.circuit = Spell()
        self.model = Spell()
        self.asked_until_s = -inf  # in the provider's own words: never called inside
        self.held_until_s = -inf  # the later of that and our guess
        self.in_flight = 0
        self.bound = policy.in_flight  # most requests in flight; the adaptive limit moves below it
        self.limit = float(self.bound)
        self.throttle = policy.throttle_tokens
        self.floor = Floor(policy.retry_floor_per_s, policy.retry_window_s)
        self.tokens_per_s: float | None = None
        self.ttfts = Quantiles()
        self._consecutive = 0.0
        self._share = Tally(policy.window_s)  # a: successes, b: strikes
        self._throttled = 0  # holds without Retry-After in a row
        self._cut_s = -inf
        self._ewma_s = 0.0  # normalised; 0: nothing measured yet
        self._load_at_s = 0.0

    # --- may it be called ------------------------------------------------------------------------------------------

    def standing(self, now_s: float) -> Standing:
        if now_s >= self.held_until_s and not (self.circuit.out or self.model.out or self.credential.out):
            return _READY
        if self.credential.blocks(now_s):
            return _DEAD
        if now_s < self.held_until_s:
            return _HELD
        if self.circuit.blocks(now_s) or self.model.blocks(now_s):
            return _OPEN
        return _PROBE if self.circuit.out or self.model.out or self.credential.out else _READY

    def until_s(self, now_s: float) -> float | None:
        """When this standing may change by time alone; None when it is READY or PROBE."""
        spells = [max(s.until_s, s.probe_until_s) for s in (self.credential, self.circuit, self.model) if s.blocks(now_s)]
        if now_s < self.held_until_s:
            spells.append(self.held_until_s)
        return max(spells, default=None)

    def why(self, now_s: float) -> str:
        standing = self.standing(now_s)
        match standing:
            case Standing.READY:
                return "full" if self.is_full else ""
            case Standing.PROBE:
                return "may be probed"
            case Standing.HELD:
                return "asked for patience" if now_s < self.asked_until_s else "rate limited"
            case Standing.DEAD:
                return f"credential: {self.credential.failure.fault.value}" if self.credential.failure else "credential"
            case Standing.OPEN:
                spell = self.circuit if self.circuit.blocks(now_s) else self.model
                probing = ", being probed" if now_s >= spell.until_s else ""
                fault = spell.failure.fault.value if spell.failure else "failing"
                return fault + probing

    @property
    def is_full(self) -> bool:
        return self.in_flight >= self.limit

    def take(self) -> bool:
        """One permit in flight, or False: the bound (or the adaptive limit below it) is reached."""
        if self.in_flight >= self.limit:
            return False
        self.in_flight += 1
        return True

    def bind(self, bound: int) -> None:
        """Another bound for this target than the policy's."""
        self.bound = bound
        self.limit = min(self.limit, float(bound))

    def give(self) -> None:
        self.in_flight -= 1

    def claim_probe(self, now_s: float) -> float:
        """Reserve the one probe; the returned claim goes to `release_probe` when the attempt ends without a verdict."""
        claim = now_s + self.policy.probe_s
        for spell in (self.circuit, self.model, self.credential):
            if spell.out:
                spell.probe_until_s = claim
        return claim

    def release_probe(self, claim: float) -> None:
        for spell in (self.circuit, self.model, self.credential):
            if spell.probe_until_s == claim:
                spell.probe_until_s = -inf

    # --- what was learnt -------------------------------------------------------------------------------------------

    def succeeded(self, now_s: float, ttft_s: float | None, output_tokens: int, duration_s: float, prompt_tokens: int) -> None:
        """An attempt ended well. `ttft_s` None: it had no content. Closes what the attempt has disproved."""
        self._consecutive = 0.0
        self._throttled = 0
        self._share.add(now_s, 1, 0)
        if self.throttle < self.policy.throttle_tokens:
            self.throttle = min(self.policy.throttle_tokens, self.throttle + self.policy.throttle_credit)
        if self.limit < self.bound:
            self.limit = min(float(self.bound), self.limit + 1.0 / self.limit)
        if self.circuit.out or self.model.out or self.credential.out:
            self._recover(now_s, now_s - duration_s)
        if ttft_s is None:
            return
        ttft_unit_s = ttft_s / (1.0 + prompt_tokens / self.policy.prompt_unit_tokens)
        self._observe(now_s, ttft_unit_s)
        self.ttfts.add(now_s, ttft_unit_s)
        spent_s = duration_s - ttft_s
        if output_tokens >= 8 and spent_s > 0.0:  # fewer tokens measure the clock, not the model
            pace = output_tokens / spent_s
            self.tokens_per_s = pace if self.tokens_per_s is None else self.tokens_per_s + 0.1 * (pace - self.tokens_per_s)

    def _recover(self, now_s: float, began_s: float) -> None:
        for spell in (self.circuit, self.model, self.credential):
            if spell.out and began_s >= spell.since_s:
                spell.end(now_s)

    def failed(self, now_s: float, failure: Failure, draw: float, began_s: float | None = None) -> None:
        """Learn from one failure, in the one memory it belongs to. `began_s`: when its attempt began (default: now)."""
        rule = FAULTS[failure.fault]
        if failure.deadline_bound or rule.health == "none":
            return  # the caller's haste or the caller's mistake: it says nothing of the deployment
        began_s = now_s if began_s is None else began_s
        match rule.health:
            case "patience":
                self._ask(now_s, failure, draw, began_s)
            case "credential":
                self._shut(self.credential, now_s, failure, draw, began_s)
            case "model":
                self._shut(self.model, now_s, failure, draw, began_s)
            case _:
                if failure.retry_after_s is not None:  # a 503 may ask for patience too
                    self._hold(now_s, min(failure.retry_after_s, self.policy.retry_after_cap_s))
                if failure.fault is Fault.OVERLOADED:
                    self._cut(now_s)
                self._strike(now_s, rule.strikes, failure, draw, began_s)
        if rule.health in ("box", "patience"):
            self.throttle = max(0.0, self.throttle - 1.0)

    def lost(self, now_s: float, waited_s: float, claim: float, draw: float, prompt_tokens: int) -> None:
        """The attempt was cancelled after `waited_s` without content because another answered first.

        No strike: slow is not broken. But its first-token time is at least what was waited, and a probe that its
        escort overtook has failed as a probe.
        """
        waited_unit_s = waited_s / (1.0 + prompt_tokens / self.policy.prompt_unit_tokens)
        if waited_unit_s > self._ewma_s:
            self._observe(now_s, waited_unit_s)
        if claim and self.circuit.out and self.circuit.probe_until_s == claim:
            self._open(now_s, self.circuit.failure, draw)
        elif claim:
            self.release_probe(claim)

    def _ask(self, now_s: float, failure: Failure, draw: float, began_s: float) -> None:
        asked_s = failure.retry_after_s
        self._cut(now_s)
        if asked_s is not None and asked_s > self.policy.retry_after_cap_s:
            self._shut(self.credential, now_s, failure, draw, began_s)
        elif asked_s is not None and asked_s > 0.0:
            self._hold(now_s, asked_s)
        elif now_s >= self.held_until_s:  # calls of the same burst are one piece of news
            guess_s = min(self.policy.hold_cap_s, self.policy.hold_s * 2.0 ** min(self._throttled, 30))
            self._throttled += 1
            self.held_until_s = now_s + guess_s * self._jitter(draw)

    def _hold(self, now_s: float, asked_s: float) -> None:
        self.asked_until_s = max(self.asked_until_s, now_s + asked_s)  # never shortened by a later, smaller answer
        self.held_until_s = max(self.held_until_s, self.asked_until_s)

    def _shut(self, spell: Spell, now_s: float, failure: Failure, draw: float, began_s: float) -> None:
        if spell.repeats(now_s, began_s):
            return
        p = self.policy
        base_s, cap_s = (p.credential_s, p.credential_cap_s) if spell is self.credential else (p.model_s, p.model_cap_s)
        length_s = spell.growing_s(now_s, base_s=base_s, cap_s=cap_s, forgive_s=p.forgive_s) * self._jitter(draw)
        if failure.retry_after_s is not None and failure.retry_after_s > 0.0:
            length_s = min(failure.retry_after_s, cap_s)
        spell.begin(now_s, length_s)
        spell.failure = failure

    def _strike(self, now_s: float, weight: float, failure: Failure, draw: float, began_s: float) -> None:
        if self.circuit.repeats(now_s, began_s):
            return
        if self.circuit.out:  # the probe failed
            self._open(now_s, failure, draw)
            return
        self._consecutive += weight
        share = self._share
        share.add(now_s, 0.0, weight)  # a timeout counts as two requests that failed
        good, seen = share.a + share.old_a, share.a + share.old_a + share.b + share.old_b
        poor = seen >= self.policy.window_min and good < self.policy.success_share * seen
        if poor or self._consecutive >= self.policy.strikes:
            self._open(now_s, failure, draw)

    def _open(self, now_s: float, failure: Failure | None, draw: float) -> None:
        p = self.policy
        length_s = self.circuit.growing_s(now_s, base_s=p.open_s, cap_s=p.open_cap_s, forgive_s=p.forgive_s) * self._jitter(draw)
        self.circuit.begin(now_s, length_s)
        self.circuit.failure = failure
        self._consecutive = 0.0
        self._share = Tally(p.window_s)

    def _cut(self, now_s: float) -> None:
        """Multiplicative decrease, once a second: the refusals of one burst are one signal."""
        if now_s < self._cut_s + 1.0:
            return
        self._cut_s = now_s
        # From near what is in use, else the first cuts below a bound of 256 would mean nothing.
        self.limit = max(1.0, min(self.limit, 2.0 * self.in_flight + 8.0) * self.policy.backoff_ratio)

    def _jitter(self, draw: float) -> float:
        return 1.0 + self.policy.jitter * (2.0 * draw - 1.0)

    # --- latency ---------------------------------------------------------------------------------------------------

    def _observe(self, now_s: float, value_s: float) -> None:
        """`value_s` is normalised, as the average is."""
        past_s = self._ewma_s
        if value_s >= past_s:
            self._ewma_s = value_s  # a peak is believed at once, a recovery slowly
        else:
            weight = exp((self._load_at_s - now_s) / self.policy.decay_s)
            self._ewma_s = past_s * weight + value_s * (1.0 - weight)
        self._load_at_s = now_s

    def load(self, now_s: float) -> float:
        """Cost of one more request, for power-of-two choices. A slow past fades while nobody calls, so that it is tried again."""
        prior_s = self.policy.prior_ttft_s
        if not self._ewma_s:
            return prior_s * (self.in_flight + 1)
        past_s = self._ewma_s
        if past_s > prior_s:
            past_s = prior_s + (past_s - prior_s) * exp((self._load_at_s - now_s) / self.policy.decay_s)
        return past_s * (self.in_flight + 1)

    def ttft_s(self, prompt_tokens: int, now_s: float | None = None) -> float:
        """Expected time to first token: peak-EWMA, scaled to the prompt. With `now_s` a peak fades to the usual time while nobody
        calls, or a deployment that was slow once among equals would never be tried again."""
        past_s = self._ewma_s or self.policy.prior_ttft_s
        if now_s is not None and self.ttfts.total:
            usual_s = self.ttfts.quantile(0.5)
            if past_s > usual_s:
                past_s = usual_s + (past_s - usual_s) * exp((self._load_at_s - now_s) / self.policy.decay_s)
        return past_s * (1.0 + prompt_tokens / self.policy.prompt_unit_tokens)

    def quantile_s(self, q: float, prompt_tokens: int = 0) -> float | None:
        """Quantile of the time to first token (within 5 %), scaled to the prompt; None before enough was seen."""
        if self.ttfts.total < self.policy.learned_min:
            return None
        return self.ttfts.quantile(q) * (1.0 + prompt_tokens / self.policy.prompt_unit_tokens)

    def hedge_delay_s(self, quantile: float, prompt_tokens: int = 0) -> float | None:
        """How long to wait for a first token before a second attempt pays; None: not known yet, do not hedge."""
        return self.quantile_s(quantile, prompt_tokens)

    def view(self, now_s: float) -> TargetView:
        return TargetView(
            deployment=self.deployment,
            credential=self.credential_name,
            standing=self.standing(now_s).value,
            why=self.why(now_s),
            until_s=self.until_s(now_s),
            in_flight=self.in_flight,
            limit=int(self.limit),
            ttft_s=self.ttft_s(0),
            tokens_per_s=self.tokens_per_s,
            retry_tokens=self.throttle,
            ejections=self.circuit.times,
            alarm=self.credential.out,
        )


class Health:
    """All targets of the process and what they share: credentials, the retry share, the hedge share."""

    __slots__ = ("_credentials", "_hedges", "_targets", "_traffic", "policy")

    def __init__(self, policy: HealthPolicy | None = None) -> None:
        self.policy = policy or HealthPolicy()
        self._targets: dict[tuple[str, str], Target] = {}
        self._credentials: dict[str, Spell] = {}
        self._traffic = Tally(self.policy.retry_window_s)  # a: requests, b: attempts paid from the share
        self._hedges = Tally(self.policy.retry_window_s)  # b: hedges

    def target(self, deployment: str, credential: str) -> Target:
        """Get or create. `credential` is a label of provider and key, never the key itself."""
        found = self._targets.get((deployment, credential))
        if found is not None:
            return found
        spell = self._credentials.setdefault(credential, Spell())
        made = self._targets[deployment, credential] = Target(deployment, credential, spell, self.policy)
        return made

    def keep(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Forget all targets but these (after a reload). Attempts in flight keep theirs until they end."""
        kept = set(pairs)
        self._targets = {pair: target for pair, target in self._targets.items() if pair in kept}
        names = {credential for _, credential in self._targets}
        self._credentials = {name: spell for name, spell in self._credentials.items() if name in names}

    def request(self, now_s: float) -> None:
        """Count one request: it earns a share of a retry."""
        self._traffic.add(now_s, 1, 0)

    def take_retry(self, target: Target, now_s: float, ratio: float) -> bool:
        """Pay for one attempt beyond a request's first, from the share or from the target's floor; False: not affordable."""
        traffic = self._traffic
        traffic.add(now_s, 0, 0)
        if traffic.b + traffic.old_b + 1 <= ratio * (traffic.a + traffic.old_a):
            traffic.b += 1
            return True
        return target.floor.take(now_s)

    def take_hedge(self, now_s: float, max_share: float) -> bool:
        """Pay for one hedge from its own share of requests; there is no floor, a hedge is never needed."""
        hedges = self._hedges
        hedges.add(now_s, 0, 0)
        self._traffic.add(now_s, 0, 0)
        if hedges.b + hedges.old_b + 1 > max_share * (self._traffic.a + self._traffic.old_a):
            return False
        hedges.b += 1
        return True

    def may_repeat(self, target: Target) -> bool:
        """gRPC's throttle: no same-target retry, hedge or forced repeat against a target that mostly fails."""
        return target.throttle > self.policy.throttle_tokens / 2

    def attempts_bound(self, requests: int, span_s: float, targets: int, ratio: float) -> float:
        """Most attempts that `requests` can cause within `span_s`: first tries, the share, and each target's floor.

        The share looks back one window, so at a sudden stop one window's share of earlier traffic may still be spent.
        """
        return requests * (1.0 + ratio) + targets * self.policy.retry_floor_per_s * (span_s + self.policy.retry_window_s)

    def snapshot(self, now_s: float) -> list[TargetView]:
        return [target.view(now_s) for target in self._targets.values()]
