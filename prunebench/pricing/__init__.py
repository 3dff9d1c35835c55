"""Pricing: what a run costs at real size, worked out from a configuration alone."""
