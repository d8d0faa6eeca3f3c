"""Results of analyses that were run on a page, kept by what determines them (light).

``st.cache_data`` would not let an analysis draw its own progress; this does.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TypeVar, cast

import streamlit as st

_Result = TypeVar("_Result")
_MOST = 12


@dataclass(frozen=True, eq=False)
class _Memory:
    results: OrderedDict[Hashable, object] = field(default_factory=OrderedDict)
    lock: threading.Lock = field(default_factory=threading.Lock)


def remembered(key: Hashable, compute: Callable[[], _Result]) -> _Result:
    """The result of this key, computed at its first use; the oldest are forgotten.

    Args:
        key: Everything that determines the result.
        compute: Makes it; it may draw.
    """
    memory = _memory()
    with memory.lock:
        if key in memory.results:
            memory.results.move_to_end(key)
            return cast(_Result, memory.results[key])
    result = compute()
    with memory.lock:
        memory.results[key] = result
        while len(memory.results) > _MOST:
            memory.results.popitem(last=False)
    return result


@st.cache_resource(show_spinner=False)
def _memory() -> _Memory:
    return _Memory()
