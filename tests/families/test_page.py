"""The page on backbones names the families, versions and refusals that the tests prove."""

import re
from pathlib import Path

from families import _FAMILIES, FAMILIES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "backbones.md").read_text(encoding="utf-8")


def test_the_table_holds_the_families_and_their_refusals() -> None:
    found = re.findall(r"^\|[^|]+\| `(\w+)` \|[^|]+\| yes \| (\w+) \| (\w+) \|$", PAGE, re.M)
    rows = {row[0]: row[1:] for row in found}
    by_type = {_FAMILIES[family].model_type: family for family in FAMILIES}
    assert list(rows) == list(by_type)
    for model_type, (adapters, heads) in rows.items():
        norms_after = by_type[model_type] in ("gemma2", "gemma3", "olmo2")
        assert adapters == ("refused" if model_type == "gpt_neox" else "yes")
        assert heads == ("refused" if norms_after else "yes")


def test_the_versions_are_the_pinned_ones() -> None:
    pinned = dict(
        re.findall(r"^([\w-]+)==([\w.]+)", (ROOT / "requirements.lock").read_text(), re.M)
    )
    for package in ("transformers", "transformer-lens"):
        assert f"{package} {pinned[package]}" in PAGE
