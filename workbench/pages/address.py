"""Which names an address may hold (light): a misspelt one would change nothing without a word."""

from difflib import get_close_matches

import streamlit as st

NAMES = frozenset(
    {
        "ablation", "against", "attribution", "backbone", "beta", "columns", "compared",
        "compared_frames", "compared_kind", "compared_metric", "config", "contexts", "contrast",
        "corrected", "data", "dilution", "dose", "dose-metric", "effect", "estimator", "find",
        "folder", "formats", "guidance", "intents", "kind", "layer", "left", "left_own", "module",
        "own", "prompt", "readers", "recipe", "reference", "refresh", "right", "right_own", "root",
        "root_folder", "route", "run", "runs", "seed", "share", "shown-contrast",
        "shown-estimator", "site", "sites", "size", "source", "sources", "split", "status",
        "strength", "switch", "temperature", "tokens", "top_p", "transfer", "view", "watch",
        "weighting", "yaml",
    }
)  # fmt: skip
"""Of all pages: a name of another page, or of a box that is not drawn now, does no harm."""
_TOLD = "address-told"


def tell_unknown_names() -> None:
    """Say once which names of the address no page knows, and what may have been meant."""
    told: set[str] = st.session_state.setdefault(_TOLD, set())
    for name in sorted(set(st.query_params) - NAMES - told):
        meant = get_close_matches(name, NAMES, n=1)
        hint = f" Did you mean `{meant[0]}`?" if meant else ""
        st.warning(
            f"The address holds `{name}`, which no page knows: it changes nothing.{hint}",
            icon=":material/link_off:",
        )
        told.add(name)
