"""Where the pages' models compute, and in which number type (light).

The environment says so when the app is started; where a graphics card is there, a person may choose
otherwise for the own session.
"""

import os
import re
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import streamlit as st

from workbench.errors import ConfigError

DEVICE_VARIABLE, DTYPE_VARIABLE = "SVGT_DEVICE", "SVGT_DTYPE"
DTYPES = ("float32", "bfloat16", "float16")
_AUTO, _CPU = "auto", "cpu"
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
_CHOSEN = "hardware-chosen"


@dataclass(frozen=True)
class Hardware:
    """Where a backbone is held.

    Attributes:
        device: As ``load_backbone`` takes it.
        dtype: Number type of its weights.
    """

    device: str = _CPU
    dtype: str = DTYPES[0]


def chosen_hardware() -> Hardware:
    """What was chosen in this browser tab, or else what the environment says.

    Raises:
        ConfigError: The environment names an unknown device or number type.
    """
    found = st.session_state.get(_CHOSEN)
    return found if isinstance(found, Hardware) else hardware_from_environment()


def hardware_from_environment() -> Hardware:
    """What ``SVGT_DEVICE`` and ``SVGT_DTYPE`` say; the processor and float32 by default.

    ``auto`` is the graphics card, all of them where there are several, or the processor where
    there is none.

    Raises:
        ConfigError: An unknown device or number type.
    """
    device = os.environ.get(DEVICE_VARIABLE, "").strip() or _CPU
    dtype = os.environ.get(DTYPE_VARIABLE, "").strip() or DTYPES[0]
    if not _DEVICE.fullmatch(device):
        raise ConfigError(
            f"{DEVICE_VARIABLE}={device} names no device: use auto, cpu, cuda, cuda:1 or mps, and "
            "start the app again"
        )
    if dtype not in DTYPES:
        raise ConfigError(
            f"{DTYPE_VARIABLE}={dtype} names no number type: use {', '.join(DTYPES)}, and start "
            "the app again"
        )
    if device == _AUTO:
        device = _preferred(len(graphics_cards()))
    return Hardware("cuda:0" if device == "cuda" else device, dtype)


def _preferred(n_cards: int) -> str:
    return {0: _CPU, 1: "cuda:0"}.get(n_cards, _AUTO)


@cache
def graphics_cards() -> tuple[str, ...]:
    """Names of the graphics cards that torch sees.

    Torch is asked only where a driver is there: importing it takes seconds.
    """
    if not _driver_is_there():
        return ()
    import torch

    n_cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return tuple(torch.cuda.get_device_name(number) for number in range(n_cards))


def _driver_is_there() -> bool:
    places = ("/proc/driver/nvidia", "/dev/kfd")
    return shutil.which("nvidia-smi") is not None or any(Path(place).exists() for place in places)


def hardware_box() -> None:
    """Ask where to compute, where a graphics card is there; the browser tab keeps the answer.

    Raises:
        ConfigError: The environment names an unknown device or number type.
    """
    now = chosen_hardware()
    cards = graphics_cards()
    if not cards:
        return
    names = {_CPU: "the processor"}
    names |= {f"cuda:{number}": f"cuda:{number}, {card}" for number, card in enumerate(cards)}
    names |= {_AUTO: f"all {len(cards)} graphics cards"} if len(cards) > 1 else {}
    if now.device not in names:
        names[now.device] = now.device  # loading says that it is not there
    device = st.selectbox(
        "Compute on", tuple(names), index=list(names).index(now.device), key="device",
        format_func=names.__getitem__,
        help=f"Another default: start the app with the environment variable {DEVICE_VARIABLE}.",
    )  # fmt: skip
    dtype = st.selectbox(
        "Number type", DTYPES, index=DTYPES.index(now.dtype), key="number_type",
        help="Of the backbone; a value module stays float32, and fits the type it was trained on. "
        f"Another default: {DTYPE_VARIABLE}.",
    )  # fmt: skip
    st.session_state[_CHOSEN] = Hardware(device, dtype)
