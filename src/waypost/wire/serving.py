"""Serving: what the connections of one server share, and the limits they keep. No behaviour beyond unit conversion."""

import asyncio
import math
from collections.abc import Callable
from email.utils import formatdate
from typing import TYPE_CHECKING

import msgspec

from waypost.ports import Handler
from waypost.wire.http1 import READ_BYTES
from waypost.wire.outbox import Outbox

if TYPE_CHECKING:
    from waypost.wire.connection import Connection

ErrorBody = Callable[[int, str], bytes]


class ServerLimits(msgspec.Struct, frozen=True):
    """What one peer may take. Times in seconds; `tick_s` is the resolution of all of them."""

    max_body_bytes: int = 32 * 1024 * 1024
    max_header_bytes: int = 32 * 1024
    max_headers: int = 100
    max_target_bytes: int = 8 * 1024
    header_s: float = 10.0  # from the first byte of a request to the end of its head
    body_s: float = 60.0  # without a byte of an unfinished body
    idle_s: float = 75.0  # between requests
    write_stall_s: float = 30.0  # without progress of a non-empty write buffer
    write_high_bytes: int = 32 * 1024
    held_bytes: int = 64 * 1024  # of pipelined requests, unparsed, before reading stops
    send_buffer_bytes: int = 256 * 1024  # SO_SNDBUF, or the kernel grows it to megabytes per slow reader; 0 leaves it alone
    tick_s: float = 1.0


def neutral_error(status: int, message: str) -> bytes:
    return msgspec.json.encode({"error": {"status": status, "message": message}})


class Serving:
    """What the connections of one server share: handler, limits, the read buffer, the tick that all clocks count in."""

    __slots__ = ("active", "connections", "date", "draining", "error_body", "handler", "limits", "loop", "outbox", "space", "tick")

    def __init__(self, handler: Handler, limits: ServerLimits, error_body: ErrorBody, loop: asyncio.AbstractEventLoop) -> None:
        self.handler = handler
        self.limits = limits
        self.error_body = error_body
        self.loop = loop
        self.outbox = Outbox(loop)
        self.space = memoryview(bytearray(READ_BYTES))
        self.connections: set[Connection] = set()
        self.active = 0  # requests handed over and not yet answered
        self.draining = False
        self.tick = 0
        self.date = date_line()

    def ticks(self, seconds: float) -> int:
        return math.ceil(seconds / self.limits.tick_s)


def date_line() -> bytes:
    return b"date: %b\r\n" % formatdate(usegmt=True).encode()
