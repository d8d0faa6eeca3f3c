"""Figures for print: what the screen shows as plotly figures, drawn with matplotlib.

A plotly figure is plain data: series with their intervals, heat maps, titles of axes. Print draws
the same data, so screen and paper cannot disagree, and it needs no browser.
"""

from workbench.export.printing.drawing import fitting_width, plot_width, print_figure
from workbench.export.printing.files import PRINT_FORMATS, png_bytes, write_print
from workbench.export.printing.style import DOUBLE, SINGLE

__all__ = [
    "DOUBLE",
    "PRINT_FORMATS",
    "SINGLE",
    "fitting_width",
    "plot_width",
    "png_bytes",
    "print_figure",
    "write_print",
]
