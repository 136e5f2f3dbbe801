"""Requests to Anthropic Messages: one case per feature, the expected JSON written out by hand after the vendor's types."""

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.structs import replace

from waypost.core import types as t
from waypost.dialects.anthropic_messages import PROVIDER
from waypost.dialects.anthropic_request import generation

CAPABLE = frozenset({"tools", "json_schema", "vision", "pdf", "reasoning", "prefill"})
HI = t.Message("user", (t.Text("Hi"),))
HI_JSON = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
WEATHER = t.Tool("weather", "Tells it", Raw(b'{"type":"object","properties":{"city":{"type":"string"}}}'))
WEATHER_JSON = {
    "name": "weather",
    "description": "Tells it",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALL = t.ToolCall("call_1", "weather", '{"city":"Rome"}')
CALL_JSON = {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Rome"}}
MARK = Raw(b'{"type":"ephemeral"}')


def deployment(
    upstream="claude-sonnet-4-5", *, capabilities=CAPABLE, quirks=(), drop=(), base_url="https://api.anthropic.com", most=64000
) -> t.Deployment:
    return t.Deployment(
        t.ModelCard(
            name=f"anthropic/{upstream}",
            provider="anthropic",
            upstream=upstream,
            capabilities=frozenset(capabilities),
            max_output_tokens=most,
        ),
        t.ProviderCard(name="anthropic", wire="anthropic-messages", base_url=base_url, quirks=frozenset(quirks), drop=frozenset(drop)),
    )


def sent(prompt: t.Prompt, where: t.Deployment | None = None, stream=False):
    """The body and what was dropped."""
    dispatched = PROVIDER.dispatch(prompt, where or deployment(), stream=stream)
    return json.loads(dispatched.body), list(dispatched.dropped)


def version_of(prompt: t.Prompt, where: t.Deployment) -> str:
    return dict(PROVIDER.dispatch(prompt, where, stream=False).headers)[b"anthropic-version"].decode()


def prompt(*messages: t.Message, **options) -> t.Prompt:
    return t.Prompt(messages=messages or (HI,), **options)


def user(*parts: t.Part) -> t.Message:
    return t.Message("user", parts)


def assistant(*parts: t.Part) -> t.Message:
    return t.Message("assistant", parts)


def test_the_smallest_request_is_whole():
    assert sent(prompt()) == ({"model": "claude-sonnet-4-5", "max_tokens": 64000, "messages": HI_JSON}, [])


def test_a_stream_is_asked_for():
    assert sent(prompt(), stream=True)[0]["stream"] is True


@pytest.mark.parametrize(
    ("base_url", "path"),
    [("https://api.anthropic.com", "/v1/messages"), ("http://127.0.0.1:9100/v1", "/messages"), ("http://h/v1/", "/messages")],
)
def test_the_path_does_not_double_the_version(base_url, path):
    assert PROVIDER.dispatch(prompt(), deployment(base_url=base_url), stream=False).path == path


def test_system_messages_are_hoisted_and_a_late_one_is_reported():
    early = prompt(t.Message("system", (t.Text("Be brief", cache_control=MARK),)), HI)
    assert sent(early) == (
        {
            "model": "claude-sonnet-4-5",
            "max_tokens": 64000,
            "system": [{"type": "text", "text": "Be brief", "cache_control": {"type": "ephemeral"}}],
            "messages": HI_JSON,
        },
        [],
    )
    body, dropped = sent(prompt(HI, t.Message("system", (t.Text("Now in Latin"),))))
    assert body["system"] == [{"type": "text", "text": "Now in Latin"}]
    assert dropped == ["system->hoisted"]


def test_a_prompt_of_system_only_becomes_a_user_turn():
    body, dropped = sent(prompt(t.Message("system", (t.Text("Hi"),))))
    assert (body["messages"], "system" in body, dropped) == (HI_JSON, False, ["system->user"])


PARTS = [
    (t.Image(data="iVBORw0KGgo="), {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}),
    (
        t.Image(data="AAAA", media_type="image/webp", cache_control=MARK),
        {
            "type": "image",
            "source": {"type": "base64", "media_type": "image/webp", "data": "AAAA"},
            "cache_control": {"type": "ephemeral"},
        },
    ),
    (t.Image(url="https://e.org/a.png"), {"type": "image", "source": {"type": "url", "url": "https://e.org/a.png"}}),
    (
        t.Document(data="JVBERi0=", name="a.pdf"),
        {"type": "document", "title": "a.pdf", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}},
    ),
    (t.Document(url="https://e.org/a.pdf"), {"type": "document", "source": {"type": "url", "url": "https://e.org/a.pdf"}}),
    (t.Document(file_id="file_011"), {"type": "document", "source": {"type": "file", "file_id": "file_011"}}),
    (
        t.Document(data=base64.b64encode("süß".encode()).decode(), media_type="text/csv"),
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "süß"}},
    ),
]


