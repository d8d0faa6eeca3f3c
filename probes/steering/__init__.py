"""Steering reliability: per-prompt slopes of steering vectors and of the bridge, with controls."""

from probes.steering.reliability import ReliabilityConfig, run_reliability

__all__ = ["ReliabilityConfig", "run_reliability"]
