"""Measured numbers inside a page written by hand: text between two markers, replaced by a run."""

from pathlib import Path

from workbench.errors import RunError


def fill_section(path: Path, name: str, text: str) -> None:
    """Put a text between the markers ``<!-- name:begin -->`` and ``<!-- name:end -->`` of a page.

    Raises:
        RunError: The page lacks one of the markers.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, found, rest = path.read_text(encoding="utf-8").partition(begin)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise RunError(f"{path} lacks the markers {begin} and {end}: put them where it belongs")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
