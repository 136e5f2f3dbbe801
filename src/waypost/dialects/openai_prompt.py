"""OpenAI chat completions, the neutral reading: a Call as a Prompt.

Decides what each field of the dialect means: old `functions`, OpenRouter's `reasoning` and `reasoning_details`, cache marks, inline
media. Built on demand, for translation and context work. What cannot be said neutrally is refused or stays in `extra`, never lost
in silence. Knows no provider. Message shapes after the openai SDK 3.54 (`types/chat`) and OpenRouter's documentation, 2026-08.
"""

from typing import Any, Literal, cast

import msgspec
from msgspec import Raw, Struct

from waypost.core.faults import Refused
from waypost.core.types import (
    Audio,
    Call,
    Document,
    Image,
    Message,
    Part,
    Prompt,
    Reasoning,
    Refusal,
    ResponseFormat,
    Role,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)

# OpenRouter's `format` of a reasoning detail says whose seal it carries (its docs, use-cases/reasoning-tokens, 2026-08).
FORMATS = {"anthropic-claude-v1": "anthropic-messages", "google-gemini-v1": "gemini", "openai-responses-v1": "openai-responses"}
_HERE = "openai-chat"
NULL = Raw(b"null")  # absent or null: the decoder takes `Raw | None` for null alone


class _ImageUrl(Struct):
    url: str
    detail: str | None = None


class _InputAudio(Struct):
    data: str
    format: str = "wav"


class _File(Struct):
    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class _Part(Struct):
    type: str = "text"
    text: str | None = None
    refusal: str | None = None
    image_url: _ImageUrl | str | None = None
    input_audio: _InputAudio | None = None
    file: _File | None = None
    thinking: list[dict[str, Any]] | str | None = None  # Mistral
    cache_control: Raw = NULL


class _Function(Struct):
    name: str = ""
    arguments: str | dict[str, Raw] | None = None


class _Google(Struct):
    thought_signature: str | None = None


class _Extra(Struct):
    google: _Google | None = None


class _ToolCall(Struct):
    id: str | None = None
    type: str | None = None
    function: _Function | None = None
    extra_content: _Extra | None = None  # where Google's OpenAI endpoint puts thought signatures


class Detail(Struct):
    """One entry of `reasoning_details`."""

    type: str = "reasoning.text"
    text: str | None = None
    summary: str | None = None
    data: str | None = None
    signature: str | None = None
    format: str | None = None
    index: int | None = None


class _Message(Struct):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[_Part] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[_ToolCall] | None = None
    function_call: _Function | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: list[Detail] | None = None
    audio: Raw = NULL
    cache_control: Raw = NULL


class _FunctionSpec(Struct):
    name: str
    description: str | None = None
    parameters: Raw = NULL
    strict: bool | None = None


class _Tool(Struct):
    type: str = "function"
    function: _FunctionSpec | None = None
    cache_control: Raw = NULL


class _Named(Struct):
    name: str


class _Choice(Struct):
    type: str = "function"
    function: _Named | None = None
    name: str | None = None  # {"name": ...} is the old function_call


class _Schema(Struct):
    name: str | None = None
    schema: Raw = NULL
    strict: bool | None = None
    description: str | None = None


