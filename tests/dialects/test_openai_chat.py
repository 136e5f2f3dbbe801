"""OpenAI chat, the caller's side: what is read, what is refused and how, what survives on the way through."""

import json
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from waypost.core.faults import Refused
from waypost.core.types import Call, Deployment, ModelCard, ProviderCard
from waypost.dialects import UnknownDialect, caller_side, provider_side
from waypost.dialects.openai_chat import CALLER, parameters_of, parse, patch, text_of

HI: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "auto", "messages": HI} | fields).encode()


def deployment(**card: Any) -> Deployment:
    return Deployment(
        model=ModelCard(name="p/m", provider="p", upstream="m-1"),
        provider=ProviderCard(**({"name": "p", "wire": "openai-chat", "base_url": "https://p.test/v1"} | card)),
    )


def refused(raw: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        parse(raw)
    assert caught.value.status == 400
    return caught.value


# --- reading ----------------------------------------------------------------------------------------------------------


def test_a_full_request_is_measured() -> None:
    call = parse(
        body(
            stream=True,
            stream_options={"include_usage": True},
            max_completion_tokens=7,
            n=2,
            models=["a/b", "c/d", "a/b"],
            tools=[{"type": "function", "function": {"name": "f"}}],
            tool_choice="required",
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {}}},
            reasoning_effort="high",
            top_p=0.5,
        )
    )
    assert (call.model, call.stream, call.include_usage, call.max_output_tokens, call.n) == ("auto", True, True, 7, 2)
    assert (call.fallback_models, call.tools, call.forced_tool) == (("a/b", "c/d"), 1, True)
    assert (call.format_kind, call.reasoning, call.turns) == ("json_schema", True, 1)
    assert {"top_p", "tools", "tool_choice", "response_format"} <= parameters_of(call)
    assert call.prompt_tokens > 0


def test_media_are_seen_and_their_base64_is_not_counted_as_text() -> None:
    parts = [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_000_000}},
        {"type": "input_audio", "input_audio": {"data": "QUJD", "format": "wav"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,QUJD"}},
    ]
    call = parse(body(messages=[{"role": "user", "content": parts}]))
    assert call.modalities == {"vision", "audio", "pdf"}
    assert call.prompt_tokens < 4000


@pytest.mark.parametrize(
    ("fields", "wants"),
    [
        ({}, False),
        ({"stream_options": {"include_usage": True}}, True),
        ({"stream_options": {"include_usage": False}, "models": ["a/b"]}, False),
        ({"usage": {"include": True}}, True),
        ({"provider": {"sort": "price"}}, True),
    ],
)
def test_who_sees_the_usage_chunk(fields: dict[str, Any], wants: bool) -> None:
    assert parse(body(stream=True, **fields)).include_usage is wants


def test_text_for_the_classifier_is_the_system_head_and_the_newest_turns() -> None:
    turns = [{"role": "system", "content": "S" * 9000}, {"role": "user", "content": "old " * 9000}]
    turns += [{"role": "assistant", "content": "no"}, {"role": "user", "content": [{"type": "text", "text": "newest"}]}]
    text = text_of(parse(body(messages=turns)))
    assert text.startswith("S" * 100)
    assert text.endswith("newest")
    assert "no\n" not in text
    assert len(text) <= 16 * 1024


# --- refusing ---------------------------------------------------------------------------------------------------------

BAD = [
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [*HI, {"role": "robot", "content": "x"}]}, "messages[1].role"),
    ({"messages": [{"content": "x"}]}, "messages[0]"),
    ({"model": 5}, "model"),
    ({"model": "m" * 300}, "model"),
    ({"n": 0}, "n"),
    ({"n": 128}, "n"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 10**9}, "max_tokens"),
    ({"max_completion_tokens": "5"}, "max_completion_tokens"),
    ({"temperature": 2.5}, "temperature"),
    ({"top_p": -1}, "top_p"),
    ({"stop": ["x"] * 17}, "stop"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}] * 513}, "tools"),
    ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function"),
    ({"response_format": {"type": "yaml"}}, "response_format.type"),
    ({"tool_choice": "maybe"}, "tool_choice"),
    ({"reasoning_effort": "low", "reasoning": {"effort": "high"}}, "reasoning_effort"),
    ({"stream": "yes"}, "stream"),
]


@pytest.mark.parametrize(("fields", "param"), BAD)
def test_a_wrong_field_is_named(fields: dict[str, Any], param: str) -> None:
    refusal = refused(body(**fields))
    assert refusal.param == param
    assert param in refusal.message


def test_the_value_seen_and_the_fix_stand_in_the_message() -> None:
    assert "got 128" in refused(body(n=128)).message
    assert "1 to 8" in refused(body(n=128)).message


def test_a_refusal_never_quotes_the_prompt() -> None:
    assert "canary" not in refused(body(messages=[{"role": "user", "content": {"canary": 1}}])).message


