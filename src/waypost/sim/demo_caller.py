"""Caller: a small client of the OpenAI wire, as the demo's traffic needs it, and a judge of what came back.

One request, one connection. The judge compares the text with what the simulator must have said (`texts.verify`): an answer that
claims to be whole and is not is a silent truncation. Knows nothing of the gateway but its address.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Literal, cast

import msgspec
from msgspec import Struct

from waypost.sim import texts
from waypost.sim.demo_story import Question

PATIENCE_S = 60.0  # of one request; nothing in the story takes a tenth of it
Verdict = Literal["whole", "told", "refused", "broken", "silent"]


class Heard(Struct, frozen=True):
    """What one caller got: `told` = an error event after a beginning, `broken` = the connection broke, `silent` = a lie."""

    verdict: Verdict
    ttft_s: float | None = None  # of a stream
    error: str = ""


async def ask(host: str, port: int, question: Question) -> Heard:
    """Send one request and judge the answer. Raises nothing but cancellation."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await _ask(host, port, question)
    except (OSError, EOFError, TimeoutError, ValueError, msgspec.DecodeError) as error:
        return Heard("broken", error=type(error).__name__)


async def _ask(host: str, port: int, question: Question) -> Heard:
    body = msgspec.json.encode(question.body)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer demo\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    began_s = time.monotonic()
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(head.encode() + body)
        status, headers = await _head(reader)
        parts = _body(reader, headers)
        if status == 200 and headers.get("content-type", "").startswith("text/event-stream"):
            return await _stream(parts, began_s)
        said: Any = msgspec.json.decode(b"".join([part async for part in parts]))
        if status != 200:
            return Heard("refused", error=str(said["error"].get("code") or said["error"].get("type")))
        choice = said["choices"][0]
        is_whole = choice["finish_reason"] == "stop" and texts.verify(choice["message"]["content"])
        return Heard("whole" if is_whole else "silent")
    finally:
        writer.close()


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    return int(first.split(" ")[1]), {name.lower(): value.strip() for name, _, value in pairs}


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> AsyncIterator[bytes]:
    """Raises EOFError when the body ends before its framing says so."""
    if headers.get("transfer-encoding") != "chunked":
        yield await reader.readexactly(int(headers["content-length"]))
        return
    while size := int(await reader.readuntil(b"\r\n"), 16):
        yield (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")


async def _stream(parts: AsyncIterator[bytes], began_s: float) -> Heard:
    text, finish, error, ttft_s, done = "", None, "", None, False
    async for event in _events(parts):
        if event == b"[DONE]":
            done = True
            continue
        chunk: Any = msgspec.json.decode(event)
        if "error" in chunk:
            error = str(chunk["error"].get("code") or chunk["error"].get("type"))
        for choice in cast("list[dict[str, Any]]", chunk.get("choices") or []):
            piece = choice.get("delta", {}).get("content") or ""
            if piece and ttft_s is None:
                ttft_s = time.monotonic() - began_s
            text += piece
            finish = choice.get("finish_reason") or finish
    if error:
        return Heard("told" if texts.verify_prefix(text) else "silent", ttft_s, error)
    return Heard("whole" if done and finish == "stop" and texts.verify(text) else "silent", ttft_s)


async def _events(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    held = b""
    async for part in parts:
        *events, held = (held + part).replace(b"\r\n", b"\n").split(b"\n\n")
        for event in events:
            data = b"\n".join(line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:"))
            if data:
                yield data