@pytest.mark.parametrize(("part", "block"), PARTS)
def test_media_of_a_user_turn(part, block):
    body, dropped = sent(prompt(user(t.Text("See"), part)))
    assert (body["messages"][0]["content"], dropped) == ([{"type": "text", "text": "See"}, block], [])


LOST_PARTS = [
    (user(t.Text("x"), t.Audio("AAAA", "wav")), "audio(user)"),
    (user(t.Text("x"), t.Image(data="AAAA", media_type="image/bmp")), "image(image/bmp)"),
    (user(t.Text("x"), t.Document(data="AAAA", media_type="application/zip")), "document(application/zip)"),
    (user(t.Text("x"), t.Document(file_id="file-abc")), "document.file_id"),
    (user(t.Text("x"), t.Image(url="https://e.org/a", detail="high")), "image.detail"),
    (user(t.Text("x"), CALL), "tool_call(user)"),
    (user(t.Text("x"), t.Text(" \n")), "text(blank)"),
    (t.Message("system", (t.Image(url="https://e.org/a"),)), "image(system)"),
    (assistant(t.Text("x"), t.Document(url="https://e.org/a.pdf")), "document(assistant)"),
    (assistant(t.Text("x"), t.Reasoning("thought", signature="s", origin="gemini")), "reasoning(assistant)"),
    (assistant(t.Text("x"), t.Reasoning("unsealed", origin="anthropic-messages")), "reasoning(assistant)"),
    (assistant(replace(CALL, signature="sig")), "tool_call.signature"),
    (t.Message("user", (t.Text("x"),), name="ann"), "name"),
]


@pytest.mark.parametrize(("message", "name"), LOST_PARTS)
def test_a_part_that_cannot_be_carried_is_named(message, name):
    assert sent(prompt(message, HI))[1] == [name]


def test_equal_neighbours_become_one_turn_and_parallel_results_come_first():
    body, dropped = sent(
        prompt(
            user(t.Text("Hi")),
            assistant(t.Text("Let me see")),
            assistant(CALL, t.ToolCall("functions.f:1", "f", "")),
            user(t.Text("and"), t.ToolResult("call_1", (t.Text("sunny"), t.Image(url="https://e.org/sun")))),
            user(t.ToolResult("functions.f:1", (), is_error=True, cache_control=MARK)),
        )
    )
    assert dropped == []
    assert body["messages"] == [
        *HI_JSON,
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Let me see"},
                CALL_JSON,
                {"type": "tool_use", "id": "functions_f_1", "name": "f", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "call_1",
                    "content": [
                        {"type": "text", "text": "sunny"},
                        {"type": "image", "source": {"type": "url", "url": "https://e.org/sun"}},
                    ],
                },
                {"type": "tool_result", "tool_use_id": "functions_f_1", "is_error": True, "cache_control": {"type": "ephemeral"}},
                {"type": "text", "text": "and"},
            ],
        },
    ]


@pytest.mark.parametrize("arguments", ['{"a":', "[1]", '"text"', "null"])
def test_arguments_that_are_no_object_are_wrapped_and_reported(arguments):
    body, dropped = sent(prompt(HI, assistant(t.ToolCall("c", "f", arguments)), HI))
    assert body["messages"][1]["content"][0]["input"] == {"arguments": arguments}
    assert dropped == ["tool_call.arguments->wrapped"]


def test_own_reasoning_is_replayed_sealed():
    own = assistant(
        t.Reasoning("hm", signature="sig", origin="anthropic-messages"),
        t.Reasoning(redacted="xyz", origin="anthropic-messages"),
        t.Text("Yes"),
    )
    body, dropped = sent(prompt(HI, own, HI))
    assert dropped == []
    assert body["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "redacted_thinking", "data": "xyz"},
        {"type": "text", "text": "Yes"},
    ]


