"""Render: an answer on the OpenAI responses wire. Shapes after the SDK's event types (openai 3.54.0). Pure."""

from typing import Any

from waypost.sim import texts
from waypost.sim.answers import Answer, Called, Score
from waypost.sim.asks import Ask
from waypost.sim.render_chat import HOLE, encode, sse, template


def usage(answer: Answer) -> dict[str, Any] | None:
    if answer.usage == "none":
        return None
    if answer.usage == "zero":
        return {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    return {
        "input_tokens": answer.prompt_tokens,
        "input_tokens_details": {"cached_tokens": answer.cached_tokens},
        "output_tokens": answer.output_tokens,
        "output_tokens_details": {"reasoning_tokens": answer.reasoning_tokens},
        "total_tokens": answer.prompt_tokens + answer.output_tokens,
    }


def _response(ask: Ask, answer: Answer, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
    reason = {"length": "max_output_tokens", "filter": "content_filter"}.get(answer.finish)
    finished = status not in ("in_progress", "queued")
    return {
        "id": f"resp_{answer.id}",
        "object": "response",
        "created_at": answer.created,
        "status": status,
        "model": ask.model,
        "output": output,
        "error": None,
        "incomplete_details": {"reason": reason} if reason and finished else None,
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": usage(answer) if finished else None,
    }


def _status(answer: Answer) -> str:
    return "incomplete" if answer.finish in ("length", "filter") else "completed"


def _reasoning(answer: Answer, text: str) -> dict[str, Any]:
    return {"id": f"rs_{answer.id}", "type": "reasoning", "summary": [{"type": "summary_text", "text": text}] if text else []}


def _message(answer: Answer, content: list[dict[str, Any]], status: str) -> dict[str, Any]:
    return {"id": f"msg_{answer.id}", "type": "message", "role": "assistant", "status": status, "content": content}


def _text_part(answer: Answer, text: str) -> dict[str, Any]:
    if answer.finish == "refusal":
        return {"type": "refusal", "refusal": text}
    return {"type": "output_text", "text": text, "annotations": []}


def _call(call: Called, arguments: str, status: str) -> dict[str, Any]:
    return {"id": f"fc_{call.id}", "type": "function_call", "call_id": call.id, "name": call.name, "arguments": arguments, "status": status}


def _output(answer: Answer) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    if answer.reasoning:
        items.append(_reasoning(answer, answer.reasoning))
    if answer.text or not answer.calls:
        items.append(_message(answer, [_text_part(answer, answer.text)] if answer.text else [], _status(answer)))
    return items + [_call(call, call.arguments, _status(answer)) for call in answer.calls]


class _Writer:
    """Numbers the events of one stream as it writes them."""

    def __init__(self) -> None:
        self.body: list[tuple[bytes, int]] = []
        self.number = 0

    def event(self, kind: str, **fields: Any) -> bytes:
        self.number += 1
        return sse({"type": kind, "sequence_number": self.number - 1, **fields}, kind)

    def say(self, kind: str, tokens: int = 0, **fields: Any) -> None:
        self.body.append((self.event(kind, **fields), tokens))

    def pieces(self, kind: str, text: str, **fields: Any) -> None:
        for piece in texts.pieces(text):
            before, after = template({"type": kind, "sequence_number": self.number, **fields, "delta": HOLE}, kind)
            self.number += 1
            self.body.append((before + encode(piece) + after, 1))

    def reasoning(self, answer: Answer, index: int) -> None:
        place: dict[str, Any] = {"item_id": f"rs_{answer.id}", "output_index": index, "summary_index": 0}
        self.say("response.output_item.added", output_index=index, item=_reasoning(answer, ""))
        self.say("response.reasoning_summary_part.added", **place, part={"type": "summary_text", "text": ""})
        self.pieces("response.reasoning_summary_text.delta", answer.reasoning, **place)
        self.say("response.reasoning_summary_text.done", **place, text=answer.reasoning)
        self.say("response.reasoning_summary_part.done", **place, part={"type": "summary_text", "text": answer.reasoning})
        self.say("response.output_item.done", output_index=index, item=_reasoning(answer, answer.reasoning))

    def message(self, answer: Answer, index: int) -> None:
        kind = "response.refusal" if answer.finish == "refusal" else "response.output_text"
        place: dict[str, Any] = {"item_id": f"msg_{answer.id}", "output_index": index, "content_index": 0}
        said: dict[str, Any] = {"refusal": answer.text} if answer.finish == "refusal" else {"text": answer.text, "logprobs": []}
        extra: dict[str, Any] = {} if answer.finish == "refusal" else {"logprobs": []}
        self.say("response.output_item.added", output_index=index, item=_message(answer, [], "in_progress"))
        self.say("response.content_part.added", **place, part=_text_part(answer, ""))
        self.pieces(f"{kind}.delta", answer.text, **place, **extra)
        self.say(f"{kind}.done", **place, **said)
        self.say("response.content_part.done", **place, part=_text_part(answer, answer.text))
        self.say("response.output_item.done", output_index=index, item=_message(answer, [_text_part(answer, answer.text)], _status(answer)))

    def call(self, call: Called, index: int, status: str) -> None:
        place: dict[str, Any] = {"item_id": f"fc_{call.id}", "output_index": index}
        self.say("response.output_item.added", 1, output_index=index, item=_call(call, "", "in_progress"))
        self.pieces("response.function_call_arguments.delta", call.arguments, **place)
        self.say("response.function_call_arguments.done", **place, name=call.name, arguments=call.arguments)
        self.say("response.output_item.done", output_index=index, item=_call(call, call.arguments, status))


def stream(ask: Ask, answer: Answer) -> Score:
    writer = _Writer()
    begun = _response(ask, answer, "in_progress", [])
    opening = [writer.event("response.created", response=begun), writer.event("response.in_progress", response=begun)]
    index = 0
    if answer.reasoning:
        writer.reasoning(answer, index)
        index += 1
    if answer.text:
        writer.message(answer, index)
        index += 1
    for call in answer.calls:
        writer.call(call, index, _status(answer))
        index += 1
    ended = _response(ask, answer, _status(answer), _output(answer))
    return Score(
        opening=opening,
        body=writer.body,
        finish=[],
        usage=[],
        done=[writer.event(f"response.{_status(answer)}", response=ended)] if answer.says_finish else [],
        blank=sse({"type": "response.queued", "sequence_number": 0, "response": begun}, "response.queued"),
        unknown=sse({"type": "response.novelty", "sequence_number": 0, "novelty": {"a": 1}}, "response.novelty"),
        ping=b": ping\n\n",
    )


def whole(ask: Ask, answer: Answer, *, empty_choices: bool = False) -> bytes:
    body = _response(ask, answer, _status(answer), [] if empty_choices else _output(answer))
    return encode(body if answer.says_finish else {**body, "status": None})
