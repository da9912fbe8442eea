"""The latency gate: baselines, what a run is judged by, and how the outcome is told."""
