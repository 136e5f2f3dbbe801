"""OpenAI chat completions, the provider's side: a neutral Prompt as a request, and the way back.

Decides how messages, tools and wishes are written for a server of this dialect and reports what cannot be said in it. What one provider
wants differently is `openai_fit`; reading answers is `openai_reader`; errors are `openai_failure`. Knows no caller.
"""

from collections.abc import Sequence

import msgspec
from msgspec import Raw

from waypost.core.types import (
    Audio,
    Deployment,
    Document,
    Failure,
    Image,
    Message,
    Part,
    Prompt,
    Reasoning,
    Refusal,
    Reply,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from waypost.dialects import openai_failure, openai_fit, openai_reader
from waypost.dialects.contract import Dispatch, Headers, StreamReader
from waypost.dialects.openai_answer import reasoning_detail

Json = dict[str, object]
_encode = msgspec.json.Encoder().encode
# Fields of other dialects that servers of this one refuse. Unknown names pass: self-hosted servers have many of their own.
_FOREIGN = frozenset(
    {"thinking", "container", "context_management", "mcp_servers", "output_config", "anthropic_version", "anthropic_beta", "betas"}
    | {"inference_geo", "speed", "diagnostics", "fallbacks", "system", "stop_sequences"}
    | {"safetySettings", "cachedContent", "generationConfig", "systemInstruction", "toolConfig", "labels", "contents"}
)


class Provider:
    """ProviderSide of `openai-chat`."""

    def dispatch(self, prompt: Prompt, deployment: Deployment, *, stream: bool) -> Dispatch:
        return dispatch(prompt, deployment, stream=stream)

    def reader(self, quirks: frozenset[str] = frozenset()) -> StreamReader:
        return openai_reader.Reader(ends_bare="no_done_marker" in quirks)

    def reply(self, body: bytes) -> Reply | Failure:
        return openai_reader.reply(body)

    def failure(self, status: int, headers: Headers, body: bytes, now_ms: int) -> Failure:
        return openai_failure.failure(status, headers, body, now_ms)


PROVIDER = Provider()


def dispatch(prompt: Prompt, deployment: Deployment, *, stream: bool) -> Dispatch:
    """The request, with everything that could not be carried in `dropped`."""
    writing = _Writing(deployment.provider.quirks)
    body: Json = {"model": "", "messages": writing.messages(prompt.messages)}
    body |= _tools(prompt, writing)
    body |= {
        "max_tokens": prompt.max_output_tokens,
        "temperature": prompt.temperature,
        "top_p": prompt.top_p,
        "top_k": prompt.top_k,
        "stop": list(prompt.stop) or None,
        "seed": prompt.seed,
        "presence_penalty": prompt.presence_penalty,
        "frequency_penalty": prompt.frequency_penalty,
        "n": prompt.n if prompt.n != 1 else None,
        "user": prompt.user,
        "response_format": _format(prompt),
    }
    body |= writing.effort(prompt)
    fields = {name: value if isinstance(value, Raw) else Raw(_encode(value)) for name, value in body.items() if value is not None}
    for name, raw in prompt.extra.items():
        if name in _FOREIGN and not (name == "thinking" and "thinking_default_on" in deployment.provider.quirks):
            writing.dropped.append(name)  # DeepSeek shares the word `thinking` with Anthropic
        else:
            fields.setdefault(name, raw)
    lost = openai_fit.fit(fields, deployment, stream=stream)
    return Dispatch(path=openai_fit.PATH, body=_encode(fields), dropped=tuple(dict.fromkeys([*writing.dropped, *lost])))


class _Writing:
    """One request being written: what is dropped on the way is collected here."""

    def __init__(self, quirks: frozenset[str]) -> None:
        # The quirk of OpenRouter's field names: such servers read reasoning details and pass cache marks on.
        self.routes = "reasoning_field" in quirks
        self.replays = "reasoning_content_replay" in quirks
        self.dropped: list[str] = []

    def messages(self, messages: tuple[Message, ...]) -> list[Json]:
        rows: list[Json] = []
        for message in messages:
            rows += self._assistant(message) if message.role == "assistant" else self._other(message)
        return rows

    def effort(self, prompt: Prompt) -> Json:
        if prompt.reasoning_budget_tokens is None:
            return {"reasoning_effort": prompt.reasoning_effort}
        if self.routes:
            wish: Json = {"max_tokens": prompt.reasoning_budget_tokens}
            return {"reasoning": wish, "reasoning_effort": prompt.reasoning_effort}
        effort = prompt.reasoning_effort or _effort_of(prompt.reasoning_budget_tokens)
        self.dropped.append(f"reasoning.max_tokens->reasoning_effort({effort})")
        return {"reasoning_effort": effort}

    def mark(self, cache_control: Raw | None) -> Json:
        """A cache mark where the provider knows it; elsewhere prefixes are cached without being asked."""
        if cache_control is None:
            return {}
        if not self.routes:
            self.dropped.append("cache_control")
            return {}
        return {"cache_control": cache_control}

    def _other(self, message: Message) -> list[Json]:
        """System and user messages. Tool results stand first, each its own message; their images follow as the user's."""
        rows: list[Json] = []
        moved: list[Part] = []
        for part in message.parts:
            if isinstance(part, ToolResult):
                rows.append(self._result(part, moved))
        parts = [*moved, *(part for part in message.parts if not isinstance(part, ToolResult))]
        if parts or not rows:
            rows.append({"role": message.role, "content": self._content(parts), **_named(message)})
        return rows

    def _result(self, result: ToolResult, moved: list[Part]) -> Json:
        texts = [part for part in result.parts if isinstance(part, Text)]
        others = [part for part in result.parts if not isinstance(part, Text)]
        if others:
            self.dropped.append("tool_result.media->user")  # moved: the dialect has text alone in tool messages
            moved += others
        if result.is_error:
            self.dropped.append("tool_result.is_error")
        name: Json = {"name": result.name} if result.name is not None else {}
        return {"role": "tool", "tool_call_id": result.call_id, **name, "content": self._content(texts), **self.mark(result.cache_control)}

    def _assistant(self, message: Message) -> list[Json]:
        row: Json = {"role": "assistant"}
        thoughts = [part for part in message.parts if isinstance(part, Reasoning)]
        refusals = [part.text for part in message.parts if isinstance(part, Refusal)]
        calls = [_call(part) for part in message.parts if isinstance(part, ToolCall)]
        parts = [part for part in message.parts if not isinstance(part, Reasoning | Refusal | ToolCall | ToolResult)]
        row["content"] = self._content(parts) if parts or not (calls or refusals) else None
        row |= _named(message) | self._thoughts(thoughts)
        if refusals:
            row["refusal"] = "".join(refusals)
        if calls:
            row["tool_calls"] = calls
        return [row]

    def _thoughts(self, thoughts: list[Reasoning]) -> Json:
        """Replayed to those who gave them only; a provider that never asked for them may refuse the field."""
        if self.routes:
            return {"reasoning_details": [reasoning_detail(part, at) for at, part in enumerate(thoughts)]} if thoughts else {}
        own = [part.text for part in thoughts if part.origin in ("", openai_reader.HERE)]
        if len(own) < len(thoughts) or (own and not self.replays):
            self.dropped.append("reasoning(assistant)")
        return {"reasoning_content": "".join(own)} if own and self.replays else {}

    def _content(self, parts: Sequence[Part]) -> str | list[Json]:
        if not parts:
            return ""
        written = [row for part in parts if (row := self._part(part)) is not None]
        if len(written) == 1 and written[0].keys() == {"type", "text"}:
            return str(written[0]["text"])
        return written

    def _part(self, part: Part) -> Json | None:
        match part:
            case Text():
                return {"type": "text", "text": part.text, **self.mark(part.cache_control)}
            case Image():
                url = part.url if part.url is not None else f"data:{part.media_type or 'image/png'};base64,{part.data}"
                detail: Json = {"detail": part.detail} if part.detail is not None else {}
                return {"type": "image_url", "image_url": {"url": url, **detail}, **self.mark(part.cache_control)}
            case Audio():
                return {"type": "input_audio", "input_audio": {"data": part.data, "format": part.format}}
            case Document():
                return {"type": "file", "file": _file(part), **self.mark(part.cache_control)}
            case _:
                self.dropped.append(type(part).__name__.lower())  # a part that its role cannot hold
                return None


def _tools(prompt: Prompt, writing: _Writing) -> Json:
    choice = prompt.tool_choice
    return {
        "tools": [_tool(tool, writing) for tool in prompt.tools] or None,
        "tool_choice": _tool_choice(choice) if choice is not None else None,
        "parallel_tool_calls": prompt.parallel_tool_calls,
    }


def _tool(tool: Tool, writing: _Writing) -> Json:
    function: Json = {"name": tool.name, "description": tool.description, "parameters": tool.parameters, "strict": tool.strict}
    function = {name: value for name, value in function.items() if value is not None}
    return {"type": "function", "function": function, **writing.mark(tool.cache_control)}


def _tool_choice(choice: ToolChoice) -> object:
    return {"type": "function", "function": {"name": choice.name}} if choice.mode == "named" else choice.mode


def _format(prompt: Prompt) -> Json | None:
    wish = prompt.response_format
    if wish is None or wish.kind != "json_schema":
        return {"type": wish.kind} if wish else None
    schema: Json = {"name": wish.name or "answer", "schema": wish.schema, "strict": wish.strict, "description": wish.description}
    return {"type": "json_schema", "json_schema": {name: value for name, value in schema.items() if value is not None}}


def _call(call: ToolCall) -> Json:
    row: Json = {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
    if call.signature is not None:
        row["extra_content"] = {"google": {"thought_signature": call.signature}}
    return row


def _file(part: Document) -> Json:
    data = part.url
    if part.data is not None:
        data = f"data:{part.media_type};base64,{part.data}" if part.media_type else part.data
    file: Json = {"file_data": data, "file_id": part.file_id, "filename": part.name}
    return {name: value for name, value in file.items() if value is not None}


def _named(message: Message) -> Json:
    return {"name": message.name} if message.name is not None else {}


def _effort_of(budget_tokens: int) -> str:
    """The effort nearest to a thinking budget; thresholds as LiteLLM maps them the other way (1,024, 2,048, 4,096)."""
    return "low" if budget_tokens <= 1024 else "medium" if budget_tokens <= 4096 else "high"
