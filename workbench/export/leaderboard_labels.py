"""Labels beside the points of a picture, so that neither labels nor points are covered.

A picture is as wide as the page it stands on, so places are judged at several widths: points move
apart with the width, labels keep their size. Every label takes the best place that is left, nearest
first; what cannot be avoided is covered in this order: lines, points, labels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

WIDTHS: tuple[int, ...] = (560, 900, 1500)
"""Of the plotting area in pixels, from a narrow window to a wide one."""

_LETTER = 6.8
_LINE = 15.0
_MARK = 7.0
_FAR = 0.25
"""Badness of a pixel between a point and its label."""
_RINGS = (14.0, 22.0, 32.0, 44.0, 58.0, 74.0, 94.0, 120.0, 150.0, 190.0)
_ALONG = (0.2, 0.35, 0.5, 0.65, 0.8, 0.95)
_DIRECTIONS = ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (-1, -1), (1, 1), (-1, 1))
_OVER_LABEL, _OVER_MARK, _OUTSIDE, _OVER_LINE = 1000.0, 200.0, 400.0, 6.0

Line = tuple[tuple[float, float], tuple[float, float]]
"""Two ends, each to the right and downwards in shares of the plotting area; level or upright."""


@dataclass(frozen=True)
class Spot:
    """What is labelled, in shares of the plotting area from its left and its top.

    Attributes:
        text: The label.
        x: Left end of its interval, the point, right end.
        y: Upper end of its interval, the point, lower end.
    """

    text: str
    x: tuple[float, float, float]
    y: tuple[float, float, float]


@dataclass(frozen=True)
class Offset:
    """Where a label stands, in pixels from its point: to the right and downwards.

    The point's side of the label is at this place: its left edge where ``right`` is positive, its
    right edge where it is negative, its middle where it is 0.
    """

    right: float
    down: float


@dataclass(frozen=True)
class _Box:
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class _Canvas:
    """What stands on the plotting area at one width; labels are added as they are placed."""

    width: int
    height: int
    marks: list[_Box]
    lines: list[_Box]
    labels: list[_Box] = field(default_factory=list)


def place_labels(
    spots: Sequence[Spot],
    height: int,
    lines: Sequence[Line] = (),
    widths: Sequence[int] = WIDTHS,
) -> list[Offset]:
    """A place for every label, in the order of the spots.

    Args:
        spots: All points of the picture.
        height: Of the plotting area in pixels.
        lines: What else is drawn there.
        widths: Of the plotting area in pixels; places are judged at all of them.
    """
    bars = [bar for spot in spots for bar in _bars(spot)]
    canvases = [
        _Canvas(
            width,
            height,
            [_mark(spot, width, height) for spot in spots],
            [_thin(line, width, height) for line in (*lines, *bars)],
        )
        for width in widths
    ]
    order = sorted(range(len(spots)), key=lambda index: (spots[index].y[1], spots[index].x[1]))
    placed: dict[int, Offset] = {}
    for index in order:
        spot = spots[index]
        best = min(_candidates(), key=partial(_badness, spot, canvases))
        for canvas in canvases:
            canvas.labels.append(_label(spot, best, canvas.width, height))
            canvas.lines.extend(_leader(spot, best, canvas.width, height))
        placed[index] = best
    return [placed[index] for index in range(len(spots))]


def _candidates() -> list[Offset]:
    return [
        Offset(ring * dx / math.hypot(dx, dy), ring * dy / math.hypot(dx, dy))
        for ring in _RINGS
        for dx, dy in _DIRECTIONS
    ]


def _badness(spot: Spot, canvases: Sequence[_Canvas], offset: Offset) -> float:
    total = _FAR * math.hypot(offset.right, offset.down)
    for canvas in canvases:
        box = _label(spot, offset, canvas.width, canvas.height)
        inside = (
            box.left >= 0
            and box.right <= canvas.width
            and box.top >= 0
            and box.bottom <= canvas.height
        )
        total += 0.0 if inside else _OUTSIDE
        total += _OVER_LABEL * _met(box, canvas.labels)
        total += _OVER_MARK * _met(box, canvas.marks)
        total += _OVER_LINE * _met(box, canvas.lines)
        for dot in _leader(spot, offset, canvas.width, canvas.height):
            total += _OVER_LINE * _met(dot, canvas.labels)
    return total


def _met(box: _Box, others: Sequence[_Box]) -> int:
    """How many of the others a box covers, in part or whole."""
    return sum(
        box.left < other.right
        and other.left < box.right
        and box.top < other.bottom
        and other.top < box.bottom
        for other in others
    )


def _label(spot: Spot, offset: Offset, width: int, height: int) -> _Box:
    x, y = spot.x[1] * width + offset.right, spot.y[1] * height + offset.down
    size = _LETTER * len(spot.text) + 4
    left = x if offset.right > 0 else x - size if offset.right < 0 else x - size / 2
    return _Box(left, y - _LINE / 2, left + size, y + _LINE / 2)


def _leader(spot: Spot, offset: Offset, width: int, height: int) -> list[_Box]:
    """Dots along the line from a point to its label."""
    x, y = spot.x[1] * width, spot.y[1] * height
    dots = [(x + share * offset.right, y + share * offset.down) for share in _ALONG]
    return [_Box(right - 1, down - 1, right + 1, down + 1) for right, down in dots]


def _mark(spot: Spot, width: int, height: int) -> _Box:
    x, y = spot.x[1] * width, spot.y[1] * height
    return _Box(x - _MARK, y - _MARK, x + _MARK, y + _MARK)


def _bars(spot: Spot) -> tuple[Line, Line]:
    (left, x, right), (top, y, bottom) = spot.x, spot.y
    return ((left, y), (right, y)), ((x, top), (x, bottom))


def _thin(line: Line, width: int, height: int) -> _Box:
    (x, y), (other_x, other_y) = line
    (left, right), (top, bottom) = sorted((x, other_x)), sorted((y, other_y))
    return _Box(left * width - 1, top * height - 1, right * width + 1, bottom * height + 1)
