"""Whether the Hugging Face hub can be reached, asked before its libraries try for a minute.

Their metadata requests are repeated with growing pauses, and no setting shortens that. One
connection to the hub, or to the proxy before it, tells in a moment whether trying makes sense.
"""

import importlib
import socket
import threading
import warnings
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from huggingface_hub import constants, try_to_load_from_cache

from workbench.errors import WorkbenchWarning

_PATIENCE = 4.0
_PORTS = {"http": 80, "https": 443}


def reachable_model(repository: str) -> str | None:
    """What to give the libraries for a model: its id, or its folder in the cache.

    The folder stands in where the hub does not answer and nobody said *offline*, which is told: by
    its id even a model that the cache holds whole takes minutes then.

    Args:
        repository: Its id, ``org/name``.

    Returns:
        None where the hub does not answer and the cache has no such model.
    """
    if constants.HF_HUB_OFFLINE or hub_answers():
        return repository
    found = try_to_load_from_cache(repository, "config.json", cache_dir=constants.HF_HUB_CACHE)
    if not isinstance(found, str):
        return None
    warnings.warn(
        f"the Hugging Face hub does not answer: {repository} is read from the cache as it is",
        WorkbenchWarning,
        stacklevel=2,
    )
    return str(Path(found).parent)


def why_no_dataset(repository: str) -> str | None:
    """Why a data set cannot be asked for now; None where it can.

    Args:
        repository: Its id, ``org/name``.
    """
    if constants.HF_HUB_OFFLINE or hub_answers():
        return None
    why = "the Hugging Face hub does not answer"
    held = "; the cache holds something of it, which HF_HUB_OFFLINE=1 reads"
    return f"{why}{held}" if _is_cached_dataset(repository) else why


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


def _is_cached_dataset(repository: str) -> bool:
    """Whether the local caches hold anything of a data set; what it is worth, ``datasets`` says."""
    flat = f"datasets--{repository.replace('/', '--')}"
    if (Path(constants.HF_HUB_CACHE) / flat / "snapshots").is_dir():
        return True
    datasets = importlib.import_module("datasets.config")  # an extra; who asks for a set has it
    name = repository.replace("/", "___").casefold()
    prepared = Path(datasets.HF_DATASETS_CACHE)
    return prepared.is_dir() and any(p.name.casefold() == name for p in prepared.iterdir())