@pytest.mark.parametrize(
    ("raw", "code", "word"),
    [
        (b"", "invalid_json", "JSON"),
        (b'{"model": "a", }', "invalid_json", "byte 15"),
        (b"[1]", "invalid_json", "object"),
        (b'"hi"', "invalid_json", "object"),
        (b'{"messages":[{"role":"user","content":"\xff"}]}', "invalid_json", "byte 39"),
        (b'{"messages":[{"role":"user","content":"\\ud800"}]}', "invalid_json", "surrogate"),
        (b'{"messages":[{"role":"user","content":"a"}],"x":"\xff"}', "invalid_json", "byte 49"),
        (b'{"model":"a"}', "missing_field", "messages"),
        (b'{"model":"a","input":"hi"}', "missing_field", "/v1/responses"),
        (b'{"messages":[{"role":"user","content":"a"}],"x":' + b"[" * 65 + b"]" * 65 + b"}", "too_deep", "64"),
        (b'{"messages":[{"role":"user","content":"a"}],"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "too_deep", "64"),
        (b'{"messages":[{"role":"user","content":"a"}]' + b"".join(b',"k%d":1' % i for i in range(300)) + b"}", "too_large", "256"),
    ],
)
def test_a_body_that_is_no_request_is_refused(raw: bytes, code: str, word: str) -> None:
    refusal = refused(raw)
    assert refusal.code == code
    assert word in refusal.message


@pytest.mark.parametrize("text", ["[" * 500, "{" * 70 + "]" * 70, '\\"[' * 200, "f(x) { a[0] = [1, 2]; }" * 50])
def test_brackets_inside_strings_are_not_depth(text: str) -> None:
    assert parse(body(messages=[{"role": "user", "content": text}])).turns == 1


def test_sixty_four_levels_are_accepted() -> None:
    assert parse(b'{"messages":[{"role":"user","content":"a"}],"x":' + b"[" * 63 + b"]" * 63 + b"}").turns == 1


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "name"]), inner, max_size=3)
    ),
    max_leaves=8,
)
_NAMES = ["model", "messages", "stream", "n", "tools", "stop", "tool_choice", "reasoning", "models", "usage", "response_format", "input"]
_MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "tool"])}, optional={"content": _json, "tool_calls": _json}
    ),
    max_size=3,
)


@settings(max_examples=200)
@given(st.dictionaries(st.sampled_from(_NAMES), _json, max_size=5), st.none() | _MESSAGES)
def test_parse_and_prompt_raise_nothing_but_refused(fields: dict[str, Any], messages: list[Any] | None) -> None:
    if messages is not None:
        fields["messages"] = messages
    try:
        call = parse(json.dumps(fields).encode())
        text_of(call)
        CALLER.prompt(call)
    except Refused as refusal:
        assert refusal.status == 400
        json.loads(CALLER.refusal(refusal, request_id="r"))


@settings(max_examples=200)
@given(st.binary(max_size=60) | st.text(max_size=40).map(lambda text: b'{"messages":' + text.encode("utf-8", "surrogatepass")))
def test_parse_of_arbitrary_bytes_raises_nothing_but_refused(raw: bytes) -> None:
    with pytest.raises(Refused):
        parse(raw)


def test_large_refusals_are_quick() -> None:
    raw = b'{"messages":[{"role":"user","content":"' + b"[" * 2_000_000 + b'"}],"n":99}'
    start = time.process_time()
    refused(raw)
    assert time.process_time() - start < 1.0  # linear: milliseconds here; quadratic would be minutes


# --- handing on -------------------------------------------------------------------------------------------------------


def sent(call: Call, target: Deployment | None = None, *, stream: bool = False) -> dict[str, Raw]:
    return msgspec.json.decode(patch(call, target or deployment(), stream=stream).body, type=dict[str, Raw])


_fields = st.dictionaries(st.text(min_size=1, max_size=8).map("x_".__add__), _json, max_size=5)


@settings(max_examples=100)
@given(_fields)
def test_unknown_fields_survive_byte_for_byte(fields: dict[str, Any]) -> None:
    raw = json.dumps({"messages": HI} | fields, indent=1).encode()
    call = parse(raw)
    after = sent(call)
    for name in fields:
        assert bytes(after[name]) == bytes(call.fields[name])
    assert bytes(after["messages"]) == bytes(call.fields["messages"])


def test_our_own_fields_are_not_sent_on_and_the_model_is_the_upstreams() -> None:
    call = parse(body(waypost={"a": 1}, models=["a/b"], provider={}, route="fallback", plugins=[], session_id="s", usage={"include": True}))
    assert sent(call).keys() == {"model", "messages"}
    assert bytes(sent(call)["model"]) == b'"m-1"'


