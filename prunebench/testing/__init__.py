"""Testing: what a method's author needs: samples to prune, the conformance checks, and the file to
start from.
"""

from prunebench.contract import walk
from prunebench.testing.conformance import Check, check_file, check_pruner
from prunebench.testing.samples import random_model, tokens
from prunebench.testing.template import new_file

__all__ = ["Check", "check_file", "check_pruner", "new_file", "random_model", "tokens", "walk"]
