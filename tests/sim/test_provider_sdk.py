"""The vendor's own client against the simulator, from synchronous code: what it parses, others will."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator

import openai
import pytest

from waypost.cli import sim as cli
from waypost.sim import texts
from waypost.sim.provider import Simulator

TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}
    for name in ("weather", "news")
]
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def sim() -> Iterator[Simulator]:
    with Simulator(time_scale=0.01).run_in_thread() as running:
        yield running


@pytest.fixture
def client(sim: Simulator) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=sim.base_url(), api_key="sk-any", max_retries=0) as made:
        yield made


def test_a_completion(client: openai.OpenAI, sim: Simulator) -> None:
    made = client.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert texts.verify(made.choices[0].message.content)
    assert made.usage.completion_tokens == sim.log[-1].output_tokens


@pytest.mark.parametrize("model", ["ok", "split-3", "crlf", "comments-3", "think", "u2028"])
def test_a_stream(client: openai.OpenAI, model: str) -> None:
    stream = client.chat.completions.create(model=model, messages=HELLO, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert texts.verify("".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices))
    assert chunks[-1].usage.completion_tokens > 0


def test_parallel_tool_calls_in_a_stream(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="gpt-sim.tools2", messages=HELLO, tools=TOOLS) as stream:
        for _ in stream:
            pass
        calls = stream.get_final_completion().choices[0].message.tool_calls
    assert [call.function.name for call in calls] == ["weather", "news"]
    assert all("city" in json.loads(call.function.arguments) for call in calls)


def test_the_turn_after_a_tools_result_is_text(client: openai.OpenAI) -> None:
    call = client.chat.completions.create(model="tool", messages=HELLO, tools=TOOLS).choices[0].message
    turn = [*HELLO, call, {"role": "tool", "tool_call_id": call.tool_calls[0].id, "content": "Sunny."}]
    assert texts.verify(client.chat.completions.create(model="tool", messages=turn, tools=TOOLS).choices[0].message.content)


@pytest.mark.parametrize(
    ("model", "error"),
    [
        ("fail-429", openai.RateLimitError),
        ("fail-401", openai.AuthenticationError),
        ("fail-404", openai.NotFoundError),
        ("fail-503", openai.InternalServerError),
        ("reset", openai.APIConnectionError),
    ],
)
def test_errors_become_the_clients_own(client: openai.OpenAI, model: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        client.chat.completions.create(model=model, messages=HELLO)


def test_an_error_inside_a_stream_is_raised(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIError, match="had an error"):
        list(client.chat.completions.create(model="error-3", messages=HELLO, stream=True))


def test_retries_of_the_client_reach_the_answer(sim: Simulator) -> None:
    with openai.OpenAI(base_url=sim.base_url(), api_key="sk-any", max_retries=2) as client:
        made = client.chat.completions.create(model="fail-429-ms1-x2", messages=[{"role": "user", "content": "[[retried]]"}])
    assert texts.verify(made.choices[0].message.content)
    assert [record.status for record in sim.records("retried")] == [429, 429, 200]


@pytest.mark.parametrize("model", ["ok", "think", "refusal"])
def test_responses_streamed_fold_to_the_response(client: openai.OpenAI, model: str) -> None:
    whole = client.responses.create(model=model, input="Hello")
    with client.responses.stream(model=model, input="Hello") as stream:
        for _ in stream:
            pass
        folded = stream.get_final_response()
    assert folded.output_text == whole.output_text
    assert [item.type for item in folded.output] == [item.type for item in whole.output]


def test_responses_call_tools(client: openai.OpenAI) -> None:
    tools = [{"type": "function", "name": "weather", "parameters": TOOLS[0]["function"]["parameters"], "strict": False}]
    with client.responses.stream(model="tool", input="Hello", tools=tools) as stream:
        for _ in stream:
            pass
        call = stream.get_final_response().output[0]
    assert call.type == "function_call" and "city" in json.loads(call.arguments)


def test_models_and_embeddings(client: openai.OpenAI) -> None:
    assert "ok" in {model.id for model in client.models.list()}
    assert len(client.embeddings.create(model="e", input="x", dimensions=16, encoding_format="float").data[0].embedding) == 16


def test_a_box_can_be_taken_down_from_another_thread(sim: Simulator) -> None:
    box = sim.add_provider("elsewhere")
    with openai.OpenAI(base_url=sim.base_url(provider="elsewhere"), api_key="k", max_retries=0) as client:
        assert client.chat.completions.create(model="ok", messages=HELLO)
        box.down(cut=True)
        with pytest.raises(openai.APIConnectionError):
            client.chat.completions.create(model="ok", messages=HELLO)
        box.up()
        assert client.chat.completions.create(model="ok", messages=HELLO)


def test_the_command_ends_cleanly_when_interrupted() -> None:
    script = "import argparse, sys; from waypost.cli import sim; p = argparse.ArgumentParser(); sim.arguments(p)\n"
    script += "sys.exit(sim.run(p.parse_args(['--port', '0', '--seed', '7'])))"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert "any model name" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 0
        assert process.stderr.read() == ""


def test_the_command_says_where_each_dialect_is(sim: Simulator) -> None:
    said = cli.welcome(sim)
    for path in ("/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1beta/models/", "curl -N http://127.0.0.1:"):
        assert path in said
