"""A whole answer of the same dialect: what is seen in it, and the price put into it."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from waypost.core.types import Failure, Fault, Usage
from waypost.dialects.openai_whole import Glance, glance, priced

CHOICES = '[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}]'


def seen(body: bytes) -> Glance:
    read = glance(body)
    assert isinstance(read, Glance)
    return read


def test_usage_is_read_and_the_body_kept() -> None:
    body = f'{{"choices":{CHOICES},"usage":{{"prompt_tokens":3,"completion_tokens":2}}}}'.encode()
    assert seen(body).usage == Usage(input_tokens=3, output_tokens=2)
    assert priced(seen(body), None) == body


def test_cost_is_spliced_in_and_nothing_else_moves() -> None:
    body = b'{ "choices": [{"message": {"content": "\\"usage\\":{\\"a\\":1}"}}],\n "usage": {"prompt_tokens": 1 }, "x": 1.10 }'
    assert priced(seen(body), 25) == body.replace(b'"prompt_tokens": 1 }', b'"prompt_tokens": 1,"cost":0.000000025}')


def test_an_empty_usage_object_gets_the_estimated_cost() -> None:
    body = f'{{"choices":{CHOICES},"usage":{{\n}}}}'.encode()
    assert json.loads(priced(seen(body), 25))["usage"] == {"cost": 2.5e-8}


@pytest.mark.parametrize("usage", ["", ',"usage":null', ',"usage":{}'])
def test_an_answer_without_usage_is_good(usage: str) -> None:
    read = seen(f'{{"choices":{CHOICES}{usage}}}'.encode())
    assert read.usage is None


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"", Fault.MALFORMED),
        (b"<html>", Fault.MALFORMED),
        (b'{"choices":[]}', Fault.MALFORMED),
        (b'{"error":{"message":"slow down","type":"rate_limit_error","code":"rate_limit_exceeded"}}', Fault.RATE_LIMITED),
        (b'{"choices":[{"message":{"content":""},"finish_reason":"error"}],"usage":{"prompt_tokens":1}}', Fault.SERVER),
    ],
)
def test_a_200_that_is_no_answer_is_a_failure(body: bytes, fault: Fault) -> None:
    read = glance(body)
    assert isinstance(read, Failure)
    assert read.fault is fault


_inner = st.dictionaries(
    st.sampled_from(["prompt_tokens", "cost", "usage"]), st.integers(0, 9) | st.just({"usage": {"prompt_tokens": 1}}), max_size=3
)


@settings(max_examples=150)
@given(_inner, _inner, st.text(max_size=10), st.sampled_from([None, 1]))
def test_the_top_level_usage_gets_the_cost_wherever_copies_stand(
    usage: dict[str, Any], other: dict[str, Any], text: str, indent: int | None
) -> None:
    choice = {"message": {"content": json.dumps({"usage": usage}) + text}, "more": other}
    document = {"choices": [choice], "usage": usage | {"completion_tokens": 1}, "z": usage}
    usage = usage | {"prompt_tokens": 2}
    document["usage"] = usage
    after = json.loads(priced(seen(json.dumps(document, indent=indent).encode()), 2_000_000_000))
    assert after == document | {"usage": usage | {"cost": 2}}
