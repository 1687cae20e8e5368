"""Charts as plain SVG text, to be put into an HTML page; no script, nothing from outside."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape

WIDTH, LEFT, RIGHT = 1000, 110, 14
PLOT = WIDTH - LEFT - RIGHT
MOST_LANES = 24
BINS = 200


def nice_step(span: float, count: int = 8) -> float:
    """Return a round step that cuts a span into about `count` pieces."""
    raw = max(span, 1e-9) / count
    power = float(10 ** math.floor(math.log10(raw)))
    return next((power * unit for unit in (1, 2, 5) if power * unit >= raw), power * 10)


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    """Return a text element."""
    return (f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">'
            f"{escape(words)}</text>")


def picture(height: float, parts: Iterable[str], label: str) -> str:
    """Return a whole SVG element."""
    return (f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(label)}">'
            f'{"".join(parts)}</svg>')


class Timeline:
    """Panels under each other with one time axis [s] and the faults as bands through all."""

    def __init__(self, end_s: float, bands: Sequence[tuple[float, float, str]]) -> None:
        self.end_s = max(end_s, 0.1)
        self._bands, self._parts = bands, list[str]()
        self._y = 16.0 + 15 * len(bands)

    def x(self, t_s: float) -> float:
        """Return where a time is."""
        return LEFT + PLOT * min(max(t_s, 0.0), self.end_s) / self.end_s

    def _frame(self, height: float, title: str, top: float) -> float:
        y = self._y + 22
        self._parts.append(text(LEFT - 8, y + 10, title, "name", "end"))
        if top:
            self._parts.append(text(LEFT - 8, y + 24, f"max {top:g}", "small", "end"))
        self._parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" '
                           f'y1="{y + height:.1f}" y2="{y + height:.1f}"/>')
        self._y = y + height
        return y

    def lines(self, title: str, series: Sequence[tuple[str, Sequence[tuple[float, float]]]],
              height: float = 90) -> None:
        """Draw series (class, points) with their own scale."""
        top = max((value for _, points in series for _, value in points), default=0.0)
        y = self._frame(height, title, top)
        for kind, points in series:
            if not points:
                continue
            path = " ".join(
                f"{self.x(t_s):.1f},{y + height - height * value / (top or 1):.1f}"
                for t_s, value in points)
            self._parts.append(f'<polyline class="{kind}" points="{path}"/>')

    def marks(self, title: str, times: Sequence[float]) -> None:
        """Draw a mark at each time [s]; nothing where there is none."""
        if not times:
            return
        y = self._frame(12, title, 0)
        self._parts += [f'<line class="offence" x1="{self.x(t_s):.1f}" x2="{self.x(t_s):.1f}" '
                        f'y1="{y:.1f}" y2="{y + 12:.1f}"/>' for t_s in times]

    def lanes(self, title: str, lanes: Sequence[str], sent: Iterable[tuple[float, str]],
              arrived: Iterable[tuple[float, str]]) -> None:
        """Draw a lane a device: above what was sent, below what arrived; dark is much."""
        shown = list(lanes)[:MOST_LANES]
        more = len(lanes) - len(shown)
        self._frame(0, title + (f" (+{more})" if more else ""), 0)
        self._y += 12
        tables = [Counter((lane, int(BINS * min(t_s, self.end_s) / self.end_s))
                          for t_s, lane in times) for times in (sent, arrived)]
        most = max((max(table.values(), default=1) for table in tables), default=1)
        width = PLOT / BINS
        for lane in shown:
            y = self._y + 6
            self._parts.append(text(LEFT - 8, y + 9, lane, "small", "end"))
            for table, kind, offset in ((tables[0], "sent", 0), (tables[1], "came", 6)):
                cells = (
                    f'<rect x="{LEFT + column * width:.1f}" y="{y + offset:.1f}" '
                    f'width="{width:.1f}" height="5" '
                    f'opacity="{0.25 + 0.75 * table[lane, column] / most:.2f}"/>'
                    for column in range(BINS + 1) if table[lane, column])
                self._parts.append(f'<g class="{kind}">{"".join(cells)}</g>')
            self._y = y + 12

    def render(self, label: str) -> str:
        """Return the picture."""
        height = self._y + 24
        back = []
        for row, (from_s, to_s, what) in enumerate(self._bands):
            x, y = self.x(from_s), 14.0 + 15 * row
            width = max(1.5, self.x(to_s) - x)
            back.append(f'<rect class="band" x="{x:.1f}" y="{y + 4:.1f}" width="{width:.1f}" '
                        f'height="{height - y - 24:.1f}"/>')
            right = x < WIDTH * 0.7
            back.append(text(x if right else x + width, y, what, "fault",
                             "start" if right else "end"))
        ticks, step, t_s = [], nice_step(self.end_s), 0.0
        while t_s <= self.end_s:
            ticks.append(text(self.x(t_s), height - 6, f"{t_s:g} s", "small", "middle"))
            t_s += step
        return picture(height, [*back, *self._parts, *ticks], label)


def histogram(bars: Sequence[tuple[float, float, int]], marks: Sequence[tuple[str, float]],
              label: str, height: float = 170) -> str:
    """Return a histogram on a logarithmic scale [ms], with marks such as p99."""
    if not bars:
        return picture(40, [text(LEFT, 24, "no times", "small")], label)
    low, high = math.log10(bars[0][0]), math.log10(bars[-1][1])
    top = max(count for _, _, count in bars)
    base = height - 22

    def x(value: float) -> float:
        return LEFT + PLOT * (math.log10(max(value, 10**low)) - low) / (high - low or 1)

    parts = [text(LEFT - 8, 40, "messages", "name", "end"),
             text(LEFT - 8, 54, f"max {top}", "small", "end")]
    for begin, end, count in bars:
        tall = (base - 30) * count / top
        parts.append(f'<rect class="bar" x="{x(begin) + 0.5:.1f}" y="{base - tall:.1f}" '
                     f'width="{max(0.5, x(end) - x(begin) - 1):.1f}" height="{tall:.1f}"/>')
    for power in range(math.ceil(low), math.floor(high) + 1):
        value = 10.0**power
        words = f"{value / 1000:g} s" if value >= 1000 else f"{value:g} ms"
        parts.append(text(x(value), height - 6, words, "small", "middle"))
    for row, (name, value) in enumerate(marks):
        at = x(value)
        parts.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{12 + 12 * row}" '
                     f'y2="{base:.1f}"/>')
        parts.append(text(at - 4, 12.0 + 12 * row, f"{name} {value:g} ms", "small", "end"))
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" '
                 f'y2="{base}"/>')
    return picture(height, parts, label)
