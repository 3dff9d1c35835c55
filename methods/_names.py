"""Names: the methods of this folder, for editors and type checkers; `make docs` writes it."""

from typing import Literal

MethodName = Literal[
    "blind",
    "divprune",
    "fastervlm",
    "fastv",
    "glimpseprune",
    "glimpseprune_plus",
    "gswa",
    "hero",
    "igva",
    "maskclip",
    "none",
    "pool",
    "ptp",
    "pyramiddrop",
    "random",
    "resize",
    "resprune",
    "stdmmf",
    "uniform",
]
