"""Gemini generateContent, request: a neutral Prompt as the body of `POST /models/{model}:generateContent`.

Decides what can be carried and names everything that cannot. Knows nothing of streams, keys or sockets. Fields as typed in the
google-genai SDK 3.4 (`types.py`, `models.py` for the developer API): JSON Schema goes out as it came (`parametersJsonSchema`,
`responseJsonSchema`), so no schema has to be cleaned.

A token in `dropped` reads as in `anthropic_request`: `user` was left out; `stop->5` was cut; `image(system)` a part left out.
"""

import re
from typing import Final
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import Raw

from waypost.core.types import (
    Audio,
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

WIRE: Final = "gemini"
_MAX_STOPS = 5  # stopSequences, https://ai.google.dev/api/generate-content, read 2026-11
_VERSION = re.compile(r"/v\d[a-z0-9]*(?:/|$)")
_DEFAULT_VERSION = "/v1beta"

# Since version 3 a function call without its thought signature is answered with 400; a call that another model made passes with
# the placeholder that Google documents for it (https://ai.google.dev/gemini-api/docs/thought-signatures, seen in
# vercel/ai#15550, 2026-05). Thinking is set by level, and JSON answers may be combined with functions.
_THIRD = re.compile(r"gemini-(?:[3-9]|\d\d)")
_NO_SIGNATURE = "skip_thought_signature_validator"
_LEVEL = {"none": "minimal", "minimal": "minimal", "low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
# Tokens per effort as Google's own OpenAI endpoint maps them (https://ai.google.dev/gemini-api/docs/openai, 2026).
_BUDGET = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576, "xhigh": 24576, "max": 24576}
_LEAST_PRO_BUDGET = 128  # 2.5 Pro cannot stop thinking (https://ai.google.dev/gemini-api/docs/thinking)

_TIER = {"auto": "standard", "default": "standard", "standard": "standard", "flex": "flex", "priority": "priority"}
_NATIVE = {  # forwarded as sent, in the API's spelling
    "safetySettings": "safetySettings",
    "safety_settings": "safetySettings",
    "cachedContent": "cachedContent",
    "cached_content": "cachedContent",
    "labels": "labels",
}
_BY_SUFFIX = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
    "webp": "image/webp",
    "heic": "image/heic",
    "heif": "image/heif",
    "pdf": "application/pdf",
    "txt": "text/plain",
    "md": "text/markdown",
    "csv": "text/csv",
    "html": "text/html",
}


def dispatch(prompt: Prompt, deployment: Deployment, *, stream: bool) -> Dispatch:
    """The request for `deployment`. O(size of the prompt); schemas are passed on as bytes."""
    kept, refused = without(prompt, deployment.provider.drop)
    return _Translation(kept, deployment, refused).dispatch(stream)