def test_a_refusal_is_replayed_as_text():
    assert sent(prompt(HI, assistant(t.Refusal("No")), HI))[0]["messages"][1]["content"] == [{"type": "text", "text": "No"}]


def test_prefill_is_a_capability():
    asked = prompt(HI, assistant(t.Text("The answer is ")))
    assert sent(asked)[0]["messages"][-1] == {"role": "assistant", "content": [{"type": "text", "text": "The answer is"}]}
    body, dropped = sent(asked, deployment(capabilities=CAPABLE - {"prefill"}))
    assert (body["messages"], dropped) == (HI_JSON, ["prefill"])


@pytest.mark.parametrize(
    ("options", "choice"),
    [
        ({}, None),
        ({"tool_choice": t.ToolChoice("auto")}, {"type": "auto"}),
        ({"tool_choice": t.ToolChoice("none")}, {"type": "none"}),
        ({"tool_choice": t.ToolChoice("required")}, {"type": "any"}),
        ({"tool_choice": t.ToolChoice("named", "weather")}, {"type": "tool", "name": "weather"}),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        (
            {"parallel_tool_calls": False, "tool_choice": t.ToolChoice("required")},
            {"type": "any", "disable_parallel_tool_use": True},
        ),
        ({"parallel_tool_calls": False, "tool_choice": t.ToolChoice("none")}, {"type": "none"}),
        ({"parallel_tool_calls": True}, None),
    ],
)
def test_tools_and_their_choice(options, choice):
    body, dropped = sent(prompt(tools=(WEATHER,), **options))
    assert (body["tools"], body.get("tool_choice"), dropped) == ([WEATHER_JSON], choice, [])


@pytest.mark.parametrize(
    ("parameters", "schema"),
    [
        (None, {"type": "object", "properties": {}}),
        (b"{}", {"type": "object"}),
        (b'{"properties":{}}', {"type": "object", "properties": {}}),
        (b'{"type":"object","$defs":{"a":{}}}', {"type": "object", "$defs": {"a": {}}}),
    ],
)
def test_a_tool_always_has_an_object_schema(parameters, schema):
    tool = t.Tool("f", parameters=Raw(parameters) if parameters else None, strict=True, cache_control=MARK)
    assert sent(prompt(tools=(tool,)))[0]["tools"] == [
        {"name": "f", "input_schema": schema, "strict": True, "cache_control": {"type": "ephemeral"}}
    ]


SCHEMA = t.ResponseFormat("json_schema", "answer", Raw(b'{"type":"object"}'), True)


def test_a_schema_goes_out_natively_where_the_model_has_it():
    body, dropped = sent(prompt(response_format=SCHEMA))
    assert body["output_config"] == {"format": {"type": "json_schema", "schema": {"type": "object"}}}
    assert dropped == []


@pytest.mark.parametrize("wish", [SCHEMA, t.ResponseFormat("json_object")])
def test_a_format_without_native_support_is_asked_for_in_words_and_reported(wish):
    body, dropped = sent(prompt(response_format=wish), deployment(capabilities={"tools"}))
    assert dropped == ["response_format->instruction"]
    assert "output_config" not in body
    assert body["system"][-1]["text"].startswith("Answer with one valid JSON object")
    assert ('{"type":"object"}' in body["system"][-1]["text"]) == (wish is SCHEMA)


@pytest.mark.parametrize(
    ("wish", "most", "max_tokens", "lost"),
    [(None, None, 8192, []), (None, 64000, 64000, []), (100, 64000, 100, []), (99999, 64000, 64000, ["max_output_tokens->64000"])],
)
def test_max_tokens_is_always_there_and_within_the_model(wish, most, max_tokens, lost):
    body, dropped = sent(prompt(max_output_tokens=wish), deployment(most=most))
    assert (body["max_tokens"], dropped) == (max_tokens, lost)


def test_plain_options():
    body, dropped = sent(prompt(stop=("END", " "), top_k=40, temperature=0.5, user="u-1"))
    assert (body["stop_sequences"], body["top_k"], body["temperature"]) == (["END"], 40, 0.5)
    assert (body["metadata"], dropped) == ({"user_id": "u-1"}, ["stop(blank)"])


