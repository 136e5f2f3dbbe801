"""OpenAI chat completions, the caller's side: read the request, answer in its dialect, hand it on unchanged.

Decides what is refused before any provider is asked, and which fields are ours. Reads types and sizes only: the neutral prompt
(`openai_prompt`) is built on demand, because most calls leave in the dialect they came in. Knows no provider beyond its card.
Request fields as typed in the openai SDK 3.54; OpenRouter's per-request fields after its documentation, 2026-08.
"""

import re
from typing import Annotated, Any, Literal, NoReturn, cast

import msgspec
from msgspec import Meta, Raw, Struct

from waypost.core import tokens
from waypost.core.classify import TURN
from waypost.core.faults import Refused
from waypost.core.types import Call, Deployment, Failure, Prompt, Reply
from waypost.dialects import openai_answer, openai_fit, openai_prompt
from waypost.dialects.contract import CostOf, Dispatch, Encoder
from waypost.dialects.openai_prompt import NULL

MAX_DEPTH = 64
MAX_FIELDS = 256
_LARGE = 2048  # bytes: a smaller body cannot hold so many fields
TEXT_CHARACTERS = 16 * 1024
_HEAD_CHARACTERS = 4 * 1024
_MESSAGE_TOKENS = 4  # role and borders of one message (OpenAI cookbook: 3 to 4)
_IMAGE_TOKENS = 1600  # upper-leaning: a large image at Anthropic (w x h / 750, capped at 1568 px); most vendors count fewer
_AUDIO_BYTES_PER_TOKEN = 200  # of base64: mp3 at 16 kbit/s is 2.7 kB/s and 10 tokens/s (OpenAI audio guide)
_DOCUMENT_BYTES_PER_TOKEN = 20  # of base64: a text-only PDF page is 40 kB and 2,000 tokens, scans have more bytes

# Fields that steer this gateway (ours and OpenRouter's): obeyed here, never sent on.
_OPENROUTER = frozenset({"models", "provider", "route", "plugins", "transforms", "session_id", "usage", "debug", "trace"})
OWN_FIELDS = _OPENROUTER | {"waypost"}
_NOT_PARAMETERS = OWN_FIELDS | {"model", "messages", "stream", "stream_options", "metadata", "user"}

_Name = Annotated[str, Meta(max_length=256)]


class _Part(Struct, gc=False):
    type: str = "text"
    text: str | None = None


class _Message(Struct, gc=False):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[_Part] | None = None


class _StreamOptions(Struct, gc=False):
    include_usage: bool | None = None


class _Usage(Struct, gc=False):
    include: bool | None = None


class _Format(Struct, gc=False):
    type: Literal["text", "json_object", "json_schema"]


class _Function(Struct, gc=False):
    name: Annotated[str, Meta(min_length=1, max_length=256)]


class _Tool(Struct, gc=False):
    type: str = "function"
    function: _Function | None = None


class _Reasoning(Struct, gc=False):
    effort: str | None = None
    max_tokens: int | None = None
    enabled: bool | None = None


class _Thinking(Struct, gc=False):
    type: str | None = None


class _Choice(Struct, gc=False):
    type: str = ""
    mode: str | None = None


