"""View: the demo's live picture on a plain ANSI terminal.

`picture` is pure: numbers and a size in, lines of styled spans out. `Screen` owns the terminal: alternate screen, keys, and the way
back, whatever happens. Only lines that changed are written, so nothing flickers. No colour where NO_COLOR is set (no-color.org).
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TextIO

from msgspec import Struct

from waypost.core.health import TargetView
from waypost.core.types import Outcome
from waypost.sim import demo_words as words
from waypost.sim.demo_tally import RECENT_S, Check, Served, Tally, quantile

Span = tuple[str, str]  # style, text
Line = list[Span]
STYLES = {"": "", "bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36", "title": "1;30;46", "alarm": "1;31"}
LEAST = (60, 16)  # columns, rows; below it there is no picture to draw
SLOW_MS = 900.0
BAR = 6
END = "\x04"
_BLOCKS = " ▏▎▍▌▋▊▉█"


class Scene(Struct, frozen=True):
    """All that one picture shows."""

    headline: str
    place: str  # "2/5"
    elapsed_s: float
    now_s: float
    base_url: str
    wires: Mapping[str, str]
    frontier: str
    tally: Tally
    feed: Sequence[Outcome]
    notable: Sequence[Outcome]
    health: Mapping[str, TargetView]
    check: Check | None
    curl: str  # "" until the story is over


class Charset(Struct, frozen=True):
    arrow: str
    dot: str
    blocks: str


UNICODE = Charset("→", "●", _BLOCKS)
ASCII = Charset("->", "*", " .:-=+*##")


# --- the picture -----------------------------------------------------------------------------------------------------------


def picture(scene: Scene, columns: int, rows: int, chars: Charset) -> list[Line]:
    """At most `rows` lines. What does not fit is the feed's loss: head, table and totals always stand."""
    airy = [] if rows < 28 else [_blank()]
    top = [*_head(scene, columns), *airy, *_table(scene, columns, chars), *airy]
    bottom = [*airy, *_totals(scene), *_foot(scene, columns)]
    room = rows - len(top) - len(bottom) - 2 - len(airy)
    if room < 2:
        return [*top, *bottom][:rows]
    feed_rows = (room + 1) // 2
    feed = _requests("LAST REQUESTS, A SAMPLE", scene.feed, feed_rows, columns, chars)
    notable = _requests("FAILOVERS, HEDGES, CUTS", scene.notable, room - feed_rows, columns, chars)
    return [*top, *feed, *airy, *notable, *bottom][:rows]


def _blank() -> Line:
    return [("", "")]


def _head(scene: Scene, columns: int) -> list[Line]:
    bar = f" {scene.place} {scene.headline}" if scene.place else f" {scene.headline}"
    left = f" waypost demo   {scene.base_url}"
    right = f"   {len(scene.wires)} sim providers, {len(set(scene.wires.values()))} dialects   {words.clock(scene.elapsed_s)} "
    return [[("title", bar.ljust(columns))], [("bold", left[:13]), ("dim", left[13:] + right.rjust(columns - len(left)))]]


