"""Colours that survive colour blindness, grey printing, and a dark as well as a light theme.

Series take mid-light colours with a contrast of at least 3 against white and against the dark
background; they differ in marker as well. Harm probabilities run from blue (safe) over near-white
to brown-orange (harmful), a diverging scale that the common kinds of colour blindness tell apart.
"""

from itertools import pairwise

LIGHT_BACKGROUND = "#ffffff"
DARK_BACKGROUND = "#0e1117"

UNGUIDED = "#d55e00"
GUIDED = "#2f8ac4"
SERIES: tuple[str, ...] = (UNGUIDED, GUIDED, "#009e73", "#b0609a", "#8a7a00", "#7f7f7f")
MARKERS: tuple[str, ...] = ("circle", "diamond", "square", "triangle-up", "x", "cross")

HARM_SCALE: tuple[tuple[float, str], ...] = (
    (0.0, "#2166ac"),
    (0.25, "#92c5de"),
    (0.5, "#f7f7f7"),
    (0.75, "#fdb863"),
    (1.0, "#b35806"),
)
ATTENTION_SCALE = "Cividis"


def harm_colour(probability: float) -> str:
    """Background colour of a token with this harm probability, as ``#rrggbb``."""
    p = min(max(probability, 0.0), 1.0)
    for (low, first), (high, second) in pairwise(HARM_SCALE):
        if p <= high:
            return _mix(first, second, (p - low) / (high - low))
    return HARM_SCALE[-1][1]


def text_colour(background: str) -> str:
    """Black or white, whichever reads better; at least 4.5 : 1 on any background."""
    return max("#000000", "#ffffff", key=lambda ink: contrast(ink, background))


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two colours, 1 to 21 (WCAG 2.2)."""
    lighter, darker = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    channels = [channel / 255 for channel in _rgb(colour)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _mix(first: str, second: str, share: float) -> str:
    mixed = (round(a + share * (b - a)) for a, b in zip(_rgb(first), _rgb(second), strict=True))
    return "#" + "".join(f"{channel:02x}" for channel in mixed)