class _Format(Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _Schema | None = None


class _Reasoning(Struct):
    effort: str | None = None
    max_tokens: int | None = None
    enabled: bool | None = None


class _Request(Struct):
    messages: list[_Message]
    tools: list[_Tool] | None = None
    functions: list[_FunctionSpec] | None = None
    tool_choice: str | _Choice | None = None
    function_call: str | _Choice | None = None
    parallel_tool_calls: bool | None = None
    response_format: _Format | None = None
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    n: int | None = None
    reasoning_effort: str | None = None
    reasoning: _Reasoning | None = None
    user: str | None = None


_READ = frozenset(_Request.__struct_fields__)
_STEERING = frozenset(
    {"model", "stream", "stream_options", "waypost", "models", "provider", "route", "plugins"}
    | {"transforms", "session_id", "usage", "debug", "trace"}
)
_request_of = msgspec.json.Decoder(_Request).decode
_encode = msgspec.json.Encoder().encode


def prompt(call: Call) -> Prompt:
    """The call, free of dialect. Raises Refused for what has no neutral form (unknown parts, custom tools, replayed audio)."""
    try:
        read = _request_of(_encode({name: raw for name, raw in call.fields.items() if name in _READ}))
        messages = _messages(read.messages)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Refused(400, "invalid_type", f"The request cannot be translated: {error}.") from None
    wish = read.reasoning or _Reasoning()
    return Prompt(
        messages=messages,
        tools=_tools(read),
        tool_choice=_tool_choice(read.tool_choice if read.tool_choice is not None else read.function_call),
        parallel_tool_calls=read.parallel_tool_calls,
        response_format=_format(read.response_format),
        max_output_tokens=read.max_completion_tokens or read.max_tokens,
        temperature=read.temperature,
        top_p=read.top_p,
        top_k=read.top_k,
        stop=(read.stop,) if isinstance(read.stop, str) else tuple(read.stop or ()),
        seed=read.seed,
        presence_penalty=read.presence_penalty,
        frequency_penalty=read.frequency_penalty,
        n=read.n or 1,
        reasoning_effort=read.reasoning_effort or wish.effort or _effort(wish.enabled),
        reasoning_budget_tokens=wish.max_tokens,
        user=read.user,
        extra={name: raw for name, raw in call.fields.items() if name not in _READ and name not in _STEERING},
    )


def given(raw: Raw) -> Raw | None:
    return None if bytes(raw) == b"null" else raw


def _effort(enabled: bool | None) -> str | None:
    return None if enabled is None else "medium" if enabled else "none"


# --- messages ---------------------------------------------------------------------------------------------------------


def _messages(rows: list[_Message]) -> tuple[Message, ...]:
    """Consecutive tool results become one user message: providers that know no tool role want them together."""
    messages: list[Message] = []
    results: list[Part] = []
    for at, row in enumerate(rows):
        if row.role in ("tool", "function"):
            results.append(_result(row, f"messages[{at}]"))
            continue
        if results:
            messages.append(Message("user", tuple(results)))
            results = []
        messages.append(_message(row, at))
    if results:
        messages.append(Message("user", tuple(results)))
    return tuple(messages)


def _message(row: _Message, at: int) -> Message:
    place = f"messages[{at}]"
    parts = _parts(row.content, place)
    if parts and (mark := given(row.cache_control)) is not None:
        parts[-1] = _marked(parts[-1], mark)
    if row.role != "assistant":
        role: Role = "user" if row.role == "user" else "system"
        return Message(role, tuple(parts), row.name)
    if given(row.audio) is not None:
        raise _unsupported(
            f"{place}.audio", "a replayed audio answer can only be read by the model that gave it; pin that model as `provider/model`"
        )
    thoughts = _thoughts(row)
    calls = [_call(call, f"{place}.tool_calls[{i}]") for i, call in enumerate(row.tool_calls or ())]
    if row.function_call is not None:
        calls.append(ToolCall(id=row.function_call.name, name=row.function_call.name, arguments=_arguments(row.function_call.arguments)))
    refusal: list[Part] = [Refusal(row.refusal)] if row.refusal else []
    return Message("assistant", (*thoughts, *parts, *refusal, *calls), row.name)


def _result(row: _Message, place: str) -> ToolResult:
    parts = _parts(row.content, place)
    carried = tuple(part for part in parts if isinstance(part, Text | Image | Document))
    if len(carried) < len(parts):
        raise _unsupported(f"{place}.content", "a tool result may hold text, images and files")
    return ToolResult(call_id=row.tool_call_id or row.name or "", parts=carried, name=row.name, cache_control=given(row.cache_control))


def _parts(content: str | list[_Part] | None, place: str) -> list[Part]:
    if content is None:
        return []
    if isinstance(content, str):
        return [Text(content)] if content else []
    return [read for at, part in enumerate(content) if (read := _part(part, f"{place}.content[{at}]")) is not None]


def _part(part: _Part, place: str) -> Part | None:
    match part.type:
        case "text" | "input_text" | "output_text":
            return Text(part.text, cache_control=given(part.cache_control)) if part.text else None
        case "image_url":
            return _image(part, place)
        case "input_audio" if part.input_audio is not None:
            return Audio(data=part.input_audio.data, format=part.input_audio.format)
        case "file" if part.file is not None:
            return _file(part.file, given(part.cache_control))
        case "refusal":
            return Refusal(part.refusal) if part.refusal else None
        case "thinking":
            return Reasoning(text=_thinking(part.thinking), origin=_HERE)
        case _:
            pass
    raise _unsupported(f"{place}.type", f"`{part.type[:64]}` has no form in other dialects; pin a model whose provider speaks this one")


def _image(part: _Part, place: str) -> Image:
    sent = part.image_url
    url = sent if isinstance(sent, str) else sent.url if sent else ""
    detail = sent.detail if isinstance(sent, _ImageUrl) else None
    if not url.startswith("data:"):
        if not url.startswith(("https://", "http://")):
            raise _unsupported(f"{place}.image_url.url", "send an https URL or a data URL (data:image/png;base64,...)")
        return Image(url=url, detail=detail, cache_control=given(part.cache_control))
    media_type, data = _data_url(url, f"{place}.image_url.url")
    return Image(data=data, media_type=media_type, detail=detail, cache_control=given(part.cache_control))


def _file(file: _File, mark: Raw | None) -> Document:
    data = file.file_data
    if data is not None and data.startswith(("https://", "http://")):
        return Document(url=data, name=file.filename, cache_control=mark)
    media_type = None
    if data is not None and data.startswith("data:"):
        media_type, data = _data_url(data, "file.file_data")
    return Document(data=data, file_id=file.file_id, media_type=media_type, name=file.filename, cache_control=mark)


def _data_url(url: str, param: str) -> tuple[str, str]:
    head, comma, data = url[5:].partition(",")
    if not comma or not head.endswith(";base64"):
        raise _unsupported(param, "a data URL must read data:<media type>;base64,<data>")
    return head.removesuffix(";base64").partition(";")[0], data


def _marked(part: Part, mark: Raw) -> Part:
    return msgspec.structs.replace(part, cache_control=mark) if isinstance(part, Text | Image | Document) else part


def _thinking(thinking: list[dict[str, Any]] | str | None) -> str:
    """Mistral's thinking part: a list of text parts."""
    if isinstance(thinking, str) or thinking is None:
        return thinking or ""
    return "".join(str(piece.get("text", "")) for piece in thinking)


def _thoughts(row: _Message) -> list[Reasoning]:
    blocks = reasoning_of(row.reasoning_details or [])
    plain = row.reasoning_content or row.reasoning or ""
    if plain and not any(block.text for block in blocks):
        blocks.insert(0, Reasoning(text=plain, origin=_HERE))
    return blocks


def reasoning_of(details: list[Detail]) -> list[Reasoning]:
    """Blocks of `reasoning_details`. Clients that gather a stream leave several entries with one index: they are joined."""
    blocks: dict[int, Reasoning] = {}
    for at, detail in enumerate(details):
        key = detail.index if detail.index is not None else -1 - at
        old = blocks.get(key, Reasoning())
        text = old.text + (detail.text or detail.summary or "")
        origin = FORMATS.get(detail.format or "", "") or old.origin
        blocks[key] = Reasoning(text, detail.signature or old.signature, detail.data or old.redacted, origin)
    found = [msgspec.structs.replace(block, origin=block.origin or _HERE) for block in blocks.values()]
    return [block for block in found if block.text or block.signature or block.redacted]


def _call(call: _ToolCall, place: str) -> ToolCall:
    if call.function is None:
        raise _unsupported(place, "only function tools can be translated; pin a model whose provider speaks this dialect")
    google = call.extra_content.google if call.extra_content else None
    return ToolCall(
        id=call.id or "",
        name=call.function.name,
        arguments=_arguments(call.function.arguments),
        signature=google.thought_signature if google else None,
    )


def _arguments(arguments: str | dict[str, Raw] | None) -> str:
    return arguments if isinstance(arguments, str) else _encode(arguments or {}).decode()


# --- tools and format -------------------------------------------------------------------------------------------------


def _tools(read: _Request) -> tuple[Tool, ...]:
    tools: list[Tool] = []
    for at, tool in enumerate(read.tools or ()):
        if tool.function is None:
            raise _unsupported(
                f"tools[{at}]", f"tools of type `{tool.type[:64]}` cannot be translated; pin a model whose provider speaks this dialect"
            )
        tools.append(_tool(tool.function, given(tool.cache_control)))
    return (*tools, *(_tool(function, None) for function in read.functions or ()))


def _tool(spec: _FunctionSpec, mark: Raw | None) -> Tool:
    return Tool(spec.name, spec.description, given(spec.parameters), spec.strict, mark)


def _tool_choice(choice: str | _Choice | None) -> ToolChoice | None:
    if choice is None:
        return None
    if isinstance(choice, str):
        return ToolChoice("required" if choice == "any" else cast(Literal["auto", "none", "required"], choice))
    name = choice.function.name if choice.function else choice.name
    if name is None:
        raise _unsupported("tool_choice", f"`{choice.type[:64]}` cannot be translated; send auto, none, required or one function")
    return ToolChoice("named", name)


def _format(wish: _Format | None) -> ResponseFormat | None:
    if wish is None:
        return None
    schema = wish.json_schema or _Schema()
    return ResponseFormat(wish.type, schema.name, given(schema.schema), schema.strict, schema.description)


def _unsupported(param: str, fix: str) -> Refused:
    return Refused(400, "unsupported_content", f"`{param}`: {fix}.", param=param)
