"""OpenAI dialect, fit: what one provider's card changes in a chat request.

Decides model name, renamed and refused parameters, the stream switches and the quirks that touch messages and tools; everything
else keeps its bytes. Used by both ways out: the caller's own fields (`openai_chat.patch`) and a translated prompt
(`openai_chat_provider.dispatch`). Quirks are the closed vocabulary of `catalog/providers.toml`; it holds their sources.
"""

from collections.abc import Callable

import msgspec
from msgspec import Raw

from waypost.core.faults import Refused
from waypost.core.types import Deployment

PATH = "/chat/completions"
_TRUE, _FALSE, _NULL = Raw(b"true"), Raw(b"false"), Raw(b"null")
_INCLUDE_USAGE = Raw(b'{"include_usage":true}')
_encode = msgspec.json.Encoder().encode
_table = msgspec.json.Decoder(dict[str, Raw]).decode
_rows = msgspec.json.Decoder(list[dict[str, Raw]]).decode

Row = dict[str, Raw]


def fit(fields: Row, deployment: Deployment, *, stream: bool) -> list[str]:
    """Change `fields` in place into what the deployment accepts; returns what was lost, as `Dispatch.dropped` has it."""
    card = deployment.provider
    quirks, lost = card.quirks, list[str]()
    fields["model"] = Raw(_encode(deployment.model.upstream))
    if "reasoning" in fields and "reasoning_field" not in quirks:
        lost += _flatten_reasoning(fields)
    for old, new in card.rename:
        _rename(fields, old, new)
    if "max_completion_tokens_only" in quirks:
        _rename(fields, "max_tokens", "max_completion_tokens")
    for name in card.drop.intersection(fields):
        del fields[name]
        if name != "stream_options":  # asked for by us more often than by the caller, and answered by our own count
            lost.append(name)
    if not quirks.isdisjoint(_ADAPT):
        lost += _adapt(fields, quirks)
    _set_stream(fields, stream, options="no_stream_options" not in quirks and "stream_options" not in card.drop)
    return sorted(lost)


_CHANGING = frozenset({"max_completion_tokens_only"})


def is_plain(deployment: Deployment) -> bool:
    """Whether this deployment takes a request as it is, but for the model's name."""
    card = deployment.provider
    return not card.rename and not card.drop and (not card.quirks or (card.quirks.isdisjoint(_ADAPT) and card.quirks.isdisjoint(_CHANGING)))


def is_null(raw: Raw) -> bool:
    return bytes(raw) == b"null"


def _rename(fields: Row, old: str, new: str) -> None:
    if old in fields:
        sent = fields.pop(old)
        fields.setdefault(new, sent)


def _set_stream(fields: Row, stream: bool, *, options: bool) -> None:
    """A stream is always asked for its usage: the bill needs it, whatever the caller wants to see."""
    sent = fields.pop("stream_options", _NULL)
    if not stream:
        if "stream" in fields:
            fields["stream"] = _FALSE
        return
    fields["stream"] = _TRUE
    if options:
        fields["stream_options"] = _INCLUDE_USAGE if is_null(sent) else Raw(_encode(_table(sent) | {"include_usage": _TRUE}))


def _flatten_reasoning(fields: Row) -> list[str]:
    """OpenRouter's `reasoning` object, for providers that know only `reasoning_effort`."""
    sent = fields.pop("reasoning")
    parts = {} if is_null(sent) else _table(sent)
    effort = parts.pop("effort", _NULL)
    if not is_null(effort):
        fields.setdefault("reasoning_effort", effort)
    return [f"reasoning.{name}" for name in parts]


# --- quirks -----------------------------------------------------------------------------------------------------------


def _adapt(fields: Row, quirks: frozenset[str]) -> list[str]:
    lost: list[str] = []
    for quirk, adapt in _ADAPT.items():
        if quirk in quirks:
            lost += adapt(fields)
    return lost


