"""The LaTeX document that holds all tables and figures of an export."""

from collections.abc import Sequence

from workbench.export.latex import escape
from workbench.export.run_contents import RunContents

MAIN_FILE = "paper.tex"
_PREAMBLE = r"""\documentclass{article}
\usepackage[letterpaper, textwidth=6.75in, textheight=9in]{geometry}
\usepackage{booktabs}
\usepackage{graphicx}
\makeatletter
\renewcommand{\fps@table}{htbp}
\renewcommand{\fps@figure}{htbp}
\makeatother
\begin{document}
\nocite{*}
"""
_EVERY = 12
"""Floats after which a page is finished: LaTeX holds but a few back."""


def document(runs: Sequence[RunContents], widths: dict[tuple[str, str], float]) -> str:
    r"""A document that compiles with pdflatex, lualatex or tectonic in the folder of the export.

    Args:
        runs: Everything exported.
        widths: Run and figure to the width in inches of its PDF; figures that are missing here
            were not written as PDF and are left out.
    """
    return _PREAMBLE + "\n".join(_section(run, widths) for run in runs) + _ENDING


_ENDING = r"""
\bibliographystyle{plain}
\bibliography{references}
\end{document}
"""


def _section(run: RunContents, widths: dict[tuple[str, str], float]) -> str:
    floats = [rf"\input{{{run.name}/tables/{table.name}}}" for table in run.exhibits.tables]
    floats += [
        _figure(run.name, figure.name, figure.caption, widths[run.name, figure.name])
        for figure in run.exhibits.figures
        if (run.name, figure.name) in widths
    ]
    heading = rf"\section*{{{escape(run.name)} ({escape(run.record.kind)})}}"
    lines = [heading, r"\suppressfloats[t]"]  # no table above the heading of its run
    for number, text in enumerate(floats, start=1):
        lines.append(text)
        if number % _EVERY == 0:
            lines.append(r"\clearpage")
    return "\n".join([*lines, r"\clearpage", ""])


def _figure(run: str, name: str, caption: str, width: float) -> str:
    return "\n".join(
        [
            r"\begin{figure}",
            r"  \centering",
            rf"  \includegraphics[width={width:g}in]{{{run}/figures/{name}.pdf}}",
            rf"  \caption{{{escape(caption)}}}",
            rf"  \label{{fig:{run}-{name}}}",
            r"\end{figure}",
        ]
    )
