"""Fold and unfold: a streamed and a whole answer are one value."""

from hypothesis import given, settings
from hypothesis import strategies as st

from waypost.core.fold import Fold, fold, unfold
from waypost.core.types import (
    Begun,
    Choice,
    Ended,
    Failed,
    Failure,
    Fault,
    Finish,
    Reasoning,
    ReasoningDelta,
    Refusal,
    Reply,
    Text,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
    UsageDelta,
)

_text = st.text(min_size=1, max_size=8)
_maybe = st.none() | _text
_blocks = st.builds(Reasoning, text=_text, signature=_maybe, redacted=_maybe, origin=st.sampled_from(["openai-chat", "gemini"]))
_calls = st.builds(ToolCall, id=_text, name=_text, arguments=st.text(max_size=8), signature=_maybe)


@st.composite
def choices(draw: st.DrawFn) -> Choice:
    thoughts = draw(st.lists(_blocks, max_size=2))
    text = [Text(t)] if (t := draw(st.text(max_size=8))) else []
    refusal = [Refusal(r)] if (r := draw(st.text(max_size=4))) else []
    calls = draw(st.lists(_calls, max_size=3))
    finish = draw(st.sampled_from([None, "stop", "length", "tool_calls", "content_filter", "refusal", "pause", "error"]))
    return Choice(parts=(*thoughts, *text, *refusal, *calls), finish=finish, native_finish=draw(st.text(max_size=3)) if finish else "")


_counts = st.integers(0, 9)
replies = st.builds(
    Reply,
    id=_text,
    model=_text,
    choices=st.lists(choices(), max_size=3).map(tuple),
    usage=st.none() | st.builds(Usage, _counts, _counts, _counts, _counts, _counts),
    created=st.none() | _counts,
)


@settings(max_examples=150)
@given(replies)
def test_fold_undoes_unfold(reply: Reply) -> None:
    assert fold(unfold(reply)) == reply


def test_interleaved_deltas_fold_by_block_position_and_choice() -> None:
    reply = fold(
        [
            Begun("id", "m", 5),
            ToolCallDelta(1, "b", "g", "{"),
            TextDelta("Hel"),
            ReasoningDelta("why", block=0, origin="anthropic-messages"),
            ToolCallDelta(0, "a", "f"),
            TextDelta("other", index=1),
            ToolCallDelta(1, None, None, "}"),
            ReasoningDelta(signature="sig", block=0),
            TextDelta("lo"),
            UsageDelta(Usage(1, output_tokens=1)),
            Finish("tool_calls", "tool_use"),
            UsageDelta(Usage(1, output_tokens=9)),
            Ended(),
        ]
    )
    first = (Reasoning("why", "sig", None, "anthropic-messages"), Text("Hello"), ToolCall("a", "f", ""), ToolCall("b", "g", "{}"))
    assert reply.choices == (Choice(first, "tool_calls", "tool_use"), Choice((Text("other"),)))
    assert reply.usage == Usage(1, output_tokens=9)


def test_a_failure_is_kept_beside_what_was_received() -> None:
    folding = Fold()
    failure = Failure(Fault.TRUNCATED, "cut")
    for delta in (TextDelta("half"), Failed(failure)):
        folding.add(delta)
    assert folding.failure == failure
    assert not folding.ended
    assert folding.reply().choices[0].parts == (Text("half"),)
