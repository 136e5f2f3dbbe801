"""Beats: a script and an answer compiled into what happens on the wire, and when.

A `Reply` is a head and a lazy sequence of beats: bytes, the tokens they carry, the wait before them, how the connection ends. The
player (`box`) only plays. All failure words are decided here; nothing here waits, writes or knows the time. Waits are scripted
seconds: the player scales them.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from itertools import chain, cycle
from typing import Literal

from msgspec import Struct

from waypost.sim import render_anthropic, render_chat, render_errors, render_gemini, render_responses
from waypost.sim.answers import Answer, Score
from waypost.sim.asks import Ask
from waypost.sim.render_errors import Headers, Speech
from waypost.sim.scripts import Chance, Script, Spread

Render = Callable[[Ask, Answer], Score]
STREAMS: dict[str, Render] = {
    "openai-chat": render_chat.stream,
    "openai-responses": render_responses.stream,
    "anthropic-messages": render_anthropic.stream,
    "gemini": render_gemini.stream,
}
WHOLES: dict[str, Callable[..., bytes]] = {
    "openai-chat": render_chat.whole,
    "openai-responses": render_responses.whole,
    "anthropic-messages": render_anthropic.whole,
    "gemini": render_gemini.whole,
}
KEEPALIVES = {"openrouter": b": OPENROUTER PROCESSING\n\n", "deepseek": b": keep-alive\n\n"}
KEEPALIVE_EVERY_S = 1.0
EVERY_TOKENS = 5  # odd events between tokens
ENDLESS_TOKENS = 1_000_000  # nothing is truly endless: every wait and loop has a bound
ENDLESS_GAP_S = 0.001
BOMB_MEGABYTES = 256
PAGE = b"<!doctype html><html><head><title>Sign in</title></head><body><h1>Please sign in to the network</h1></body></html>"


class Beat(Struct, frozen=True):
    data: bytes = b""
    tokens: int = 0
    wait_s: float = 0.0  # before the data
    end: Literal["", "fin", "rst"] = ""  # after the data


class Reply(Struct):
    """`status` 0: no head, only beats. `length` None: chunked. `generates`: tokens made during `head_wait_s`, before the head."""

    status: int
    headers: Headers
    beats: Iterator[Beat]
    head_wait_s: float = 0.0
    length: int | None = None
    generates: int = 0
    generate_s: float = 0.0
    hints: bool = False
    split: int = 0
    is_answer: bool = False  # a real answer: its tokens are billed


class Pace(Struct, frozen=True):
    """Waits of one attempt: seconds to the first byte, and the distribution of the gaps."""

    ttft_s: float
    gap: Spread
    chance: Chance

    def gap_s(self) -> float:
        return self.gap.draw_s(self.chance)


class Scene(Struct, frozen=True):
    """What a reply is made of."""

    ask: Ask
    script: Script
    answer: Answer
    pace: Pace
    said: Speech
    redirect_to: str
    wall_s: float


def reply(scene: Scene) -> Reply:
    """The reply that the script calls for."""
    script, pace = scene.script, scene.pace
    if "refuse" in script:
        return Reply(0, [], iter((Beat(end="rst"),)))
    made = _reply(scene)
    made.head_wait_s += pace.ttft_s + script.number("silence")
    made.hints = "early-hints" in script
    made.split = int(script.number("split"))
    return made


def _reply(scene: Scene) -> Reply:
    script = scene.script
    if "reset" in script:
        return Reply(0, [], iter((Beat(end="rst"),)))
    for word, make in _ODD.items():
        if word in script:
            return make(scene)
    if scene.ask.dialect == "embeddings":
        return _json(render_chat.embeddings(scene.ask), is_answer=True)
    if scene.ask.stream and "not-stream" not in script:
        return _streamed(scene)
    return _whole(scene)


# --- replies that are no answers -------------------------------------------------------------------------------------


def _fixed(status: int, headers: Headers, body: bytes) -> Reply:
    return Reply(status, headers, iter((Beat(body),)), length=len(body))


def _json(body: bytes, *, is_answer: bool = False) -> Reply:
    made = _fixed(200, [("Content-Type", "application/json")], body)
    made.is_answer = is_answer
    return made


def _fail(scene: Scene) -> Reply:
    status = int(scene.script.number("fail"))
    problem = render_errors.problem(scene.said, scene.script, status=status, request_id=scene.answer.id, wall_s=scene.wall_s)
    return _fixed(problem.status, problem.headers, problem.body)


def _redirect(scene: Scene) -> Reply:
    return _fixed(307, [("Location", scene.redirect_to)], b"")


def _error_200(scene: Scene) -> Reply:
    status = 429 if "quota" in scene.script else 503
    return _json(render_errors.body(scene.said, status, "quota" if status == 429 else "", request_id=scene.answer.id))


def _empty_200(scene: Scene) -> Reply:
    return _fixed(200, [("Content-Type", "text/event-stream" if scene.ask.stream else "application/json")], b"")


def _html_200(scene: Scene) -> Reply:
    return _fixed(200, [("Content-Type", "text/html; charset=utf-8")], PAGE)


def _bomb(scene: Scene) -> Reply:
    kind = "text/event-stream" if scene.ask.stream else "application/json"
    return _fixed(200, [("Content-Type", kind), ("Content-Encoding", "gzip")], _bomb_bytes())


@cache
def _bomb_bytes() -> bytes:
    """One gzip member. A full flush makes a deflate block independent of its place, so one compressed megabyte stands for all."""
    megabyte = b" " * 1024 * 1024
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = deflate.compress(megabyte) + deflate.flush(zlib.Z_FULL_FLUSH)
    checksum = 0
    for _ in range(BOMB_MEGABYTES):
        checksum = zlib.crc32(megabyte, checksum)
    head = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
    return head + block * BOMB_MEGABYTES + b"\x03\0" + struct.pack("<II", checksum, BOMB_MEGABYTES << 20)


def _blocked(scene: Scene) -> Reply:
    if scene.ask.dialect == "gemini":
        body = render_gemini.blocked(scene.ask)
        if not scene.ask.stream:
            return _json(body)
        return Reply(200, [("Content-Type", "text/event-stream")], iter((Beat(b"data: %s\n\n" % body),)))
    status = 403 if scene.said == "openrouter" else 400
    body = render_errors.body(scene.said, status, "moderation", request_id=scene.answer.id)
    return _fixed(status, [("Content-Type", "application/json")], body)


_ODD: dict[str, Callable[[Scene], Reply]] = {
    "redirect": _redirect,
    "fail": _fail,
    "error-200": _error_200,
    "empty-200": _empty_200,
    "html-200": _html_200,
    "gzip-bomb": _bomb,
    "blocked-prompt": _blocked,
}


# --- whole answers ---------------------------------------------------------------------------------------------------


def _whole(scene: Scene) -> Reply:
    """Not streamed: the head comes when all is generated, as providers do it; faults at token k cut the body in proportion."""
    script, answer = scene.script, scene.answer
    body = WHOLES[scene.ask.dialect](scene.ask, answer, empty_choices="empty-choices" in script)
    if "error" in script:
        body = render_errors.body(scene.said, 503 if scene.said in ("gemini", "anthropic") else 500, request_id=answer.id)
    if "malformed" in script:
        body = body[: len(body) // 2]
    if "bom" in script:
        body = b"\xef\xbb\xbf" + body
    generate_s = sum(scene.pace.gap_s() for _ in range(answer.output_tokens - 1)) if scene.pace.gap.centre else 0.0
    kept_alive = [Beat(b"\n", wait_s=wait) for word in ("blank-lines", "comments", "pings") for wait in _every(script.number(word))]
    is_open = bool(kept_alive) or "endless" in script or "no-done" in script
    return Reply(
        200,
        [("Content-Type", "text/plain" if "wrong-type" in script else "application/json")],
        chain(kept_alive, _whole_beats(body, scene)),
        head_wait_s=generate_s + script.number("slow"),
        length=None if is_open else len(body),
        generates=answer.output_tokens,
        generate_s=generate_s,
        is_answer="error" not in script,
    )


def _whole_beats(body: bytes, scene: Scene) -> Iterator[Beat]:
    script, tokens = scene.script, max(1, scene.answer.output_tokens)

    def part(word: str) -> bytes:
        return body[: min(len(body) - 1, len(body) * int(script.number(word)) // tokens)]

    if "cut" in script:
        yield Beat(part("cut"), end="fin")
    if "rst" in script:
        yield Beat(part("rst"), end="rst")
    if "cut-last" in script:
        yield Beat(body[:-1], end="fin")
    if "no-done" in script:
        yield Beat(body, end="fin")  # all of the body, and no end of it
    if "stall" in script:
        yield Beat(part("stall"))
        yield Beat(wait_s=script.number("s", 3600))
        body = body[len(part("stall")) :]
    if "endless" in script:
        yield Beat(body[:-1])
        for _ in range(ENDLESS_TOKENS):
            yield Beat(b"    ", 1, ENDLESS_GAP_S)
    yield Beat(body)


# --- streamed answers ------------------------------------------------------------------------------------------------


def _streamed(scene: Scene) -> Reply:
    script = scene.script
    score = STREAMS[scene.ask.dialect](scene.ask, scene.answer)
    kind = "text/plain" if "wrong-type" in script else "text/event-stream"
    beats = _stream_beats(score, scene)
    if {"crlf", "cr", "bom"} & {word for word, _ in script.words}:
        beats = _reworded(beats, script)
    return Reply(200, [("Content-Type", kind), ("Cache-Control", "no-cache")], beats, is_answer=True)


def _reworded(beats: Iterator[Beat], script: Script) -> Iterator[Beat]:
    """Other line ends, and a mark in front. JSON holds no raw line end, so each one in a frame ends a line."""
    line_end = b"\r\n" if "crlf" in script else b"\r" if "cr" in script else b"\n"
    mark = b"\xef\xbb\xbf" if "bom" in script else b""
    for beat in beats:
        data = mark + beat.data.replace(b"\n", line_end)
        mark = b""
        yield Beat(data, beat.tokens, beat.wait_s, beat.end)


def _stream_beats(score: Score, scene: Scene) -> Iterator[Beat]:
    script = scene.script
    yield from _prelude(score, scene)
    for frame in score.opening:
        yield Beat(frame)
    yield Beat(wait_s=script.number("slow"))
    if "giant-line" in script:
        padding = b"x" * int(script.number("giant-line") * 1e6)
        yield Beat(b'%s,"padding":"%s"}\n\n' % (score.blank.removesuffix(b"}\n\n"), padding))
    faults = sorted((int(script.number(word)), word) for word in _FAULTS if word in script)
    pushed = 0
    for beat in _content(score, scene):
        while faults and faults[0][0] <= pushed and beat.tokens:
            yield from _FAULTS[faults[0][1]](scene)
            if faults.pop(0)[1] in _FATAL:
                return
        yield beat
        pushed += beat.tokens
    for _, word in faults:
        yield from _FAULTS[word](scene)
        if word in _FATAL:
            return
    yield from _ending(score, script)


def _ending(score: Score, script: Script) -> Iterator[Beat]:
    if "cut-last" in script:
        yield Beat(end="fin")
        return
    times = 2 if "dup-finish" in script else 1
    for frame in score.finish * times + score.usage:
        yield Beat(frame)
    if "no-done" in script:
        return
    for frame in score.done * (1 if score.finish else times):
        yield Beat(frame)


def _prelude(score: Score, scene: Scene) -> Iterator[Beat]:
    script = scene.script
    comment = KEEPALIVES.get(scene.ask.flavour, b": keep-alive\n\n")
    for word, frame in (("comments", comment), ("blank-lines", b"\n"), ("pings", score.ping)):
        for wait_s in _every(script.number(word)):
            yield Beat(frame, wait_s=wait_s)


def _every(total_s: float) -> Iterator[float]:
    """Waits between keep-alives that add up to the total."""
    while total_s > 0:
        yield min(KEEPALIVE_EVERY_S, total_s)
        total_s -= KEEPALIVE_EVERY_S


def _content(score: Score, scene: Scene) -> Iterator[Beat]:
    """The answer's tokens at their pace, with the odd events that the script puts between them."""
    script, pace = scene.script, scene.pace
    odd = [frame for word, frame in (("empty-choices", score.blank), ("unknown-event", score.unknown)) if word in script]
    burst = int(script.number("burst", 1)) or 1
    pings = "pings" in script
    owed_s, said = 0.0, 0
    for frame, tokens in _frames(score, script):
        if tokens and said:
            owed_s += max(pace.gap_s(), ENDLESS_GAP_S) if "endless" in script else pace.gap_s()
        if odd and tokens and said % EVERY_TOKENS == 0:
            for blank in odd:
                yield Beat(blank)
        if pings and tokens:
            yield Beat(score.ping)
        if said % burst == 0:
            yield Beat(frame, tokens, owed_s)
            owed_s = 0.0
        else:
            yield Beat(frame, tokens)
        said += tokens


