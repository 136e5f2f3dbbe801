"""Dial: from an origin to a connected socket, in bounded time, with the failure named.

Knows no HTTP. Addresses are tried in the resolver's order, each with its share of the time left, which is what Happy Eyeballs
(RFC 8305) buys when one family is broken, without racing two sockets for every connection.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

from waypost.ports import Loss

RESOLVED_S = 30.0  # the kernel and the resolver cache longer; this spares a burst of dials a burst of look-ups

P = TypeVar("P", bound=asyncio.BaseProtocol)
Address = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]


class DialError(Exception):
    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.loss = Loss(kind, detail, sent=False)


class Origin:
    """scheme://host[:port], taken apart once."""

    __slots__ = ("_addresses", "_resolved_s", "host", "host_header", "port", "text", "tls")

    def __init__(self, text: str) -> None:
        """Raises ValueError when `text` is no http(s) origin."""
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/") or parts.query or parts.username:
            raise ValueError(f"not an origin: {text!r}; write scheme://host[:port]")
        self.text = text
        self.tls = parts.scheme == "https"
        self.host = parts.hostname
        self.port = parts.port or (443 if self.tls else 80)
        shown = f"[{self.host}]" if ":" in self.host else self.host
        self.host_header = (shown if parts.port is None else f"{shown}:{parts.port}").encode("idna" if not shown.isascii() else "ascii")
        self._addresses: list[Address] = []
        self._resolved_s = 0.0

    async def addresses(self, loop: asyncio.AbstractEventLoop) -> list[Address]:
        now_s = loop.time()
        if not self._addresses or now_s - self._resolved_s > RESOLVED_S:
            try:
                found = await loop.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
            except OSError as error:
                raise DialError("dns", f"{self.host}: {error.strerror or error}") from error
            self._addresses = [(family, address) for family, _, _, _, address in found]
            self._resolved_s = now_s
        return self._addresses

    def forget_addresses(self) -> None:
        self._addresses = []


async def dial(
    origin: Origin,
    factory: Callable[[], P],
    *,
    timeout_s: float,
    context: ssl.SSLContext | None,
    receive_buffer_bytes: int,
) -> P:
    """A connected protocol, after the TLS handshake. Raises DialError."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            sock = await _connect(origin, loop, loop.time() + timeout_s, receive_buffer_bytes)
            try:
                hostname = origin.host if context is not None else None
                _, protocol = await loop.create_connection(factory, sock=sock, ssl=context, server_hostname=hostname)
            except BaseException:
                sock.close()
                raise
            return protocol
    except TimeoutError as error:
        origin.forget_addresses()
        raise DialError("connect_timeout", f"no connection within {timeout_s:g} s") from error
    except ssl.SSLError as error:
        raise DialError("tls", str(error)) from error
    except OSError as error:
        origin.forget_addresses()
        kind = "tls" if context is not None and not isinstance(error, ConnectionRefusedError) else "refused"
        raise DialError(kind, str(error)) from error


async def _connect(origin: Origin, loop: asyncio.AbstractEventLoop, end_s: float, receive_buffer_bytes: int) -> socket.socket:
    addresses = await origin.addresses(loop)
    problem: OSError = OSError("no address")
    for tried, (family, address) in enumerate(addresses):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if receive_buffer_bytes:  # before connect: it fixes the window; the kernel would grow it to megabytes per slow caller
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes // 2)  # Linux doubles it
            share_s = (end_s - loop.time()) / (len(addresses) - tried)
            async with asyncio.timeout(share_s):
                await loop.sock_connect(sock, address)
            return sock
        except TimeoutError:
            sock.close()
            if tried + 1 == len(addresses):
                raise
        except OSError as error:
            sock.close()
            problem = error if isinstance(error, ConnectionRefusedError) else ConnectionRefusedError(error.errno, str(error))
        except BaseException:
            sock.close()
            raise
    raise problem
