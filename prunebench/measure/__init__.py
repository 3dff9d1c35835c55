"""Measurements: FLOPs, latency, memory and evidence recall of a pruned model."""
