"""States of many prompts, read in one frozen pass each and kept on disk."""

from probes.collection.collect import collect
from probes.collection.size import SizeEstimate, estimate_size
from probes.collection.store import StateStore

__all__ = ["SizeEstimate", "StateStore", "collect", "estimate_size"]
