"""HTTP/1.1 on the wire: the few bytes-level facts that server and client share. Knows no connection and no clock."""

from collections.abc import Sequence
from http import HTTPStatus

READ_BYTES = 65536  # of the one buffer all connections of a loop read into: what a single read can make us hold
_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}
STATUS_LINES = {status: b"HTTP/1.1 %d %b\r\n" % (status, _PHRASES.get(status, b"-")) for status in range(200, 600)}


def header_block(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Header lines with their line ends. A line break inside a name or value is removed: it would begin a header of its own."""
    lines = [b": ".join(header) for header in headers]
    lines.append(b"")
    block = b"\r\n".join(lines)
    if block.count(b"\n") == block.count(b"\r") == len(headers):
        return block
    return b"".join([b": ".join(header).translate(None, b"\r\n\0") + b"\r\n" for header in headers])
