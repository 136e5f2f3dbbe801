"""The official OpenAI SDK against the gateway, before providers of each wire: what applications really do."""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from e2e_kit import HOME, SECRET, WIRES, Serving, chat, model, provider, request
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel

from waypost.sim.provider import Simulator
from waypost.sim.texts import verify, verify_prefix

CAPABLE = 'capabilities = ["tools", "json_schema", "json_object", "vision", "reasoning"]\ncontext_tokens = 100000'
SCRIPTS = {
    "plain": "m.ok-n20",
    "tool": "m.tool",
    "tools2": "m.tools2",
    "think": "m.think-n30",
    "json": "m.json-n200",
    "cut": "m.cut-5-n20",
    "error": "m.error-5-n20",
    "bad": "m.fail-400",
    "busy": "m.fail-429-ra60",
    "down": "m.fail-503",
}
PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
USER: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Tell me of the bridge."}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a town",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"], "additionalProperties": False},
    },
}
TIDE: Any = {"type": "function", "function": {"name": "tide", "parameters": {"type": "object", "properties": {"port": {"type": "string"}}}}}


ID = rb'"id": ?"chatcmpl-sim-[0-9]+"'  # the simulator numbers its answers
COST = rb',"cost":[0-9.e-]+'


class Inventory(BaseModel):
    kettles: int
    owner: str
    is_complete: bool


@pytest.fixture(scope="module")
def gateway(sim: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    config = '[auth]\nrequired = true\n[[keys]]\nname = "app"\nkey = "env:APP_KEY"\n'
    for wire in WIRES:
        name = wire.split("-")[0]
        config += provider(name, f"{sim.box.origin}/p/{name}", wire)
        config += "".join(model(f"{name}/{what}", script, extra=CAPABLE) for what, script in SCRIPTS.items())
    with Serving(config, tmp_path_factory.mktemp("sdk"), env={"APP_KEY": "wp-app"}) as serving:
        yield serving


@pytest.fixture(scope="module")
def client(gateway: Serving) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key="wp-app") as made:
        yield made


@pytest.fixture(params=[wire.split("-")[0] for wire in WIRES])
def at(request: pytest.FixtureRequest) -> str:
    """The provider: one of each wire."""
    return request.param


# --- answers -------------------------------------------------------------------------------------------------------------


def test_a_chat(client: OpenAI, at: str) -> None:
    answer = client.chat.completions.create(model=f"{at}/plain", messages=USER)
    assert verify(answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop" and answer.choices[0].message.role == "assistant"
    assert answer.usage is not None and answer.usage.completion_tokens == 20
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 20
    assert answer.object == "chat.completion" and answer.id


def test_a_stream(client: OpenAI, at: str) -> None:
    with client.chat.completions.create(model=f"{at}/plain", messages=USER, stream=True, stream_options={"include_usage": True}) as stream:
        chunks = list(stream)
    assert verify("".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices))
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason] == ["stop"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert [chunk.usage.completion_tokens for chunk in chunks if chunk.usage] == [20]
    assert chunks[-1].choices == []


def test_a_stream_without_usage_holds_no_chunk_without_choices(client: OpenAI, at: str) -> None:
    chunks = list(client.chat.completions.create(model=f"{at}/plain", messages=USER, stream=True))
    assert all(chunk.choices for chunk in chunks) and not any(chunk.usage for chunk in chunks)


def test_the_stream_helper(client: OpenAI, at: str) -> None:
    with client.chat.completions.stream(model=f"{at}/plain", messages=USER) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"content.delta", "content.done"} <= kinds
    assert verify(final.choices[0].message.content or "")


def test_parse_gives_the_callers_own_type(client: OpenAI, at: str) -> None:
    answer = client.chat.completions.parse(model=f"{at}/json", messages=USER, response_format=Inventory)
    assert isinstance(answer.choices[0].message.parsed, Inventory)


