"""Benchmark (light): every method under one protocol, what each part does, two methods at once."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from workbench.pages.catalogue import FOLDER, config_names, method_names
from workbench.pages.choosing import (
    NO_GUIDANCE,
    backbone_box,
    read_seed,
    seed_box,
    temperature_slider,
    top_p_slider,
)
from workbench.pages.composing import FIRST_PROMPT, surprise
from workbench.pages.guard import told_in_words
from workbench.pages.run_choice import chosen_folder
from workbench.pages.widgets import bound_slider, start_with, tell_unknown
from workbench.testbed.registry import EMBEDDED
from workbench.testbed.splits import TEST_SPLITS

if TYPE_CHECKING:
    from workbench.pages.run_browser import RunView

LEADERBOARD = "leaderboard"
ABLATIONS = "ablations"
REPLIES = "side by side"
_VIEWS = (LEADERBOARD, ABLATIONS, REPLIES)
_TUNED = Path("runs/tuned")
_FIRST_BOARD = (
    "Make one with `workbench benchmark --backbone testbed-llama --methods all --seeds 5 --out "
    "runs/board`, or a quick one with `workbench benchmark --methods none,svgt,svgt:paper --seeds "
    "1 --limit 20 --out runs/quick`."
)
_FIRST_ABLATIONS = (
    "Make one with `workbench ablate all --out runs/ablations`, or a quick one with `workbench "
    "ablate strength --limit 10 --out runs/quick-ablation`."
)


@dataclass(frozen=True)
class RepliesRequest:
    """Everything that determines two replies.

    Attributes:
        prompt: The text box, see :mod:`workbench.pages.conversation_text`.
        backbone: An embedded name or a checkpoint folder.
        left: A guidance as commands spell it.
        right: Another, or the same.
        temperature: Divides the logits; 0 takes the likeliest token.
        top_p: Smallest set of likeliest tokens whose probability reaches this.
        max_new_tokens: Limit of each reply.
        seed: Of the random numbers, which both replies share.
    """

    prompt: str
    backbone: str
    left: str
    right: str
    temperature: float = 0.7
    top_p: float = 0.9
    max_new_tokens: int = 60
    seed: int = 0


def page() -> None:
    """Draw the page."""
    st.title("Benchmark", anchor=False)
    st.markdown(
        "Every method of guidance under **one protocol**: the same prompts, the same decoder, the "
        "same judge, tuned on the same validation splits. What does each prevent, what does it "
        "cost, and which parts of SVGT do the work?"
    )
    tell_unknown("view", _VIEWS, instead=LEADERBOARD)
    view = st.segmented_control(
        "Show", _VIEWS, default=LEADERBOARD, required=True, key="view",
        bind="query-params", help=f"{REPLIES}: replies of any two methods to any prompt.",
    )  # fmt: skip
    if view == REPLIES:
        _replies()
        return
    with told_in_words():
        if view == ABLATIONS:
            _run_of("ablations", _FIRST_ABLATIONS, _show_ablations)
        else:
            _run_of("benchmark", _FIRST_BOARD, _show_board)


def _run_of(kind: str, first_run: str, show: "Callable[[RunView], None]") -> None:
    """Ask for a run of a kind and show it; say so where the folder given is one of another kind."""
    others: dict[Path, str] = {}

    def wanted(run: "RunView") -> bool:
        if run.kind != kind:
            others[run.path] = run.kind
        return run.kind == kind

    run = chosen_folder(wanted=wanted, first_run=first_run)
    if run is not None:
        show(run)
        return
    given = Path(str(st.session_state.get("root_folder", ""))).expanduser()
    if given in others:
        st.info(
            f"`{given}` is a run of another kind: `{others[given]}`. This view shows runs of the "
            f"kind `{kind}`; the page Runs shows any."
        )


def _show_board(run: "RunView") -> None:
    with st.spinner("Reading the leaderboard …"):
        from workbench.pages import benchmark_output  # after the first paint
    benchmark_output.show_board(run)


def _show_ablations(run: "RunView") -> None:
    with st.spinner("Reading the records …"):
        from workbench.pages import benchmark_ablations  # after the first paint
    benchmark_ablations.show_ablations(run)


# ---------------------------------------------------------------------------------- side by side


def _replies() -> None:
    with st.sidebar:
        backbone = backbone_box()
        plain = RepliesRequest("", backbone, "", "")
        temperature, top_p, tokens, typed_seed = _sampling_knobs(plain)
    options = _guidances(backbone)
    columns = st.columns(2, gap="large")
    with columns[0]:
        left = _guidance_box("Left", "left", options, first=NO_GUIDANCE)
    with columns[1]:
        right = _guidance_box("Right", "right", options, first=options[min(1, len(options) - 2)])
    start_with("prompt", FIRST_PROMPT)
    prompt = st.text_area(
        "Prompt", key="prompt", bind="query-params", height="content",
        help="For several turns begin a line with `user:`, `assistant:` or `system:`. The embedded "
        "models know about 900 words.",
    )  # fmt: skip
    with st.container(horizontal=True):
        pressed = st.button(
            "Generate both", type="primary", icon=":material/play_arrow:", key="generate-both"
        )
        if backbone in EMBEDDED:
            st.button(
                "Draw a test prompt", on_click=_draw_prompt, icon=":material/casino:",
                help="One at random from the benchmark's four test splits.",
            )  # fmt: skip
    with told_in_words():
        request = RepliesRequest(
            prompt, backbone, left, right, temperature, top_p, tokens, read_seed(typed_seed)
        )
        with st.spinner("Starting the model library … (once, some seconds)"):
            from workbench.pages import benchmark_replies  # torch: after the first paint
        benchmark_replies.answer(request, pressed=pressed)


def _draw_prompt() -> None:
    split = secrets.choice(TEST_SPLITS)
    st.session_state["prompt"] = surprise(split, None, seed=secrets.randbelow(2**31))[1]


def _guidances(backbone: str) -> tuple[str, ...]:
    """What can be chosen: none, value modules, what ships fitted, what was tuned here."""
    configs = (f"svgt:{name}" for name in config_names(backbone))
    tuned = sorted(_TUNED.glob(f"{backbone}/*/guidance.json")) if backbone in EMBEDDED else []
    own = (f"{path.parent.name}:{path.parent.as_posix()}" for path in tuned)
    return (NO_GUIDANCE, *configs, *method_names(backbone), *own, FOLDER)


def _guidance_box(label: str, key: str, options: tuple[str, ...], *, first: str) -> str:
    tell_unknown(key, options, instead=first)
    if st.session_state.get(key, first) not in options:
        del st.session_state[key]  # it belonged to another backbone
    chosen = st.selectbox(
        label, options, index=options.index(first), key=key, bind="query-params",
        help="A guidance as commands spell it: none, SVGT with one of its value modules, a method "
        "that ships fitted or was tuned here. Your own: as `workbench train` or `workbench fit` "
        "writes it.",
    )  # fmt: skip
    if chosen != FOLDER:
        return str(chosen)
    return st.text_input(
        f"{label}: METHOD:FOLDER", key=f"{key}_own", bind="query-params",
        placeholder="caa:runs/my-caa", help="For example `svgt:my-module` or `caa:my-caa`.",
    )  # fmt: skip


def _sampling_knobs(plain: RepliesRequest) -> tuple[float, float, int, str]:
    """Temperature, top-p, most new tokens, and the seed as typed."""
    st.subheader("Sampling", anchor=False)
    temperature = temperature_slider(plain.temperature)
    top_p = top_p_slider(plain.top_p, greedy=temperature == 0)
    tokens = bound_slider("Most new tokens", 1, 200, value=plain.max_new_tokens, key="tokens")
    return temperature, top_p, tokens, seed_box("Both replies share their random numbers.")
