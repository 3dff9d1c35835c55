"""Own environment: with the import of this file nothing is left in the environment of what whoever
runs the tests has set for the hub's libraries, and their cache is a folder of the tests' own.

They read it when they are imported themselves, so this comes first.
"""

from __future__ import annotations

import os
import tempfile

from hub.server import PERSONAL

HOME = tempfile.mkdtemp(prefix="prunebench-tests-")

for name in [name for name in os.environ if name.startswith(PERSONAL)]:
    del os.environ[name]
os.environ["HF_HOME"] = HOME
