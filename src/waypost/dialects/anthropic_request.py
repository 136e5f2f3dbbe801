"""Anthropic Messages, request: a neutral Prompt as the body of `POST /v1/messages`.

Decides what can be carried, in which API version, and names everything that cannot. Knows nothing of streams, keys or sockets.
Fields as typed in the anthropic SDK 2.12 (`types/message_create_params.py`); both API versions are spoken: 2026-10-21 refuses
temperature, top_p and top_k, so a caller who sets one is served by 2023-06-01, which still takes them
(https://platform.claude.com/docs/en/api/versioning, read 2026-11).

What a token in `dropped` means: `seed` was left out; `temperature->1` was changed; `audio(user)` a part left out of a user
turn. Names are those of `Prompt`.
"""

import base64
import binascii
import re
from typing import Final

import msgspec
from msgspec import Raw, Struct

from waypost.core.types import (
    Deployment,
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
    ToolResult,
)
from waypost.dialects.carry import media_type_of, part_name, without
from waypost.dialects.contract import Dispatch

Json = dict[str, object]

WIRE: Final = "anthropic-messages"
OLD_VERSION, NEW_VERSION = "2023-06-01", "2026-10-21"
NEW_VERSION_QUIRK = "anthropic-2026-10-21"
DEFAULT_MAX_TOKENS = 8192  # `max_tokens` is required; every Claude since 3.5 (2024-06) can write this much
MIN_THINKING_TOKENS = 1024  # "Must be >= 1024 and less than max_tokens", SDK types

# Generations, from the version in a Claude's name. 4.6 thinks adaptively, 4.7 and later refuse a thinking budget and any sampling
# parameter (https://platform.claude.com/docs/en/about-claude/models/migration-guide, seen in UKGovernmentBEIS/inspect_ai#3721,
# NousResearch/hermes-agent#11137, 2026-04); since 4.1 temperature and top_p exclude each other (same guide).
_GENERATION = re.compile(r"claude-(?:[a-z]+-)?(\d)(?:[-.](\d{1,2}))?(?!\d)")
_ONE_SAMPLER, _ADAPTIVE, _NO_SAMPLING, _ALWAYS_THINKS = (4, 1), (4, 6), (4, 7), (5, 0)

# Shares of max_tokens, as OpenRouter documents them (openrouter.ai/docs/use-cases/reasoning-tokens, 2026-08).
_BUDGET_SHARE = {"minimal": 0.1, "low": 0.2, "medium": 0.5, "high": 0.8, "xhigh": 0.95, "max": 0.95}
_EFFORT = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max"}
_TIER = {"auto": "auto", "priority": "auto", "default": "standard_only", "standard_only": "standard_only"}
_NATIVE = ("cache_control", "container", "diagnostics", "inference_geo", "speed", "thinking", "output_config")  # forwarded as sent
_IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_BAD_ID = re.compile(r"[^a-zA-Z0-9_-]")  # tool_use ids must match ^[a-zA-Z0-9_-]+$; other providers' ids hold dots and colons
_MAX_USER_ID = 256


def dispatch(prompt: Prompt, deployment: Deployment, *, stream: bool) -> Dispatch:
    """The request for `deployment`. O(size of the prompt); schemas and cache marks are passed on as bytes."""
    kept, refused = without(prompt, deployment.provider.drop)
    return _Translation(kept, deployment, refused).dispatch(stream)


def generation(upstream: str) -> tuple[int, int] | None:
    """(4, 7) for claude-opus-4-7, (3, 5) for claude-3-5-haiku-20241022; None for a model that is no Claude."""
    found = _GENERATION.search(upstream)
    return (int(found[1]), int(found[2] or 0)) if found else None


class _Turn(Struct):
    role: Role
    content: list[Json]