def _strip_strict(fields: Row) -> list[str]:
    if b'"strict"' not in bytes(fields.get("tools", b"")) and b'"additionalProperties"' not in bytes(fields.get("tools", b"")):
        return []
    tools = _rows(fields["tools"])
    for tool in tools:
        function = _table(tool["function"]) if "function" in tool else {}
        function.pop("strict", None)
        if "parameters" in function:
            function["parameters"] = _stripped(function["parameters"])
        tool["function"] = Raw(_encode(function))
    fields["tools"] = Raw(_encode(tools))
    return ["tools.strict"]


def _stripped(schema: Raw) -> Raw:
    try:
        return Raw(_encode(_without_additional(msgspec.json.decode(schema))))
    except RecursionError:  # depth hidden from the parser's check, see openai_chat
        raise Refused(400, "too_deep", "A tool's parameters nest too deep; flatten them.", param="tools") from None


def _without_additional(schema: object) -> object:
    """`schema` less each `additionalProperties`."""
    if isinstance(schema, dict):
        table = msgspec.convert(schema, dict[str, object])
        return {name: _without_additional(value) for name, value in table.items() if name != "additionalProperties"}
    if isinstance(schema, list):
        return [_without_additional(value) for value in msgspec.convert(schema, list[object])]
    return schema


def _name_only_on_tool(fields: Row) -> list[str]:
    rows = _rows(fields["messages"])
    named = [row for row in rows if "name" in row and bytes(row.get("role", _NULL)) not in (b'"tool"', b'"function"')]
    for row in named:
        del row["name"]
    return _put(fields, rows, ["messages.name"] if named else [])


def _no_empty_assistant(fields: Row) -> list[str]:
    rows = _rows(fields["messages"])
    kept = [row for row in rows if not _is_empty_assistant(row)]
    return _put(fields, kept, ["messages.empty"] if len(kept) < len(rows) else [])


def _is_empty_assistant(row: Row) -> bool:
    empty = bytes(row.get("content", _NULL)) in (b"null", b'""', b"[]")
    return bytes(row.get("role", _NULL)) == b'"assistant"' and empty and bytes(row.get("tool_calls", _NULL)) in (b"null", b"[]")


def _no_tool_choice_required(fields: Row) -> list[str]:
    if bytes(fields.get("tool_choice", _NULL)) not in (b'"required"', b'"any"'):
        return []
    fields["tool_choice"] = Raw(b'"auto"')
    return ["tool_choice->auto(required is not supported)"]


def _one_system_message(fields: Row) -> list[str]:
    """Later system messages move to the front and join the first: their place is lost, their words are not."""
    rows = _rows(fields["messages"])
    systems = [row for row in rows if bytes(row.get("role", _NULL)) in (b'"system"', b'"developer"')]
    if not systems or (len(systems) == 1 and rows[0] is systems[0]):
        return []
    text = "\n\n".join(filter(None, map(_plain, systems)))
    others = [row for row in rows if not any(row is system for system in systems)]
    first: Row = {"role": Raw(b'"system"'), "content": Raw(_encode(text))}
    return _put(fields, [first, *others], ["messages.system->first(one system message only)"])


def _plain(row: Row) -> str:
    content = msgspec.json.decode(row.get("content", _NULL), type=str | list[dict[str, object]] | None)
    if isinstance(content, str) or content is None:
        return content or ""
    return "\n".join(text for part in content if isinstance(text := part.get("text"), str))


def _put(fields: Row, rows: list[Row], lost: list[str]) -> list[str]:
    if lost:
        fields["messages"] = Raw(_encode(rows))
    return lost


_ADAPT: dict[str, Callable[[Row], list[str]]] = {
    "strips_strict": _strip_strict,
    "name_only_on_tool": _name_only_on_tool,
    "no_empty_assistant": _no_empty_assistant,
    "no_tool_choice_required": _no_tool_choice_required,
    "one_system_message": _one_system_message,
}