OLD, NEW = deployment("claude-3-5-haiku-20241022"), deployment("claude-opus-4-7")


@pytest.mark.parametrize(
    ("where", "options", "kept", "lost"),
    [
        (OLD, {"temperature": 1.7, "top_p": 0.5}, {"temperature": 1, "top_p": 0.5}, ["temperature->1"]),
        (deployment(), {"temperature": 0.2, "top_p": 0.5}, {"temperature": 0.2}, ["top_p"]),
        (NEW, {"temperature": 0.2, "top_p": 0.5, "top_k": 3}, {}, ["temperature", "top_p", "top_k"]),
        (
            deployment(),
            {"temperature": 0.2, "top_p": 0.5, "top_k": 3, "reasoning_effort": "low"},
            {},
            ["temperature", "top_p", "top_k"],
        ),
        (deployment(), {"temperature": 1, "reasoning_effort": "low"}, {"temperature": 1}, []),
        (deployment(drop={"temperature"}), {"temperature": 0.2}, {}, ["temperature"]),
    ],
)
def test_sampling_is_kept_where_the_model_takes_it(where, options, kept, lost):
    body, dropped = sent(prompt(**options), where)
    assert ({name: body[name] for name in ("temperature", "top_p", "top_k") if name in body}, dropped) == (kept, lost)


def test_the_newer_version_is_spoken_unless_the_caller_samples():
    newer = deployment(quirks={"anthropic-2026-10-21"})
    assert version_of(prompt(), newer) == "2026-10-21"
    assert version_of(prompt(temperature=0.2), newer) == "2023-06-01"
    assert version_of(prompt(temperature=0.2), deployment("claude-opus-5", quirks={"anthropic-2026-10-21"})) == "2026-10-21"
    assert version_of(prompt(), deployment()) == "2023-06-01"


@pytest.mark.parametrize(
    ("where", "options", "expected", "lost"),
    [
        (deployment(most=10000), {"reasoning_effort": "medium"}, {"thinking": {"type": "enabled", "budget_tokens": 5000}}, []),
        (deployment(), {"reasoning_budget_tokens": 2000}, {"thinking": {"type": "enabled", "budget_tokens": 2000}}, []),
        (
            deployment(),
            {"reasoning_budget_tokens": 9000, "max_output_tokens": 2000},
            {"thinking": {"type": "enabled", "budget_tokens": 1900}},
            ["reasoning_budget_tokens->1900"],
        ),
        (
            deployment(),
            {"reasoning_effort": "high", "max_output_tokens": 1025},
            {"thinking": {"type": "enabled", "budget_tokens": 1024}},
            [],
        ),
        (deployment(), {"reasoning_effort": "high", "max_output_tokens": 1024}, {}, ["reasoning_effort(max_output_tokens)"]),
        (deployment(), {"reasoning_effort": "none"}, {}, []),
        (deployment(capabilities={"tools"}), {"reasoning_effort": "low"}, {}, ["reasoning_effort"]),
        (
            deployment("claude-opus-4-6"),
            {"reasoning_effort": "high"},
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
            [],
        ),
        (
            NEW,
            {"reasoning_effort": "minimal", "reasoning_budget_tokens": 5000},
            {"thinking": {"type": "adaptive", "display": "summarized"}, "output_config": {"effort": "low"}},
            ["reasoning_budget_tokens", "reasoning_effort->low"],
        ),
        (
            deployment(),
            {"reasoning_effort": "low", "tools": (WEATHER,), "tool_choice": t.ToolChoice("required")},
            {},
            ["reasoning_effort(tool_choice)"],
        ),
    ],
)
def test_reasoning(where, options, expected, lost):
    body, dropped = sent(prompt(**options), where)
    assert ({name: body[name] for name in ("thinking", "output_config") if name in body}, dropped) == (expected, lost)


def test_the_callers_own_thinking_wins():
    own = {"thinking": Raw(b'{"type":"enabled","budget_tokens":2000}')}
    body, dropped = sent(prompt(extra=own, reasoning_effort="high", temperature=0.5))
    assert body["thinking"] == {"type": "enabled", "budget_tokens": 2000}
    assert dropped == ["reasoning_effort(thinking)", "temperature"]
    assert sent(prompt(extra={"thinking": Raw(b'{"type":"disabled"}')}, temperature=0.5))[1] == []


