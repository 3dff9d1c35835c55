"""Guard: what all methods share, noted before one of them runs and compared behind it.

A method is a pure function of what it is shown. One that sets torch's default type, hooks a module,
patches a library or writes into the model's weights would change the numbers of every method behind
it; it is named, and the state is put back.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from contextlib import suppress

import torch
from torch import nn

from prunebench.border import hooks
from prunebench.border.functions import WatchedFunctions
from prunebench.border.model_state import ModelState
from prunebench.border.process import SETTINGS


class Guard:
    """The shared state at the moment when this was made, and that of a model where one is given."""

    def __init__(self, model: nn.Module | None = None) -> None:
        self._settings = [(setting, setting.getter()) for setting in SETTINGS]
        self._environment = dict(os.environ)
        self._hooks = {name: dict(present) for name, present in hooks.of_every_module()}
        modules = [] if model is None else list(model.modules())
        code_of_model = {type(module).__module__ for module in modules}
        self._functions = WatchedFunctions(sorted(code_of_model))
        self._model = None if model is None else ModelState(model)

    def changes(self, owner: str = "") -> list[str]:
        """What is different now, in words; empty where nothing is.

        `owner` is the module of the method that ran: what it does to functions of its own is not
        compared.
        """
        changes = [setting.name for setting, value in self._settings if setting.changed(value)]
        for name, present in hooks.of_every_module():
            if hooks.changed_keys(present, self._hooks[name]):
                changes.append(f"torch's hooks on every module ({name.strip('_')})")
        for variable, value in self._environment.items():
            if os.environ.get(variable) != value:
                changes.append(f"the environment variable {variable}")
        for function in self._functions.replaced():
            if not owner or not function.label.startswith(owner):
                changes.append(function.full_name)
        if self._model is not None:
            changes += self._model.changes()
        return changes

    def restore(self, reload: Callable[[], nn.Module] | None = None) -> None:
        """Put everything back. `reload` gives a fresh copy of the model, for weights that were
        written over.
        """
        for setting, value in self._settings:
            if setting.changed(value):
                # what cannot be set again is named by the next comparison
                with suppress(Exception):
                    setting.setter(value)
        for name, present in hooks.of_every_module():
            hooks.put_back(present, self._hooks[name])
        for variable, text in self._environment.items():
            os.environ[variable] = text
        for function in self._functions.replaced():
            function.put_back()
        if self._model is not None:
            self._model.restore(reload)


class RandomState:
    """The state of every random number generator that a method may draw from; a draw is no fault,
    but must not go further.
    """

    def __init__(self) -> None:
        self._torch = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        self._python = random.getstate()
        # not imported for this: nobody has drawn from what is not loaded
        numpy = sys.modules.get("numpy")
        self._numpy = None if numpy is None else numpy.random.get_state()

    @property
    def drawn(self) -> bool:
        """Whether somebody has drawn from torch's or Python's own generator since."""
        if random.getstate() != self._python:
            return True
        return not torch.equal(torch.get_rng_state(), self._torch)

    def restore(self) -> None:
        """Put every generator back."""
        torch.set_rng_state(self._torch)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)
        random.setstate(self._python)
        if self._numpy is not None:
            sys.modules["numpy"].random.set_state(self._numpy)
