"""Guidances in words (light): what a legend, a heading and a choice call them."""

METHOD_NAMES: dict[str, str] = {
    "system-prompt": "system prompt",
    "caa": "CAA",
    "iti": "ITI",
    "re-control": "RE-Control",
    "refusal-addition": "refusal direction added",
    "refusal-ablation": "refusal direction taken out",
    "svgt-inject": "SVGT-Inject",
    "dpo": "DPO",
}
"""By the name that commands use; in their order."""

SWITCHES: frozenset[str] = frozenset({"system-prompt"})
"""Methods whose strength is a switch: 1 or 0, and nothing between or beyond."""


def guidance_text(spelled: str) -> str:
    """A guidance as a person reads it; ``svgt:paper`` becomes *SVGT, paper*."""
    family, _, config = spelled.partition(":")
    if family == "none":
        return "unguided"
    name = "SVGT" if family == "svgt" else METHOD_NAMES.get(family, family)
    return f"{name}, {config}" if config else name


def is_switch(spelled: str) -> bool:
    """Whether a guidance is there or not, without shades of strength."""
    return spelled.partition(":")[0] in SWITCHES


def family_text(spelled: str) -> str:
    """Its kind alone: *SVGT* for ``svgt:paper``."""
    return guidance_text(spelled.partition(":")[0])
