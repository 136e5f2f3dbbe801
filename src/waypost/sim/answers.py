"""Answers: what a simulated model says to an ask, counted to the token, before any dialect dresses it.

Decides text, reasoning, tool calls, structured output, where max_tokens and stop sequences cut, and what is billed. Remembers
prompt prefixes, so that cached tokens are as real as the rest. Knows nothing of wires: the renderers take an `Answer`.
"""

from collections import OrderedDict
from hashlib import blake2b
from typing import Any, Literal, cast

import msgspec
from msgspec import Struct

from waypost.sim import texts
from waypost.sim.asks import Ask, AskedTool
from waypost.sim.scripts import Chance, Script

Finish = Literal["stop", "length", "tool", "filter", "refusal"]
UsageManner = Literal["normal", "none", "zero", "in-choice"]
CACHE_BLOCK_TOKENS = 64  # real ones: 1,024 then steps of 128 (OpenAI), 1,024 minimum (Anthropic); smaller here so that tests stay small
REMEMBERED_PREFIXES = 200_000
SCHEMA_DEPTH = 12


class Called(Struct, frozen=True):
    id: str
    name: str
    arguments: str


class Answer(Struct):
    """The whole answer; the cached tokens are filled in by who remembers the prefixes.

    `output_tokens` = pieces of reasoning, text and arguments, and one for each call's name.
    """

    id: str
    prompt_tokens: int
    output_tokens: int
    reasoning: str = ""
    text: str = ""
    calls: tuple[Called, ...] = ()
    finish: Finish = "stop"
    stop_hit: str | None = None
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    created: int = 0
    usage: UsageManner = "normal"
    says_finish: bool = True

    @property
    def reasoning_tokens(self) -> int:
        return texts.count(self.reasoning)

    @property
    def checksum(self) -> str:
        return texts.checksum(self.content)

    @property
    def content(self) -> str:
        """Everything that can be checked at the far end, in order."""
        return self.reasoning + self.text + "".join(call.name + call.arguments for call in self.calls)


class Score(Struct):
    """An answer as a dialect's stream: each frame is one event, `body` frames with the tokens they carry."""

    opening: list[bytes]
    body: list[tuple[bytes, int]]
    finish: list[bytes]
    usage: list[bytes]
    done: list[bytes]
    blank: bytes  # an event without content (empty choices, or what comes nearest)
    unknown: bytes
    ping: bytes


