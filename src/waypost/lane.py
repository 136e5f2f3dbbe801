"""Lane: one deployment as the hot path meets it, with all that an attempt there needs looked up once per configuration.

Also the request as it enters the line (`Asked`) and the configuration in seconds (`Policy`): what gateway, flight and relay share.
"""

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from waypost.core import price
from waypost.core.health import Health, Target
from waypost.core.race import Place, RetryPolicy
from waypost.core.types import Bounds, Call, Deployment, Leg, Plan
from waypost.dialects import provider_side
from waypost.endpoint import Endpoint
from waypost.world import Caller, World

UNMEASURED_TOKENS_PER_S = 50.0  # a common pace of hosted models (their published medians lie between 40 and 150)
WORST_OUTPUT_TOKENS = 4096  # where neither the caller nor the card sets a ceiling


class Policy(Struct, frozen=True):
    """The configuration as the hot path reads it: seconds, and one table of places."""

    connect_s: float
    first_token_s: float
    patient_first_token_s: float
    idle_s: float
    total_s: float
    stream_upstream: Literal["auto", "always", "never"]
    retry: RetryPolicy
    places: Mapping[str, Place]  # by deployment name


class Lane:
    """What every attempt at one deployment needs, looked up once per configuration."""

    __slots__ = (
        "deployment",
        "endpoint",
        "held_tokens",
        "model_header",
        "name",
        "output_tokens",
        "plans",
        "price",
        "provider",
        "side",
        "target",
        "window_tokens",
        "wire",
    )

    def __init__(self, deployment: Deployment, endpoint: Endpoint, target: Target) -> None:
        self.deployment = deployment
        self.name = deployment.name
        self.endpoint = endpoint
        self.target = target
        self.price = deployment.model.price
        self.provider = deployment.provider
        self.wire = deployment.provider.wire
        self.side = provider_side(self.wire)
        self.window_tokens = deployment.model.context_tokens or 1 << 60
        self.model_header = (b"x-waypost-model", self.name.encode())
        self.plans: dict[int, Plan] = {}
        self.output_tokens = deployment.model.max_output_tokens or WORST_OUTPUT_TOKENS
        self.held_tokens = min(self.output_tokens, WORST_OUTPUT_TOKENS)  # of a key's rate; money is held for all of them

    def worst_case(self, call: Call) -> int | None:
        """Nano-dollars that one attempt may cost at most; None: the price is unknown."""
        return price.worst_case(call.prompt_tokens, call.max_output_tokens or self.output_tokens, call.n, self.price)

    def generation_s(self, call: Call) -> float:
        """How long the answer may take to generate: up to its ceiling, at the pace this deployment was seen to have."""
        return (call.max_output_tokens or self.output_tokens) / (self.target.tokens_per_s or UNMEASURED_TOKENS_PER_S)

    def streams(self, call: Call, policy: Policy) -> bool:
        """Law 11: a caller who does not stream is still guarded by the clocks of a stream when the answer may outlast them."""
        mode = policy.stream_upstream
        if call.stream or mode == "always":
            return True
        if mode != "auto" or self.generation_s(call) <= policy.first_token_s:
            return False
        return b'"logprobs"' not in call.body  # a gathered answer is written anew and would lose them

    def leg(self, call: Call, policy: Policy) -> Leg:
        """The clocks of one attempt. A whole answer must come within the first-token clock and the time its tokens take."""
        first_s = policy.patient_first_token_s if self._thinks(call) else policy.first_token_s
        if not self.streams(call, policy):
            first_s += self.generation_s(call)
        return Leg(self.name, policy.connect_s, first_s, policy.idle_s)

    def _thinks(self, call: Call) -> bool:
        """Whether thoughts that are not streamed may come before the first token (OpenAI's reasoning models on chat completions)."""
        if "reasoning" not in self.deployment.model.capabilities:
            return False
        return call.reasoning or "hidden_reasoning" in self.provider.quirks


class Asked(Struct):
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


class Lanes(dict[str, Lane]):
    """Lanes by deployment name, made on first use."""

    def __init__(self, world: World, health: Health) -> None:
        super().__init__()
        self._world = world
        self._health = health

    def __missing__(self, name: str) -> Lane:
        deployment = self._world.deployment(name)
        assert deployment is not None, "a plan names only deployments of its world"
        endpoint = self._world.endpoints[deployment.provider.name]
        target = self._health.target(name, endpoint.credential)
        if endpoint.max_in_flight is not None:
            target.bind(endpoint.max_in_flight)
        lane = self[name] = Lane(deployment, endpoint, target)
        return lane


class Places(dict[str, Place]):
    """What a race must know of a deployment, by its name."""

    def __init__(self, lanes: Lanes) -> None:
        super().__init__()
        self._lanes = lanes

    def __missing__(self, name: str) -> Place:
        lane = self._lanes[name]
        card = lane.deployment
        place = self[name] = Place(lane.endpoint.credential, card.failure_domain, card.model.context_tokens)
        return place