class _Translation:
    """One prompt on its way. Mutable: collects `dropped`; one per dispatch."""

    def __init__(self, prompt: Prompt, deployment: Deployment, dropped: tuple[str, ...]) -> None:
        self._prompt = prompt
        self._model = deployment.model
        self._base_url = deployment.provider.base_url.rstrip("/")
        self._third = _THIRD.search(deployment.model.upstream) is not None
        self._dropped = list(dropped)
        self._called: dict[str, str] = {}  # call id -> function name, as the conversation goes

    def dispatch(self, stream: bool) -> Dispatch:
        system, contents = self._conversation()
        if not contents and system:  # at least one content is required
            contents, system = [{"role": "user", "parts": system}], []
            self._lost("system->user")
        body: Json = {"contents": contents}
        if system:
            body["systemInstruction"] = {"parts": system}
        body |= self._tools()
        if config := self._generation_config():
            body["generationConfig"] = config
        body |= self._extra()
        self._unsupported()
        return Dispatch(path=self._path(stream), body=msgspec.json.encode(body), dropped=tuple(dict.fromkeys(self._dropped)))

    def _lost(self, name: str) -> None:
        self._dropped.append(name)

    def _path(self, stream: bool) -> str:
        version = "" if _VERSION.search(urlsplit(self._base_url).path) else _DEFAULT_VERSION
        verb = "streamGenerateContent?alt=sse" if stream else "generateContent"
        return f"{version}/models/{quote(self._model.upstream.removeprefix('models/'), safe='')}:{verb}"

    # the conversation

    def _conversation(self) -> tuple[list[Json], list[Json]]:
        """System parts and contents. System messages go to the front whatever their place; equal neighbours become one content."""
        system: list[Json] = []
        contents: list[Json] = []
        latest: list[Json] = []
        speaker = ""
        for message in self._prompt.messages:
            parts = self._parts(message)
            if message.name is not None:
                self._lost("name")
            if message.role == "system":
                system += parts
                if contents and parts:
                    self._lost("system->hoisted")
            elif parts and message.role == speaker:
                latest += parts
            elif parts:
                speaker, latest = message.role, parts
                contents.append({"role": "model" if speaker == "assistant" else "user", "parts": latest})
        return system, contents

    def _parts(self, message: Message) -> list[Json]:
        parts = [written for part in message.parts if (written := self._part(part, message.role)) is not None]
        if self._third and message.role == "assistant":
            calls = [part for part in parts if "functionCall" in part]
            if calls and "thoughtSignature" not in calls[0]:  # of parallel calls only the first is signed
                calls[0]["thoughtSignature"] = _NO_SIGNATURE
        return parts

    def _part(self, part: Part, role: Role) -> Json | None:
        if getattr(part, "cache_control", None) is not None:
            self._lost("cache_control")  # caching is implicit here
        match role, part:
            case _, Text():
                return {"text": part.text} if part.text else None
            case "assistant", Refusal():
                return {"text": part.text} if part.text else None
            case "assistant", ToolCall():
                return self._function_call(part)
            case "assistant", Reasoning():
                return self._thought(part)
            case "user" | "assistant", Image():
                return self._image(part)
            case "user", Audio():
                return {"inlineData": {"mimeType": f"audio/{part.format}", "data": part.data}}
            case "user", Document():
                return self._document(part)
            case "user", ToolResult():
                return self._function_response(part)
            case _:
                self._lost(f"{part_name(part)}({role})")
                return None

    def _image(self, image: Image) -> Json | None:
        if image.detail not in (None, "auto"):
            self._lost("image.detail")
        if image.data is not None:
            return {"inlineData": {"mimeType": image.media_type or media_type_of(image.data) or "image/jpeg", "data": image.data}}
        if image.url:
            return {"fileData": {"mimeType": image.media_type or _by_suffix(image.url) or "image/jpeg", "fileUri": image.url}}
        self._lost("image(empty)")
        return None

    def _document(self, document: Document) -> Json | None:
        if document.name is not None:
            self._lost("document.name")
        media_type = document.media_type or "application/pdf"
        if document.data is not None:
            return {"inlineData": {"mimeType": media_type, "data": document.data}}
        uri = document.url or self._file_uri(document.file_id or "")
        if uri is None:
            self._lost("document.file_id")  # another provider's file
            return None
        return {"fileData": {"mimeType": document.media_type or _by_suffix(uri) or media_type, "fileUri": uri}}

    def _file_uri(self, file_id: str) -> str | None:
        if file_id.startswith("files/"):
            version = "" if _VERSION.search(urlsplit(self._base_url).path) else _DEFAULT_VERSION
            return f"{self._base_url}{version}/{file_id}"
        return file_id if file_id.startswith(("https://", "gs://")) else None

    def _function_call(self, call: ToolCall) -> Json:
        self._called[call.id] = call.name
        arguments = call.arguments.strip() or "{}"
        written: Json = {"id": call.id, "name": call.name}
        if _is_object(arguments):
            written["args"] = Raw(arguments.encode())
        else:
            self._lost("tool_call.arguments->wrapped")  # `args` must be an object
            written["args"] = {"arguments": call.arguments}
        part: Json = {"functionCall": written}
        if call.signature is not None:
            part["thoughtSignature"] = call.signature
        return part

    def _function_response(self, result: ToolResult) -> Json:
        """`output` and `error` are the keys the API names for a result that is text."""
        name = result.name or self._called.get(result.call_id)
        if name is None:
            self._lost("tool_result.name->unknown")
        text = "\n".join(part.text for part in result.parts if isinstance(part, Text))
        written: Json = {
            "id": result.call_id,
            "name": name or "unknown",
            "response": {"error" if result.is_error else "output": text},
        }
        media = (self._part(part, "user") for part in result.parts if not isinstance(part, Text))
        if parts := [part for part in media if part is not None]:
            written["parts"] = parts
        return {"functionResponse": written}

    def _thought(self, reasoning: Reasoning) -> Json | None:
        """Thoughts go back only to the wire that had them. A seal without words came on a part that was no thought."""
        if reasoning.origin != WIRE or not (reasoning.text or reasoning.signature):
            self._lost("reasoning(assistant)")
            return None
        part: Json = {"text": reasoning.text}
        if reasoning.text:
            part["thought"] = True
        if reasoning.signature is not None:
            part["thoughtSignature"] = reasoning.signature
        return part

    # the options

    def _tools(self) -> Json:
        if not self._prompt.tools:
            return {}
        if self._prompt.parallel_tool_calls is False:
            self._lost("parallel_tool_calls")
        body: Json = {"tools": [{"functionDeclarations": [self._tool(tool) for tool in self._prompt.tools]}]}
        choice = self._prompt.tool_choice
        if choice is not None:
            mode = {"auto": "AUTO", "none": "NONE", "required": "ANY", "named": "ANY"}[choice.mode]
            only: Json = {"allowedFunctionNames": [choice.name]} if choice.mode == "named" else {}
            body["toolConfig"] = {"functionCallingConfig": {"mode": mode} | only}
        return body

    def _tool(self, tool: Tool) -> Json:
        written: Json = {"name": tool.name}
        if tool.description:
            written["description"] = tool.description
        if tool.parameters is not None:
            written["parametersJsonSchema"] = tool.parameters
        if tool.strict:
            self._lost("tools.strict")
        if tool.cache_control is not None:
            self._lost("cache_control")
        return written

    def _generation_config(self) -> Json:
        prompt = self._prompt
        plain: dict[str, object] = {
            "maxOutputTokens": prompt.max_output_tokens,
            "temperature": prompt.temperature,
            "topP": prompt.top_p,
            "topK": prompt.top_k,
            "seed": prompt.seed,
            "presencePenalty": prompt.presence_penalty,
            "frequencyPenalty": prompt.frequency_penalty,
            "candidateCount": prompt.n if prompt.n > 1 else None,
        }
        config: Json = {name: value for name, value in plain.items() if value is not None}
        if prompt.stop:
            config["stopSequences"] = prompt.stop[:_MAX_STOPS]
        if len(prompt.stop) > _MAX_STOPS:
            self._lost(f"stop->{_MAX_STOPS}")
        config |= self._response_format(prompt.response_format)
        if thinking := self._thinking():
            config["thinkingConfig"] = thinking
        return config

    def _response_format(self, wish: ResponseFormat | None) -> Json:
        if wish is None or wish.kind == "text":
            return {}
        if self._prompt.tools and not self._third:  # "Function calling with a response mime type is unsupported"
            self._lost("response_format(tools)")
            return {}
        config: Json = {"responseMimeType": "application/json"}
        if wish.schema is not None:
            config["responseJsonSchema"] = wish.schema
        return config

    def _thinking(self) -> Json:
        effort, budget = self._prompt.reasoning_effort, self._prompt.reasoning_budget_tokens
        if effort is None and budget is None:
            return {}
        if "reasoning" not in self._model.capabilities:  # "an error will be returned ... for models that don't support thinking"
            if effort not in (None, "none"):
                self._lost("reasoning_effort")
            if budget:
                self._lost("reasoning_budget_tokens")
            return {}
        if budget is None and self._third:
            return self._level(effort or "")
        wish = budget if budget is not None else _BUDGET.get(effort or "")
        if wish is None:
            self._lost(f"reasoning_effort({effort})")
            return {}
        tokens = max(wish, _LEAST_PRO_BUDGET) if "2.5-pro" in self._model.upstream and wish >= 0 else wish
        if tokens != wish:
            self._lost(f"reasoning_budget_tokens->{tokens}")
        return {"includeThoughts": wish != 0, "thinkingBudget": tokens}

    def _level(self, effort: str) -> Json:
        level = _LEVEL.get(effort)
        if level != effort:
            self._lost(f"reasoning_effort->{level or 'default'}")
        thinking: Json = {"includeThoughts": effort != "none"}
        return thinking | {"thinkingLevel": level.upper()} if level else thinking

    def _extra(self) -> Json:
        carried: Json = {}
        for name, value in self._prompt.extra.items():
            if name in _NATIVE:
                carried[_NATIVE[name]] = value
            elif name in ("service_tier", "serviceTier") and (tier := _TIER.get(_string(value) or "")):
                carried["serviceTier"] = tier
            else:
                self._lost(name)
        return carried

    def _unsupported(self) -> None:
        if self._prompt.user is not None:
            self._lost("user")
        choice = self._prompt.tool_choice
        if not self._prompt.tools and choice is not None and choice.mode in ("required", "named"):
            self._lost("tool_choice")


def _by_suffix(url: str) -> str | None:
    return _BY_SUFFIX.get(url.split("?", 1)[0].rsplit(".", 1)[-1].lower())


def _is_object(text: str) -> bool:
    try:
        msgspec.json.decode(text, type=dict[str, Raw])
    except (ValueError, RecursionError):
        return False
    return True


def _string(raw: Raw) -> str | None:
    try:
        return msgspec.json.decode(raw, type=str)
    except (ValueError, RecursionError):
        return None
