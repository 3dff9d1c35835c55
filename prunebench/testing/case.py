"""Case: a method set as official code was for one vector, and what it is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from prunebench.budget import Stage
from prunebench.contract import Observe
from prunebench.pruner import Pruner
from prunebench.testing.decoder import Decoder
from prunebench.tokens import VisualTokens

NOTHING_MORE: Mapping[str, Tensor] = {}


@dataclass(frozen=True)
class Case:
    """A method set to do what official code did for one vector, and what it is shown.

    `tokens` are the visual tokens before the first stage with their signals; `observe` says what a
    stage is shown where that is more than the rows of `tokens` which are alive
    (`prunebench.contract.walk`). `decoder` is the vector's tiny language model, for a second run
    inside it; `alone` False says that this is the only run, because the vector does not bring what
    the model itself would show the method.

    `suffix` ends the names of the tensors to compare with, for a vector that holds the answers of
    several settings. `prompt` gives further answers, by name, that follow from the [K] indices
    kept. `arranged` gives, of the answers outside a model by name, those that official code hands
    over in another form: rows in another order, or beside rows that are no visual token. `renamed`
    puts all answers into the vector's own terms, for one that numbers stages or counts places
    otherwise.
    """

    pruner: Pruner
    stages: tuple[Stage, ...]
    tokens: VisualTokens
    observe: Observe | None = None
    decoder: Decoder | None = None
    alone: bool = True
    suffix: str = ""
    prompt: Callable[[Tensor], Mapping[str, Tensor]] = lambda keep: NOTHING_MORE
    renamed: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda answers: answers
    arranged: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda answers: NOTHING_MORE
