"""How to cite the workbench and the paper of its method; CITATION.cff says the same."""

PAPER_TITLE = (
    "Toward Stable Value Alignment: Introducing Independent Modules for Consistent Value Guidance"
)
PAPER_ARXIV = "2605.11712"
SOFTWARE_TITLE = "SVGT Workbench"
_AUTHORS = "SVGT Workbench contributors"


def bibtex(version: str, revision: str | None) -> str:
    """BibTeX entries of the paper and of the software.

    Args:
        version: Of the software.
        revision: Git revision, where it is known.
    """
    note = f"MIT licence. Version {version}" + (f", revision {revision}" if revision else "")
    return (
        "@inproceedings{svgt2026,\n"
        f"  title = {{{{{PAPER_TITLE}}}}},\n"
        f"  author = {{{{The authors of arXiv:{PAPER_ARXIV}}}}},\n"
        "  booktitle = {International Conference on Machine Learning (ICML)},\n"
        "  year = {2026},\n"
        f"  eprint = {{{PAPER_ARXIV}}},\n"
        "  archiveprefix = {arXiv},\n"
        f"  url = {{https://arxiv.org/abs/{PAPER_ARXIV}}}\n"
        "}\n\n"
        "@misc{svgtworkbench,\n"
        f"  title = {{{{{SOFTWARE_TITLE}}}}},\n"
        f"  author = {{{{{_AUTHORS}}}}},\n"
        "  year = {2026},\n"
        f"  note = {{{note}}}\n"
        "}\n"
    )
