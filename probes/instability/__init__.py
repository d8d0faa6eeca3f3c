"""How unstable are value directions? Reliability, stability, transfer, drift, and controls."""

from probes.instability.config import Effort, InstabilityConfig
from probes.instability.running import run_instability

__all__ = ["Effort", "InstabilityConfig", "run_instability"]
