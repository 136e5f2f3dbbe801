"""OpenAI to OpenAI, whole answers: what must be known of one, and the price put into it; all other bytes stay as they are.

A whole 200 answer is looked at once by one pass of the JSON decoder. Anything unusual in it (an error, no choices, a finish reason
that means failure) is left to the full reader, which says what it is. Knows no socket.
"""

import msgspec
from msgspec import Raw, Struct

from waypost.core.types import Failure, Usage
from waypost.dialects import openai_reader
from waypost.dialects.openai_answer import decimal_usd, usage_json
from waypost.dialects.openai_prompt import NULL
from waypost.dialects.openai_reader import BROKEN, UsageJson, usage_of


class _Choice(Struct, gc=False):
    finish_reason: str | None = None
    message: Raw = NULL


class _Whole(Struct, gc=False):
    choices: list[_Choice]
    usage: Raw = NULL
    error: Raw = NULL


class Glance(Struct, frozen=True, gc=False):
    """A whole answer that is good as it is. `place` is its top-level usage as written."""

    body: bytes
    usage: Usage | None
    place: Raw


_whole_of = msgspec.json.Decoder(_Whole).decode
_usage_of = msgspec.json.Decoder(UsageJson).decode
_fields_of = msgspec.json.Decoder(dict[str, Raw]).decode
_encode = msgspec.json.Encoder().encode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def glance(body: bytes) -> Glance | Failure:
    """About 2 us for a kilobyte."""
    try:
        whole = _whole_of(body)
        broken = [True for c in whole.choices if c.finish_reason in BROKEN or c.message == NULL]
        if whole.error is NULL and whole.choices and not broken and whole.usage is not NULL:
            return Glance(body, usage_of(_usage_of(whole.usage)), whole.usage)
    except _UNREADABLE:
        pass
    read = openai_reader.reply(body)
    return read if isinstance(read, Failure) else Glance(body, read.usage, _place(body))


def _place(body: bytes) -> Raw:
    usage = _fields_of(body).get("usage", NULL)
    return usage if bytes(usage).startswith(b"{") else NULL


def priced(seen: Glance, cost_nusd: int | None) -> bytes:
    """The body with `cost` in its top-level usage object; everything else keeps its bytes."""
    if cost_nusd is None or seen.place is NULL:
        return seen.body
    done = spliced(seen.body, seen.place, cost_nusd)
    return done if done is not None else rebuilt(seen.body, seen.place, cost_nusd)


def told(seen: Glance, usage: Usage, cost_nusd: int | None) -> bytes:
    """The body with our own usage, for an answer whose provider gave none or one that cannot be: the bill and the answer agree."""
    return _encode(_fields_of(seen.body) | {"usage": Raw(usage_json(usage, cost_nusd))})


def spliced(text: bytes, usage: Raw, cost_nusd: int) -> bytes | None:
    """`text` with the priced usage in place of `usage`; None when the place is not certain.

    The bytes of a usage object contain quotes, which stand escaped inside any JSON string, so they can only occur as a value.
    Occurring once, that value is the one that was decoded.
    """
    old = bytes(usage)
    start = text.rfind(old)
    end = start + len(old)
    if b'"' not in old or text.find(old, 0, end - 1) >= 0:
        return None
    return b"%b%b%b" % (text[:start], _with_cost(old, cost_nusd), text[end:])


def rebuilt(data: bytes, usage: Raw, cost_nusd: int) -> bytes:
    """The rare rest (usage repeated in a choice, say): top-level fields written anew, each with the bytes it had."""
    return _encode(_fields_of(data) | {"usage": Raw(_with_cost(bytes(usage), cost_nusd))})


def _with_cost(usage: bytes, cost_nusd: int) -> bytes:
    """Our price wins over one the provider states: the bill and the answer must agree."""
    if not usage.startswith(b"{"):
        return usage
    cost = decimal_usd(cost_nusd)
    said = usage[:-1].rstrip()
    if b'"cost"' in said or said == b"{":
        return _encode(_fields_of(usage) | {"cost": Raw(cost)})
    return b'%b,"cost":%b}' % (said, cost)
