"""LaTeX: texts escaped so that every engine takes them, and tables for the package booktabs."""

import unicodedata

_PLAIN = {
    "\\": r"\textbackslash{}", "%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "$": r"\$",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--",
    "—": "---", "“": "``", "”": "''", "‘": "`", "’": "'", "…": r"\ldots{}", '"': "''",
    "<": "$<$", ">": "$>$", "|": "$|$", "\u00a0": "~",
}  # fmt: skip
_MATHEMATICS = {
    "−": "-", "×": r"\times", "→": r"\rightarrow", "←": r"\leftarrow", "≥": r"\geq", "≤": r"\leq",
    "±": r"\pm", "·": r"\cdot", "‖": r"\|", "∞": r"\infty", "½": r"\frac{1}{2}", "√": r"\sqrt{}",
    "≈": r"\approx", "²": "^2", "°": r"^\circ", "′": "'", "∈": r"\in", "Σ": r"\Sigma",
    "Δ": r"\Delta", "α": r"\alpha", "β": r"\beta", "γ": r"\gamma", "δ": r"\delta",
    "ε": r"\epsilon", "λ": r"\lambda", "μ": r"\mu", "µ": r"\mu", "π": r"\pi", "ρ": r"\rho",
    "σ": r"\sigma", "τ": r"\tau", "κ": r"\kappa", "θ": r"\theta", "ω": r"\omega",
}  # fmt: skip


def escape(text: object) -> str:
    r"""A text as LaTeX prints it; pdfTeX without further packages takes the result.

    Accents are kept where they are a letter and its accent (``é`` becomes ``\'{e}``); what has no
    such spelling is written as its number, ``[U+6F22]``, rather than lost.
    """
    return "".join(_letter(letter) for letter in str(text))


def _letter(letter: str) -> str:
    if letter in _PLAIN:
        return _PLAIN[letter]
    if letter in _MATHEMATICS:
        return f"${_MATHEMATICS[letter]}$"
    if letter.isascii():
        return letter if letter.isprintable() else " "
    return _accented(letter) or f"[U+{ord(letter):04X}]"


_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0308": '"', "\u0304": "=",
    "\u030a": "r", "\u030c": "v", "\u0327": "c", "\u0328": "k",
}  # fmt: skip


def _accented(letter: str) -> str:
    parts = unicodedata.normalize("NFD", letter)
    base, marks = parts[0], parts[1:]
    if base.isascii() and len(marks) == 1 and marks[0] in _ACCENTS:
        return f"\\{_ACCENTS[marks[0]]}{{{base}}}"
    return ""