def test_effort_and_format_share_the_output_config():
    body, _ = sent(prompt(reasoning_effort="high", response_format=SCHEMA), deployment("claude-opus-4-6"))
    assert body["output_config"] == {"effort": "high", "format": {"type": "json_schema", "schema": {"type": "object"}}}


def test_a_tool_loop_begun_elsewhere_is_not_resumed_with_thinking():
    foreign = prompt(HI, assistant(CALL), user(t.ToolResult("call_1", (t.Text("sunny"),))), reasoning_effort="low")
    body, dropped = sent(foreign)
    assert ("thinking" in body, dropped) == (False, ["reasoning_effort(unsigned history)"])
    own = replace(
        foreign,
        messages=(HI, assistant(t.Reasoning("hm", signature="s", origin="anthropic-messages"), CALL), foreign.messages[2]),
    )
    assert "thinking" in sent(own)[0]


def test_what_the_wire_has_no_word_for_is_dropped_and_named():
    _, dropped = sent(
        prompt(
            seed=1,
            presence_penalty=0.5,
            frequency_penalty=0.5,
            n=2,
            tool_choice=t.ToolChoice("required"),
            extra={"logit_bias": Raw(b"{}"), "mcp_servers": Raw(b"[]")},
        )
    )
    assert dropped == ["tool_choice", "logit_bias", "mcp_servers", "seed", "presence_penalty", "frequency_penalty", "n"]


@pytest.mark.parametrize(
    ("extra", "expected", "lost"),
    [
        ({"service_tier": b'"default"'}, {"service_tier": "standard_only"}, []),
        ({"service_tier": b'"flex"'}, {}, ["service_tier"]),
        ({"service_tier": b"7"}, {}, ["service_tier"]),
        ({"metadata": b'{"user_id":"u","team":"x"}'}, {"metadata": {"user_id": "u"}}, ["metadata"]),
        ({"metadata": b"[1]"}, {}, []),
        ({"thinking": b'{"type":"disabled"}'}, {"thinking": {"type": "disabled"}}, []),
        ({"container": b'"c1"'}, {"container": "c1"}, []),
        ({"logit_bias": b"null"}, {}, []),
    ],
)
def test_extra_fields(extra, expected, lost):
    body, dropped = sent(prompt(extra={name: Raw(value) for name, value in extra.items()}))
    plain = sent(prompt())[0]
    assert ({name: value for name, value in body.items() if name not in plain}, dropped) == (expected, lost)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("claude-opus-4-7", (4, 7)),
        ("claude-sonnet-4-20250514", (4, 0)),
        ("claude-sonnet-4-5-20250929", (4, 5)),
        ("claude-3-5-haiku-20241022", (3, 5)),
        ("claude-3-haiku-20240307", (3, 0)),
        ("anthropic.claude-opus-4-6-v1:0", (4, 6)),
        ("claude-opus-4.6", (4, 6)),
        ("claude-fable-5", (5, 0)),
        ("deepseek-chat", None),
        ("claude-mythos-preview", None),
    ],
)
def test_the_generation_is_read_from_the_name(name, found):
    assert generation(name) == found


# The law: no part is lost in silence. Each generated part holds a word of its own; it is in the body, or its kind is in `dropped`.

WORDS = st.integers(0, 10**9).map(lambda n: f"w{n:010d}")
SIGNED = st.sampled_from(["anthropic-messages", "gemini", ""])
LEAVES = st.one_of(
    WORDS.map(t.Text),
    WORDS.map(lambda w: t.Image(url=f"https://e.org/{w}")),
    st.builds(lambda w, m: t.Image(data=w, media_type=m), WORDS, st.sampled_from([None, "image/png", "image/tiff"])),
    st.builds(lambda w, m: t.Document(data=w, media_type=m), WORDS, st.sampled_from([None, "text/plain", "application/zip"])),
    st.builds(lambda w, p: t.Document(file_id=p + w), WORDS, st.sampled_from(["file_", "file-"])),
)
PART = st.one_of(
    LEAVES,
    WORDS.map(lambda w: t.Audio(w, "wav")),
    WORDS.map(lambda w: t.ToolCall(w, "f", "{}")),
    st.builds(lambda w, p: t.ToolResult(w, tuple(p)), WORDS, st.lists(LEAVES, max_size=2)),
    st.builds(lambda w, s, o: t.Reasoning(w, signature=s, origin=o), WORDS, st.none() | st.just("sig"), SIGNED),
    WORDS.map(t.Refusal),
)
MESSAGES = st.lists(
    st.builds(
        lambda role, parts: t.Message(role, tuple(parts)), st.sampled_from(["system", "user", "assistant"]), st.lists(PART, max_size=4)
    ),
    max_size=6,
)
KIND = {
    t.Text: "text",
    t.Image: "image",
    t.Audio: "audio",
    t.Document: "document",
    t.ToolCall: "tool_call",
    t.ToolResult: "tool_result",
    t.Reasoning: "reasoning",
    t.Refusal: "refusal",
}


