"""The SSE decoder and frame cutter: whatever the split, the same events and the same bytes."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from waypost.core.sse import Decoder, Event, Frames, SseOverflow, event_of

STREAM = (
    b"\xef\xbb\xbf: hello\r\n\r\nevent: ping\ndata: a\n\ndata:b\n\ndata: c\rdata: d\r\rid: 7\nretry: 10\ndata: e\r\n\r\n"
    b"data: U+2028 \xe2\x80\xa8 and NEL \xc2\x85 stay\n\n\n\r\n\n"
    b"event: lonely\n\ndata\n\ndata:  two spaces\n\n: keep-alive\n\ndata: f\n\r\n"
)
EVENTS = [
    Event(b"ping", b"a"),
    Event(b"", b"b"),
    Event(b"", b"c\nd"),
    Event(b"", b"e"),
    Event(b"", b"U+2028 \xe2\x80\xa8 and NEL \xc2\x85 stay"),
    Event(b"", b""),
    Event(b"", b" two spaces"),
    Event(b"", b"f"),
]


@st.composite
def splits(draw: st.DrawFn, text: bytes) -> list[bytes]:
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=30)))
    edges = [0, *cuts, len(text)]
    return [text[a:b] for a, b in pairwise(edges)]


def decoded(chunks: list[bytes]) -> list[Event]:
    decoder = Decoder()
    return [event for chunk in chunks for event in decoder.feed(chunk)]


def test_the_standard_is_followed() -> None:
    assert decoded([STREAM]) == EVENTS


def test_one_byte_at_a_time_gives_the_same_events() -> None:
    assert decoded([STREAM[i : i + 1] for i in range(len(STREAM))]) == EVENTS


@given(splits(STREAM))
def test_any_split_gives_the_same_events(chunks: list[bytes]) -> None:
    assert decoded(chunks) == EVENTS


_LINES = st.lists(
    st.sampled_from(
        [b"data: x", b"data:", b"data: {}", b": c", b"event: e", b"", b"", b"junk", b"\xef\xbb\xbfdata: y", b"data: \xe2\x80\xa8"]
    )
)
_ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])


@settings(max_examples=150)
@given(st.data())
def test_any_mix_of_line_ends_and_splits_agrees_with_the_whole(data: st.DataObject) -> None:
    text = b"".join(line + data.draw(_ENDS) for line in data.draw(_LINES))
    assert decoded(data.draw(splits(text))) == decoded([text])


def test_a_line_end_after_the_line_that_followed_a_cr_is_its_own() -> None:
    assert decoded([b"data:\r: c", b"\ndata: x\n\n"]) == decoded([b"data:\r: c\ndata: x\n\n"]) == [Event(b"", b"\nx")]


@settings(max_examples=150)
@given(st.data())
def test_frames_lose_no_byte_and_hold_the_same_events(data: st.DataObject) -> None:
    text = b"".join(line + data.draw(_ENDS) for line in data.draw(_LINES)).replace(b"\xef\xbb\xbf", b"")
    frames = Frames()
    cut = [frame for chunk in data.draw(splits(text)) for frame in frames.feed(chunk)] + frames.flush()
    assert b"".join(cut) + frames.rest == text
    assert [event for frame in cut if (event := event_of(frame))] == decoded([text])


def test_whole_events_after_the_first_take_the_same_way() -> None:
    decoder = Decoder()
    assert decoder.feed(b"data: a\n\n") == [Event(b"", b"a")]
    assert decoder.feed(b"data: b\n\n") == [Event(b"", b"b")]
    assert decoder.feed(b"data: c\n\ndata: d\n\n") == [Event(b"", b"c"), Event(b"", b"d")]
    assert decoder.feed(b"data: e\ndata: f\n\n") == [Event(b"", b"e\nf")]


def test_an_unfinished_event_is_discarded_but_known() -> None:
    decoder = Decoder()
    assert decoder.feed(b"data: a\n\ndata: b\n") == [Event(b"", b"a")]
    assert decoder.unfinished
    assert decoder.feed(b"\n") == [Event(b"", b"b")]
    assert not decoder.unfinished


@pytest.mark.parametrize("chunk", [b"data: " + b"x" * 40, b"data: xxxxxxx\n", b": " + b"x" * 40])
def test_an_event_without_end_overflows(chunk: bytes) -> None:
    decoder, frames = Decoder(max_bytes=100), Frames(max_bytes=100)
    with pytest.raises(SseOverflow):
        for _ in range(20):
            decoder.feed(chunk)
    with pytest.raises(SseOverflow):
        for _ in range(20):
            frames.feed(chunk)


def test_a_line_of_ten_megabytes_in_small_pieces_is_one_event() -> None:
    decoder, piece = Decoder(), b"x" * 4096
    decoder.feed(b"data: ")
    for _ in range(2560):
        assert decoder.feed(piece) == []
    (event,) = decoder.feed(b"\n\n")
    assert len(event.data) == 10 * 1024 * 1024
