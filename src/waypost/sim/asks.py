"""Asks: what a request to the simulator wants, read from each dialect's body.

One value, `Ask`, whatever the wire. Deliberately naive and written apart from `waypost.dialects`: a double that shares the code
under test proves less. Prompt tokens are the pieces of every text, tool definition and image in the prompt: the billing truth,
and the same number for the same prompt in every dialect.
"""

import re
from typing import Any, Literal, cast

import msgspec
from msgspec import Struct

from waypost.sim import texts

Dialect = Literal["openai-chat", "openai-responses", "anthropic-messages", "gemini", "embeddings"]
IMAGE_TOKENS = 85  # the simulator's own price of any attachment
_MARKER = re.compile(r"\[\[([\w.:-]{1,64})\]\]")


class BadAsk(Exception):
    """A body that no provider would take: answered 400 in the dialect. `param` is the field at fault."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class AskedTool(Struct, frozen=True):
    name: str
    schema: Any  # JSON Schema, as sent


class Ask(Struct, frozen=True):
    """`marker` names the logical request across attempts: `[[name]]` in the prompt, else a hash of it."""

    dialect: Dialect
    flavour: str
    model: str
    stream: bool
    prompt: str  # all texts, with separators
    prompt_tokens: int
    marker: str
    last_text: str = ""
    images: int = 0
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    tools: tuple[AskedTool, ...] = ()
    tool_choice: str = "auto"  # auto | none | required | a tool's name
    after_tool: bool = False  # the last message is a tool's result
    json: Literal["", "object", "schema"] = ""
    schema: Any = None
    include_usage: bool = False
    thinking: bool = False
    cache_control: bool = False
    cache_key: str | None = None
    dimensions: int = 64
    inputs: int = 1


class _Prompt:
    """Gathers the texts of a prompt while a dialect's walk goes over it."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.images = 0
        self.after_tool = False
        self.last_text = ""
        self.cache_control = False

    def turn(self, role: str, content: Any) -> None:
        self.after_tool = role in ("tool", "function")
        self.texts.append("\x1e")  # keeps the prefix hash from running messages together; costs no token
        self.part(content)

    def part(self, content: Any) -> None:
        if isinstance(content, str):
            self.texts.append(content)
            self.last_text = content
        elif isinstance(content, list):
            for item in content:  # pyright: ignore[reportUnknownVariableType]
                self.part(item)
        elif isinstance(content, dict):
            self._object(content)  # pyright: ignore[reportUnknownArgumentType]
        elif content is not None:
            raise BadAsk(f"content must be text or a list of parts, not {type(content).__name__}", "messages")

    def _object(self, part: dict[str, Any]) -> None:
        kind = str(part.get("type", ""))
        self.cache_control = self.cache_control or "cache_control" in part
        if kind in ("tool_result", "function_call_output") or "functionResponse" in part:
            self.after_tool = True
        if "text" in part:
            self.part(part["text"])
        elif kind == "tool_result":
            self.part(part.get("content"))
        elif kind == "thinking":
            self.part(part.get("thinking"))
        elif kind == "tool_use":
            self.part(_compact(part.get("input")))
        elif "functionResponse" in part or "functionCall" in part:
            self.part(_compact(part.get("functionResponse") or part.get("functionCall")))
        elif (
            kind.startswith(("image", "input_image", "document", "input_file", "input_audio", "file"))
            or "inlineData" in part
            or "fileData" in part
        ):
            self.images += 1

    def tokens(self, tools: tuple[AskedTool, ...]) -> int:
        spoken = sum(texts.count(text) for text in self.texts if text != "\x1e")
        defined = sum(texts.count(tool.name) + texts.count(_compact(tool.schema)) for tool in tools)
        return max(1, spoken + defined + IMAGE_TOKENS * self.images)


def _compact(value: Any) -> str:
    return msgspec.json.encode(value, order="sorted").decode()


