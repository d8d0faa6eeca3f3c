"""States of many prompts, read in one frozen pass each and kept on disk."""

from probes.collection.collect import collect
from probes.collection.store import StateStore

__all__ = ["StateStore", "collect"]
