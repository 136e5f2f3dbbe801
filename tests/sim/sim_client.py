"""A small HTTP and SSE client for the simulator's tests, written without any of Waypost: sees bytes, ends and times as they are."""

import asyncio
import codecs
import json
import re
from dataclasses import dataclass, field
from typing import Any

PATHS = {
    "openai-chat": "/v1/chat/completions",
    "openai-responses": "/v1/responses",
    "anthropic-messages": "/v1/messages",
    "embeddings": "/v1/embeddings",
}
DIALECTS = ("openai-chat", "openai-responses", "anthropic-messages", "gemini")
TOOL_SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]}


@dataclass
class Seen:
    """What came over the socket. `end`: whole | fin (before the body's end) | rst | open (nothing more within the wait)."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    end: str = ""
    chunks: list[bytes] = field(default_factory=list)
    interim: list[int] = field(default_factory=list)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Said:
    """A folded stream or body."""

    text: str = ""
    reasoning: str = ""
    calls: list[list[str]] = field(default_factory=list)  # [name, arguments]
    refusal: str = ""
    finishes: list[str] = field(default_factory=list)
    usage: tuple[int, int] | None = None  # prompt, output
    terminals: int = 0
    errors: list[Any] = field(default_factory=list)
    malformed: int = 0
    comments: int = 0
    events: int = 0


def request(
    dialect: str, model: str, *, prompt: str = "Tell me of the river.", stream: bool = True, prefix: str = "", **extra: Any
) -> tuple[str, dict[str, Any]]:
    """(path, body) of a request in a dialect; `tools` and `max_tokens` are put where the dialect wants them."""
    tools, ceiling = extra.pop("tools", None), extra.pop("max_tokens", None)
    if dialect == "gemini":
        body: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": prompt}]}], **extra}
        if tools:
            body["tools"] = [{"functionDeclarations": [{"name": name, "parameters": TOOL_SCHEMA} for name in tools]}]
        if ceiling is not None:
            body["generationConfig"] = {"maxOutputTokens": ceiling}
        verb = "streamGenerateContent?alt=sse" if stream else "generateContent"
        return f"{prefix}/v1beta/models/{model}:{verb}", body
    body = {"model": model, "stream": stream}
    if dialect == "openai-responses":
        body["input"] = prompt
        named = [{"type": "function", "name": name, "parameters": TOOL_SCHEMA} for name in tools or []]
        limit = "max_output_tokens"
    else:
        body["messages"] = [{"role": "user", "content": prompt}]
        limit = "max_tokens"
        if dialect == "anthropic-messages":
            named = [{"name": name, "input_schema": TOOL_SCHEMA} for name in tools or []]
            body["max_tokens"] = 4096
        else:
            named = [{"type": "function", "function": {"name": name, "parameters": TOOL_SCHEMA}} for name in tools or []]
            if stream:
                body["stream_options"] = {"include_usage": True}
    if named:
        body["tools"] = named
    if ceiling is not None:
        body[limit] = ceiling
    return prefix + PATHS[dialect], {**body, **extra}


async def send(
    port: int,
    path: str,
    body: Any,
    *,
    headers: dict[str, str] | None = None,
    wait_s: float = 5.0,
    head_s: float = 5.0,
    method: str = "POST",
) -> Seen:
    """One request on a new connection; waits `head_s` for a head, then `wait_s` for the end."""
    seen = Seen()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionResetError:  # at accept
        seen.end = "rst"
        return seen
    try:
        writer.write(raw_request(path, body, headers=headers, method=method))
        await writer.drain()
        await asyncio.wait_for(_read_head(reader, seen), head_s)
        await asyncio.wait_for(_read_body(reader, seen), wait_s)
        seen.end = seen.end or "whole"
    except TimeoutError:
        seen.end = "open"
    except asyncio.IncompleteReadError as error:
        seen.body += error.partial if "content-length" in seen.headers else b""
        seen.end = "fin"
    except ConnectionError:
        seen.end = "rst"
    finally:
        writer.close()
    return seen


def raw_request(path: str, body: Any, *, headers: dict[str, str] | None = None, method: str = "POST") -> bytes:
    payload = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: sim",
        f"Content-Length: {len(payload)}",
        *(f"{k}: {v}" for k, v in (headers or {}).items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + payload


async def _read_head(reader: asyncio.StreamReader, seen: Seen) -> None:
    while True:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[0].split(" ")[1])
        if status >= 200:
            break
        seen.interim.append(status)
    seen.status = status
    seen.headers = {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in head[1:] if line)}


async def _read_body(reader: asyncio.StreamReader, seen: Seen) -> None:
    if seen.headers.get("transfer-encoding") != "chunked":
        left = int(seen.headers["content-length"])
        seen.body = await reader.readexactly(left)
        return
    while True:
        size = int((await reader.readuntil(b"\r\n")).strip(), 16)
        chunk = (await reader.readexactly(size + 2))[:-2]
        if not size:
            return
        seen.chunks.append(chunk)
        seen.body += chunk


def events(body: bytes, said: Said) -> list[Any]:
    """The data of each SSE event: CR, LF and CR LF end lines, nothing else does; a first BOM is skipped."""
    text = codecs.decode(body, "utf-8").removeprefix("\ufeff")
    found: list[Any] = []
    data: list[str] = []
    for line in re.split("\r\n|\r|\n", text):
        if line.startswith(":"):
            said.comments += 1
        elif line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            joined, data = "\n".join(data), []
            said.events += 1
            try:
                found.append("[DONE]" if joined == "[DONE]" else json.loads(joined))
            except ValueError:
                said.malformed += 1
    return found


def fold(dialect: str, seen: Seen) -> Said:
    """The stream of a dialect folded into what was said."""
    said = Said()
    for event in events(seen.body, said):
        if event == "[DONE]":
            said.terminals += 1
        elif event.get("error") or event.get("type") == "error":
            said.errors.append(event)
        else:
            _FOLDS[dialect](event, said)
    return said


def _chat(event: Any, said: Said) -> None:
    if event.get("usage"):
        said.usage = (event["usage"]["prompt_tokens"], event["usage"]["completion_tokens"])
    for choice in event["choices"]:
        delta = choice["delta"]
        said.text += delta.get("content") or ""
        said.refusal += delta.get("refusal") or ""
        said.reasoning += delta.get("reasoning_content") or delta.get("reasoning") or ""
        for call in delta.get("tool_calls", []):
            if call.get("id"):
                said.calls.append([call["function"]["name"], ""])
            said.calls[call["index"]][1] += call["function"]["arguments"]
        if choice["finish_reason"]:
            said.finishes.append(choice["finish_reason"])


def _responses(event: Any, said: Said) -> None:
    match event["type"]:
        case "response.output_text.delta":
            said.text += event["delta"]
        case "response.refusal.delta":
            said.refusal += event["delta"]
        case "response.reasoning_summary_text.delta":
            said.reasoning += event["delta"]
        case "response.output_item.added" if event["item"]["type"] == "function_call":
            said.calls.append([event["item"]["name"], ""])
        case "response.function_call_arguments.delta":
            said.calls[-1][1] += event["delta"]
        case "response.completed" | "response.incomplete":
            said.terminals += 1
            response = event["response"]
            said.finishes.append((response["incomplete_details"] or {}).get("reason", "completed"))
            if response["usage"]:
                said.usage = (response["usage"]["input_tokens"], response["usage"]["output_tokens"])
        case _:
            pass


def _anthropic(event: Any, said: Said) -> None:
    match event["type"]:
        case "message_start":
            used = event["message"].get("usage")
            if used:
                said.usage = (
                    used["input_tokens"] + used["cache_read_input_tokens"] + used["cache_creation_input_tokens"],
                    used["output_tokens"],
                )
        case "content_block_start" if event["content_block"]["type"] == "tool_use":
            said.calls.append([event["content_block"]["name"], ""])
        case "content_block_delta":
            delta = event["delta"]
            said.text += delta.get("text", "")
            said.reasoning += delta.get("thinking", "")
            if "partial_json" in delta:
                said.calls[-1][1] += delta["partial_json"]
        case "message_delta":
            said.finishes.append(event["delta"]["stop_reason"])
            if "usage" in event and said.usage:
                said.usage = (said.usage[0], event["usage"]["output_tokens"])
        case "message_stop":
            said.terminals += 1
        case _:
            pass


def _gemini(event: Any, said: Said) -> None:
    used = event.get("usageMetadata")
    if used:
        said.usage = (used["promptTokenCount"], used["candidatesTokenCount"] + used.get("thoughtsTokenCount", 0))
    for candidate in event.get("candidates", []):
        for part in candidate.get("content", {}).get("parts", []):
            if "functionCall" in part:
                said.calls.append([part["functionCall"]["name"], json.dumps(part["functionCall"]["args"])])
            elif part.get("thought"):
                said.reasoning += part["text"]
            else:
                said.text += part["text"]
        if candidate.get("finishReason"):
            said.finishes.append(candidate["finishReason"])
            said.terminals += 1


_FOLDS = {"openai-chat": _chat, "openai-responses": _responses, "anthropic-messages": _anthropic, "gemini": _gemini}