def _whole(body: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = body.get(name)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise BadAsk(f"{name} must be a whole number, not {value!r}", name)
        return value
    return None


def _object(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _objects(value: Any, name: str) -> list[dict[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):  # pyright: ignore[reportUnknownVariableType]
        raise BadAsk(f"{name} must be a list of objects", name)
    return value  # pyright: ignore[reportUnknownVariableType]


def _stops(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(str(item) for item in value or ())


def read(dialect: Dialect, flavour: str, body: bytes, *, model: str = "", stream: bool | None = None) -> tuple[Ask, dict[str, Any]]:
    """Parse a body; `model` and `stream` come from the path where the dialect says them there. Raises BadAsk."""
    try:
        parsed: Any = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise BadAsk(f"could not parse the JSON body: {error}") from error
    if not isinstance(parsed, dict):
        raise BadAsk("the body must be a JSON object")
    fields = cast("dict[str, Any]", parsed)
    named: Any = model or fields.get("model")
    if not isinstance(named, str) or not named:
        raise BadAsk("you must provide a model parameter", "model")
    streamed = bool(fields.get("stream")) if stream is None else stream
    return _READERS[dialect](fields, flavour, named, streamed), fields


def _chat(body: dict[str, Any], flavour: str, model: str, stream: bool) -> Ask:
    prompt = _Prompt()
    for message in _objects(body.get("messages"), "messages"):
        prompt.turn(str(message.get("role", "")), message.get("content"))
        prompt.part(message.get("reasoning_content"))
        for call in _objects(message.get("tool_calls"), "messages"):
            prompt.part(_object(call.get("function")).get("arguments"))
    if not prompt.texts:
        raise BadAsk("messages must not be empty", "messages")
    tools = tuple(
        AskedTool(str(tool.get("name", "")), tool.get("parameters"))
        for tool in (_object(item.get("function")) for item in _objects(body.get("tools"), "tools"))
    )
    choice = body.get("tool_choice")
    wanted = _object(body.get("response_format"))
    return _ask(
        "openai-chat",
        flavour,
        model,
        stream,
        prompt,
        tools,
        max_tokens=_whole(body, "max_completion_tokens", "max_tokens"),
        stop=_stops(body.get("stop")),
        tool_choice=str(_object(_object(choice).get("function")).get("name", "")) if isinstance(choice, dict) else str(choice or "auto"),
        json=_json_kind(wanted.get("type")),
        schema=_object(wanted.get("json_schema")).get("schema"),
        include_usage=bool(_object(body.get("stream_options")).get("include_usage")),
        cache_key=body.get("prompt_cache_key"),
    )


def _responses(body: dict[str, Any], flavour: str, model: str, stream: bool) -> Ask:
    prompt = _Prompt()
    if body.get("instructions"):
        prompt.turn("system", body["instructions"])
    given = body.get("input")
    if isinstance(given, str):
        prompt.turn("user", given)
    else:
        for item in _objects(given, "input"):
            is_output = item.get("type") == "function_call_output"
            content = item.get("output") if is_output else item.get("content", item.get("arguments"))
            prompt.turn("tool" if is_output else str(item.get("role", "")), content)
    if not prompt.texts:
        raise BadAsk("input must not be empty", "input")
    tools = tuple(
        AskedTool(str(tool.get("name", "")), tool.get("parameters"))
        for tool in _objects(body.get("tools"), "tools")
        if tool.get("type") == "function"
    )
    choice = body.get("tool_choice")
    wanted = _object(_object(body.get("text")).get("format"))
    return _ask(
        "openai-responses",
        flavour,
        model,
        stream,
        prompt,
        tools,
        max_tokens=_whole(body, "max_output_tokens"),
        tool_choice=str(_object(choice).get("name", "")) if isinstance(choice, dict) else str(choice or "auto"),
        json=_json_kind(wanted.get("type")),
        schema=wanted.get("schema"),
        include_usage=True,
        thinking=_object(body.get("reasoning")).get("summary") is not None,
        cache_key=body.get("prompt_cache_key"),
    )


def _anthropic(body: dict[str, Any], flavour: str, model: str, stream: bool) -> Ask:
    prompt = _Prompt()
    if body.get("system"):
        prompt.turn("system", body["system"])
    messages = _objects(body.get("messages"), "messages")
    if not messages:
        raise BadAsk("messages: at least one message is required", "messages")
    for message in messages:
        prompt.turn(str(message.get("role", "")), message.get("content"))
    tools = tuple(AskedTool(str(tool.get("name", "")), tool.get("input_schema")) for tool in _objects(body.get("tools"), "tools"))
    choice = _object(body.get("tool_choice"))
    kind = str(choice.get("type", "auto"))
    output = _object(_object(body.get("output_config")).get("format")) or _object(body.get("output_format"))
    return _ask(
        "anthropic-messages",
        flavour,
        model,
        stream,
        prompt,
        tools,
        max_tokens=_whole(body, "max_tokens"),
        stop=_stops(body.get("stop_sequences")),
        tool_choice={"any": "required", "tool": str(choice.get("name", ""))}.get(kind, kind),
        json=_json_kind(output.get("type")),
        schema=output.get("schema"),
        include_usage=True,
        thinking=_object(body.get("thinking")).get("type") in ("enabled", "adaptive"),
    )


def _gemini(body: dict[str, Any], flavour: str, model: str, stream: bool) -> Ask:
    prompt = _Prompt()
    system = _object(body.get("systemInstruction") or body.get("system_instruction"))
    if system:
        prompt.turn("system", system.get("parts"))
    contents = _objects(body.get("contents"), "contents")
    if not contents:
        raise BadAsk("contents is not specified", "contents")
    for content in contents:
        prompt.turn(str(content.get("role", "user")), content.get("parts"))
    declared = [d for tool in _objects(body.get("tools"), "tools") for d in _objects(tool.get("functionDeclarations"), "tools")]
    tools = tuple(AskedTool(str(tool.get("name", "")), tool.get("parametersJsonSchema", tool.get("parameters"))) for tool in declared)
    calling = _object(_object(body.get("toolConfig")).get("functionCallingConfig"))
    allowed: Any = calling.get("allowedFunctionNames")
    mode = {"ANY": "required", "NONE": "none"}.get(str(calling.get("mode", "AUTO")), "auto")
    settings = _object(body.get("generationConfig"))
    schema = settings.get("responseJsonSchema", settings.get("responseSchema"))
    is_json = settings.get("responseMimeType") == "application/json"
    return _ask(
        "gemini",
        flavour,
        model,
        stream,
        prompt,
        tools,
        max_tokens=_whole(settings, "maxOutputTokens"),
        stop=_stops(settings.get("stopSequences")),
        tool_choice=str(allowed[0]) if allowed else mode,
        json="schema" if schema is not None else "object" if is_json else "",
        schema=schema,
        include_usage=True,
        thinking=bool(_object(settings.get("thinkingConfig")).get("includeThoughts")),
    )


def _embeddings(body: dict[str, Any], flavour: str, model: str, stream: bool) -> Ask:
    given: Any = body.get("input")
    prompt = _Prompt()
    inputs = cast("list[Any]", [given] if isinstance(given, str) else given if isinstance(given, list) else [])
    for text in inputs:
        prompt.turn("user", text)
    if not inputs:
        raise BadAsk("input must be a text or a list of texts", "input")
    return _ask("embeddings", flavour, model, False, prompt, (), dimensions=_whole(body, "dimensions") or 64, inputs=len(inputs))


def _json_kind(kind: Any) -> Literal["", "object", "schema"]:
    return "schema" if kind == "json_schema" else "object" if kind == "json_object" else ""


def _ask(dialect: Dialect, flavour: str, model: str, stream: bool, prompt: _Prompt, tools: tuple[AskedTool, ...], **rest: Any) -> Ask:
    text = "".join(prompt.texts)
    named = _MARKER.search(text)
    return Ask(
        dialect=dialect,
        flavour=flavour,
        model=model,
        stream=stream,
        prompt=text,
        prompt_tokens=prompt.tokens(tools),
        marker=named[1] if named else texts.checksum(text),
        last_text=prompt.last_text,
        images=prompt.images,
        tools=tools,
        after_tool=prompt.after_tool,
        cache_control=prompt.cache_control,
        **rest,
    )


_READERS = {
    "openai-chat": _chat,
    "openai-responses": _responses,
    "anthropic-messages": _anthropic,
    "gemini": _gemini,
    "embeddings": _embeddings,
}