def _table(scene: Scene, columns: int, chars: Charset) -> list[Line]:
    """A row per deployment; the window is the last seconds, cost and failures are of the whole run."""
    wide = columns - 80
    name_width = 16 + min(max(wide, 0), 8)
    bar_width = BAR + min(max(wide - 8, 0), 18)
    span = f"{RECENT_S:.0f} s"
    rate = f"ANSWERS/S, {span}" if wide >= 20 else "ANSWERS/S"
    head = f" {'MODEL':<{name_width}}{'DIALECT':<10}{'STANDING':<11}{rate:<{bar_width + 5}}"
    head += f"{'FAIL':>6}{'P50':>8}{'P99':>8}{'COST':>9}"
    windows = {name: served.window(scene.now_s) for name, served in scene.tally.served.items()}
    most = max([sum(seen.ok for seen in window) for window in windows.values()], default=0) or 1
    seconds = min(RECENT_S, max(scene.elapsed_s, 1.0))
    lines: list[Line] = [[("dim", head)]]
    for name, served in scene.tally.served.items():
        window = windows[name]
        answered = sum(seen.ok for seen in window)
        dialect = scene.wires.get(name.partition("/")[0], "").partition("-")[0]
        p50, p99 = (quantile([seen.ttft_ms for seen in window if seen.ttft_ms is not None], q) for q in (0.5, 0.99))
        lines.append(
            [
                ("bold", f" {words.printable(name):<{name_width}.{name_width}}"),
                ("", f"{dialect:<10}"),
                _standing(scene.health.get(name), scene.now_s, chars),
                ("cyan", _bar(answered / most, bar_width, chars)),
                ("", f"{answered / seconds:>5.1f}"),
                _failures(served, any(not seen.ok for seen in window)),
                ("yellow" if p50 is not None and p50 > SLOW_MS else "", f"{words.milliseconds(p50):>8}"),
                ("yellow" if p99 is not None and p99 > SLOW_MS else "", f"{words.milliseconds(p99):>8}"),
                ("", f"{words.dollars(served.cost_nusd):>9}"),
            ]
        )
    return lines


def _failures(served: Served, is_fresh: bool) -> Span:
    return ("red" if is_fresh and served.failed else "" if served.failed else "dim", f"{served.failed:>6}")


def _standing(view: TargetView | None, now_s: float, chars: Charset) -> Span:
    standing = "ready" if view is None else view.standing
    left_s = 0.0 if view is None or view.until_s is None else max(0.0, view.until_s - now_s)
    if view is not None and standing == "open" and "being probed" in view.why:
        standing, left_s = "probe", 0.0
    said = f"{standing} {left_s:.0f} s" if left_s else standing
    return {"ready": "green", "open": "red", "dead": "red"}.get(standing, "yellow"), f"{chars.dot} {said:<9.9}"


def _bar(share: float, width: int, chars: Charset) -> str:
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    full, part = divmod(eighths, 8)
    return (chars.blocks[8] * full + (chars.blocks[part] if part else "")).ljust(width)


def _requests(title: str, outcomes: Sequence[Outcome], rows: int, columns: int, chars: Charset) -> list[Line]:
    """Newest last. Why stands in its own column where the attempts leave it room."""
    lines: list[Line] = [[("dim", f" {title}")]]
    column = 26 if columns < 110 else 58
    for outcome in list(outcomes)[-rows:]:
        chain = words.chain(outcome, chars.arrow)
        lines.append(
            [
                ("cyan", f" {words.route(outcome):<6.6}"),
                ("", f"{words.task(outcome):<10}"),
                *_chain_spans(chain, chars.arrow),
                ("dim", " " * max(0, column - len(chain)) + f"  {words.why(outcome)}"),
            ]
        )
    return lines + [_blank()] * (rows + 1 - len(lines))


def _chain_spans(chain: str, arrow: str) -> Iterator[Span]:
    """What went wrong in red, what helped in green."""
    steps = chain.split(f" {arrow} ")
    for i, step in enumerate(steps):
        good, slow = " ok " in step, step.endswith((" slow", " not needed"))
        name, _, said = step.partition(" ")
        yield "", f" {arrow} {name} " if i else f"{name} "
        yield "green" if good else "yellow" if slow else "red", said


def _totals(scene: Scene) -> list[Line]:
    tally = scene.tally
    told, silent = words.promises(tally)
    lines: list[Line] = [
        [("bold", f" {words.counts(tally)}")],
        [("", f" {told}"), ("green" if not tally.silent else "alarm", silent)],
        [("", f" {words.latency(tally)}")],
        [("", f" {words.costs(tally, scene.frontier)}")],
    ]
    if scene.check is None:
        lines.append([("dim", f" ledger: {tally.tokens:,} tokens so far; checked against the providers' own bill at the end")])
    else:
        style = "green" if scene.check.is_exact else "alarm"
        lines.append([(style, f" {words.verdict(scene.check)[0]}")])
    return lines