def compose(ask: Ask, script: Script, *, id: str, tokens: int, created: int) -> Answer:
    """The answer that the script and the ask call for; caching is found by `Memory.recall`."""
    want = int(script.number("n", tokens))
    leaf = texts.leaf_for(ask.prompt)
    thinks = "think" in script or ask.thinking
    reasoning = texts.compose((leaf + 1) % texts.LEAVES, max(1, want // 2)) if thinks else ""
    calls = _calls(ask, script, id)
    text, finish = _text(ask, script, leaf, want, calls)
    stop_hit = None
    if finish == "stop":
        text, stop_hit = _stopped(text, ask.stop)
    limit = None if "ignore-max" in script else ask.max_tokens
    reasoning, text, calls, finish = _limited(reasoning, text, calls, finish, limit)
    if "stop-at-max" in script and finish == "length":
        finish = "stop"
    return Answer(
        id=id,
        prompt_tokens=ask.prompt_tokens,
        output_tokens=_tokens(reasoning, text, calls),
        reasoning=reasoning,
        text=text,
        calls=calls,
        finish=finish,
        stop_hit=stop_hit,
        created=created,
        usage=_manner(script),
        says_finish="no-finish" not in script,
    )


def _manner(script: Script) -> UsageManner:
    if "no-usage" in script or "stop-at-max" in script:
        return "none"
    return "zero" if "zero-usage" in script else "in-choice" if "usage-in-choice" in script else "normal"


def _text(ask: Ask, script: Script, leaf: int, want: int, calls: tuple[Called, ...]) -> tuple[str, Finish]:
    if "empty" in script:
        return "", "stop"
    if calls:
        return "", "tool"
    if "refusal" in script:
        return "I must decline: the simulator was told to refuse this.", "refusal"
    if "filter" in script:
        return texts.compose(leaf, want)[: want // 2 * texts.PIECE], "filter"
    if "json" in script or ask.json:
        return msgspec.json.encode(
            sample(ask.schema, leaf) if ask.schema else {"leaf": leaf, "text": texts.compose(leaf, want)}
        ).decode(), "stop"
    text = texts.compose(leaf, want)
    return (texts.with_separators(text) if "u2028" in script else text), "stop"


def _calls(ask: Ask, script: Script, id: str) -> tuple[Called, ...]:
    if not ask.tools or ask.tool_choice == "none" or ask.after_tool:
        return ()
    named = next((tool for tool in ask.tools if tool.name == ask.tool_choice), None)
    mentioned = next((tool for tool in ask.tools if tool.name and tool.name in ask.last_text), None)
    forced = ask.tool_choice == "required" or named is not None
    if not (forced or mentioned or "tool" in script or "tools2" in script):
        return ()
    first = named or mentioned or ask.tools[0]
    second = ask.tools[(ask.tools.index(first) + 1) % len(ask.tools)]
    chosen = [first, second] if "tools2" in script else [first]
    return tuple(_call(tool, f"call_{id.replace('-', '')}{i}", i) for i, tool in enumerate(chosen))


def _call(tool: AskedTool, id: str, turn: int) -> Called:
    made: Any = sample(tool.schema, turn)
    return Called(id=id, name=tool.name, arguments=msgspec.json.encode(made).decode() if isinstance(made, dict) else "{}")


def _stopped(text: str, stops: tuple[str, ...]) -> tuple[str, str | None]:
    hits = [(at, stop) for stop in stops if stop and (at := text.find(stop)) >= 0]
    if not hits:
        return text, None
    at, stop = min(hits)
    return text[:at], stop


def _limited(
    reasoning: str, text: str, calls: tuple[Called, ...], finish: Finish, limit: int | None
) -> tuple[str, str, tuple[Called, ...], Finish]:
    """Cut at the ceiling: reasoning first, then text, then the calls' arguments, as a model would have written them."""
    if limit is None or _tokens(reasoning, text, calls) <= limit:
        return reasoning, text, calls, finish
    reasoning = reasoning[: limit * texts.PIECE]
    left = limit - texts.count(reasoning)
    text = text[: left * texts.PIECE]
    left -= texts.count(text)
    kept: list[Called] = []
    for call in calls:
        if left < 1:
            break
        kept.append(Called(id=call.id, name=call.name, arguments=call.arguments[: (left - 1) * texts.PIECE]))
        left -= 1 + texts.count(kept[-1].arguments)
    return reasoning, text, tuple(kept), "length"


def _tokens(reasoning: str, text: str, calls: tuple[Called, ...]) -> int:
    return texts.count(reasoning) + texts.count(text) + sum(1 + texts.count(call.arguments) for call in calls)


def sample(schema: Any, leaf: int, root: Any = None, depth: int = 0) -> Any:
    """A value that a JSON Schema accepts: simple, deterministic, every property present. Unknown keywords are ignored."""
    if not isinstance(schema, dict) or depth > SCHEMA_DEPTH:
        return texts.compose(leaf, 8)
    node = cast("dict[str, Any]", schema)
    root = node if root is None else root
    if "$ref" in node:
        return sample(_resolve(root, str(node["$ref"])), leaf, root, depth + 1)
    if "const" in node:
        return node["const"]
    if node.get("enum"):
        return node["enum"][leaf % len(node["enum"])]
    for key in ("anyOf", "oneOf", "allOf"):
        if node.get(key):
            return sample(node[key][0], leaf, root, depth + 1)
    kind: Any = node.get("type")
    if isinstance(kind, list):
        kind = next((k for k in cast("list[Any]", kind) if k != "null"), "null")
    match str(kind or ("object" if "properties" in node else "string")).lower():
        case "object":
            properties: dict[str, Any] = node.get("properties") or {}
            return {name: sample(value, leaf + i, root, depth + 1) for i, (name, value) in enumerate(properties.items())}
        case "array":
            many = int(node.get("minItems") or 1)
            return [sample(node.get("items") or {}, leaf + i, root, depth + 1) for i in range(min(many, 100))]
        case "integer":
            return _bounded(node, leaf % 100)
        case "number":
            return _bounded(node, leaf % 100 + 0.5)
        case "boolean":
            return leaf % 2 == 0
        case "null":
            return None
        case _:
            return _string(node, leaf)


def _string(node: dict[str, Any], leaf: int) -> str:
    shaped = {"date": "2026-11-23", "date-time": "2026-11-23T06:00:00Z", "email": "leaf@example.com", "uri": "https://example.com/leaf"}
    text = shaped.get(str(node.get("format"))) or texts.compose(leaf, 10)
    short = text[: int(node.get("maxLength") or len(text))]
    return short.ljust(int(node.get("minLength") or 0), ".")


def _bounded(node: dict[str, Any], value: float) -> float:
    low, high = node.get("minimum"), node.get("maximum")
    value = value if low is None else max(low, value)
    return value if high is None else min(high, value)


def _resolve(root: Any, ref: str) -> Any:
    node: Any = root
    for step in filter(None, ref.removeprefix("#").split("/")):
        inner: Any = cast("dict[str, Any]", node).get(step.replace("~1", "/").replace("~0", "~")) if isinstance(node, dict) else None
        node = inner
    return node


class Memory:
    """Prompt prefixes seen, in blocks, per place (provider, model, key, server). Bounded; the oldest go first."""

    def __init__(self) -> None:
        self._seen: OrderedDict[bytes, None] = OrderedDict()

    def clear(self) -> None:
        self._seen.clear()

    def recall(self, ask: Ask, script: Script, place: str, chance: Chance) -> tuple[int, int, str]:
        """(cached tokens read, tokens written to the cache, hash of the prompt's prefix). Remembers this prompt.

        The Anthropic dialect caches only what was marked with `cache_control`; the others cache by themselves.
        """
        if "servers" in script:
            many = max(1, int(script.number("servers")))
            place += str(texts.leaf_for(ask.cache_key) % many if ask.cache_key else chance.dice().randrange(many))
        digest = blake2b(place.encode("utf-8", "surrogatepass"), digest_size=8)
        blocks: list[bytes] = []
        size = CACHE_BLOCK_TOKENS * texts.PIECE
        usable = ask.prompt[: max(0, ask.prompt_tokens - 1) * texts.PIECE]
        for start in range(0, len(usable) - size + 1, size):
            digest.update(usable[start : start + size].encode("utf-8", "surrogatepass"))
            blocks.append(digest.digest())
        first = blake2b(ask.prompt[:size].encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
        if ask.dialect == "anthropic-messages" and not ask.cache_control:
            return 0, 0, first
        hits = next((i for i, block in enumerate(blocks) if block not in self._seen), len(blocks))
        for block in blocks[hits:]:
            self._seen[block] = None
        while len(self._seen) > REMEMBERED_PREFIXES:
            self._seen.popitem(last=False)
        written = (len(blocks) - hits) * CACHE_BLOCK_TOKENS if ask.dialect == "anthropic-messages" else 0
        return hits * CACHE_BLOCK_TOKENS, written, first
