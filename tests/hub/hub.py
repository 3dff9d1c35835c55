"""Hub: repositories that are written when they are first asked for, and programs that use them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from hub import checkpoints, sets
from hub.server import Server

PRUNEBENCH = (sys.executable, "-m", "prunebench.cli")
LMMS_EVAL = (sys.executable, "-m", "lmms_eval")


@dataclass(frozen=True)
class Hub:
    """What a server serves: repositories under `root`, which several processes may share.

    `layers` are those of a model's towers, None as many as in public; `rows` those of every split.
    """

    root: Path
    layers: int | None = 8
    rows: int = 8

    def provide(self, *names: str) -> None:
        """Write the models and data sets that are not there yet."""
        self.root.mkdir(parents=True, exist_ok=True)
        for name in names:
            kind = "models" if name in checkpoints.makers() else "datasets"
            if (self.root / kind / name).exists():
                continue
            with FileLock(self.root / "lock"):  # another process may be at it
                if not (self.root / kind / name).exists():
                    self._write(kind, name)

    def run(
        self,
        command: Sequence[str],
        folder: Path,
        server: Server,
        *,
        home: Path | None = None,
        token: str | None = "hf_tester",
        seconds: float = 600,
        **variables: str,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a folder to its end, with the server as its hub.

        Its caches are those that all commands share, or lie under `home`; `variables` are set in
        its environment, and an empty one is not.
        """
        environment = {**server.environment(home or self.root / "home", token), **variables}
        return subprocess.run(
            command,
            cwd=folder,
            env={name: text for name, text in environment.items() if text},
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )

    def _write(self, kind: str, name: str) -> None:
        """Write a repository beside its place, and put it there whole."""
        draft = self.root / f"draft-{os.getpid()}"
        shutil.rmtree(draft, ignore_errors=True)
        if kind == "models":
            checkpoints.write(draft / name, name, self.layers)
        else:
            sets.write(draft / name, name, self.rows)
        place = (self.root / kind / name).parent
        place.mkdir(parents=True, exist_ok=True)
        # its branches first: that it is there is told by the folder with its plain name
        for folder in sorted((draft / name).parent.iterdir(), reverse=True):
            folder.rename(place / folder.name)
        shutil.rmtree(draft)