class _Translation:
    """One prompt on its way. Mutable: collects `dropped`; one per dispatch."""

    def __init__(self, prompt: Prompt, deployment: Deployment, dropped: tuple[str, ...]) -> None:
        self._prompt = prompt
        self._model = deployment.model
        self._provider = deployment.provider
        self._generation = generation(deployment.model.upstream) or (0, 0)
        self._dropped = list(dropped)

    def dispatch(self, stream: bool) -> Dispatch:
        system, turns = self._conversation()
        max_tokens = self._max_tokens()
        thinking, effort = self._thinking(turns, max_tokens)
        output = self._output_config(effort, system)
        sampling = self._sampling(thinking=bool(thinking) or self._thinks_natively())
        body: Json = {"model": self._model.upstream, "max_tokens": max_tokens}
        body |= self._tools() | thinking | output | sampling | self._stop() | self._metadata() | self._extra()
        if not turns and system:  # at least one turn is required
            turns, system = [_Turn("user", system)], []
            self._lost("system->user")
        if system:
            body["system"] = system
        body["messages"] = turns
        if stream:
            body["stream"] = True
        self._unsupported()
        version = NEW_VERSION if NEW_VERSION_QUIRK in self._provider.quirks and not sampling else OLD_VERSION
        return Dispatch(
            path="/messages" if self._provider.base_url.rstrip("/").endswith("/v1") else "/v1/messages",
            body=msgspec.json.encode(body),
            headers=((b"anthropic-version", version.encode()),),
            dropped=tuple(dict.fromkeys(self._dropped)),
        )

    def _lost(self, name: str) -> None:
        self._dropped.append(name)

    # the conversation

    def _conversation(self) -> tuple[list[Json], list[_Turn]]:
        """System blocks and turns. System messages go to the front whatever their place; equal neighbours become one turn."""
        system: list[Json] = []
        turns: list[_Turn] = []
        for message in self._prompt.messages:
            blocks = self._blocks(message)
            if message.name is not None:
                self._lost("name")
            if message.role == "system":
                system += blocks
                if turns and blocks:
                    self._lost("system->hoisted")
            elif blocks:
                _append_turn(turns, message.role, blocks)
        return system, self._ended_by_user(turns)

    def _ended_by_user(self, turns: list[_Turn]) -> list[_Turn]:
        """A last assistant turn is a prefill, which newer models answer with 400."""
        if not turns or turns[-1].role != "assistant":
            return turns
        if "prefill" not in self._model.capabilities:
            self._lost("prefill")
            return turns[:-1]
        last = turns[-1].content[-1]
        if last["type"] == "text":
            last["text"] = str(last["text"]).rstrip()  # "final assistant content cannot end with trailing whitespace"
        return turns

    def _blocks(self, message: Message) -> list[Json]:
        blocks = (self._block(part, message.role) for part in message.parts)
        return [block for block in blocks if block is not None]

    def _block(self, part: Part, role: Role) -> Json | None:
        match role, part:
            case _, Text():
                return self._text(part.text, part.cache_control)
            case "assistant", Refusal():
                return self._text(part.text, None)
            case "assistant", ToolCall():
                return self._tool_use(part)
            case "assistant", Reasoning():
                return self._thought(part)
            case "user", Image():
                return self._image(part)
            case "user", Document():
                return self._document(part)
            case "user", ToolResult():
                return self._tool_result(part)
            case _:
                self._lost(f"{part_name(part)}({role})")
                return None

    def _text(self, text: str, cache_control: Raw | None) -> Json | None:
        if not text.strip():  # "text content blocks must contain non-whitespace text"
            if text:
                self._lost("text(blank)")
            return None
        return _marked({"type": "text", "text": text}, cache_control)

    def _image(self, image: Image) -> Json | None:
        if image.detail not in (None, "auto"):
            self._lost("image.detail")
        if image.data is None:
            if not image.url:
                self._lost("image(empty)")
                return None
            return _marked({"type": "image", "source": {"type": "url", "url": image.url}}, image.cache_control)
        media_type = image.media_type or media_type_of(image.data) or "image/jpeg"
        if media_type not in _IMAGES:
            self._lost(f"image({media_type})")
            return None
        return _marked({"type": "image", "source": {"type": "base64", "media_type": media_type, "data": image.data}}, image.cache_control)

    def _document(self, document: Document) -> Json | None:
        source = self._document_source(document)
        if source is None:
            return None
        block: Json = {"type": "document", "source": source}
        if document.name:
            block["title"] = document.name
        return _marked(block, document.cache_control)

    def _document_source(self, document: Document) -> Json | None:
        media_type = document.media_type or "application/pdf"
        if document.data is not None and media_type == "application/pdf":
            return {"type": "base64", "media_type": media_type, "data": document.data}
        if document.data is not None and media_type.startswith("text/"):
            text = _utf8(document.data)
            if text is not None:
                return {"type": "text", "media_type": "text/plain", "data": text}
        if document.data is not None:
            self._lost(f"document({media_type})")
        elif document.url is not None:
            return {"type": "url", "url": document.url}
        elif document.file_id is not None and document.file_id.startswith("file_"):
            return {"type": "file", "file_id": document.file_id}
        else:
            self._lost("document.file_id")  # another provider's file: OpenAI writes file-, Anthropic file_
        return None

    def _tool_use(self, call: ToolCall) -> Json:
        if call.signature is not None:
            self._lost("tool_call.signature")
        arguments = call.arguments.strip() or "{}"
        block: Json = {"type": "tool_use", "id": _id(call.id), "name": call.name}
        if _is_object(arguments):
            block["input"] = Raw(arguments.encode())
            return block
        self._lost("tool_call.arguments->wrapped")  # `input` must be an object
        block["input"] = {"arguments": call.arguments}
        return block

    def _tool_result(self, result: ToolResult) -> Json:
        blocks = (self._block(part, "user") for part in result.parts)
        content = [block for block in blocks if block is not None]
        block: Json = {"type": "tool_result", "tool_use_id": _id(result.call_id)}
        if content:
            block["content"] = content
        if result.is_error:
            block["is_error"] = True
        return _marked(block, result.cache_control)

    def _thought(self, reasoning: Reasoning) -> Json | None:
        """Sealed thoughts go back only to the wire that sealed them; a foreign or unsigned one would be answered with 400."""
        if reasoning.origin == WIRE and reasoning.redacted is not None:
            return {"type": "redacted_thinking", "data": reasoning.redacted}
        if reasoning.origin == WIRE and reasoning.signature is not None:
            return {"type": "thinking", "thinking": reasoning.text, "signature": reasoning.signature}
        self._lost("reasoning(assistant)")
        return None

    # the options

    def _max_tokens(self) -> int:
        wish, most = self._prompt.max_output_tokens, self._model.max_output_tokens
        if wish is None:
            return most or DEFAULT_MAX_TOKENS + (self._prompt.reasoning_budget_tokens or 0)
        if most is not None and wish > most:
            self._lost(f"max_output_tokens->{most}")
            return most
        return wish

    def _tools(self) -> Json:
        tools = [self._tool(tool) for tool in self._prompt.tools]
        choice = self._prompt.tool_choice
        if not tools:
            if choice is not None and choice.mode in ("required", "named"):
                self._lost("tool_choice")
            return {}
        chosen: Json = {}
        match choice.mode if choice else None:
            case "none":
                return {"tools": tools, "tool_choice": {"type": "none"}}
            case "required":
                chosen = {"type": "any"}
            case "named":
                chosen = {"type": "tool", "name": choice.name if choice else None}
            case "auto":
                chosen = {"type": "auto"}
            case None:
                pass
        if self._prompt.parallel_tool_calls is False:
            chosen = (chosen or {"type": "auto"}) | {"disable_parallel_tool_use": True}
        return {"tools": tools, "tool_choice": chosen} if chosen else {"tools": tools}

    def _tool(self, tool: Tool) -> Json:
        written: Json = {"name": tool.name}
        if tool.description:
            written["description"] = tool.description
        written["input_schema"] = self._input_schema(tool.parameters)
        if tool.strict and "json_schema" in self._model.capabilities:
            written["strict"] = True
        elif tool.strict:
            self._lost("tools.strict")
        return _marked(written, tool.cache_control)

    def _input_schema(self, parameters: Raw | None) -> object:
        fields = _object(parameters)
        if fields is None:
            if parameters is not None:
                self._lost("tools.parameters")
            return {"type": "object", "properties": {}}
        return fields if "type" in fields else {"type": "object"} | fields

    def _thinking(self, turns: list[_Turn], max_tokens: int) -> tuple[Json, str | None]:
        """`thinking`, and the effort of adaptive thinking, where the model, the tools and the history allow it."""
        effort, budget = self._prompt.reasoning_effort, self._prompt.reasoning_budget_tokens
        if effort is None and budget is None:
            return {}, None
        if effort == "none" or budget == 0:
            if self._generation >= _ALWAYS_THINKS:  # some refuse {"type": "disabled"}: ThinkingTypes in the SDK
                self._lost_wish_to_think("->default")
            return {}, None
        obstacle = self._no_thinking(turns, max_tokens)
        if obstacle is not None:
            self._lost_wish_to_think(obstacle)
            return {}, None
        if self._adapts:
            return self._adaptive(effort, budget)
        return self._budgeted(effort, budget, max_tokens), None

    def _lost_wish_to_think(self, why: str) -> None:
        for name in ("reasoning_effort", "reasoning_budget_tokens"):
            if getattr(self._prompt, name) is not None:
                self._lost(name + why)

    def _thinks_natively(self) -> bool:
        sent = _object(self._prompt.extra.get("thinking"))
        return sent is not None and _string(sent.get("type")) != "disabled"

    @property
    def _adapts(self) -> bool:
        return self._generation >= _ADAPTIVE

    def _no_thinking(self, turns: list[_Turn], max_tokens: int) -> str | None:
        """Why thinking must stay off, as the end of a token; None if it need not."""
        choice = self._prompt.tool_choice
        if "reasoning" not in self._model.capabilities:
            return ""
        if "thinking" in self._prompt.extra or "output_config" in self._prompt.extra:
            return "(thinking)"  # the caller has said it in this wire's own words
        if self._prompt.tools and choice is not None and choice.mode in ("required", "named"):
            return "(tool_choice)"  # "Thinking may not be enabled when tool_choice forces tool use"
        if turns and turns[-1].role == "assistant":
            return "(prefill)"
        if self._adapts:
            return None
        if max_tokens <= MIN_THINKING_TOKENS:
            return "(max_output_tokens)"
        return "(unsigned history)" if _resumes_unsigned(turns) else None

    def _adaptive(self, effort: str | None, budget: int | None) -> tuple[Json, str | None]:
        if budget is not None:
            self._lost("reasoning_budget_tokens")
        thinking = {"type": "adaptive"}
        if self._generation >= _NO_SAMPLING:  # 4.7 and later omit the text unless asked
            thinking["display"] = "summarized"
        level = _EFFORT.get(effort or "")
        if level == "xhigh" and self._generation < _NO_SAMPLING:
            level = "high"
        if level != effort:
            self._lost(f"reasoning_effort->{level or 'default'}")
        return {"thinking": thinking}, level

    def _budgeted(self, effort: str | None, budget: int | None, max_tokens: int) -> Json:
        """Thinking counts towards max_tokens, which is the caller's bound on cost: the budget gives way, never the bound."""
        wish = budget if budget is not None else int(max_tokens * _BUDGET_SHARE.get(effort or "", 0.5))
        most = max(MIN_THINKING_TOKENS, int(max_tokens * _BUDGET_SHARE["max"]))
        tokens = min(max(wish, MIN_THINKING_TOKENS), most)
        if budget is not None and tokens != budget:
            self._lost(f"reasoning_budget_tokens->{tokens}")
        return {"thinking": {"type": "enabled", "budget_tokens": tokens}}

    def _sampling(self, *, thinking: bool) -> Json:
        wished: dict[str, float | None] = {
            "temperature": self._prompt.temperature,
            "top_p": self._prompt.top_p,
            "top_k": self._prompt.top_k,
        }
        sampling: Json = {}
        for name, value in wished.items():
            if value is None:
                continue
            refused = self._generation >= _NO_SAMPLING or (thinking and (name == "top_k" or value < (1 if name == "temperature" else 0.95)))
            if refused or (name == "top_p" and "temperature" in sampling and self._generation >= _ONE_SAMPLER):
                self._lost(name)
            elif name == "temperature" and value > 1:
                sampling[name] = 1  # the range ends at 1
                self._lost("temperature->1")
            else:
                sampling[name] = value
        return sampling

    def _output_config(self, effort: str | None, system: list[Json]) -> Json:
        """Structured output: native where the model has it, else asked for in words; never silently dropped."""
        config: Json = {"effort": effort} if effort else {}
        wish = self._prompt.response_format
        if wish is not None and wish.kind != "text":
            native = wish.kind == "json_schema" and "json_schema" in self._model.capabilities
            if native and wish.schema is not None and "output_config" not in self._prompt.extra:
                config["format"] = {"type": "json_schema", "schema": wish.schema}
            else:
                self._lost("response_format->instruction")
                system.append({"type": "text", "text": _instruction(wish)})
        return {"output_config": config} if config else {}

    def _stop(self) -> Json:
        kept = [stop for stop in self._prompt.stop if stop.strip()]  # "each stop sequence must contain non-whitespace"
        if len(kept) < len(self._prompt.stop):
            self._lost("stop(blank)")
        return {"stop_sequences": kept} if kept else {}

    def _metadata(self) -> Json:
        user = self._prompt.user
        fields = _object(self._prompt.extra.get("metadata")) or {}
        if user is None:
            user = _string(fields.pop("user_id", None))
        if fields:
            self._lost("metadata")  # only user_id exists here
        if user is not None and len(user) > _MAX_USER_ID:
            self._lost("user")
            user = None
        return {"metadata": {"user_id": user}} if user else {}

    def _extra(self) -> Json:
        carried: Json = {}
        for name, value in self._prompt.extra.items():
            if name in _NATIVE:
                carried[name] = value
            elif name == "service_tier" and (tier := _TIER.get(_string(value) or "")):
                carried[name] = tier
            elif name != "metadata":
                self._lost(name)
        return carried

    def _unsupported(self) -> None:
        prompt = self._prompt
        for name, is_set in (
            ("seed", prompt.seed is not None),
            ("presence_penalty", bool(prompt.presence_penalty)),
            ("frequency_penalty", bool(prompt.frequency_penalty)),
            ("n", prompt.n > 1),
        ):
            if is_set:
                self._lost(name)


