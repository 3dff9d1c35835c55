"""Models: what can be loaded, loading it, and the family of what is loaded; a file a family."""

from prunebench.models.base import Unsupported
from prunebench.models.catalogue import aliases, families, family_of
from prunebench.models.errors import LoadError
from prunebench.models.loaded import Loaded
from prunebench.models.loading import Weights, load, look_up
from prunebench.testbed import DEFAULT

__all__ = [
    "DEFAULT",
    "LoadError",
    "Loaded",
    "Unsupported",
    "Weights",
    "aliases",
    "families",
    "family_of",
    "load",
    "look_up",
]
