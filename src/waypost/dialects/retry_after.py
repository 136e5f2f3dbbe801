"""Retry-After: how long a provider asks us to stay away, in every form it is written.

Decides seconds from headers and duration strings; nonsense is None, never an exception and never a guess. Knows no clock: the
caller passes the wall time for HTTP dates. Order of the headers as the openai SDK reads them (openai 3.54, `_base_client.py`).
"""

import re
from collections.abc import Iterable
from email.utils import parsedate_to_datetime

from waypost.dialects.contract import Headers

_PIECE = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|ns|s|m|h|d)", re.ASCII)
_DURATION = re.compile(rf"(?:{_PIECE.pattern})+", re.ASCII)
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST_S = 366 * 86400.0  # a longer hold is a mistake of the sender
_NUMBER = re.compile(r"\d{1,12}(?:\.\d{0,9})?", re.ASCII)  # no sign, no exponent, no inf, no nan


def retry_after_s(headers: Headers, now_ms: int) -> float | None:
    """Seconds to wait, >= 0, or None when nothing usable was said. Milliseconds win over seconds: they are finer."""
    found: dict[bytes, str] = {}
    for name, value in headers:
        found.setdefault(name.lower(), value.decode("latin-1").strip())
    for name in (b"retry-after-ms", b"x-ms-retry-after-ms"):
        milliseconds = _number(found.get(name, ""))
        if milliseconds is not None:
            return _sane(milliseconds / 1000)
    value = found.get(b"retry-after", "")
    seconds = _number(value)
    return _sane(seconds) if seconds is not None else _until(value, now_ms)


def reset_s(headers: Headers) -> float | None:
    """The longest `x-ratelimit-reset-*` duration of a limit with nothing remaining ("6s", "1m0.5s", "20ms"); None if none says so.

    Azure sends -1 and 0 as limits (2026): only a plain `remaining: 0` counts as exhausted.
    """
    found = {name.lower(): value.decode("latin-1").strip() for name, value in headers}
    waits = [
        duration_s(value)
        for name, value in found.items()
        if name.startswith(b"x-ratelimit-reset-") and found.get(name.replace(b"-reset-", b"-remaining-")) == "0"
    ]
    return _longest(waits)


def duration_s(text: str) -> float | None:
    """Seconds of a duration as Go and google.protobuf.Duration write it: "17s", "1m0.5s", "20ms". None when it is not one."""
    text = text.strip()
    if len(text) > 64 or not _DURATION.fullmatch(text):
        return None
    return _sane(sum(float(amount) * _UNIT_S[unit] for amount, unit in _PIECE.findall(text)))


def _number(text: str) -> float | None:
    return float(text) if _NUMBER.fullmatch(text) else None


def _until(text: str, now_ms: int) -> float | None:
    try:
        wait_s = parsedate_to_datetime(text).timestamp() - now_ms / 1000
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return _sane(max(wait_s, 0.0))  # a date just passed means now


def _sane(seconds: float) -> float | None:
    return seconds if 0 <= seconds <= _LONGEST_S else None


def _longest(waits: Iterable[float | None]) -> float | None:
    return max((wait for wait in waits if wait is not None), default=None)
