"""What the server refuses: each row is one way to say two things at once, or nothing clearly. After a refusal the connection ends."""

from typing import Any

import pytest
from wire_kit import peer, run, serving

H = b"POST / HTTP/1.1\r\nhost: a\r\n"

REFUSED = {
    "length and coding": (H + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "coding and length": (H + b"transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n", 400),
    "two lengths that differ": (H + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabc", 400),
    "two lengths that agree": (H + b"content-length: 3\r\ncontent-length: 3\r\n\r\nabc", 400),
    "a list of lengths": (H + b"content-length: 3, 3\r\n\r\nabc", 400),
    "a signed length": (H + b"content-length: +3\r\n\r\nabc", 400),
    "a negative length": (H + b"content-length: -3\r\n\r\nabc", 400),
    "a hexadecimal length": (H + b"content-length: 0x3\r\n\r\nabc", 400),
    "a length with an underscore": (H + b"content-length: 1_0\r\n\r\nabc", 400),
    "an empty length": (H + b"content-length:\r\n\r\nabc", 400),
    "an endless length": (H + b"content-length: " + b"9" * 40 + b"\r\n\r\nabc", 400),
    "an unknown coding": (H + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
    "identity coding": (H + b"transfer-encoding: identity\r\n\r\n", 501),
    "chunked not last": (H + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
    "a coding we do not decode": (H + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "chunked twice": (H + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "a control before chunked": (H + b"transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    "space before the colon": (H + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked in HTTP/1.0": (b"POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "a chunk size with 0x": (H + b"transfer-encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n", 400),
    "a negative chunk size": (H + b"transfer-encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n", 400),
    "a chunk size followed by a space": (H + b"transfer-encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n", 400),
    "a chunk longer than its size": (H + b"transfer-encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", 400),
    "an overflowing chunk size": (H + b"transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\nabc\r\n", 400),
    "chunks ended by a bare LF": (H + b"transfer-encoding: chunked\r\n\r\n3\nabc\n0\n\n", 400),
    "framing in a trailer": (H + b"transfer-encoding: chunked\r\n\r\n0\r\ncontent-length: 5\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400),
    "the same host twice": (b"GET / HTTP/1.1\r\nhost: a\r\nHost: a\r\n\r\n", 400),
    "an absolute target of another host": (b"GET http://b/ HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "a target of another scheme": (b"GET ftp://a/ HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "a fragment in the target": (b"GET /a#b HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "an asterisk for GET": (b"GET * HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "a control in the target": (b"GET /\x01 HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "a target that is not ASCII": (b"GET /\xc3\xa9 HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "a folded header": (b"GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\n 2\r\n\r\n", 400),
    "space before the first header": (b"GET / HTTP/1.1\r\n host: a\r\n\r\n", 400),
    "NUL in a value": (b"GET / HTTP/1.1\r\nhost: a\r\nx: 1\x002\r\n\r\n", 400),
    "CR in a value": (b"GET / HTTP/1.1\r\nhost: a\r\nx: 1\r2\r\n\r\n", 400),
    "a value that is not ASCII": (b"GET / HTTP/1.1\r\nhost: a\r\nx: \xff\r\n\r\n", 400),
    "NUL in a name": (b"GET / HTTP/1.1\r\nhost: a\r\nx\x00y: 1\r\n\r\n", 400),
    "an empty name": (b"GET / HTTP/1.1\r\nhost: a\r\n: 1\r\n\r\n", 400),
    "a line without a colon": (b"GET / HTTP/1.1\r\nhost: a\r\nnonsense\r\n\r\n", 400),
    "bare LF throughout": (b"GET / HTTP/1.1\nhost: a\n\n", 400),
    "bare LF after a value": (b"GET / HTTP/1.1\r\nhost: a\n\r\n", 400),
    "bare LF at the end of the head": (b"GET / HTTP/1.1\r\nhost: a\r\n\n", 400),
    "an unknown method": (b"FOO / HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "a lower-case method": (b"get / HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "HTTP/0.9": (b"GET /\r\n\r\n", 505),
    "an unknown version": (b"GET / HTTP/1.2\r\nhost: a\r\n\r\n", 400),
    "HTTP/2 in HTTP/1 clothes": (b"GET / HTTP/2.0\r\nhost: a\r\n\r\n", 505),
    "the HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "a tunnel": (b"CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n", 501),
    "an upgrade": (b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n", 501),
    "an unknown expectation": (H + b"expect: miracles\r\ncontent-length: 1\r\n\r\nx", 417),
}

ACCEPTED = {
    "an absolute target of the same host": b"GET http://A/x HTTP/1.1\r\nhost: a\r\n\r\n",
    "an asterisk for OPTIONS": b"OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n",
    "empty lines before a request": b"\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
    "an empty value": b"GET / HTTP/1.1\r\nx:\r\nhost: a\r\n\r\n",
    "a chunk extension": H + b"transfer-encoding: Chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\n\r\n",
    "a harmless trailer": H + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-t: 1\r\n\r\n",
    "an upgrade offer without the connection option": b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: h2c\r\n\r\n",
    "HTTP/1.0 without a host": b"GET / HTTP/1.0\r\n\r\n",
}


def teapot(request: Any, responder: Any) -> None:
    responder.answer(418, [], b"")


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    sent, status = REFUSED[name]

    async def scenario() -> None:
        async with serving(teapot) as server, peer(server) as caller:
            caller.send(sent)
            answer = await caller.answer()
            assert (answer[0], answer[1][b"connection"], answer[1][b"content-type"]) == (status, b"close", b"application/json")
            caller.send(b"GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n")
            assert await caller.rest() == b""

    run(scenario())


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name: str) -> None:
    async def scenario() -> None:
        async with serving(teapot) as server, peer(server) as caller:
            caller.send(ACCEPTED[name])
            assert (await caller.answer())[0] == 418

    run(scenario())


def test_a_refusal_waits_for_the_answers_before_it() -> None:
    async def scenario() -> None:
        async with serving(teapot) as server, peer(server) as caller:
            caller.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\n\r\n")
            assert [(await caller.answer())[0] for _ in range(2)] == [418, 400]

    run(scenario())
