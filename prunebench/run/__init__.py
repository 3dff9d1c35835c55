"""Run: from a grid to finished cells."""
