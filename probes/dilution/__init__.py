"""Dilution: what is left of the bridge's effect after many more tokens."""

from probes.dilution.filler import (
    Filler,
    describe_filler,
    embedded_filler,
    filler_of_examples,
)
from probes.dilution.run import DilutionConfig, run_dilution

__all__ = [
    "DilutionConfig",
    "Filler",
    "describe_filler",
    "embedded_filler",
    "filler_of_examples",
    "run_dilution",
]
