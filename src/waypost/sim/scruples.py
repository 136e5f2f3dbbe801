"""Scruples: what a picky provider refuses in a request that others take.

One row per word of the `strict` group: a test over the raw body that gives the complaint, or None. Facts seen in production by a
rival's gateway (Experiential, module docstrings, 2026-08 to 2026-10): altered thinking, missing reasoning_content, root-level
anyOf, replayed `status`, system messages after the start, prefill and forced tools.
"""

from collections.abc import Callable
from typing import Any, cast

from waypost.sim.asks import Ask
from waypost.sim.render_anthropic import seal
from waypost.sim.scripts import Script

Body = dict[str, Any]


def _list(value: Any) -> list[Body]:
    return [cast("Body", item) for item in cast("list[Any]", value) if isinstance(item, dict)] if isinstance(value, list) else []


def _turns(body: Body) -> list[Body]:
    return _list(body.get("messages") or body.get("contents") or body.get("input"))


def _thinking(body: Body, ask: Ask, limit: float) -> str | None:
    for message in _turns(body):
        for block in _list(message.get("content")):
            if block.get("type") == "thinking" and block.get("signature") != seal(str(block.get("thinking", ""))):
                return "messages: `thinking` blocks in the latest assistant message cannot be modified."
    return None


def _reasoning(body: Body, ask: Ask, limit: float) -> str | None:
    turns = _turns(body)
    last_user = max((i for i, turn in enumerate(turns) if turn.get("role") == "user"), default=-1)
    later = [turn for turn in turns[last_user + 1 :] if turn.get("role") == "assistant"]
    if ask.tools and any(not turn.get("reasoning_content") for turn in later):
        return "Missing `reasoning_content` field in the assistant message."
    return None


def _system(body: Body, ask: Ask, limit: float) -> str | None:
    roles = [str(turn.get("role")) for turn in _turns(body)]
    begun = next((i for i, role in enumerate(roles) if role not in ("system", "developer")), len(roles))
    return "System messages are only allowed at the beginning." if {"system", "developer"} & set(roles[begun:]) else None


def _tools(body: Body, ask: Ask, limit: float) -> str | None:
    for tool in ask.tools:
        schema: Any = tool.schema
        if isinstance(schema, dict) and {"anyOf", "oneOf", "allOf"} & set(cast("Body", schema)):
            return "tools: input_schema does not support oneOf, allOf, or anyOf at the top level"
    return None


def _items(body: Body, ask: Ask, limit: float) -> str | None:
    for i, item in enumerate(_list(body.get("input"))):
        if "status" in item:
            return f"Unknown parameter: 'input[{i}].status'."
        if "id" in item and "sim-" not in str(item["id"]) and "call_" not in str(item["id"]):
            return f"Invalid 'input[{i}].id': '{item['id']}'."
    return None


def _ceiling(body: Body, ask: Ask, limit: float) -> str | None:
    if ask.max_tokens is not None and ask.max_tokens > limit:
        return f"max_tokens: {ask.max_tokens} > {limit:g}, which is the maximum allowed number of output tokens"
    return None


def _prefill(body: Body, ask: Ask, limit: float) -> str | None:
    turns = _turns(body)
    return "This model does not support assistant message prefill." if turns and turns[-1].get("role") in ("assistant", "model") else None


def _forced(body: Body, ask: Ask, limit: float) -> str | None:
    return "tool_choice forces tool use, which this model does not support." if ask.tool_choice not in ("auto", "none") else None


CHECKS: dict[str, Callable[[Body, Ask, float], str | None]] = {
    "strict-thinking": _thinking,
    "strict-reasoning": _reasoning,
    "strict-system": _system,
    "strict-tools": _tools,
    "strict-items": _items,
    "strict-max": _ceiling,
    "no-prefill": _prefill,
    "no-forced-tool": _forced,
}


def complaint(script: Script, ask: Ask, body: Body) -> str | None:
    """What the provider says against this request, or None."""
    for word, _ in script.words:
        check = CHECKS.get(word)
        said = check(body, ask, script.number(word)) if check else None
        if said is not None:
            return said
    return None
