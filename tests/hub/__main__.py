"""Serve a hub until it is stopped: python -m hub FOLDER [ID ...] [--layers N] [--rows N]."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

from hub import Hub, Server, checkpoints, sets


def main() -> None:
    """Write what is asked for, print the address, and wait."""
    parser = argparse.ArgumentParser(prog="python -m hub", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the repositories are written")
    parser.add_argument("ids", nargs="*", metavar="ID", help="models and data sets; default all")
    parser.add_argument("--layers", type=int, default=8, help="of a tower; 0 is as in public")
    parser.add_argument("--rows", type=int, default=8, help="of a split of a data set")
    parser.add_argument("--port", type=int, default=0, help="default any that is free")
    options = parser.parse_args()
    hub = Hub(options.folder.resolve(), options.layers or None, options.rows)
    hub.provide(*(options.ids or [*checkpoints.makers(), *sets.names()]))
    with Server(hub.root, port=options.port) as server:
        print(server.url, flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()