def _instruction(wish: ResponseFormat) -> str:
    text = "Answer with one valid JSON object and nothing else."
    if wish.schema is not None:
        text += f" It must conform to this JSON Schema: {bytes(wish.schema).decode(errors='replace')}"
    return text


def _append_turn(turns: list[_Turn], role: Role, blocks: list[Json]) -> None:
    """Results of parallel calls must stand in one turn, before anything else in it."""
    if turns and turns[-1].role == role:
        blocks = turns.pop().content + blocks
    turns.append(_Turn(role, sorted(blocks, key=lambda block: block["type"] != "tool_result")))


def _resumes_unsigned(turns: list[_Turn]) -> bool:
    """Whether a tool loop is under way whose thoughts are not ours: "a final assistant message must start with a thinking block"."""
    if len(turns) < 2 or turns[-1].content[0]["type"] != "tool_result":
        return False
    return turns[-2].content[0]["type"] not in ("thinking", "redacted_thinking")


def _marked(block: Json, cache_control: Raw | None) -> Json:
    return block if cache_control is None else block | {"cache_control": cache_control}


def _id(call_id: str) -> str:
    return _BAD_ID.sub("_", call_id) or "call"


def _utf8(data: str) -> str | None:
    try:
        return base64.b64decode(data, validate=True).decode()
    except (binascii.Error, ValueError):
        return None


def _object(raw: Raw | None) -> dict[str, Raw] | None:
    try:
        return None if raw is None else msgspec.json.decode(raw, type=dict[str, Raw])
    except (ValueError, RecursionError):
        return None


def _is_object(text: str) -> bool:
    return _object(Raw(text.encode())) is not None


def _string(raw: Raw | None) -> str | None:
    try:
        return None if raw is None else msgspec.json.decode(raw, type=str)
    except (ValueError, RecursionError):
        return None