def _foot(scene: Scene, columns: int) -> list[Line]:
    """How to leave, or a request to try: on two lines rather than cut off."""
    if not scene.curl:
        return [[("dim", " q or Ctrl-C ends")]]
    if len(scene.curl) < columns:
        return [[("cyan", f" {scene.curl}")]]
    url, _, body = scene.curl.partition(" -d ")
    return [[("cyan", f" {url} \\")], [("cyan", f"   -d {body}")]]


# --- the terminal ----------------------------------------------------------------------------------------------------------


def encode(line: Line, columns: int, *, colour: bool) -> str:
    """Clipped to `columns`, with an escape sequence only where a style begins."""
    out: list[str] = []
    left = columns
    for style, text in line:
        text = text[:left]
        left -= len(text)
        out.append(f"\x1b[{STYLES[style]}m{text}\x1b[0m" if colour and style and text else text)
    return "".join(out)


class Screen:
    """The terminal from `with` to the end of it; restored however that ends. `on_key` hears each key."""

    def __init__(self, out: TextIO, on_key: Callable[[str], None]) -> None:
        self._out = out
        self._on_key = on_key
        self._shown: list[str] = []
        self._size = (0, 0)
        self._colour = "NO_COLOR" not in os.environ or not os.environ["NO_COLOR"]
        self._chars = UNICODE if (out.encoding or "").lower().replace("-", "") == "utf8" else ASCII
        self._keys: Any = None  # termios attributes as they were

    def __enter__(self) -> "Screen":
        self._write("\x1b[?1049h\x1b[?25l\x1b[2J")
        with contextlib.suppress(ImportError, OSError, ValueError):
            self._listen()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._keys is not None:
            import termios

            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            with contextlib.suppress(termios.error):  # the terminal is gone
                termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, self._keys)
        self._write("\x1b[0m\x1b[?25h\x1b[?1049l")

    def _listen(self) -> None:
        """Keys one by one and unseen; Ctrl-C stays a signal."""
        if not sys.stdin.isatty():
            return
        import termios
        import tty

        fd = sys.stdin.fileno()
        keys = termios.tcgetattr(fd)
        tty.setcbreak(fd)
        self._keys = keys
        asyncio.get_running_loop().add_reader(fd, self._hear, fd)

    def _hear(self, fd: int) -> None:
        """A terminal that is gone says END, as Ctrl-D does."""
        try:
            key = os.read(fd, 64).decode("utf-8", "replace")
        except OSError:
            key = ""
        if not key:
            asyncio.get_running_loop().remove_reader(fd)
        self._on_key(key or END)

    def paint(self, scene: Scene) -> None:
        """Draw what changed since the last time; everything after a change of size."""
        size = _size(self._out)
        if size != self._size:
            self._size, self._shown = size, []
            self._write("\x1b[2J")
        columns, rows = self._size
        if columns < LEAST[0] or rows < LEAST[1]:
            lines: list[Line] = [[("", "waypost demo: make the window larger")]]
        else:
            lines = picture(scene, columns, rows, self._chars)
        drawn = [encode(line, columns, colour=self._colour) for line in lines]
        old = self._shown
        changed = [f"\x1b[{i + 1};1H{text}\x1b[K" for i, text in enumerate(drawn) if i >= len(old) or old[i] != text]
        if len(old) > len(drawn):
            changed.append(f"\x1b[{len(drawn) + 1};1H\x1b[J")
        self._shown = drawn
        if changed:
            self._write("".join(changed))

    def _write(self, text: str) -> None:
        try:
            self._out.write(text)
            self._out.flush()
        except OSError:
            self._on_key(END)


def _size(out: TextIO) -> tuple[int, int]:
    """Columns and rows; 80 x 24 where the terminal does not say (a serial line, a bare pty)."""
    try:
        columns, rows = os.get_terminal_size(out.fileno())
    except OSError:
        columns = rows = 0
    return columns or 80, rows or 24