def test_parse_in_a_stream(client: OpenAI, at: str) -> None:
    with client.chat.completions.stream(model=f"{at}/json", messages=USER, response_format=Inventory) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Inventory)


def test_many_at_once_by_the_async_client(gateway: Serving, at: str) -> None:
    async def ask(client: AsyncOpenAI, stream: bool) -> str:
        if not stream:
            return (await client.chat.completions.create(model=f"{at}/plain", messages=USER)).choices[0].message.content or ""
        parts = [
            c.choices[0].delta.content or ""
            async for c in await client.chat.completions.create(model=f"{at}/plain", messages=USER, stream=True)
        ]
        return "".join(parts)

    async def crowd() -> list[str]:
        async with AsyncOpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key="wp-app") as client:
            return await asyncio.gather(*(ask(client, bool(i % 2)) for i in range(20)))

    assert all(map(verify, asyncio.run(crowd())))


# --- tools, reasoning, images --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_parallel_tool_calls_and_their_results_go_round(client: OpenAI, at: str, stream: bool) -> None:
    if stream:
        with client.chat.completions.stream(model=f"{at}/tools2", messages=USER, tools=[WEATHER, TIDE]) as made:
            choice = made.get_final_completion().choices[0]
    else:
        choice = client.chat.completions.create(model=f"{at}/tools2", messages=USER, tools=[WEATHER, TIDE]).choices[0]
    assert choice.finish_reason == "tool_calls"
    calls = choice.message.tool_calls or []
    assert len(calls) == 2 and len({call.id for call in calls}) == 2
    assert all(isinstance(json.loads(call.function.arguments), dict) for call in calls)  # type: ignore[union-attr]
    said: Any = choice.message.model_dump(exclude_none=True, include={"role", "content", "tool_calls"})
    for call in said["tool_calls"]:
        call.pop("index", None), call["function"].pop("parsed_arguments", None)
    results: Any = [{"role": "tool", "tool_call_id": call.id, "content": '{"ok": true}'} for call in calls]
    answer = client.chat.completions.create(model=f"{at}/plain", messages=[*USER, said, *results], tools=[WEATHER, TIDE])
    assert verify(answer.choices[0].message.content or "")


def test_a_forced_tool(client: OpenAI, at: str) -> None:
    answer = client.chat.completions.create(
        model=f"{at}/plain", messages=USER, tools=[WEATHER, TIDE], tool_choice={"type": "function", "function": {"name": "tide"}}
    )
    assert [call.function.name for call in answer.choices[0].message.tool_calls or []] == ["tide"]  # type: ignore[union-attr]


@pytest.mark.parametrize("stream", [False, True])
def test_reasoning_is_told_apart_from_the_answer(client: OpenAI, at: str, stream: bool) -> None:
    if stream:
        thoughts = text = ""
        for chunk in client.chat.completions.create(model=f"{at}/think", messages=USER, reasoning_effort="low", stream=True):
            delta = chunk.choices[0].delta
            thoughts, text = thoughts + (getattr(delta, "reasoning_content", "") or ""), text + (delta.content or "")
    else:
        message = client.chat.completions.create(model=f"{at}/think", messages=USER, reasoning_effort="low").choices[0].message
        thoughts, text = getattr(message, "reasoning_content", ""), message.content or ""
    assert thoughts and verify(text)


