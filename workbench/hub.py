"""Whether the Hugging Face hub can be reached, asked before its libraries try for a minute.

Their metadata requests are repeated with growing pauses, and no setting shortens that. One
connection to the hub, or to the proxy before it, tells in a moment whether trying makes sense.
"""

import importlib
import socket
import threading
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from huggingface_hub import constants

_PATIENCE = 4.0
_PORTS = {"http": 80, "https": 443}
Kind = Literal["model", "dataset"]


def can_be_fetched(repository: str, kind: Kind) -> bool:
    """Whether it makes sense to ask the hub's libraries for a repository.

    They answer at once where they are told to stay offline, and find what the cache holds of it;
    else the hub must answer.

    Args:
        repository: Its id, ``org/name``.
        kind: What it holds.
    """
    return constants.HF_HUB_OFFLINE or _is_cached(repository, kind) or hub_answers()


def hub_answers(patience: float = _PATIENCE) -> bool:
    """Whether the hub, or the proxy on the way to it, takes a connection.

    Args:
        patience: Seconds to wait, for the name's address and for the connection together.
    """
    answered = threading.Event()
    host, port = _next_host(constants.ENDPOINT)

    def connect() -> None:
        try:
            with socket.create_connection((host, port), timeout=patience):
                answered.set()
        except OSError:
            return

    # Looking up a name has no time limit of its own: a thread can be left behind.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(patience)
    return answered.is_set()


def _next_host(endpoint: str) -> tuple[str, int]:
    """Host and port to which a request to the endpoint connects first."""
    asked = urlsplit(endpoint)
    proxies = getproxies()
    proxy = proxies.get(asked.scheme) or proxies.get("all")
    if proxy and not proxy_bypass(asked.hostname or ""):
        asked = urlsplit(proxy if "//" in proxy else f"//{proxy}", scheme="http")
    return asked.hostname or "", asked.port or _PORTS.get(asked.scheme, 443)


def _is_cached(repository: str, kind: Kind) -> bool:
    """Whether the local cache holds anything of it; whether that is enough, its library says."""
    flat = repository.replace("/", "--")
    if (Path(constants.HF_HUB_CACHE) / f"{kind}s--{flat}" / "snapshots").is_dir():
        return True
    if kind != "dataset":
        return False
    datasets = importlib.import_module("datasets.config")  # an extra; who asks for a set has it
    name = repository.replace("/", "___").casefold()
    prepared = Path(datasets.HF_DATASETS_CACHE)
    return prepared.is_dir() and any(p.name.casefold() == name for p in prepared.iterdir())
