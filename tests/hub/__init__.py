"""A hub in miniature on the loopback address: thin checkpoints and small data sets under public
ids, for tests of what a machine without a network cannot reach.

    PYTHONPATH=tests python -m hub FOLDER [ID ...]

serves them to any program whose HF_ENDPOINT is the address that it prints.
"""

from hub.hub import Hub
from hub.server import Faults, Server

__all__ = ["Faults", "Hub", "Server"]
