"""Requests to Gemini generateContent: one case per feature, the expected JSON written out by hand after the vendor's types."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from waypost.core import types as t
from waypost.dialects.gemini import PROVIDER

CAPABLE = frozenset({"tools", "json_schema", "vision", "pdf", "audio", "reasoning"})
HI = t.Message("user", (t.Text("Hi"),))
HI_JSON = [{"role": "user", "parts": [{"text": "Hi"}]}]
WEATHER = t.Tool("weather", "Tells it", Raw(b'{"type":"object","properties":{"city":{"type":"string"}}}'))
CALL = t.ToolCall("c1", "weather", '{"city":"Rome"}')
BASE = "https://generativelanguage.googleapis.com/v1beta"


def deployment(upstream="gemini-2.5-flash", *, capabilities=CAPABLE, drop=(), base_url=BASE) -> t.Deployment:
    return t.Deployment(
        t.ModelCard(name=f"gemini/{upstream}", provider="gemini", upstream=upstream, capabilities=frozenset(capabilities)),
        t.ProviderCard(name="gemini", wire="gemini", base_url=base_url, drop=frozenset(drop)),
    )


THIRD = deployment("gemini-3-pro-preview")


def sent(prompt: t.Prompt, where: t.Deployment | None = None):
    """The body and what was dropped."""
    dispatched = PROVIDER.dispatch(prompt, where or deployment(), stream=False)
    return json.loads(dispatched.body), list(dispatched.dropped)


def prompt(*messages: t.Message, **options) -> t.Prompt:
    return t.Prompt(messages=messages or (HI,), **options)


def user(*parts: t.Part) -> t.Message:
    return t.Message("user", parts)


def assistant(*parts: t.Part) -> t.Message:
    return t.Message("assistant", parts)


def test_the_smallest_request_is_whole():
    assert sent(prompt()) == ({"contents": HI_JSON}, [])


@pytest.mark.parametrize(
    ("base_url", "upstream", "stream", "path"),
    [
        (BASE, "gemini-2.5-flash", False, "/models/gemini-2.5-flash:generateContent"),
        (BASE + "/", "models/gemini-2.5-flash", True, "/models/gemini-2.5-flash:streamGenerateContent?alt=sse"),
        ("http://127.0.0.1:9100", "m", False, "/v1beta/models/m:generateContent"),
        ("https://h/v1/projects/p/locations/l/publishers/google", "m", False, "/models/m:generateContent"),
        (BASE, "a b/ü?x", False, "/models/a%20b%2F%C3%BC%3Fx:generateContent"),
    ],
)
def test_the_path(base_url, upstream, stream, path):
    assert PROVIDER.dispatch(prompt(), deployment(upstream, base_url=base_url), stream=stream).path == path


def test_system_messages_are_hoisted_and_a_late_one_is_reported():
    system = t.Message("system", (t.Text("Be brief"),))
    assert sent(prompt(system, HI)) == ({"systemInstruction": {"parts": [{"text": "Be brief"}]}, "contents": HI_JSON}, [])
    assert sent(prompt(HI, system))[1] == ["system->hoisted"]
    assert sent(prompt(t.Message("system", (t.Text("Hi"),)))) == ({"contents": HI_JSON}, ["system->user"])


PARTS = [
    (t.Image(data="iVBORw0KGgo="), {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}}),
    (t.Image(url="https://e.org/a.webp?x=1"), {"fileData": {"mimeType": "image/webp", "fileUri": "https://e.org/a.webp?x=1"}}),
    (t.Audio("AAAA", "wav"), {"inlineData": {"mimeType": "audio/wav", "data": "AAAA"}}),
    (t.Document(data="JVBERi0="), {"inlineData": {"mimeType": "application/pdf", "data": "JVBERi0="}}),
    (t.Document(url="https://e.org/a.txt"), {"fileData": {"mimeType": "text/plain", "fileUri": "https://e.org/a.txt"}}),
    (t.Document(file_id="files/abc"), {"fileData": {"mimeType": "application/pdf", "fileUri": BASE + "/files/abc"}}),
]


@pytest.mark.parametrize(("part", "written"), PARTS)
def test_media_of_a_user_turn(part, written):
    body, dropped = sent(prompt(user(t.Text("See"), part)))
    assert (body["contents"][0]["parts"], dropped) == ([{"text": "See"}, written], [])


LOST_PARTS = [
    (user(t.Text("x"), t.Document(file_id="file-abc")), "document.file_id"),
    (user(t.Text("x"), t.Document(data="AAAA", name="a.pdf")), "document.name"),
    (user(t.Text("x"), t.Image(url="https://e.org/a", detail="low")), "image.detail"),
    (user(t.Text("x", cache_control=Raw(b"{}"))), "cache_control"),
    (t.Message("system", (t.Image(url="https://e.org/a"),)), "image(system)"),
    (assistant(t.Text("x"), t.Reasoning("foreign", signature="s", origin="anthropic-messages")), "reasoning(assistant)"),
    (t.Message("user", (t.Text("x"),), name="ann"), "name"),
    (user(t.ToolResult("nobody", (t.Text("x"),))), "tool_result.name->unknown"),
]


@pytest.mark.parametrize(("message", "name"), LOST_PARTS)
def test_a_part_that_cannot_be_carried_is_named(message, name):
    assert sent(prompt(message, HI))[1] == [name]


def test_a_tool_loop():
    body, dropped = sent(
        prompt(
            HI,
            assistant(t.Text("Let me see"), t.ToolCall("c1", "weather", '{"city":"Rome"}', signature="c2ln"), t.ToolCall("c2", "f", "")),
            user(t.ToolResult("c1", (t.Text("sunny"), t.Text("warm"), t.Image(data="AAAA", media_type="image/png")))),
            user(t.ToolResult("c2", (t.Text("no"),), is_error=True)),
        )
    )
    assert dropped == []
    assert body["contents"][1:] == [
        {
            "role": "model",
            "parts": [
                {"text": "Let me see"},
                {"functionCall": {"id": "c1", "name": "weather", "args": {"city": "Rome"}}, "thoughtSignature": "c2ln"},
                {"functionCall": {"id": "c2", "name": "f", "args": {}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {
                    "functionResponse": {
                        "id": "c1",
                        "name": "weather",
                        "response": {"output": "sunny\nwarm"},
                        "parts": [{"inlineData": {"mimeType": "image/png", "data": "AAAA"}}],
                    }
                },
                {"functionResponse": {"id": "c2", "name": "f", "response": {"error": "no"}}},
            ],
        },
    ]


def test_calls_of_another_model_pass_the_signature_check_of_gemini_3():
    history = prompt(HI, assistant(CALL, t.ToolCall("c2", "f", "{}")))
    first, second = sent(history, THIRD)[0]["contents"][1]["parts"]
    assert first["thoughtSignature"] == "skip_thought_signature_validator"
    assert "thoughtSignature" not in second
    assert "thoughtSignature" not in sent(history)[0]["contents"][1]["parts"][0]


@pytest.mark.parametrize("arguments", ['{"a":', "[1]", "null"])
def test_arguments_that_are_no_object_are_wrapped_and_reported(arguments):
    body, dropped = sent(prompt(HI, assistant(t.ToolCall("c", "f", arguments))))
    assert body["contents"][1]["parts"][0]["functionCall"]["args"] == {"arguments": arguments}
    assert dropped == ["tool_call.arguments->wrapped"]


def test_own_reasoning_is_replayed_sealed():
    own = assistant(t.Reasoning("hm", signature="c2ln", origin="gemini"), t.Text("Yes"), t.Reasoning(signature="c2Vh", origin="gemini"))
    assert sent(prompt(HI, own))[0]["contents"][1]["parts"] == [
        {"text": "hm", "thought": True, "thoughtSignature": "c2ln"},
        {"text": "Yes"},
        {"text": "", "thoughtSignature": "c2Vh"},
    ]


@pytest.mark.parametrize(
    ("choice", "config"),
    [
        (None, None),
        (t.ToolChoice("auto"), {"mode": "AUTO"}),
        (t.ToolChoice("none"), {"mode": "NONE"}),
        (t.ToolChoice("required"), {"mode": "ANY"}),
        (t.ToolChoice("named", "weather"), {"mode": "ANY", "allowedFunctionNames": ["weather"]}),
    ],
)
def test_tools_and_their_choice(choice, config):
    body, dropped = sent(prompt(tools=(WEATHER, t.Tool("f", strict=True)), tool_choice=choice, parallel_tool_calls=False))
    assert body["tools"] == [
        {
            "functionDeclarations": [
                {
                    "name": "weather",
                    "description": "Tells it",
                    "parametersJsonSchema": {"type": "object", "properties": {"city": {"type": "string"}}},
                },
                {"name": "f"},
            ]
        }
    ]
    assert body.get("toolConfig") == (config and {"functionCallingConfig": config})
    assert dropped == ["parallel_tool_calls", "tools.strict"]


def test_plain_options():
    body, dropped = sent(
        prompt(
            max_output_tokens=10,
            temperature=0.5,
            top_p=0.9,
            top_k=4,
            stop=("a", "b", "c", "d", "e", "f"),
            seed=7,
            presence_penalty=0.1,
            frequency_penalty=0.2,
            n=2,
            user="u",
        )
    )
    assert body["generationConfig"] == {
        "maxOutputTokens": 10,
        "temperature": 0.5,
        "topP": 0.9,
        "topK": 4,
        "seed": 7,
        "presencePenalty": 0.1,
        "frequencyPenalty": 0.2,
        "candidateCount": 2,
        "stopSequences": ["a", "b", "c", "d", "e"],
    }
    assert dropped == ["stop->5", "user"]


def test_what_the_provider_refuses_is_dropped_and_named():
    body, dropped = sent(prompt(seed=7, temperature=0.5, extra={"logprobs": Raw(b"true")}), deployment(drop={"seed", "logprobs", "n"}))
    assert (body["generationConfig"], dropped) == ({"temperature": 0.5}, ["logprobs", "seed"])


SCHEMA = t.ResponseFormat("json_schema", "answer", Raw(b'{"type":"object"}'))
JSON_CONFIG = {"responseMimeType": "application/json", "responseJsonSchema": {"type": "object"}}


@pytest.mark.parametrize(
    ("wish", "tools", "where", "config", "lost"),
    [
        (t.ResponseFormat("text"), (), deployment(), None, []),
        (t.ResponseFormat("json_object"), (), deployment(), {"responseMimeType": "application/json"}, []),
        (SCHEMA, (), deployment(), JSON_CONFIG, []),
        (SCHEMA, (WEATHER,), deployment(), None, ["response_format(tools)"]),
        (SCHEMA, (WEATHER,), THIRD, JSON_CONFIG, []),
    ],
)
def test_structured_output(wish, tools, where, config, lost):
    body, dropped = sent(prompt(response_format=wish, tools=tools), where)
    assert (body.get("generationConfig"), dropped) == (config, lost)


@pytest.mark.parametrize(
    ("where", "options", "config", "lost"),
    [
        (deployment(), {"reasoning_effort": "medium"}, {"includeThoughts": True, "thinkingBudget": 8192}, []),
        (deployment(), {"reasoning_effort": "none"}, {"includeThoughts": False, "thinkingBudget": 0}, []),
        (deployment(), {"reasoning_budget_tokens": 99}, {"includeThoughts": True, "thinkingBudget": 99}, []),
        (
            deployment("gemini-2.5-pro"),
            {"reasoning_effort": "none"},
            {"includeThoughts": False, "thinkingBudget": 128},
            ["reasoning_budget_tokens->128"],
        ),
        (THIRD, {"reasoning_effort": "high"}, {"includeThoughts": True, "thinkingLevel": "HIGH"}, []),
        (THIRD, {"reasoning_effort": "xhigh"}, {"includeThoughts": True, "thinkingLevel": "HIGH"}, ["reasoning_effort->high"]),
        (THIRD, {"reasoning_effort": "none"}, {"includeThoughts": False, "thinkingLevel": "MINIMAL"}, ["reasoning_effort->minimal"]),
        (deployment(capabilities=()), {"reasoning_effort": "low"}, None, ["reasoning_effort"]),
        (deployment(capabilities=()), {"reasoning_effort": "none"}, None, []),
    ],
)
def test_reasoning(where, options, config, lost):
    body, dropped = sent(prompt(**options), where)
    assert (body.get("generationConfig", {}).get("thinkingConfig"), dropped) == (config, lost)


def test_extra_fields():
    extra = {"safety_settings": b"[]", "cachedContent": b'"cachedContents/x"', "service_tier": b'"flex"', "logit_bias": b"{}"}
    body, dropped = sent(prompt(extra={name: Raw(value) for name, value in extra.items()}))
    assert body == {"contents": HI_JSON, "safetySettings": [], "cachedContent": "cachedContents/x", "serviceTier": "flex"}
    assert dropped == ["logit_bias"]


# The law: no part is lost in silence. Each generated part holds a word of its own; it is in the body, or its kind is in `dropped`.

WORDS = st.integers(0, 10**9).map(lambda n: f"w{n:010d}")
LEAVES = st.one_of(
    WORDS.map(t.Text),
    WORDS.map(lambda w: t.Image(url=f"https://e.org/{w}")),
    WORDS.map(lambda w: t.Image(data=w)),
    WORDS.map(lambda w: t.Document(data=w)),
    st.builds(lambda w, p: t.Document(file_id=p + w), WORDS, st.sampled_from(["files/", "file-"])),
)
PART = st.one_of(
    LEAVES,
    WORDS.map(lambda w: t.Audio(w, "wav")),
    WORDS.map(lambda w: t.ToolCall(w, "f", "{}")),
    st.builds(lambda w, p: t.ToolResult(w, tuple(p)), WORDS, st.lists(LEAVES, max_size=2)),
    st.builds(lambda w, s, o: t.Reasoning(w, signature=s, origin=o), WORDS, st.none() | st.just("sig"), st.sampled_from(["gemini", ""])),
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
            return [(t.Document, part.data or (part.file_id or "")[6:])]
        case t.Audio():
            return [(t.Audio, part.data)]


@settings(max_examples=150, deadline=None)
@given(messages=MESSAGES, where=st.sampled_from([deployment(), THIRD]))
def test_no_part_is_dropped_in_silence(messages, where):
    dispatched = PROVIDER.dispatch(t.Prompt(messages=tuple(messages)), where, stream=True)
    body = dispatched.body.decode()
    for message in messages:
        for part in message.parts:
            for kind, word in words_of(part):
                named = any(token.startswith((KIND[kind], KIND[type(part)] + "(")) for token in dispatched.dropped)
                assert word in body or named


# The second law: no option is lost in silence either.

OPTIONS = {
    "temperature": (st.sampled_from([0.1, 1.0, 1.5]), "temperature"),
    "top_p": (st.just(0.3), "topP"),
    "top_k": (st.just(7), "topK"),
    "stop": (st.just(("END",)), "END"),
    "seed": (st.just(5), "seed"),
    "presence_penalty": (st.just(0.2), "presencePenalty"),
    "frequency_penalty": (st.just(0.2), "frequencyPenalty"),
    "n": (st.just(2), "candidateCount"),
    "max_output_tokens": (st.sampled_from([100, 5000]), "maxOutputTokens"),
    "reasoning_effort": (st.sampled_from(["minimal", "low", "high", "max", "odd"]), "thinking"),
    "reasoning_budget_tokens": (st.just(3000), "thinking"),
    "user": (st.just("u-1"), "u-1"),
    "response_format": (st.just(SCHEMA), "responseJsonSchema"),
    "tool_choice": (st.sampled_from([t.ToolChoice("required"), t.ToolChoice("named", "weather")]), "toolConfig"),
    "parallel_tool_calls": (st.just(False), "disable_parallel_tool_use"),
}
WISHES = st.fixed_dictionaries({}, optional={name: values for name, (values, _) in OPTIONS.items()})


@settings(max_examples=200, deadline=None)
@given(wishes=WISHES, tools=st.sampled_from([(), (WEATHER,)]), where=st.sampled_from([deployment(), THIRD, deployment(capabilities=())]))
def test_no_option_is_dropped_in_silence(wishes, tools, where):
    dispatched = PROVIDER.dispatch(prompt(tools=tools, **wishes), where, stream=False)
    body = dispatched.body.decode()
    for name in wishes:
        if name == "parallel_tool_calls" and not tools:
            continue  # means nothing
        assert OPTIONS[name][1] in body or any(token.startswith(name) for token in dispatched.dropped), name
