"""Tokens: how many a text probably has, when nobody has counted them, and whether a reported count can be true.

Knows no vocabulary and no model. Each byte carries a weight by its class and the weights are summed; an exact count with one
vendor's vocabulary is itself only an estimate for every other vendor (o200k against cl100k: German x1.35, Chinese x1.65). What is
systematically wrong for a model is learned from the usage it reports (`Calibration`), so the table need only be roughly right.
Reservations use the upper figure, settlement uses what the provider reported.
"""

from math import exp, log
from zlib import adler32

from msgspec import Struct

from waypost.core.types import Usage

_UNIT = 16  # weights are sixteenths of a token
_BLOCK = 4096  # 4096 x 15 sixteenths < 65,521: the low half of Adler-32 is then the plain sum of the weights
_PIECES = 4
_PIECE = 2048


def _weights() -> bytes:
    """Sixteenths of a token per byte.

    ASCII after a fit on 10,600 prompts with known cl100k counts (the RouteLLM benches of MMLU and GSM8K), raised for letters and
    digits because code, German and other vocabularies have more tokens a word: median error there +10 %, 5th..95th percentile
    -11..+24 %. Beyond ASCII the lead byte tells the script, continuation bytes carry a quarter each: an accented Latin
    letter 0.75, Cyrillic or Greek 0.38, Devanagari 0.63, a CJK character or kana 1.0, an emoji 1.7.
    """
    table = bytearray([11] * 128 + [4] * 64 + [2] * 64)
    table[97:123] = bytes([2] * 26)
    table[65:91] = bytes([4] * 26)
    table[48:58] = bytes([11] * 10)
    table[32] = 11
    table[10] = table[9] = table[13] = 15
    table[0xC2] = table[0xC3] = table[0xC4] = table[0xC5] = 8
    table[0xE3:0xEE] = bytes([8] * 11)
    table[0xF0:0xF8] = bytes([15] * 8)
    return bytes(table)


_WEIGHTS = _weights()
_ESCAPE = 25  # `\uXXXX` spells one character: by how much its six bytes outweigh it, in sixteenths
_ESCAPE_LOW = 20  # further for `\u0XXX`: alphabets, several letters a token


def estimate(data: bytes) -> int:
    """Tokens of raw JSON or UTF-8 text, leaning upwards (JSON punctuation is counted as well).

    O(1): longer texts are judged by four pieces spread over them. Base64 payloads should not be passed in: they have a price of
    their own with every provider. At least 1 for non-empty data.
    """
    size = len(data)
    if size <= _BLOCK:
        units = adler32(data.translate(_WEIGHTS), 0) & 0xFFFF
        if escapes := data.count(b"\\u"):
            units -= escapes * _ESCAPE + data.count(b"\\u0") * _ESCAPE_LOW
        return max(units + _UNIT - 1, _UNIT if size else 0) // _UNIT
    if size <= _PIECES * _PIECE:
        return estimate(data[:_BLOCK]) + estimate(data[_BLOCK:])
    stride = (size - _PIECE) // (_PIECES - 1)
    sampled = sum(estimate(data[at : at + _PIECE]) for at in range(0, size - _PIECE + 1, stride))
    return sampled * size // (_PIECES * _PIECE) + 1


def estimate_output(content_events: int, content_bytes: int) -> int:
    """Most likely output tokens of a stream that ended without usage.

    Servers that decode token by token send one event a token, some 1 to 8 bytes; then the events are the better count. Others
    gather (Anthropic, Gemini: tens of bytes an event) or replay a finished text; then four bytes make a token.
    """
    if content_bytes <= 0:
        return max(content_events, 0)
    if content_events > 0 and content_events <= content_bytes <= 8 * content_events:
        return content_events
    return (content_bytes + 3) // 4


def lower_bound_output(content_events: int, content_bytes: int) -> int:
    """Output tokens that were certainly generated: a stream is cut only when even this passes its ceiling.

    Two witnesses, the stronger counts. An event holds at least one token, unless the server splits finer than tokens: character by
    character, which shows (hardly more bytes than events), and then five bytes are a token. Where
    events gather many tokens, bytes speak: twelve a token is more than any script averages over a long text (Hindi with a large
    vocabulary: 7 to 9). A long run of one repeated character may average more; it is what a runaway stream looks like.
    """
    witnessed = content_events if 2 * content_bytes > 3 * content_events else content_bytes // 5
    return max(0, witnessed, content_bytes // 12)


def plausible(usage: Usage, *, content_events: int, content_bytes: int, max_output_tokens: int | None, prompt_tokens: int) -> bool:
    """Whether reported usage can be true; if not, the caller estimates and labels the row `impossible`.

    `prompt_tokens` is our estimate of the prompt. Real cases behind the rules: frames of zeros on truncated answers (2.2 % of one
    provider's), 206 output tokens billed under `max_tokens: 16`. Hidden reasoning is output without content, so a large output is
    only absurd beyond the ceiling, with slack for providers that count reasoning or a stop token apart.
    """
    given, cached, written = usage.input_tokens, usage.cached_tokens, usage.cache_write_tokens
    output, thought = usage.output_tokens, usage.reasoning_tokens
    if cached < 0 or written < 0 or cached + written > given or not 0 <= thought <= output:
        return False
    if output == 0 and (content_events > 0 or content_bytes > 0):
        return False
    if (content_events or content_bytes) and output < lower_bound_output(content_events, content_bytes) // 2:
        return False  # the count of Anthropic's first event, of a stream that never gave its last
    if given == 0 and prompt_tokens > 0:
        return False
    if max_output_tokens is None:
        return True
    visible = output - thought
    return visible <= 2 * max_output_tokens + 64 or visible <= estimate_output(content_events, content_bytes) * 2


class Calibration(Struct):
    """What one model's reports teach about our estimate. Mutable, one per model, a few floats.

    `log_mean` is the moving mean of log(actual / estimate); `log_upper` follows its `quantile` by stochastic approximation (Robbins &
    Monro 1951): up by q x step when the ratio lies above, down by (1 - q) x step when below.
    """

    log_mean: float = 0.0
    log_upper: float = log(1.5)  # worst chunk of the byte-class model before any evidence: +55 %
    seen: int = 0
    quantile: float = 0.95

    def observe(self, estimated: int, actual: int) -> None:
        """Learn from one answer. Reports off by more than 8x are broken or about something else (images) and are ignored."""
        if estimated <= 0 or actual <= 0 or not 1 / 8 <= actual / estimated <= 8:
            return
        ratio = log(actual / estimated)
        self.seen += 1
        self.log_mean += (ratio - self.log_mean) * max(0.02, 1 / (self.seen + 4))  # the prior weighs four answers
        step = max(0.02, 1 / (self.seen + 1))
        self.log_upper += step * (self.quantile if ratio > self.log_upper else self.quantile - 1)

    def expected(self, estimated: int) -> int:
        return round(estimated * exp(self.log_mean))

    def upper(self, estimated: int) -> int:
        """For reservations and window checks: exceeded by about one answer in twenty once learned."""
        return round(estimated * exp(max(self.log_upper, self.log_mean)))
