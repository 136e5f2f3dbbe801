"""Dialects: wire formats as pure functions, found by wire name and imported on first use.

Decides which module speaks for which wire. Holds no format itself, so that importing the package costs nothing.
"""

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from waypost.dialects.contract import CallerSide, ProviderSide

# wire name -> (module of CALLER, module of PROVIDER)
DIALECTS: dict[str, tuple[str, str]] = {
    "openai-chat": ("openai_chat", "openai_chat_provider"),
    "anthropic-messages": ("anthropic_messages", "anthropic_messages"),
    "gemini": ("gemini", "gemini"),
}


class UnknownDialect(LookupError):
    """A wire that no module speaks on the side asked for."""


@cache
def provider_side(wire: str) -> "ProviderSide":
    """How providers of `wire` are spoken to. Raises UnknownDialect."""
    return _member(wire, 1, "PROVIDER")


@cache
def caller_side(wire: str) -> "CallerSide":
    """How callers of `wire` are understood and answered. Raises UnknownDialect."""
    return _member(wire, 0, "CALLER")


def _member(wire: str, side: int, name: str) -> Any:
    if wire not in DIALECTS:
        raise UnknownDialect(f"no dialect `{wire}`; known: {', '.join(sorted(DIALECTS))}")
    member = getattr(import_module(f"{__name__}.{DIALECTS[wire][side]}"), name, None)
    if member is None:
        raise UnknownDialect(f"`{wire}` has no {'provider' if side else 'caller'} side yet")
    return member
