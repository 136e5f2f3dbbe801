"""Scrub: a provider's words made fit to be shown and logged.

Decides what looks like a credential or an address of ours and how long a message may be. Knows no dialect. Providers do quote keys:
OpenAI answers 401 with "Incorrect API key provided: sk-abc***xyz".
"""

import re

MAX_CHARACTERS = 1000
_SECRET = re.compile(
    r"""(?ix)
      (?:bearer|basic)\s+[\w.~+/=*-]{6,}                            # authorization headers
    | \b(?:sk|pk|rk|gsk|xai|hf|r8|nvapi|csk|fw|pplx|tgp|wp)[-_][\w*.-]{6,} # vendors' key prefixes, also partly starred
    | \bAIza[\w*-]{6,}                                               # Google
    | \bya29\.[\w.*-]{6,}                                            # Google OAuth
    | \b(?:AKIA|ASIA)[A-Z0-9]{12,}                                   # AWS
    | \beyJ[\w-]{8,}\.[\w-]{4,}(?:\.[\w-]*)?                         # JWT
    | (?<=[?&])(?:key|api_key|api-key|access_token|token)=[^&\s"']+  # in a URL
    """
)
_URL = re.compile(
    r"(?i)\b(https?://)(?:[^\s/@\"'<>]+@)?(localhost|[\d.]+|\[[\da-f:]+\]|[\w.-]+\.(?:internal|local|svc|cluster|lan|corp))(:\d+)?\b"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]+")


def scrub(text: str) -> str:
    """`text` on at most 1,000 characters without control characters, keys and internal hosts. Linear in the text kept."""
    text = _CONTROL.sub(" ", text[: 2 * MAX_CHARACTERS])
    text = _URL.sub(r"\1[host]", _SECRET.sub("[redacted]", text)).strip()
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + "…"
