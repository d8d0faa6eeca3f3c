"""How unstable are value directions? Reliability, stability, transfer, drift, and controls."""
