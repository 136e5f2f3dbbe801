"""Family: which models of different providers are the same model, judged by name alone.

A family is the upstream name without what does not change the answers: vendor path, region, packaging version, full release
date, number format and the provider's own spelling of the version. Two models of one family may stand in for each other.

Wrong merges are worse than missing ones, so everything that may change the model stays: size, `-instruct` (a base model is
another model), `-thinking`, `-mini`, `-turbo`, `-preview`, and short dates such as `-0528` or `-2507`, which vendors of open
models use for new weights. Full dates (`-2024-08-06`, `-20250929`) name a snapshot of the same line and go.
Knows nothing of prices, providers or files.
"""

import re

_REGION = re.compile(r"^(us-gov|us|eu|apac|au|jp|ca|global)\.(?=[a-z0-9-]+\.)")
# Bedrock writes vendor.model; three of its model names are incomplete without the vendor.
_VENDOR = re.compile(r"^(ai21|amazon|anthropic|cohere|google|meta|minimax|mistral|moonshot|moonshotai|nvidia|openai|qwen|writer|xai|zai)\.")
_DEEPSEEK = re.compile(r"^deepseek\.(?=[vr]\d)")
_PACKAGE = re.compile(r"-v\d+(:\d+)?(:\d+k)?$|-\d+:\d+$|:\d+$")  # Bedrock's -v1:0, -1:0, :0
_SPELLINGS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"@[a-z0-9-]+$"), ""),  # Vertex: @20240229, @001, @default
    (re.compile(r"-maas$"), ""),
    (re.compile(r":(free|exacto|extended)$"), ""),  # OpenRouter: other quota or host, same model
    (
        re.compile(
            r"^(databricks|snowflake|openai|anthropic|alibaba|fw)-(?=(meta-)?(llama|claude|gpt|gemini|gemma|glm|kimi|qwen|deepseek))"
        ),
        "",
    ),
    (re.compile(r"^system\.ai\."), ""),
    (re.compile(r"^meta-(?=llama)"), ""),
    (re.compile(r"-latest$"), ""),
    (re.compile(r"-(19|20)\d\d-?(0[1-9]|1[0-2])-?(0[1-9]|[12]\d|3[01])(?=$|:|-v\d)"), ""),
    (re.compile(r"-(fp8|bf16|fp16|int4|int8|nvfp4|mxfp4|awq|gptq|gguf)$"), ""),
    (re.compile(r"(?<=\d)p(?=\d)"), "."),  # Fireworks: v3p1
    (re.compile(r"(?<![\d.])(\d)-(\d)(?=$|[-:])"), r"\1.\2"),  # claude-opus-4-5, llama3-1-8b; not 3-8b, not 4-1106
    (re.compile(r"^llama-?v?(?=\d)"), "llama-"),
    (re.compile(r"^qwen-?(?=\d)"), "qwen"),
    (re.compile(r"^(llama-.*-instruct)-turbo$"), r"\1"),  # Together, DeepInfra: the FP8 edition
    (re.compile(r"^claude-(\d+(?:\.\d)?)-(opus|sonnet|haiku)$"), r"claude-\1-\2"),
    (re.compile(r"^claude-([4-9](?:\.\d)?)-(opus|sonnet|haiku)$"), r"claude-\2-\1"),  # claude-4-sonnet is claude-sonnet-4
    (re.compile(r"^(nova-[a-z]+)-v1$"), r"\1"),
)
# Names that providers gave to models published only as instruct versions: https://console.groq.com/docs/models,
# https://inference-docs.cerebras.ai/models/overview
_KNOWN = {
    "llama-3.3-70b": "llama-3.3-70b-instruct",
    "llama-3.3-70b-versatile": "llama-3.3-70b-instruct",
    "llama-3.1-8b-instant": "llama-3.1-8b-instruct",
}
_VAGUE = frozenset({"", "claude", "auto", "default", "chat", "base", "large", "small", "medium", "search"})


def family_of(upstream: str) -> str:
    """The equivalence class of a model by its upstream name; "" when the name says too little to compare."""
    name = upstream.lower().rsplit("/", 1)[-1]
    name = _REGION.sub("", name)
    dotted = _DEEPSEEK.sub("deepseek-", _VENDOR.sub("", name))
    if dotted != name:
        name = _PACKAGE.sub("", dotted)
    for pattern, replacement in _SPELLINGS:
        name = pattern.sub(replacement, name)
    name = _KNOWN.get(name, name)
    return "" if name in _VAGUE else name
