"""Rows of a set on the Hugging Face hub, through ``datasets`` (extra ``data``).

Remote code is never run: sets that need it are refused by ``datasets`` itself from version 4 on,
and by the argument before.
"""

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workbench.data.sources.tables import Row
from workbench.errors import ConfigError, DataError, one_line
from workbench.hub import why_no_dataset

_GATED = ("gated", "401", "403", "authenticated", "access to it", "log in")


@dataclass(frozen=True)
class HubSet:
    """One split of one configuration of a set.

    Attributes:
        id: the repository.
        split: the split's name.
        config: the configuration, None for the default.
        data_dir: the folder inside the repository, where it has no configurations.
        revision: commit that the columns here were checked against; None where it is not known,
            and the newest is taken.
        gated: the publisher's conditions must be accepted first.
    """

    id: str
    split: str
    config: str | None = None
    data_dir: str | None = None
    revision: str | None = None
    gated: bool = False

    def __str__(self) -> str:
        """The set as messages name it."""
        part = "/".join(filter(None, (self.config, self.data_dir, self.split)))
        return f"{self.id} ({part})"


def hub_rows(hub_set: HubSet, steps: str) -> list[tuple[int, Row]]:
    """All rows of a set, each with its number from 1.

    Args:
        hub_set: what to load.
        steps: what the user can do instead, for the message.

    Raises:
        ConfigError: ``datasets`` is not installed.
        DataError: The set is missing, gated, or out of reach.
    """
    load_dataset = _load_dataset()
    silent = why_no_dataset(hub_set.id)
    if silent is not None:
        raise DataError(_message(hub_set, ConnectionError(silent), steps))
    try:
        table = load_dataset(hub_set.id, **_arguments(hub_set, load_dataset))
        rows: list[tuple[int, Row]] = list(enumerate(table, start=1))
    except Exception as error:  # datasets raises the errors of five libraries
        raise DataError(_message(hub_set, error, steps)) from error
    if not rows:
        raise DataError(f"{hub_set} holds no rows")
    return rows


def _load_dataset() -> Any:  # noqa: ANN401 - untyped library
    try:
        return importlib.import_module("datasets").load_dataset
    except ImportError as error:
        raise ConfigError(
            "reading from the Hugging Face hub needs the package datasets: "
            '`pip install "svgt-workbench[data]"`, or give a local file as NAME:PATH'
        ) from error


def _arguments(hub_set: HubSet, load_dataset: Any) -> Mapping[str, object]:  # noqa: ANN401
    arguments: dict[str, object] = {
        "name": hub_set.config,
        "split": hub_set.split,
        "data_dir": hub_set.data_dir,
        "revision": hub_set.revision,
    }
    arguments = {key: value for key, value in arguments.items() if value is not None}
    if "trust_remote_code" in inspect.signature(load_dataset).parameters:
        arguments["trust_remote_code"] = False
    return arguments


def access_steps(id: str) -> str:
    """How to get access to a gated set."""
    return (
        f"accept its conditions at https://huggingface.co/datasets/{id}, run `hf auth login` (or "
        "set HF_TOKEN to a token of yours)"
    )


def _message(hub_set: HubSet, error: Exception, steps: str) -> str:
    reason = one_line(error)[:200]
    if hub_set.gated or any(word in reason.casefold() for word in _GATED):
        advice = (
            f"{access_steps(hub_set.id)}, and try again with a connection (HF_HUB_OFFLINE must "
            "not be 1)"
        )
    else:
        advice = "check the connection (HF_HUB_OFFLINE must not be 1) and the name"
    elsewhere = f"; or {steps}" if steps else ""
    return f"cannot load {hub_set} ({type(error).__name__}: {reason}): {advice}{elsewhere}"
