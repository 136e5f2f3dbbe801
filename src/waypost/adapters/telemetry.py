"""Telemetry: counters and histograms, a projection of Outcome, shown to Prometheus.

The request adds a few integers (no library call on its way); the library renders them when somebody scrapes. Names follow the
OpenTelemetry GenAI conventions (opentelemetry-util-genai 1.3b0, 2026-10) where they have one, buckets included; our own start
with `waypost_`. No label holds a prompt, a key or a request id; labels that callers could invent (model names that do not
exist) never reach this place, because only attempts at known deployments do.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from waypost.core.types import Attempt, Outcome

SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKENS = tuple(float(4**i) for i in range(14))
OVERHEAD = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05)
KEPT = 512  # outcomes not counted yet, at most
CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


class Histogram:
    """Cumulative counts, as Prometheus shows them. Many values at once: sorted, each bound is one bisect, not each value."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # values up to each bound, and all
        self.total = 0.0

    def add(self, values: list[float]) -> None:
        values.sort()
        for place, bound in enumerate(self.bounds):
            self.counts[place] += bisect_right(values, bound)
        self.counts[-1] += len(values)
        self.total += sum(values)

    def cumulative(self) -> list[tuple[str, float]]:
        return list(zip([*map(repr, self.bounds), "+Inf"], self.counts, strict=True))


class _Served:
    """All that is counted of one deployment."""

    __slots__ = ("cached", "cost_nusd", "duration", "input", "output", "provider", "ttft", "unpriced")

    def __init__(self, provider: str) -> None:
        self.provider = provider
        self.duration, self.ttft = Histogram(SECONDS), Histogram(SECONDS)
        self.input, self.output = Histogram(TOKENS), Histogram(TOKENS)
        self.cost_nusd = self.unpriced = self.cached = 0


class Telemetry:
    """`observe` on the way of every request; `render` on a scrape."""

    def __init__(self, gauges: Callable[[], Iterable[tuple[str, str, dict[str, str], float]]] | None = None) -> None:
        self._gauges = gauges  # (name, help, labels, value), read at scrape time
        self._served: dict[str, _Served] = {}
        self._attempts: Counter[tuple[str, str, str]] = Counter()
        self._requests: Counter[tuple[str, int, str]] = Counter()
        self._overhead = Histogram(OVERHEAD)
        self._kept: list[Outcome] = []

    def observe(self, outcome: Outcome) -> None:
        """Keep it for later: counting many at once costs a fifth of counting each on its way."""
        self._kept.append(outcome)
        if len(self._kept) >= KEPT:
            self.count()

    def count(self) -> None:
        kept, self._kept = self._kept, []
        if not kept:
            return
        self._requests.update([("" if o.decision is None else o.decision.route, o.status, o.cache) for o in kept])
        self._overhead.add([o.overhead_ms / 1000 for o in kept])
        by_model: defaultdict[str, list[Attempt]] = defaultdict(list)
        for outcome in kept:
            for attempt in outcome.attempts:
                by_model[attempt.model].append(attempt)
        for model, attempts in by_model.items():
            self._attempts.update([(model, a.outcome, a.fault) for a in attempts])
            self._count(model, attempts)

    def _count(self, model: str, attempts: list[Attempt]) -> None:
        served = self._served.get(model)
        if served is None:
            served = self._served[model] = _Served(attempts[0].provider)
        costs = [a.cost_nusd for a in attempts if a.cost_nusd is not None]
        served.cost_nusd += sum(costs)
        served.unpriced += len(attempts) - len(costs)
        reported = [a.usage for a in attempts if a.usage.source == "reported"]  # the conventions forbid reporting estimates as usage
        served.cached += sum([u.cached_tokens for u in reported])
        served.input.add([u.input_tokens for u in reported])
        served.output.add([u.output_tokens for u in reported])
        good = [a for a in attempts if a.outcome == "ok"]
        served.duration.add([a.total_ms / 1000 for a in good])
        served.ttft.add([a.ttft_ms / 1000 for a in good if a.ttft_ms is not None])

    def render(self) -> bytes:
        self.count()
        from prometheus_client import CollectorRegistry, generate_latest  # a scrape pays for the import, a request never

        registry = CollectorRegistry()
        registry.register(_Collector(self))  # type: ignore[arg-type]  # a collector is anything with collect()
        return generate_latest(registry)

    def families(self) -> Iterable[object]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        requests = CounterMetricFamily(
            "waypost_requests", "Requests ended, by route, status and cache.", labels=["route", "status", "cache"]
        )
        for (route, status, cache), count in self._requests.items():
            requests.add_metric([route, str(status), cache], count)
        attempts = CounterMetricFamily("waypost_attempts", "Attempts at providers.", labels=["model", "outcome", "error_type"])
        for (model, result, fault), count in self._attempts.items():
            attempts.add_metric([model, result, fault], count)
        labels = ["gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model"]
        duration = HistogramMetricFamily("gen_ai_server_request_duration_seconds", "Duration of successful attempts.", labels=labels)
        ttft = HistogramMetricFamily("gen_ai_server_time_to_first_token_seconds", "Time to first token.", labels=labels)
        tokens = HistogramMetricFamily(
            "gen_ai_client_token_usage", "Tokens as reported by providers.", labels=[*labels, "gen_ai_token_type"]
        )
        cost = CounterMetricFamily("waypost_cost_usd", "Settled cost in US dollars.", labels=["provider", "model"])
        unpriced = CounterMetricFamily("waypost_unpriced_attempts", "Attempts whose price is unknown.", labels=["provider", "model"])
        cached = CounterMetricFamily("waypost_cached_tokens", "Prompt tokens read from providers' caches.", labels=["provider", "model"])
        for model, served in self._served.items():
            at = ["chat", served.provider, model]
            duration.add_metric(at, served.duration.cumulative(), served.duration.total)
            ttft.add_metric(at, served.ttft.cumulative(), served.ttft.total)
            tokens.add_metric([*at, "input"], served.input.cumulative(), served.input.total)
            tokens.add_metric([*at, "output"], served.output.cumulative(), served.output.total)
            cost.add_metric(at[1:], served.cost_nusd / 1e9)
            unpriced.add_metric(at[1:], served.unpriced)
            cached.add_metric(at[1:], served.cached)
        overhead = HistogramMetricFamily("waypost_overhead_seconds", "Time in the gateway before the first dispatch.")
        overhead.add_metric([], self._overhead.cumulative(), self._overhead.total)
        yield from (requests, attempts, duration, ttft, tokens, cost, unpriced, cached, overhead)
        gauges: dict[str, GaugeMetricFamily] = {}
        for name, text, marks, value in self._gauges() if self._gauges is not None else ():
            family = gauges.setdefault(name, GaugeMetricFamily(name, text, labels=list(marks)))
            family.add_metric(list(marks.values()), value)
        yield from gauges.values()


class _Collector:
    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def collect(self) -> Iterable[object]:
        return self._telemetry.families()
