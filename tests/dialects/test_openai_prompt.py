"""The neutral reading of a chat request, and its way back out: nothing said is lost."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from waypost.core.faults import Refused
from waypost.core.types import (
    Audio,
    Deployment,
    Document,
    Image,
    Message,
    ModelCard,
    Part,
    Prompt,
    ProviderCard,
    Reasoning,
    Refusal,
    ResponseFormat,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from waypost.dialects.openai_chat import parse
from waypost.dialects.openai_chat_provider import dispatch
from waypost.dialects.openai_prompt import prompt


def deployment(*quirks: str) -> Deployment:
    card = ProviderCard(name="p", wire="openai-chat", base_url="https://p.test/v1", quirks=frozenset(quirks))
    return Deployment(model=ModelCard(name="p/m", provider="p", upstream="m-1"), provider=card)


def read(messages: list[dict[str, Any]] | None = None, **fields: Any) -> Prompt:
    return prompt(parse(json.dumps({"messages": messages or [{"role": "user", "content": "hi"}]} | fields).encode()))


def parts(*written: dict[str, Any]) -> tuple[Part, ...]:
    return read([{"role": "user", "content": list(written)}]).messages[0].parts


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "part"),
    [
        ({"type": "text", "text": "a"}, Text("a")),
        ({"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}, Text("a", Raw(b'{"type":"ephemeral"}'))),
        ({"type": "image_url", "image_url": {"url": "https://x.test/a.png", "detail": "low"}}, Image("https://x.test/a.png", detail="low")),
        ({"type": "image_url", "image_url": "https://x.test/a.png"}, Image("https://x.test/a.png")),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}, Image(data="QUJD", media_type="image/png")),
        ({"type": "input_audio", "input_audio": {"data": "QUJD", "format": "mp3"}}, Audio("QUJD", "mp3")),
        (
            {"type": "file", "file": {"file_data": "data:application/pdf;base64,QUJD", "filename": "a.pdf"}},
            Document("QUJD", media_type="application/pdf", name="a.pdf"),
        ),
        ({"type": "file", "file": {"file_id": "file-1"}}, Document(file_id="file-1")),
        ({"type": "file", "file": {"file_data": "https://x.test/a.pdf"}}, Document(url="https://x.test/a.pdf")),
    ],
)
def test_parts(written: dict[str, Any], part: Part) -> None:
    (found,) = parts(written)
    assert msgspec.structs.replace(found, **_loose(found)) == msgspec.structs.replace(part, **_loose(part))


def _loose(part: Part) -> dict[str, Any]:
    """Raw JSON compared without its whitespace."""
    mark = getattr(part, "cache_control", None)
    return {"cache_control": msgspec.json.decode(mark)} if mark is not None else {}


@pytest.mark.parametrize(
    "written",
    [
        {"type": "video_url", "video_url": {"url": "https://x"}},
        {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
        {"type": "image_url", "image_url": {"url": "data:image/png,raw"}},
        {"type": "input_audio"},
    ],
)
def test_what_has_no_neutral_form_is_refused_by_name(written: dict[str, Any]) -> None:
    with pytest.raises(Refused, match=r"messages\[0\].content\[0\]"):
        parts(written)


def test_tool_turns_become_one_user_message_of_results() -> None:
    calls = [{"id": i, "type": "function", "function": {"name": "f", "arguments": "{}"}} for i in ("a", "b")]
    found = read(
        [
            {"role": "developer", "content": "be good"},
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "tool_call_id": "a", "content": "1"},
            {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "2"}]},
            {"role": "user", "content": "go on"},
        ]
    ).messages
    assert found == (
        Message("system", (Text("be good"),)),
        Message("assistant", (ToolCall("a", "f", "{}"), ToolCall("b", "f", "{}"))),
        Message("user", (ToolResult("a", (Text("1"),)), ToolResult("b", (Text("2"),)))),
        Message("user", (Text("go on"),)),
    )


def test_the_old_function_fields_are_tools() -> None:
    found = read(
        [
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "1"},
        ],
        functions=[{"name": "f"}],
        function_call={"name": "f"},
    )
    assert found.tools == (Tool("f"),)
    assert found.tool_choice == ToolChoice("named", "f")
    assert found.messages[0].parts == (ToolCall("f", "f", "{}"),)
    assert found.messages[1].parts == (ToolResult("f", (Text("1"),), name="f"),)


@pytest.mark.parametrize(
    ("row", "thoughts"),
    [
        ({"reasoning_content": "hm"}, (Reasoning("hm", origin="openai-chat"),)),
        ({"reasoning": "hm"}, (Reasoning("hm", origin="openai-chat"),)),
        (
            {
                "reasoning_content": "hm",
                "reasoning_details": [{"type": "reasoning.text", "text": "hm", "signature": "s", "format": "anthropic-claude-v1"}],
            },
            (Reasoning("hm", "s", None, "anthropic-messages"),),
        ),
        (
            {
                "reasoning_details": [
                    {"index": 0, "type": "reasoning.text", "text": "h"},
                    {"index": 1, "type": "reasoning.encrypted", "data": "D", "format": "google-gemini-v1"},
                    {"index": 0, "type": "reasoning.text", "text": "m"},
                    {"index": 0, "type": "reasoning.text", "signature": "s", "format": "anthropic-claude-v1"},
                ]
            },
            (Reasoning("hm", "s", None, "anthropic-messages"), Reasoning("", None, "D", "gemini")),
        ),
    ],
)
def test_replayed_reasoning(row: dict[str, Any], thoughts: tuple[Reasoning, ...]) -> None:
    assert read([{"role": "assistant", "content": "x", **row}]).messages[0].parts == (*thoughts, Text("x"))


def test_wishes() -> None:
    found = read(stop="x", max_tokens=5, reasoning={"max_tokens": 100}, tool_choice="any", logit_bias={"1": 2}, x_new=1, waypost={"a": 1})
    assert (found.stop, found.max_output_tokens, found.reasoning_budget_tokens) == (("x",), 5, 100)
    assert found.tool_choice == ToolChoice("required")
    assert found.extra.keys() == {"logit_bias", "x_new"}


# --- the way out ------------------------------------------------------------------------------------------------------

_text = st.text(min_size=1, max_size=8)
_name = st.sampled_from(["f", "g", "look_up"])
_mark = st.none() | st.just(Raw(b'{"type":"ephemeral"}'))
_b64 = st.sampled_from(["QUJD", "REVG"])
_texts = st.builds(Text, text=_text, cache_control=_mark)
_images = st.builds(Image, url=st.just("https://x.test/a.png"), detail=st.none() | st.just("low"), cache_control=_mark) | st.builds(
    Image, data=_b64, media_type=st.just("image/png")
)
_documents = st.builds(Document, data=_b64, media_type=st.just("application/pdf"), name=st.none() | _text)
_inputs = _texts | _images | _documents | st.builds(Audio, data=_b64, format=st.just("wav"))
_thoughts = st.builds(
    Reasoning, text=_text, signature=st.none() | _text, origin=st.sampled_from(["openai-chat", "anthropic-messages", "gemini"])
)
_calls = st.builds(ToolCall, id=_text, name=_name, arguments=st.just("{}"), signature=st.none() | _text)
_results = st.builds(ToolResult, call_id=_text, parts=st.lists(_texts, max_size=2).map(tuple), name=st.none() | _name, cache_control=_mark)


@st.composite
def _assistants(draw: st.DrawFn) -> Message:
    blocks = [*draw(st.lists(_thoughts, max_size=2)), *draw(st.lists(_texts, max_size=2))]
    refusal = draw(st.lists(st.builds(Refusal, text=_text), max_size=1))
    return Message("assistant", (*blocks, *refusal, *draw(st.lists(_calls, max_size=2))))


@st.composite
def _transcripts(draw: st.DrawFn) -> tuple[Message, ...]:
    messages: list[Message] = [Message("system", (Text("s"),))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages.append(Message("user", tuple(draw(st.lists(_inputs, min_size=1, max_size=3))), draw(st.none() | _name)))
        messages.append(draw(_assistants()))
        if draw(st.booleans()):
            messages.append(Message("user", tuple(draw(st.lists(_results, min_size=1, max_size=2)))))
    return tuple(messages)


_number = st.none() | st.sampled_from([0.0, 0.5, 1.0])
_prompts = st.builds(
    Prompt,
    messages=_transcripts(),
    tools=st.lists(
        st.builds(
            Tool, name=_name, description=st.none() | _text, parameters=st.just(Raw(b'{"type":"object"}')), strict=st.none() | st.booleans()
        ),
        max_size=2,
    ).map(tuple),
    tool_choice=st.sampled_from([None, ToolChoice("auto"), ToolChoice("none"), ToolChoice("required"), ToolChoice("named", "f")]),
    parallel_tool_calls=st.none() | st.booleans(),
    response_format=st.sampled_from([None, ResponseFormat("json_object"), ResponseFormat("json_schema", "n", Raw(b"{}"), True, "d")]),
    max_output_tokens=st.none() | st.integers(1, 99),
    temperature=_number,
    top_p=_number,
    top_k=st.none() | st.integers(1, 9),
    stop=st.lists(_text, max_size=2).map(tuple),
    seed=st.none() | st.integers(0, 9),
    presence_penalty=_number,
    frequency_penalty=_number,
    n=st.integers(1, 3),
    reasoning_effort=st.sampled_from([None, "low", "high"]),
    reasoning_budget_tokens=st.none() | st.integers(1, 9),
    user=st.none() | _text,
    extra=st.dictionaries(st.sampled_from(["logit_bias", "x_new"]), st.just(Raw(b'{"a":1}')), max_size=2),
)


@settings(max_examples=120, deadline=None)
@given(_prompts)
def test_a_prompt_comes_back_from_its_request(original: Prompt) -> None:
    sent = dispatch(original, deployment("reasoning_field"), stream=False)
    assert sent.dropped == ()
    assert prompt(parse(sent.body)) == original


@settings(max_examples=60, deadline=None)
@given(_prompts)
def test_what_a_plain_provider_cannot_take_is_reported(original: Prompt) -> None:
    sent = dispatch(original, deployment(), stream=True)
    back = prompt(parse(sent.body))
    if not sent.dropped:
        assert back == original
    assert back.tool_choice == original.tool_choice
    assert len(back.messages) == len(original.messages)


def test_a_streamed_request_asks_for_usage() -> None:
    sent = dispatch(Prompt((Message("user", (Text("hi"),)),)), deployment(), stream=True)
    assert json.loads(sent.body) == {
        "model": "m-1",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert sent.path == "/chat/completions"


def test_images_of_a_tool_result_follow_as_the_users_and_that_is_said() -> None:
    result = ToolResult("a", (Text("see"), Image(data="QUJD", media_type="image/png")), is_error=True)
    sent = dispatch(Prompt((Message("user", (result, Text("now?"))),)), deployment(), stream=False)
    rows = json.loads(sent.body)["messages"]
    assert rows[0] == {"role": "tool", "tool_call_id": "a", "content": "see"}
    assert [part["type"] for part in rows[1]["content"]] == ["image_url", "text"]
    assert set(sent.dropped) == {"tool_result.media->user", "tool_result.is_error"}


def test_reasoning_is_replayed_to_its_own_wire_only() -> None:
    thoughts = (Reasoning("own", origin="openai-chat"), Reasoning("other", "sig", None, "anthropic-messages"), Text("x"))
    asked = Prompt((Message("assistant", thoughts),))
    replaying = dispatch(asked, deployment("reasoning_content_replay"), stream=False)
    assert json.loads(replaying.body)["messages"][0]["reasoning_content"] == "own"
    assert replaying.dropped == ("reasoning(assistant)",)
    assert "reasoning" not in json.dumps(json.loads(dispatch(asked, deployment(), stream=False).body))


def test_fields_of_another_dialect_are_dropped_and_reported() -> None:
    asked = Prompt((Message("user", (Text("x"),)),), extra={"thinking": Raw(b"{}"), "safetySettings": Raw(b"[]"), "min_p": Raw(b"0.1")})
    sent = dispatch(asked, deployment(), stream=False)
    assert set(sent.dropped) == {"thinking", "safetySettings"}
    assert json.loads(sent.body)["min_p"] == 0.1
