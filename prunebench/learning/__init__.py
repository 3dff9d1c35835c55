"""Learning: what every training run has, whatever it trains: folder, log, schedule, loop."""
