"""Families: what is the same model under another name, and what only looks like it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypost.catalog.family import family_of

SAME = [
    ("gpt-4o", "openai/gpt-4o", "gpt-4o-2024-08-06"),
    ("claude-opus-4-5", "anthropic/claude-opus-4.5", "us.anthropic.claude-opus-4-5-20251101-v1:0", "claude-opus-4-5@20251101"),
    ("claude-sonnet-4-20250514", "claude-4-sonnet", "databricks-claude-sonnet-4", "global.anthropic.claude-sonnet-4-20250514-v1:0"),
    ("claude-3-5-haiku-latest", "anthropic/claude-3.5-haiku", "anthropic.claude-3-5-haiku-20241022-v1:0"),
    (
        "meta-llama/Meta-Llama-3.1-8B-Instruct",
        "meta.llama3-1-8b-instruct-v1:0",
        "accounts/fireworks/models/llama-v3p1-8b-instruct",
        "@cf/meta/llama-3.1-8b-instruct-fp8",
        "meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo",
        "llama-3.1-8b-instant",
    ),
    ("meta/llama-3.1-70b-instruct-maas", "meta-llama/Llama-3.1-70B-Instruct", "meta-llama/llama-3.1-70b-instruct:free"),
    ("deepseek-ai/DeepSeek-V3.2", "deepseek.v3.2", "deepseek-v3p2"),
    ("deepseek/deepseek-r1", "deepseek.r1-v1:0", "us.deepseek.r1-v1:0"),
    ("openai/gpt-oss-120b", "openai.gpt-oss-120b-1:0", "databricks-gpt-oss-120b", "FW-GPT-OSS-120B"),
    ("Qwen/Qwen2.5-72B-Instruct", "qwen/qwen-2.5-72b-instruct", "accounts/fireworks/models/qwen2p5-72b-instruct"),
    ("amazon.nova-pro-v1:0", "amazon/nova-pro-v1", "eu.amazon.nova-pro-v1:0"),
    ("zai-org/GLM-4.7", "glm-4p7", "databricks-glm-4-7"),
]

DIFFERENT = [
    ("gpt-4o", "gpt-4o-mini", "gpt-4", "gpt-4-turbo", "gpt-4o-audio-preview", "gpt-4-1106-preview", "gpt-4-0613"),
    ("meta-llama/Llama-3-8B", "meta-llama/Llama-3-8B-Instruct", "meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3-70B-Instruct"),
    ("deepseek-ai/DeepSeek-R1", "deepseek-ai/DeepSeek-R1-0528", "deepseek-r1-distill-llama-70b", "deepseek-ai/DeepSeek-V3"),
    ("moonshotai/Kimi-K2-Instruct", "moonshotai/Kimi-K2-Instruct-0905", "moonshotai/Kimi-K2-Thinking", "kimi-k2.5"),
    (
        "claude-opus-4",
        "claude-opus-4-1",
        "claude-opus-4-5",
        "claude-sonnet-4-5",
        "anthropic/claude-3.7-sonnet",
        "anthropic/claude-3.7-sonnet:thinking",
    ),
    ("gemini-2.5-flash", "gemini-2.5-flash-lite", "gemini-2.5-flash-preview-05-20", "gemini-2.5-pro"),
    ("Qwen/Qwen3-32B", "Qwen/Qwen3-235B-A22B", "Qwen/Qwen3-235B-A22B-Instruct-2507", "Qwen/Qwen3-235B-A22B-Thinking-2507"),
    ("mistral-large-2402", "mistral-large-2411", "mistral-large"),
    ("qwen3-coder:30b", "qwen3-coder:480b", "qwen3-coder"),
    ("gemma-3-4b-it", "gemma-3-27b-it", "gemma-3n-e4b-it"),
]


@pytest.mark.parametrize("names", SAME, ids=lambda names: names[0])
def test_one_model_under_many_names(names: tuple[str, ...]) -> None:
    assert len({family_of(name) for name in names}) == 1, {name: family_of(name) for name in names}


@pytest.mark.parametrize("names", DIFFERENT, ids=lambda names: names[0])
def test_models_that_only_look_alike(names: tuple[str, ...]) -> None:
    assert len({family_of(name) for name in names}) == len(names), {name: family_of(name) for name in names}


@pytest.mark.parametrize("name", ["", "auto", "openrouter/auto", "default", "anthropic.claude-v2:1"])
def test_a_name_that_says_too_little_has_no_family(name: str) -> None:
    assert family_of(name) == ""


@given(st.from_regex(r"[a-z]{2,8}-?[0-9](\.[0-9])?(-[0-9]{1,3}b)?(-instruct|-mini)?", fullmatch=True))
def test_vendor_path_and_case_do_not_matter(name: str) -> None:
    assert family_of(f"Some-Vendor/{name.upper()}") == family_of(name)