def test_an_image_is_seen(client: OpenAI, sim: Simulator, at: str) -> None:
    content: Any = [{"type": "text", "text": f"What is it? [[seen-{at}]]"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    answer = client.chat.completions.create(model=f"{at}/plain", messages=[{"role": "user", "content": content}])
    assert verify(answer.choices[0].message.content or "")
    assert sim.records(f"seen-{at}")[-1].prompt_tokens >= 85  # what the simulator counts for an image


# --- models --------------------------------------------------------------------------------------------------------------


def test_models(client: OpenAI) -> None:
    names = [each.id for each in client.models.list()]
    assert {f"{wire.split('-')[0]}/plain" for wire in WIRES} <= set(names)
    assert client.models.retrieve("openai/plain").id == "openai/plain"  # the SDK writes the slash as %2F
    with pytest.raises(openai.NotFoundError, match="openai/plain"):
        client.models.retrieve("openai/plian")


def test_the_headers_say_who_answered_for_how_much(client: OpenAI, at: str) -> None:
    raw = client.chat.completions.with_raw_response.create(model=f"{at}/plain", messages=USER, max_tokens=30)
    assert raw.headers["x-waypost-model"] == f"{at}/plain"
    assert raw.headers["x-waypost-attempts"] == "1"
    assert raw.headers["x-request-id"] == raw.parse()._request_id
    assert float(raw.headers["x-waypost-cost-usd"]) > 0
    assert float(raw.headers["x-waypost-overhead-ms"]) >= 0
    usage: Any = raw.parse().usage
    assert usage.cost == pytest.approx(float(raw.headers["x-waypost-cost-usd"]))


# --- errors --------------------------------------------------------------------------------------------------------------


def test_errors_have_the_classes_that_applications_catch(gateway: Serving, client: OpenAI, at: str) -> None:
    def ask(what: str, who: OpenAI = client) -> None:
        who.chat.completions.create(model=f"{at}/{what}", messages=USER)

    with pytest.raises(openai.AuthenticationError):
        ask("plain", client.with_options(api_key="wrong"))
    with pytest.raises(openai.NotFoundError, match=f"{at}/plain"):
        ask("plian")
    with pytest.raises(openai.BadRequestError) as bad:
        ask("bad")
    assert bad.value.type == "invalid_request_error"
    with pytest.raises(openai.RateLimitError):
        ask("busy")
    with pytest.raises(openai.InternalServerError) as down:
        ask("down")
    assert SECRET not in str(down.value) and "127.0.0.1" not in str(down.value)


def test_the_sdk_does_not_multiply_our_retries(client: OpenAI, sim: Simulator, at: str) -> None:
    patient = client.with_options(max_retries=5)
    with pytest.raises(openai.APIStatusError):
        patient.chat.completions.create(model=f"{at}/down", messages=[{"role": "user", "content": f"Again? [[once-{at}]]"}])
    assert len(sim.records(f"once-{at}")) <= 3


@pytest.mark.parametrize("how", ["cut", "error"])
def test_a_broken_stream_raises_and_never_ends_quietly(client: OpenAI, at: str, how: str) -> None:
    text = ""
    with pytest.raises(openai.APIError) as broken:
        for chunk in client.chat.completions.create(model=f"{at}/{how}", messages=USER, stream=True):
            text += chunk.choices[0].delta.content or ""
    assert text and verify_prefix(text)
    assert "provider" in broken.value.message


@pytest.mark.parametrize("how", ["cut", "error"])
def test_a_broken_stream_raises_in_the_async_client_too(gateway: Serving, at: str, how: str) -> None:
    async def read() -> None:
        async with AsyncOpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key="wp-app") as client:
            async for _ in await client.chat.completions.create(model=f"{at}/{how}", messages=USER, stream=True):
                pass

    with pytest.raises(openai.APIError):
        asyncio.run(read())


# --- same dialect in and out ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_is_the_providers_bytes_and_the_cost(gateway: Serving, sim: Simulator, stream: bool) -> None:
    body = chat("openai/plain", stream=stream, max_tokens=30)  # so few that the whole answer is not streamed between the two
    ours = gateway.ask(body, headers={"Authorization": "Bearer wp-app"}).body
    direct = request(sim.port, f"/p/openai{HOME['openai-chat']}/chat/completions", body | {"model": SCRIPTS["plain"]}).body
    assert len(re.findall(COST, ours)) == 1
    assert re.sub(ID, b"", re.sub(COST, b"", ours)) == re.sub(ID, b"", direct)