def _frames(score: Score, script: Script) -> Iterator[tuple[bytes, int]]:
    if "endless" not in script:
        return iter(score.body)
    spoken = [frame for frame in score.body if frame[1]] or [(score.ping, 1)]
    return chain(score.body[:1], (frame for _, frame in zip(range(ENDLESS_TOKENS), cycle(spoken), strict=False)))


def _malformed(scene: Scene) -> Iterator[Beat]:
    named = b"event: content_block_delta\n" if scene.said == "anthropic" else b""
    yield Beat(named + b'data: {"id":"broken","choices":[{"index":0,"delta":{"content":"unfin\n\n')


def _error_event(scene: Scene) -> Iterator[Beat]:
    yield Beat(render_errors.event(scene.said, request_id=scene.answer.id))


def _stall(scene: Scene) -> Iterator[Beat]:
    yield Beat(wait_s=scene.script.number("s", 3600))


def _fin(scene: Scene) -> Iterator[Beat]:
    yield Beat(end="fin")


def _rst(scene: Scene) -> Iterator[Beat]:
    yield Beat(end="rst")


def _nothing(scene: Scene) -> Iterator[Beat]:
    return iter(())


_FAULTS: dict[str, Callable[[Scene], Iterator[Beat]]] = {
    "malformed": _malformed,
    "error": _error_event,
    "stall": _stall,
    "cut": _fin,
    "rst": _rst,
    "clean-cut": _nothing,
}
_FATAL = {"error", "cut", "rst", "clean-cut"}
