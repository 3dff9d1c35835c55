"""Published: what papers print about methods, read from their tables, and how far they agree.

The table and what its columns mean lie beside this file (README.md). It is shown beside what is
measured, as a range with its sources, never as truth.
"""

from prunebench.published.agreement import KEY, Agreement, agreements, disputes, spread
from prunebench.published.entries import Entry, entries
from prunebench.published.table import known, model_name, names, read

__all__ = [
    "KEY",
    "Agreement",
    "Entry",
    "agreements",
    "disputes",
    "entries",
    "known",
    "model_name",
    "names",
    "read",
    "spread",
]
