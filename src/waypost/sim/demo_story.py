"""Story of the demo: who plays, who asks for what, and what goes wrong when.

Data and nothing else: four fictional providers of three dialects, a configuration like any user's, prompts of mixed tasks, and
chapters that change the simulator's rules. What comes of it is the gateway's doing: nothing here knows an outcome.
"""

from random import Random
from typing import Any

from msgspec import Struct

from waypost import config as cf
from waypost.core.types import WireName
from waypost.sim.provider import Simulator
from waypost.sim.scripts import Rule

FALLEN = "nimbus/small"  # the one that has the bad day
FRONTIER = "atlas/frontier"  # what "always the frontier model" is priced at
PINNED = 0.25  # share of callers who name a model and their own fallbacks instead of `auto`
WHOLE = 0.25  # share of callers who do not stream
REQUESTS_PER_S = 9.0
WIRES: dict[str, WireName] = {"nimbus": "openai-chat", "cirrus": "gemini", "atlas": "anthropic-messages", "zenith": "openai-chat"}
SMALL = ("nimbus/small", "cirrus/small", "atlas/small")
LARGE = ("atlas/frontier", "zenith/frontier")
MODELS = (*SMALL, *LARGE)

# As a small open model has them at three hosts, and a frontier model at two: 33 and 42 times dearer.
_SMALL = {"input_usd_per_mtok": 0.15, "output_usd_per_mtok": 0.60, "context_tokens": 32_000, "quality": 0.62, "family": "small"}
_LARGE = {"input_usd_per_mtok": 5.0, "output_usd_per_mtok": 25.0, "context_tokens": 200_000, "quality": 0.91, "family": "frontier"}

_PACE = (
    Rule(model="small", ttft_ms="lognormal:140:0.3", gap_ms=12, tokens=40),
    Rule(model="frontier", ttft_ms="lognormal:420:0.25", gap_ms=16, tokens=90),
)
_CUTS = ["ok", "cut-9", "ok", "cut-0", "ok", "ok", "cut-6", "ok", "cut-0", "ok", "ok", "cut-12", "ok", "ok", "cut-0", "ok", "ok", "cut-7"]


class Chapter(Struct, frozen=True):
    """`share` of the story's time. `ends` names what it waits for besides: "", "opened" (a breaker) or "back" (in service)."""

    says: str
    share: float
    rules: tuple[Rule, ...] = ()
    ends: str = ""


CHAPTERS = (
    Chapter("All is well: simple work takes a small model, hard reasoning the frontier.", 0.2),
    Chapter("nimbus slows down: its first token comes 7 times later. Requests move.", 0.2, (Rule(provider="nimbus", ttft_ms=1000),)),
    Chapter("nimbus answers 503: its breaker opens, everybody is served elsewhere.", 0.12, (Rule("fail-503", "nimbus"),), "opened"),
    Chapter("nimbus cuts streams. Before the first token: failover; after: error + bill.", 0.26, (Rule(_CUTS, "nimbus"),)),
    Chapter("nimbus is well again: a probe finds out, and it is back in service.", 0.22, ends="back"),
)
AFTER = "The story is over, the gateway runs on: try the curl below. q ends."


def rules(chapter: Chapter) -> list[Rule]:
    return [*chapter.rules, *_PACE]


def configuration(sim: Simulator, ledger: str) -> cf.Config:
    """What a user would write in waypost.toml, with the simulator's addresses."""
    providers = {name: cf.Provider(wire=wire, base_url=sim.base_url(wire, provider=name), api_key="none") for name, wire in WIRES.items()}
    priced: dict[str, dict[str, Any]] = {**dict.fromkeys(SMALL, _SMALL), **dict.fromkeys(LARGE, _LARGE)}
    auto = cf.Route(
        objective="cost",
        candidates=list(MODELS),
        rules=[cf.Rule(use=list(LARGE), when=cf.When(task="reasoning"))],
    )
    return cf.Config(
        server=cf.Server(drain_s=3),
        storage=cf.Storage(url=f"sqlite:{ledger}"),
        providers=providers,
        models=[cf.Model(name=name, **facts) for name, facts in priced.items()],
        routes={"auto": auto},
        timeouts=cf.Timeouts(first_token_ms=4000, idle_ms=4000),
        retries=cf.Retries(hedge=cf.Hedge(enabled=True)),
    )


# --- the callers ---------------------------------------------------------------------------------------------------------

_LETTER = (
    "Dear Ms Keller, on 14 March 2026 we delivered three pumps (order 8841) to your works in Ulm and sent invoice 2026-0317 over 4,180 "
    "euros, due on 13 April. We have received 2,000 euros so far. Please let us know by 30 April when the rest may be expected. "
)
PROMPTS = (
    "Write a Python function that merges two sorted lists, with a docstring.",
    "Refactor this code so that the loop is a comprehension:\n```python\nout = []\nfor x in rows:\n    out.append(x.id)\n```",
    "Fix the bug: `SELECT name FROM users WHERE age = NULL` returns no rows in PostgreSQL.",
    "Summarize this letter in one sentence: " + _LETTER,
    "Summarize the key points for a busy reader: " + _LETTER,
    "Classify the sentiment of this review as positive or negative: 'The pump ran for two days and then no more.'",
    "Which category fits this ticket, billing, delivery or repair? 'The second pump leaks at the seal.'",
    "Extract the invoice number, the amount and the due date as JSON from the letter: " + _LETTER,
    "Translate into German: The goods will be delivered on Tuesday, between nine and eleven.",
    "Translate into French: The bread was late, and the apology was warm.",
    "Hello! What is a good way to learn the names of the stars?",
    "Thanks! Can you recommend a walk near the lake for a rainy day?",
    "Write a limerick about a lighthouse keeper and his cat.",
    "Calculate 18 % of 2,450 and add 312.",
    "Think step by step: three guards, one always lies. Compare the strategies to find the safe door, and justify which is best.",
    "Analyze the trade-offs of moving our billing to event sourcing step by step; weigh risks, and devise a plan with a rollback.",
)


class Question(Struct, frozen=True):
    body: dict[str, Any]
    stream: bool


def question(draw: Random, number: int) -> Question:
    """The next caller's request. The marker makes each prompt one of its kind, so that no two answers are alike."""
    prompt = f"{draw.choice(PROMPTS)} [[demo-{number}]]"
    stream = draw.random() >= WHOLE
    body: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": prompt}]}
    if draw.random() < PINNED:
        body |= {"model": FALLEN, "models": list(SMALL[1:])}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return Question(body, stream)
