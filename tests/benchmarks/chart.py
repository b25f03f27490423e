"""A line chart as SVG, without a library: x by powers of ten, y from zero, a label at every point."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 380
LEFT, RIGHT, TOP, BOTTOM = 64, 150, 46, 52
COLOURS = ("#1f6feb", "#d1242f", "#2da44e", "#8250df")
INK, GREY = "#24292f", "#57606a"
FONT = "font-family='system-ui, sans-serif'"


@dataclass(frozen=True)
class Chart:
    """`lines` by name: points (x, y) in order of x. An x of 0 stands one power of ten before the least other one."""

    title: str
    x_name: str
    y_name: str
    lines: Mapping[str, Sequence[tuple[float, float]]]

    def svg(self) -> str:
        body = "\n".join([*self._frame(), *self._lines()])
        return (
            f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' "
            f"height='{HEIGHT}' role='img' aria-label='{escape(self.title)}'>\n"
            f"<rect width='{WIDTH}' height='{HEIGHT}' fill='#ffffff'/>\n{body}\n</svg>\n"
        )

    def _frame(self) -> list[str]:
        found = [
            _text(LEFT, 24, self.title, size=15, weight="600"),
            _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, self.x_name, anchor="middle"),
            _text(LEFT, TOP - 8, self.y_name, colour=GREY),
        ]
        for value in _ticks(self._top()):
            y = self._y(value)
            found.append(f"<path d='M{LEFT} {y:.1f}H{WIDTH - RIGHT}' stroke='#d0d7de'/>")
            found.append(_text(LEFT - 8, y + 4, f"{value:,.0f}", anchor="end", colour=GREY))
        under = HEIGHT - BOTTOM + 18
        places = sorted({x for points in self.lines.values() for x, _ in points})
        found += [_text(self._x(x), under, f"{x:,.0f}", anchor="middle", colour=GREY) for x in places]
        return found

    def _lines(self) -> list[str]:
        found = []
        ends = _apart({name: self._y(points[-1][1]) for name, points in self.lines.items()})
        for colour, (name, points) in zip(COLOURS, self.lines.items(), strict=False):
            path = "L".join(f"{self._x(x):.1f} {self._y(y):.1f}" for x, y in points)
            found.append(f"<path d='M{path}' fill='none' stroke='{colour}' stroke-width='2'/>")
            for x, y in points:
                found.append(f"<circle cx='{self._x(x):.1f}' cy='{self._y(y):.1f}' r='3.5' fill='{colour}'/>")
                place = self._y(y) + (17 if self._covered(x, y) else -9)
                found.append(_text(self._x(x), place, f"{y:,.0f}", anchor="middle", size=11, colour=colour))
            found.append(_text(WIDTH - RIGHT + 24, ends[name] + 4, name, colour=colour, weight="600"))
        return found

    def _covered(self, x: float, y: float) -> bool:
        """Whether a figure above this point would stand on another line's point or figure."""
        others = [b for points in self.lines.values() for a, b in points if a == x and b > y]
        return any(self._y(y) - self._y(other) < 24 for other in others)

    def _top(self) -> float:
        return max(y for points in self.lines.values() for _, y in points) or 1.0

    def _x(self, value: float) -> float:
        given = [x for points in self.lines.values() for x, _ in points]
        least = min(x for x in given if x > 0)
        powers = {x: math.log10(x or least / 10) for x in given}
        low, span = min(powers.values()), (max(powers.values()) - min(powers.values())) or 1.0
        return LEFT + 24 + (WIDTH - RIGHT - LEFT - 48) * (powers[value] - low) / span

    def _y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP - 14) * value / _ticks(self._top())[-1]


def _ticks(top: float) -> list[float]:
    """Zero and round numbers up to the first one above `top`; about five."""
    unit = 10.0 ** math.floor(math.log10(top))
    step = next(size * unit for size in (0.2, 0.5, 1.0, 2.0) if top / (size * unit) <= 6)
    return [step * number for number in range(math.ceil(top / step) + 1)]


def _apart(places: Mapping[str, float], distance: float = 16.0) -> dict[str, float]:
    """Names at the ends of lines, moved down where they would cover each other."""
    found: dict[str, float] = {}
    lowest = 0.0
    for name, place in sorted(places.items(), key=lambda item: item[1]):
        found[name] = lowest = max(place, lowest + distance)
    return found


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    size: int = 12,
    weight: str = "400",
    colour: str = INK,
) -> str:
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' font-size='{size}' font-weight='{weight}' "
        f"fill='{colour}' {FONT}>{escape(text)}</text>"
    )
