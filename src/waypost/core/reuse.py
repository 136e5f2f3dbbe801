"""Reuse: the exact cache. The same question by the same key gets the same answer, within its time, for nothing.

Same means: equal canonical JSON of every field that can change the answer, system prompt, tools and sampling included, asked by
the same key (tenants never share) for the same model or route. Streamed and whole answers share an entry. Pure: time comes in.
Bounded in bytes, least recently used out first.
"""

import hashlib
from collections import OrderedDict

import msgspec
from msgspec import Struct

from waypost.core.types import Call

# What says how to deliver or account, not what to answer.
_ASIDE = frozenset(
    {"stream", "stream_options", "user", "metadata", "waypost", "provider", "models", "model", "session_id", "usage", "debug", "trace"}
)
_ENTRY_OVERHEAD = 400  # bytes of Python objects around one entry, measured once on CPython 3.11


class Entry(Struct, frozen=True):
    body: bytes  # the whole answer in the dialect it was asked in
    model: str  # provider/model that gave it
    at_s: float


class ExactCache:
    """`by_default`: used without being asked for; otherwise only when a request says `exact`."""

    def __init__(self, *, ttl_s: float, max_bytes: int, by_default: bool) -> None:
        self.ttl_s = ttl_s
        self.max_bytes = max_bytes
        self.by_default = by_default
        self.held_bytes = 0
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()

    def get(self, key: bytes, now_s: float) -> Entry | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if now_s - entry.at_s > self.ttl_s:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry

    def put(self, key: bytes, entry: Entry) -> None:
        if key in self._entries:
            self._drop(key)
        size = len(entry.body) + _ENTRY_OVERHEAD
        if size > self.max_bytes:
            return
        self._entries[key] = entry
        self.held_bytes += size
        while self.held_bytes > self.max_bytes:
            self._drop(next(iter(self._entries)))

    def __len__(self) -> int:
        return len(self._entries)

    def _drop(self, key: bytes) -> None:
        self.held_bytes -= len(self._entries.pop(key).body) + _ENTRY_OVERHEAD


def key_of(call: Call, tenant: str, wish: str) -> bytes:
    """The identity of a question. Key order and white space of the JSON do not matter; everything else does."""
    said = {name: msgspec.json.decode(raw) for name, raw in call.fields.items() if name not in _ASIDE}
    return hashlib.sha256(msgspec.json.encode([call.dialect, tenant, wish, call.fallback_models, said], order="sorted")).digest()
