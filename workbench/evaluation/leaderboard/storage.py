"""Shards on disk: a file each, whole or not there, so that a kill neither loses nor doubles one.

``FOLDER/METHOD/SEED/SPLIT.parquet`` holds the measurements, ``SPLIT.replies.parquet`` the texts. A
shard counts as done once its measurements are there; they are written last.
"""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from workbench.evaluation.benchmark import Shard
from workbench.evaluation.leaderboard.plan import ShardKey
from workbench.files import read_parquet, write_parquet


class ShardStore:
    """The shards of one run.

    Args:
        folder: Where they stand.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def has(self, key: ShardKey) -> bool:
        """Whether the shard is done."""
        return self._measurements(key).is_file()

    def keep(self, key: ShardKey, shard: Shard) -> None:
        """Write a shard; a second writing replaces it.

        Raises:
            RunError: It cannot be written.
        """
        write_parquet(self._replies(key), shard.replies.assign(method=key.method))
        write_parquet(self._measurements(key), shard.measurements.assign(method=key.method))

    def read(self, keys: Iterable[ShardKey]) -> Shard:
        """All of these shards as one, in this order.

        Raises:
            RunError: One is missing or damaged.
        """
        wanted = list(keys)
        return Shard(
            pd.concat([read_parquet(self._measurements(key)) for key in wanted], ignore_index=True),
            pd.concat([read_parquet(self._replies(key)) for key in wanted], ignore_index=True),
        )

    def _measurements(self, key: ShardKey) -> Path:
        return self._place(key) / f"{key.split}.parquet"

    def _replies(self, key: ShardKey) -> Path:
        return self._place(key) / f"{key.split}.replies.parquet"

    def _place(self, key: ShardKey) -> Path:
        # "+" occurs in no method's name, and a colon in a file name is not portable.
        return self._folder / key.method.replace(":", "+") / str(key.seed)