@pytest.mark.parametrize(
    "text",
    [
        '{"model":"m","messages":[{"role":"user","content":"hi"}]}',
        '{"messages":[{"role":"user","content":"\\"model\\":\\"m\\""}],"model": "m"}',
        '{"model" : "m","messages":[{"role":"user","content":"hi","model":"m"}]}',
        '{"metadata":{"model":"m"},"model"  :"m","messages":[{"role":"user","content":"hi"}]}',
        '{"user":"model","model":"m","messages":[{"role":"user","content":"hi"}]}',
        '{"model":\n"m","messages":[{"role":"user","content":"hi"}]}',
        '{"model":"\\u006d","messages":[{"role":"user","content":"hi"}]}',
    ],
)
def test_only_the_top_level_model_is_renamed_wherever_else_the_word_stands(text: str) -> None:
    sent = json.loads(patch(parse(text.encode()), deployment(), stream=False).body)
    assert sent == json.loads(text) | {"model": deployment().model.upstream}


@pytest.mark.parametrize(
    ("fields", "stream", "quirks", "after"),
    [
        ({"stream": True}, True, [], {"stream": True, "stream_options": {"include_usage": True}}),
        ({"stream": True, "stream_options": {"x": 1}}, True, [], {"stream": True, "stream_options": {"x": 1, "include_usage": True}}),
        ({"stream": True, "stream_options": None}, True, [], {"stream": True, "stream_options": {"include_usage": True}}),
        ({"stream": True}, True, ["no_stream_options"], {"stream": True}),
        ({}, True, [], {"stream": True, "stream_options": {"include_usage": True}}),
        ({"stream": True, "stream_options": {}}, False, [], {"stream": False}),
        ({"stream": False}, False, [], {"stream": False}),
        ({"max_tokens": 5}, False, ["max_completion_tokens_only"], {"max_completion_tokens": 5}),
        ({"max_tokens": 5, "max_completion_tokens": 6}, False, ["max_completion_tokens_only"], {"max_completion_tokens": 6}),
        ({"reasoning": {"effort": "low"}}, False, [], {"reasoning_effort": "low"}),
        ({"reasoning": {"effort": "low"}}, False, ["reasoning_field"], {"reasoning": {"effort": "low"}}),
        ({"tool_choice": "required"}, False, ["no_tool_choice_required"], {"tool_choice": "auto"}),
    ],
)
def test_switches_and_quirks(fields: dict[str, Any], stream: bool, quirks: list[str], after: dict[str, Any]) -> None:
    patched = json.loads(patch(parse(body(**fields)), deployment(quirks=frozenset(quirks)), stream=stream).body)
    assert {name: value for name, value in patched.items() if name not in ("model", "messages")} == after


def test_renamed_and_refused_parameters_follow_the_card_and_drops_are_reported() -> None:
    target = deployment(rename=(("seed", "random_seed"),), drop=frozenset({"logit_bias", "user", "stream_options"}))
    dispatch = patch(parse(body(seed=1, logit_bias={}, user="u", stream=True)), target, stream=True)
    assert json.loads(dispatch.body) == {"model": "m-1", "messages": HI, "random_seed": 1, "stream": True}
    assert dispatch.dropped == ("logit_bias", "user")


def test_quirks_of_messages_and_tools() -> None:
    quirks = frozenset({"strips_strict", "name_only_on_tool", "no_empty_assistant", "one_system_message"})
    turns = [
        {"role": "user", "content": "a", "name": "bob"},
        {"role": "assistant", "content": ""},
        {"role": "system", "content": "s1"},
        {"role": "tool", "tool_call_id": "1", "name": "f", "content": "x"},
        {"role": "developer", "content": [{"type": "text", "text": "s2"}]},
    ]
    schema = {"type": "object", "additionalProperties": False, "properties": {"a": {"type": "object", "additionalProperties": True}}}
    tools = [{"type": "function", "function": {"name": "f", "strict": True, "parameters": schema}}]
    dispatch = patch(parse(body(messages=turns, tools=tools)), deployment(quirks=quirks), stream=False)
    after = json.loads(dispatch.body)
    assert after["messages"] == [{"role": "system", "content": "s1\n\ns2"}, {"role": "user", "content": "a"}, turns[3]]
    assert after["tools"] == [
        {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "object"}}}}}
    ]
    assert len(dispatch.dropped) == 4


def test_depth_hidden_behind_brackets_in_strings_is_refused_where_it_would_hurt() -> None:
    deep = b'["]",' * 900 + b"1" + b"]" * 900
    raw = b'{"messages":[{"role":"user","content":"a"}],"tools":[{"function":{"name":"f","strict":true,"parameters":' + deep + b"}}]}"
    with pytest.raises(Refused, match="deep"):
        patch(parse(raw), deployment(quirks=frozenset({"strips_strict"})), stream=False)


def test_both_sides_are_found_by_wire_name() -> None:
    assert caller_side("openai-chat") is CALLER
    assert provider_side("openai-chat").reply(b"") is not None
    with pytest.raises(UnknownDialect, match="openai-chat"):
        provider_side("openai-responses")
