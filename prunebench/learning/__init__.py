"""What every training run shares: its loop, its checkpoint, its schedule."""