class _Body(Struct, gc=False):
    messages: Annotated[list[_Message], Meta(min_length=1, max_length=20_000)]
    model: _Name | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1, le=10_000_000)] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=10_000_000)] | None = None
    n: Annotated[int, Meta(ge=1, le=8)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    seed: int | None = None
    stop: str | Annotated[list[str], Meta(max_length=16)] | None = None
    tools: Annotated[list[_Tool], Meta(max_length=512)] | None = None
    functions: Annotated[list[_Function], Meta(max_length=512)] | None = None
    tool_choice: str | _Choice | None = None
    parallel_tool_calls: bool | None = None
    response_format: _Format | None = None
    reasoning_effort: str | None = None
    reasoning: _Reasoning | None = None
    thinking: _Thinking | None = None
    usage: _Usage | None = None
    models: Annotated[list[_Name], Meta(max_length=64)] | None = None
    user: Annotated[str, Meta(max_length=4096)] | None = None
    # What steers the gateway: only its presence matters here.
    waypost: Raw = NULL
    provider: Raw = NULL
    route: Raw = NULL
    plugins: Raw = NULL
    transforms: Raw = NULL
    session_id: Raw = NULL
    debug: Raw = NULL
    trace: Raw = NULL


_fields_of = msgspec.json.Decoder(dict[str, Raw]).decode
_body_of = msgspec.json.Decoder(_Body).decode
_messages_of = msgspec.json.Decoder(list[_Message]).decode
_encode = msgspec.json.Encoder().encode


class Caller:
    """CallerSide of `openai-chat`."""

    def parse(self, body: bytes) -> Call:
        return parse(body)

    def prompt(self, call: Call) -> Prompt:
        return openai_prompt.prompt(call)

    def encoder(self, call: Call, *, request_id: str, model: str, cost_of: CostOf) -> Encoder:
        return openai_answer.ChunkEncoder(request_id=request_id, model=model, cost_of=cost_of, include_usage=call.include_usage)

    def render(self, reply: Reply, *, request_id: str, model: str, cost_nusd: int | None) -> bytes:
        return openai_answer.render(reply, request_id=request_id, model=model, cost_nusd=cost_nusd)

    def refusal(self, refused: Refused, *, request_id: str) -> bytes:
        return openai_answer.refusal(refused)

    def error(self, failure: Failure, *, request_id: str) -> tuple[int, bytes]:
        return openai_answer.error(failure)

    def error_event(self, failure: Failure, *, request_id: str) -> bytes:
        return openai_answer.error_event(failure)


CALLER = Caller()


def parse(body: bytes) -> Call:
    """The Call in `body`: one pass of the JSON decoder that checks the types of the fields we read and skips the others.

    Raises Refused (400). The text is left to `text_of`, for when somebody wants to classify.
    """
    try:
        read = _body_of(body)
        is_ascii = body.isascii()
        if not is_ascii:
            body.decode()  # the JSON decoder does not look into strings that it skips
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _refuse(body, error)
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _is_deep(body):
        _refuse_shape()
    if len(body) > _LARGE and body.count(b'":') > MAX_FIELDS and (fields := len(_fields_of(body))) > MAX_FIELDS:
        _refuse_shape(fields)
    messages, choice = read.messages, read.tool_choice
    openrouter = (read.provider, read.route, read.plugins, read.transforms, read.session_id, read.debug, read.trace) != _UNSAID
    call = Call(
        "openai-chat",
        read.model or "",
        body,
        openrouter or read.waypost is not NULL or read.usage is not None or read.models is not None or read.reasoning is not None,
        read.stream is True,
        read.max_completion_tokens or read.max_tokens,
        read.n or 1,
        read.stream_options is not None and read.stream_options.include_usage is True,
        # A reservation needs an upper figure at once; the closer count waits until somebody routes or bills by it.
        prompt_tokens=(len(body) * 5 >> 4) + 1 if is_ascii else tokens.estimate(body),
        turns=len(messages),
    )
    if call.steers:
        call.include_usage = _wants_usage(read, openrouter=openrouter or bool(read.models))
        call.fallback_models = tuple(dict.fromkeys(read.models or ()))
    if read.tools is not None or read.functions is not None or choice is not None:
        call.tools = len(read.tools or ()) + len(read.functions or ())
        call.forced_tool = choice is not None and _is_forced(choice)
    if read.response_format is not None:
        call.format_kind = read.response_format.type
    if read.reasoning_effort is not None or read.reasoning is not None or read.thinking is not None:
        call.reasoning = _reasoning(read)
    if _has_media(messages):
        call.modalities, call.prompt_tokens = _media(call)
    return call


def parameters_of(call: Call) -> frozenset[str]:
    """Names of the optional fields sent, for callers who require them all to be honoured."""
    return frozenset(call.fields).difference(_NOT_PARAMETERS)


def text_of(call: Call) -> str:
    """Readable text of a call for the classifier: head of the first system message, then the newest turns, at most 16 KiB characters."""
    messages = _messages_of(call.fields["messages"])
    systems = [_text(m) for m in messages if m.role in ("system", "developer")]
    head = systems[0][:_HEAD_CHARACTERS] if systems else ""
    room = TEXT_CHARACTERS - len(head)
    turns: list[str] = []
    for message in reversed(messages):
        if room <= 1:
            break
        if message.role == "user" and (text := _text(message)):
            turns.append(text[-(room - 1) :])
            room -= len(turns[-1]) + 1
    return TURN.join([head, *reversed(turns)] if head else reversed(turns))


def prompt_tokens_of(call: Call) -> int:
    """A closer estimate than `Call.prompt_tokens`, for a bill that no provider reported: the words and the tools, not the JSON around."""
    if call.modalities:
        return call.prompt_tokens
    messages = _messages_of(call.fields["messages"])
    words = tokens.estimate("\n".join([_text(message) for message in messages]).encode("utf-8", "replace"))
    tools = sum(tokens.estimate(bytes(call.fields[name])) for name in ("tools", "functions") if name in call.fields)
    return words + tools + _MESSAGE_TOKENS * len(messages)


def patch(call: Call, deployment: Deployment, *, stream: bool) -> Dispatch:
    """The caller's request for a provider of the same dialect: each field's bytes as sent, less what is ours, model renamed.

    What the provider's card refuses is left out and reported. Deterministic; about 3 us for a small request.
    """
    if call.stream == stream and not call.steers and openai_fit.is_plain(deployment):
        body = _renamed(call, deployment)
        if body is not None:
            return Dispatch(openai_fit.PATH, body)
    fields = {name: raw for name, raw in call.fields.items() if name not in OWN_FIELDS}
    dropped = openai_fit.fit(fields, deployment, stream=stream)
    return Dispatch(path=openai_fit.PATH, body=_encode(fields), dropped=tuple(dropped))


def _renamed(call: Call, deployment: Deployment) -> bytes | None:
    """The body with the model's name put in place, where nothing else must change and the place is certain; else None.

    The bytes `"model"` with plain quotes cannot stand inside a JSON string, so one occurrence is one key; followed by the value that the
    decoder read at the top level, it is that key.
    """
    body = call.body
    at = body.find(b'"model"')
    if at < 0 or body.find(b'"model"', at + 7) >= 0 or (call.stream and not call.include_usage):
        return None
    name = _encode(call.model)
    start = at + 9 if body.startswith(b": ", at + 7) else at + 8
    if body[at + 7 : at + 8] != b":" or not body.startswith(name, start):
        return None
    return b"%b%b%b" % (body[:start], _encode(deployment.model.upstream), body[start + len(name) :])


# --- reading ----------------------------------------------------------------------------------------------------------

_UNSAID = (NULL,) * 7
_MODALITY = {"image_url": "vision", "input_audio": "audio", "file": "pdf", "image": "vision"}


def _has_media(messages: list[_Message]) -> bool:
    for message in messages:
        if message.content.__class__ is list:
            for part in cast(list[_Part], message.content):
                if part.type in _MODALITY:
                    return True
    return False


def _media(call: Call) -> tuple[frozenset[str], int]:
    """Modalities, and an estimate that does not count base64 as text."""
    contents: list[list[dict[str, Raw]]] = [
        msgspec.json.decode(message.content, type=list[dict[str, Raw]])
        for message in msgspec.json.decode(call.fields["messages"], type=list[_RawMessage])
        if bytes(memoryview(message.content)[:1]) == b"["
    ]
    found: set[str] = set()
    media_bytes = media_tokens = 0
    for part in (part for content in contents for part in content):
        kind = _MODALITY.get(msgspec.json.decode(part["type"], type=str)) if "type" in part else None
        if kind is None:
            continue
        size = sum(len(memoryview(raw)) for raw in part.values())
        found.add(kind)
        media_bytes += size
        media_tokens += {"vision": _IMAGE_TOKENS, "audio": size // _AUDIO_BYTES_PER_TOKEN, "pdf": size // _DOCUMENT_BYTES_PER_TOKEN}[kind]
    return frozenset(found), media_tokens + (len(call.body) - media_bytes) // 3


class _RawMessage(Struct, gc=False):
    content: Raw = Raw(b"null")


def _wants_usage(read: _Body, *, openrouter: bool) -> bool:
    """OpenRouter always sends usage in the last chunk, so callers who write its fields expect it (its docs, 2026-08)."""
    options, usage = read.stream_options, read.usage
    if options is not None and options.include_usage is not None:
        return options.include_usage
    if usage is not None and usage.include is not None:
        return usage.include
    return openrouter


def _is_forced(choice: str | _Choice) -> bool:
    if isinstance(choice, str):
        if choice not in ("auto", "none", "required", "any", "validated"):
            raise Refused(
                400, "invalid_value", f"`tool_choice` is `{choice[:64]}`; use auto, none, required or a function", param="tool_choice"
            )
        return choice in ("required", "any")
    return choice.mode == "required" if choice.type == "allowed_tools" else choice.type not in ("auto", "none")


def _reasoning(read: _Body) -> bool:
    effort, wish = read.reasoning_effort, read.reasoning
    if wish is None:
        return (effort is not None and effort != "none") or (read.thinking is not None and read.thinking.type in ("enabled", "adaptive"))
    if effort is not None and wish.effort is not None and effort != wish.effort:
        raise Refused(400, "invalid_value", "`reasoning_effort` and `reasoning.effort` differ; send one of them", param="reasoning_effort")
    return wish.enabled is not False and (wish.effort or effort) != "none"


def _text(message: _Message) -> str:
    content = message.content
    if isinstance(content, str):
        return content
    return "\n".join(part.text for part in content or () if part.text)


_SQUARE = bytes.maketrans(b"{}", b"[]")
_BUT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_BUT_BRACKETS_AND_QUOTES = bytes(set(range(256)) - set(b'[]{}"'))
_STRING = re.compile(rb'"[^"]*+"')


def _is_deep(body: bytes) -> bool:
    """Whether JSON nests deeper than 64, at C speed: drop all but brackets, then peel off the innermost pairs, one level a pass.

    Brackets inside strings are counted too, so a body that looks deep is judged again without its strings. A sender who pairs brackets
    inside strings with real ones may hide depth from the first look; then the decoder's own recursion limit is the guard.
    """
    if _peels(body.translate(_SQUARE, _BUT_BRACKETS)):
        return False
    unescaped = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    return not _peels(_STRING.sub(b"", unescaped.translate(_SQUARE, _BUT_BRACKETS_AND_QUOTES)))


def _peels(brackets: bytes) -> bool:
    for depth in range(MAX_DEPTH + 1):
        peeled = brackets.replace(b"[]", b"")
        if len(peeled) == len(brackets):
            return depth + len(brackets) <= MAX_DEPTH  # what is left has no partner; each may be one level
        brackets = peeled
    return False


# --- refusing ---------------------------------------------------------------------------------------------------------

_PLACE = re.compile(r" - at `\$\.?(.*)`$")
_FIXES = {
    "role": "use system, developer, user, assistant or tool",
    "content": 'send a string or a list of parts such as {"type": "text", "text": "..."}',
    "n": "ask for 1 to 8 choices",
    "max_tokens": "send an integer from 1 to 10000000",
    "max_completion_tokens": "send an integer from 1 to 10000000",
    "temperature": "send a number from 0 to 2",
    "top_p": "send a number from 0 to 1",
    "tools": 'send at most 512 tools of the form {"type": "function", "function": {"name": ...}}',
    "stop": "send a string or at most 16 strings",
    "messages": "send a list of messages, at least one",
    "response_format": "its type is text, json_object or json_schema",
}


def _not_json(body: bytes, error: Exception) -> str:
    """The decoder counts a bad byte from the start of its string and calls half a surrogate pair a truncation."""
    if isinstance(error, UnicodeDecodeError):
        try:
            body.decode()
        except UnicodeDecodeError as whole:
            return f"The body is not valid UTF-8 at byte {whole.start}; encode the JSON as UTF-8."
    what = _first_lower(str(error))
    if what.endswith("truncated") and body.rstrip().endswith(b"}"):
        what = "a string is not closed or holds half of a surrogate pair (a lone \\ud800 to \\udfff)"
    return f"The body is not valid JSON: {what}; send one JSON object."


def _refuse(body: bytes, error: Exception) -> NoReturn:
    if isinstance(error, RecursionError):
        _refuse_shape()
    if not isinstance(error, msgspec.ValidationError):
        raise Refused(400, "invalid_json", _not_json(body, error))
    text = str(error)
    place = _PLACE.search(text)
    param = place[1] if place else None
    what = _first_lower(text[: place.start()] if place else text)
    if param is None:
        _refuse_top(body, what)
    field = re.sub(r"\[[^\]]*\]", "", param)
    fix = _FIXES.get(field.rsplit(".", 1)[-1]) or _FIXES.get(field.split(".", 1)[0]) or "correct or remove the field"
    raise Refused(400, "invalid_type", f"`{param}`: {what}{_seen(body, param)}; {fix}.", param=param)


def _refuse_top(body: bytes, what: str) -> NoReturn:
    try:
        fields = _fields_of(body)
    except (msgspec.DecodeError, RecursionError):
        raise Refused(400, "invalid_json", f'The body is not a JSON object: {what}; send {{"model": ..., "messages": [...]}}.') from None
    if "messages" not in fields and "input" in fields:
        raise Refused(
            400,
            "missing_field",
            "`messages` is missing but `input` is there: this is a Responses body; post it to /v1/responses.",
            param="messages",
        )
    raise Refused(400, "missing_field", "`messages` is missing; send a list of messages, at least one.", param="messages")


def _refuse_shape(fields: int = 0) -> NoReturn:
    if fields > MAX_FIELDS:
        raise Refused(400, "too_large", f"The body has {fields} top-level fields; at most {MAX_FIELDS} are accepted.")
    raise Refused(400, "too_deep", f"The JSON nests deeper than {MAX_DEPTH} levels; flatten it.")


def _seen(body: bytes, param: str) -> str:
    """The value of a top-level scalar; anything deeper may quote the prompt."""
    if not param.isidentifier() or param in ("messages", "stop", "user"):
        return ""
    value: Any = _fields_of(body).get(param)
    text = bytes(value)[:40].decode("utf-8", "replace") if value is not None else ""
    return f", got {text}" if text and text[0] not in "[{" else ""


def _first_lower(text: str) -> str:
    return text[:1].lower() + text[1:] if text[1:2].islower() else text
