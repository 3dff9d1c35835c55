"""Conformance: the checks that every pruner must pass, built in or not."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from prunebench import registry
from prunebench.border.guard import Guard, RandomState
from prunebench.border.interruption import interrupts
from prunebench.border.text import message, one_line
from prunebench.contract import Breach
from prunebench.pruner import Pruner
from prunebench.testing import answers, declarations, inside
from prunebench.testing.candidate import Candidate, Fault
from prunebench.trained import RANDOM, Trained

CHECKS: tuple[tuple[str, Callable[[Candidate], str]], ...] = (
    ("card", declarations.card),
    ("settings", declarations.settings),
    ("budget", declarations.budgets),
    ("count and index", answers.contract),
    ("bfloat16", answers.in_bfloat16),
    ("another device", answers.on_another_device),
    ("declared signals", answers.signals),
    ("same twice", answers.same_twice),
    ("no memory", answers.no_memory),
    ("inputs untouched", answers.inputs_untouched),
    ("keeps all at 1.0", answers.keeps_all),
    ("work by shape", answers.work_by_shape),
    ("in a model", inside.in_a_model),
)
"""By name, in the order in which they run, the checks of a method that could be prepared. Each
returns a few words on what it looked at and raises Fault; its docstring says what it asks for.
"""


@dataclass(frozen=True)
class Check:
    """One conformance check: what was looked at, whether it holds, and what came of it."""

    name: str
    ok: bool
    message: str


def check_pruner(pruner: Pruner) -> list[Check]:
    """Run every conformance check; a later one runs whatever an earlier one says.

    A method with weights is checked with random ones, unless it names others.
    """
    if isinstance(pruner, Trained) and not pruner.weights:
        pruner = replace(pruner, weights=RANDOM)
    trace = _Trace(type(pruner).__module__)
    preparing = _run("prepared", partial(declarations.prepared, pruner))
    if not preparing.ok:
        return [preparing, trace.check()]
    candidate = Candidate.of(pruner)
    results = []
    for name, look in CHECKS:
        results.append(_run(name, partial(look, candidate)))
        trace.look()
    return [*results, trace.check()]


def check_file(path: Path) -> list[Check]:
    """The checks for the method of a file, with default settings; raises RegistryError where it
    cannot be loaded.
    """
    if path.suffix != ".py":
        raise registry.RegistryError(f"{path} is no Python file; a method is a .py file")
    return check_pruner(registry.build(str(path.resolve())))


def check_named(name: str) -> list[Check]:
    """The checks for a method by its name, or for several that work together; raises RegistryError
    where there is none.
    """
    return check_pruner(registry.build(name))


class _Trace:
    """What the method of the module `owner` leaves behind in the process, looked for after every
    check and put back.
    """

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.guard, self.random = Guard(), RandomState()
        self.changes: list[str] = []

    def look(self) -> None:
        """Note what changed since the last look, and put it back."""
        self.changes += self.guard.changes(self.owner)
        if self.random.drawn:
            self.changes.append("the state of the global random number generator")
        self.guard.restore()
        self.random.restore()

    def check(self) -> Check:
        """What was noted, as a check."""
        self.look()
        if not self.changes:
            return Check("no trace", True, "the process is as it was")
        changed = one_line(", ".join(dict.fromkeys(self.changes)), 200)
        return Check("no trace", False, f"changes {changed}: a method leaves no trace behind")


def _run(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except (Fault, Breach) as fault:
        return Check(name, False, message(fault))
    except BaseException as error:  # an author's code may raise anything; the report names it
        if interrupts(error):
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}, line {last.lineno}"
        reason = f"{type(error).__name__}: {one_line(message(error), 400)}"
        return Check(name, False, f"{reason} ({place})")