def words_of(part: t.Part) -> list[tuple[type, str]]:
    match part:
        case t.ToolResult():
            return [(t.ToolResult, part.call_id), *(pair for inner in part.parts for pair in words_of(inner))]
        case t.Text() | t.Refusal() | t.Reasoning():
            return [(type(part), part.text)]
        case t.ToolCall():
            return [(t.ToolCall, part.id)]
        case t.Image():
            return [(t.Image, part.data or (part.url or "").rsplit("/", 1)[-1])]
        case t.Document():
            return [(t.Document, part.data or (part.file_id or "")[5:])]
        case t.Audio():
            return [(t.Audio, part.data)]


@settings(max_examples=150, deadline=None)
@given(messages=MESSAGES, capable=st.booleans())
def test_no_part_is_dropped_in_silence(messages, capable):
    dispatched = PROVIDER.dispatch(
        t.Prompt(messages=tuple(messages)), deployment(capabilities=CAPABLE if capable else frozenset()), stream=True
    )
    body = dispatched.body.decode()
    for message in messages:
        for part in message.parts:
            for kind, word in words_of(part):
                named = any(token.startswith((KIND[kind], KIND[type(part)])) for token in dispatched.dropped)
                prefill = message.role == "assistant" and "prefill" in dispatched.dropped
                assert word in body or named or prefill or as_text(word) in body


def as_text(data: str) -> str:
    """How a text document of base64 `data` stands in the body."""
    try:
        return json.dumps(base64.b64decode(data, validate=True).decode(), ensure_ascii=False)
    except ValueError:
        return "\0"


# The second law: no option is lost in silence either.

OPTIONS = {
    "temperature": (st.sampled_from([0.1, 1.0, 1.5]), "temperature"),
    "top_p": (st.just(0.3), "top_p"),
    "top_k": (st.just(7), "top_k"),
    "stop": (st.just(("END",)), "END"),
    "seed": (st.just(5), "seed"),
    "presence_penalty": (st.just(0.2), "presencePenalty"),
    "frequency_penalty": (st.just(0.2), "frequencyPenalty"),
    "n": (st.just(2), "candidateCount"),
    "max_output_tokens": (st.sampled_from([100, 5000]), "max_tokens"),
    "reasoning_effort": (st.sampled_from(["minimal", "low", "high", "max", "odd"]), "thinking"),
    "reasoning_budget_tokens": (st.just(3000), "thinking"),
    "user": (st.just("u-1"), "u-1"),
    "response_format": (st.just(SCHEMA), "output_config"),
    "tool_choice": (st.sampled_from([t.ToolChoice("required"), t.ToolChoice("named", "weather")]), "tool_choice"),
    "parallel_tool_calls": (st.just(False), "disable_parallel_tool_use"),
}
WISHES = st.fixed_dictionaries({}, optional={name: values for name, (values, _) in OPTIONS.items()})


@settings(max_examples=200, deadline=None)
@given(wishes=WISHES, tools=st.sampled_from([(), (WEATHER,)]), where=st.sampled_from([deployment(), OLD, NEW, deployment(capabilities=())]))
def test_no_option_is_dropped_in_silence(wishes, tools, where):
    dispatched = PROVIDER.dispatch(prompt(tools=tools, **wishes), where, stream=False)
    body = dispatched.body.decode()
    for name in wishes:
        if name == "parallel_tool_calls" and not tools:
            continue  # means nothing
        assert OPTIONS[name][1] in body or any(token.startswith(name) for token in dispatched.dropped), name
