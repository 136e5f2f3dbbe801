"""Outbox: writes of one turn of the loop, sent together at its end.

Each write to a socket may wake the process at the other end, and waking a sleeping core is the dearest part of a small write
(10 to 20 us on a virtual machine). Written back to back, the first wakes it and the others find it awake. Nothing waits longer than
the callbacks of the same turn, and never for more than `MOST` writes.
"""

import asyncio

MOST = 64


class Outbox:
    """Order is kept per transport. Whoever closes a transport or writes past the outbox must `flush` first."""

    __slots__ = ("_call_soon", "_is_due", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._call_soon = loop.call_soon
        self._waiting: list[tuple[asyncio.Transport, bytes]] = []
        self._is_due = False

    def put(self, transport: asyncio.Transport, data: bytes) -> None:
        waiting = self._waiting
        waiting.append((transport, data))
        if len(waiting) >= MOST:
            self.flush()
        elif not self._is_due:
            self._is_due = True
            self._call_soon(self._on_turn)

    def flush(self) -> None:
        """A write may call back (a full buffer pauses its source) and so put more; that goes out with the next flush."""
        waiting, self._waiting = self._waiting, []
        for transport, data in waiting:
            if not transport.is_closing():
                transport.write(data)

    def withdraw(self, transport: asyncio.Transport) -> int:
        """Take back what was not sent yet; the number of its bytes."""
        back = [data for place, data in self._waiting if place is transport]
        if back:
            self._waiting = [entry for entry in self._waiting if entry[0] is not transport]
        return sum(len(data) for data in back)

    def _on_turn(self) -> None:
        self._is_due = False
        self.flush()
