"""Providers that misbehave in ways the simulator's words do not say: bytes written by hand on a bare socket."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from conftest import Serve
from e2e_kit import SECRET, chat, eventually, model, provider, request, route, told

from waypost.sim.provider import Simulator
from waypost.sim.texts import verify

Speak = Callable[[socket.socket, bytes], None]
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
CLOCKS = "[timeouts]\nfirst_token_ms = 600\nidle_ms = 600\n"


def said(text: str | None = None, finish: str | None = None) -> bytes:
    delta = {} if text is None else {"content": text}
    return b"data: " + json.dumps({"id": "x", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}).encode() + b"\n\n"


def whole(status: str, body: bytes, *headers: str) -> bytes:
    head = "\r\n".join((f"HTTP/1.1 {status}", "content-type: application/json", f"content-length: {len(body)}", *headers))
    return head.encode() + b"\r\n\r\n" + body


@contextmanager
def speaking(speak: Speak) -> Iterator[str]:
    """A provider that reads each request whole and then does as it is told. Gives its origin."""

    def serve(peer: socket.socket) -> None:
        with peer:
            got = b""
            while b"\r\n\r\n" not in got:
                got += peer.recv(65536)
            head, _, body = got.partition(b"\r\n\r\n")
            length = int(next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")).split(b":")[1])
            while len(body) < length:
                body += peer.recv(65536)
            try:
                speak(peer, head + b"\r\n\r\n" + body)
            except OSError:
                pass  # the gateway has hung up: often what is tested

    def accept() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(peer,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def odd(origin: str, name: str = "odd") -> str:
    return CLOCKS + provider(name, origin) + model(f"{name}/m", "m")


def simple(data: bytes) -> Speak:
    return lambda peer, _: peer.sendall(data)


@pytest.mark.parametrize("status", ["400 Bad Request", "401 Unauthorized", "429 Too Many Requests", "500 Oops"])
def test_a_provider_that_repeats_our_key_does_not_give_it_to_the_caller(serve: Serve, status: str) -> None:
    def echo(peer: socket.socket, got: bytes) -> None:
        key = next(line for line in got.decode().split("\r\n") if line.lower().startswith("authorization")).split(" ")[-1]
        error = {"message": f"Incorrect API key provided: {key}.", "type": "invalid_request_error", "param": None, "code": key}
        peer.sendall(whole(status, json.dumps({"error": error}).encode(), f"x-key: {key}"))

    with speaking(echo) as origin:
        gateway = serve(odd(origin))
        for stream in (False, True):
            answer = gateway.ask(chat("odd/m", stream=stream))
            assert answer.status >= 400 and answer.error
            assert SECRET not in answer.body.decode() + str(answer.headers)
        assert SECRET not in gateway.text
        assert SECRET not in gateway.get("/metrics").body.decode() + gateway.get("/readyz").body.decode()


def test_our_key_goes_to_its_own_provider_and_no_caller_header_goes_along(serve: Serve) -> None:
    heads: list[bytes] = []

    def note(peer: socket.socket, got: bytes) -> None:
        heads.append(got.partition(b"\r\n\r\n")[0].lower())
        peer.sendall(STREAM + said("Yes.") + said(finish="stop") + b"data: [DONE]\n\n")

    with speaking(note) as origin:
        sent = {"Authorization": "Bearer wp-caller", "Cookie": "a=b", "x-waypost-segment": "s1", "x-forwarded-for": "10.0.0.9"}
        assert gateway_text(serve(odd(origin)), sent) == "Yes."
    assert f"bearer {SECRET}".lower().encode() in heads[0]
    assert not [secret for secret in (b"wp-caller", b"cookie", b"x-waypost", b"10.0.0.9") if secret in heads[0]]


def gateway_text(gateway: object, headers: dict[str, str]) -> str:
    answer = request(gateway.port, body=chat("odd/m", stream=True), headers=headers)  # type: ignore[attr-defined]
    return told(answer.body).text


@pytest.mark.parametrize("keepalive", [b": ping\n\n", b"\n", said(), b'data: {"choices":[]}\n\n'])
def test_keepalives_in_the_middle_are_no_content(serve: Serve, keepalive: bytes) -> None:
    def babble(peer: socket.socket, _: bytes) -> None:
        peer.sendall(STREAM + said("The bri"))
        while True:
            peer.sendall(keepalive)
            time.sleep(0.05)

    with speaking(babble) as origin:
        answer = serve(odd(origin)).ask(chat("odd/m", stream=True))
    stream = told(answer.body)
    assert stream.text == "The bri" and stream.error is not None and not stream.done
    assert answer.seconds < 5


@pytest.mark.parametrize("keepalive", [b": ping\n\n", said(), said("")])
def test_keepalives_for_ever_before_content_are_a_timeout_and_the_next_answers(sim: Simulator, serve: Serve, keepalive: bytes) -> None:
    def babble(peer: socket.socket, _: bytes) -> None:
        peer.sendall(STREAM)
        while True:
            peer.sendall(keepalive)
            time.sleep(0.02)

    with speaking(babble) as origin:
        config = odd(origin) + provider("fine", sim.box.origin + "/p/fine") + model("fine/m", "m.ok-n20") + route("pair", "odd/m", "fine/m")
        answer = serve(config).ask(chat("pair", stream=True))
    assert verify(told(answer.body).text) and answer.headers["x-waypost-attempts"] == "2"


def test_what_comes_after_the_terminal_marker_is_not_relayed(serve: Serve) -> None:
    with speaking(simple(STREAM + said("Yes.") + said(finish="stop") + b"data: [DONE]\n\n" + said(" And more.") * 3)) as origin:
        stream = told(serve(odd(origin)).ask(chat("odd/m", stream=True)).body)
    assert (stream.text, stream.finish, stream.done, stream.error) == ("Yes.", "stop", True, None)


def test_a_runaway_at_full_speed_is_cut_near_the_ceiling(serve: Serve) -> None:
    def run_away(peer: socket.socket, _: bytes) -> None:
        peer.sendall(STREAM)
        while True:
            peer.sendall(said(" word") * 400)

    with speaking(run_away) as origin:
        gateway = serve(odd(origin))
        stream = told(gateway.ask(chat("odd/m", stream=True, max_tokens=50)).body)
        assert stream.finish == "length" and stream.done and stream.error is None
        assert stream.text.count("word") <= 50 * 1.1 + 16 + 15  # and what one piece of 1 KiB holds
        row = gateway.rows()[0]
        assert (row["outcome"], int(row["output_tokens"]) <= 50) == ("length_cut", True)


def test_a_stream_that_gives_up_with_a_finish_reason_of_error_is_an_error(serve: Serve) -> None:
    with speaking(simple(STREAM + said("The bri") + said(finish="error") + b"data: [DONE]\n\n")) as origin:
        stream = told(serve(odd(origin)).ask(chat("odd/m", stream=True)).body)
    assert stream.text == "The bri" and stream.error is not None and not stream.done


def test_a_tool_call_cut_in_its_arguments_is_an_error(serve: Serve) -> None:
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "tide", "arguments": '{"port": "Ham'}}
    begun = b"data: " + json.dumps({"id": "x", "choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}).encode() + b"\n\n"
    with speaking(simple(STREAM + begun)) as origin:
        gateway = serve(odd(origin))
        body = gateway.ask(chat("odd/m", stream=True)).body
        assert b"Ham" in body and told(body).error is not None and not told(body).done
        answer = gateway.ask(chat("odd/m", max_tokens=2000))
        assert answer.status == 502 and answer.error


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 7\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 4\r\n\r\nnull",
        whole("200 OK", b'{"choices":[]}'),
        whole("200 OK", b'{"choices":[{"index":0,"message":null,"finish_reason":"stop"}]}'),
        whole("200 OK", b'{"choices":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        whole("200 OK", b'{"object":"error","message":"overloaded","type":"server_error","code":503}'),
        whole("418 Teapot", b"short and stout"),
        whole("300 Many", b""),
        whole("600 Beyond", b""),
    ],
    ids=lambda answer: answer[:40].decode(),
)
@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_that_is_none_becomes_one_clean_error(serve: Serve, answer: bytes, stream: bool) -> None:
    with speaking(simple(answer)) as origin:
        gateway = serve(odd(origin))
        got = gateway.ask(chat("odd/m", stream=stream, max_tokens=20))
        assert got.status >= 400 and got.error and got.headers["x-should-retry"] == "false"
        assert {row["outcome"] for row in gateway.rows()} == {"failed"}
        assert "Traceback" not in gateway.text


def test_a_caller_who_does_not_stream_and_leaves_closes_the_provider_and_pays_for_what_it_generated(sim: Simulator, serve: Serve) -> None:
    gateway = serve(provider("slow", sim.box.origin + "/p/slow") + model("slow/m", "m.drip-20-n3000"))
    raw = json.dumps(chat("slow/m", marker="gone")).encode()
    with socket.create_connection(("127.0.0.1", gateway.port)) as caller:
        caller.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(raw), raw))
        eventually(lambda: bool(sim.records("gone")) and sim.records("gone")[0].output_tokens > 10, "it generates")
        left_s = time.monotonic()
    eventually(lambda: sim.records("gone")[0].peer_closed_s is not None, "the provider sees the close")
    assert (sim.records("gone")[0].peer_closed_s or 0) - left_s < 0.3
    eventually(lambda: [row["outcome"] for row in gateway.rows()] == ["caller_left"], "the row says so")
    assert int(gateway.rows()[0]["output_tokens"]) >= 8


# --- the bill, where the provider does not write it ------------------------------------------------------------------------


def test_a_key_that_looks_like_no_key_is_not_given_to_the_caller_either(serve: Serve) -> None:
    secret = "plainwords-of-a-key-77"

    def echo(peer: socket.socket, _: bytes) -> None:
        error = {"message": f"your key {secret} is odd", "type": "x", "param": secret, "code": secret}
        peer.sendall(whole("400 Bad Request", json.dumps({"error": error}).encode()))

    with speaking(echo) as origin:
        answer = serve(odd(origin), env={"SIM_KEY": secret}).ask(chat("odd/m"))
    assert answer.status == 400 and secret not in answer.body.decode()


def test_an_error_within_a_200_that_delivered_nothing_costs_nothing(serve: Serve) -> None:
    refusal = b'data: {"error":{"message":"overloaded","type":"overloaded_error","code":"overloaded"}}\n\n'
    with speaking(simple(STREAM + refusal)) as origin:
        gateway = serve(odd(origin))
        answer = gateway.ask(chat("odd/m", stream=True))
        rows = gateway.rows(answer.headers["x-request-id"])
    assert answer.status == 503
    assert rows and {row["cost_nusd"] for row in rows} == {"0"}


def test_a_first_event_of_many_hundred_kilobytes_is_content(serve: Serve) -> None:
    picture = "A" * 900_000
    with speaking(simple(STREAM + said(picture) + said(finish="stop") + b"data: [DONE]\n\n")) as origin:
        stream = told(serve(odd(origin)).ask(chat("odd/m", stream=True)).body)
    assert stream.text == picture and stream.done


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_without_usage_carries_the_bill_we_estimated(serve: Serve, stream: bool) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "four words are here"}, "finish_reason": "stop"}
    body = whole("200 OK", json.dumps({"id": "x", "choices": [choice]}).encode())
    events = STREAM + said("four ") + said("words ") + said("are ") + said("here") + said(finish="stop") + b"data: [DONE]\n\n"
    with speaking(simple(events if stream else body)) as origin:
        gateway = serve(odd(origin).replace("idle_ms = 600", 'idle_ms = 600\nstream_upstream = "never"'))
        answer = gateway.ask(chat("odd/m", stream=stream, max_tokens=9))
        (row,) = gateway.rows(answer.headers["x-request-id"])
    usages = (
        [json.loads(line[6:])["usage"] for line in answer.body.split(b"\n\n") if b'"usage"' in line] if stream else [answer.json["usage"]]
    )
    (usage,) = usages
    assert (usage["source"], row["usage_source"]) == ("estimated", "estimated")
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (int(row["input_tokens"]), int(row["output_tokens"]))
    assert round(usage["cost"] * 1e9) == int(row["cost_nusd"]) > 0


def test_a_server_that_closes_connections_it_said_it_would_keep_is_answered_all_the_same(serve: Serve) -> None:
    def once(peer: socket.socket, _: bytes) -> None:  # no `connection: close`, yet the socket is closed after each answer
        choice = {"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1}
        peer.sendall(whole("200 OK", json.dumps({"id": "x", "choices": [choice], "usage": usage}).encode()))

    with speaking(once) as origin:
        gateway = serve(odd(origin))
        with ThreadPoolExecutor(16) as pool:
            statuses = list(pool.map(lambda _: gateway.ask(chat("odd/m", max_tokens=5)).status, range(120)))
    assert statuses.count(200) >= 116, statuses


@pytest.mark.parametrize(
    "label", ["content-type: text/plain\r\n", "content-type: application/octet-stream\r\n", ""], ids=["plain", "octets", "none"]
)
def test_events_are_events_whatever_their_label_says(serve: Serve, label: str) -> None:
    head = f"HTTP/1.1 200 OK\r\n{label}connection: close\r\n\r\n".encode()
    with speaking(simple(head + said("Yes.") + said(finish="stop") + b"data: [DONE]\n\n")) as origin:
        stream = told(serve(odd(origin)).ask(chat("odd/m", stream=True)).body)
    assert stream.text == "Yes." and stream.done


def test_a_whole_answer_cut_in_its_body_is_replaced_and_not_asked_for_twice(serve: Serve, sim: Simulator) -> None:
    asked: list[bytes] = []

    def cut(peer: socket.socket, got: bytes) -> None:
        asked.append(got)
        peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{")

    with speaking(cut) as origin:
        config = odd(origin) + provider("good", f"{sim.box.origin}/p/good") + model("good/m", "ok") + route("both", "odd/m", "good/m")
        answer = serve(config.replace("idle_ms = 600", 'idle_ms = 600\nstream_upstream = "never"')).ask(chat("both", max_tokens=60))
    assert answer.status == 200 and answer.headers["x-waypost-attempts"] == "2"
    assert len(asked) == 1
