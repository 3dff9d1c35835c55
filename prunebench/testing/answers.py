"""Answers: the checks of what a method keeps, outside a model."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunebench import registry
from prunebench.budget import Budget
from prunebench.composition import members
from prunebench.contract import walk
from prunebench.observations import NotShown
from prunebench.pruner import Pruner, works_by_shape
from prunebench.testing.candidate import (
    DEPTHS,
    GRIDS,
    Candidate,
    Fault,
    answers,
    expect,
    plans,
    sample,
    samples,
)
from prunebench.testing.elsewhere import elsewhere, moved
from prunebench.testing.modules import run_file
from prunebench.testing.samples import facts
from prunebench.tokens import Keep, VisualTokens

SEEDS = 4
"""Samples of each layout that `work_by_shape` compares."""


def contract(candidate: Candidate, dtype: torch.dtype = torch.float32) -> str:
    """Every answer is a Keep of unique places in range, as many as the stage asks for."""
    pruner, walks = candidate.ready, 0
    for tokens in samples(pruner, dtype):
        for budget, layers, stages in plans(pruner, len(tokens)):
            with torch.no_grad():  # as in a model that answers
                walk(pruner, stages, tokens, terms=(budget, layers))
                expect(
                    not torch.is_grad_enabled(),
                    "switches gradients on: a method leaves torch's modes alone",
                )
            walks += 1
    expect(walks > 0, "no budget is within reach, so nothing could be run")
    return f"{walks} samples and plans"


def in_bfloat16(candidate: Candidate) -> str:
    """The same of features and signals in half precision."""
    return contract(candidate, torch.bfloat16)


def on_another_device(candidate: Candidate) -> str:
    """What the method makes itself is on the device of what it is shown, as a GPU asks for."""
    # a copy: weights that were moved stay where they are
    pruner, walks = copy.deepcopy(candidate.ready), 0
    for tokens in samples(pruner):
        with elsewhere() as away:
            moved_tokens = moved(tokens, away)
            for budget, layers, stages in plans(pruner, len(tokens)):
                walk(pruner, stages, moved_tokens, terms=(budget, layers))
                walks += 1
    return f"{walks} samples and plans"


def signals(candidate: Candidate) -> str:
    """The method reads no signal that it does not declare."""
    try:
        contract(candidate)
    except NotShown as error:
        raise Fault(str(error)) from error
    except Exception:  # the check of the contract has reported it
        pass
    return ", ".join(sorted(candidate.ready.needs)) or "none"


def same_twice(candidate: Candidate) -> str:
    """The same tokens lead to the same survivors."""
    pruner = candidate.ready
    for tokens in samples(pruner):
        expect(
            _equal(answers(pruner, tokens), answers(pruner, tokens)),
            "the same tokens twice give different survivors: "
            "seed a generator with the settings and tokens.seed",
        )
    return "equal answers"


def no_memory(candidate: Candidate) -> str:
    """An image after another one is pruned as by a pruner that never saw the other."""
    pruner = candidate.ready
    first, second = sample(pruner, seed=11), sample(pruner, seed=12)
    of_first, of_second = answers(pruner, first), answers(pruner, second)
    message = (
        "an image is pruned differently after another one: "
        "keep nothing of a sample outside tokens.memo"
    )
    expect(_equal(of_first, answers(pruner, first)), message)
    fresh = _afresh(pruner, candidate.untouched)
    expect(_equal(of_second, answers(fresh, second)), message)
    return "equal answers after another image"


def inputs_untouched(candidate: Candidate) -> str:
    """Features, index and signals are what they were before."""
    for tokens in samples(candidate.ready):
        before = copy.deepcopy(tokens)
        answers(candidate.ready, tokens)
        for (name, was), (_, now) in zip(_inputs(before), _inputs(tokens), strict=True):
            expect(_unchanged(was, now), f"tokens.{name} was changed in place: clone it first")
    return "features, index and signals as before"


def keeps_all(candidate: Candidate) -> str:
    """A budget of 1.0 keeps every token, in a model of any depth."""
    for layers in DEPTHS:
        pruner = candidate.bare.prepared(facts(layers=layers))
        # a method may read other layers at another depth, and see as many values
        for tokens in samples(pruner):
            stages = pruner.plan(Budget(1.0), len(tokens), layers)
            steps = walk(pruner, stages, tokens, terms=(Budget(1.0), layers))
            kept = len(steps[-1].keep.index)
            expect(
                pruner.dynamic or kept == len(tokens),
                f"budget 1.0 keeps {kept} of {len(tokens)} tokens",
            )
    return "dynamic: as many as it wants" if candidate.bare.dynamic else "every token"


def work_by_shape(candidate: Candidate) -> str:
    """A method that declares so takes as many FLOPs for all tokens of the same shapes."""
    pruner = candidate.ready
    if not works_by_shape(pruner):
        return "not declared: counted anew for every sample"
    from prunebench.engine.counter import counter

    for grid in GRIDS:
        counts = set()
        for seed in range(SEEDS):
            tokens = sample(pruner, seed=seed, **grid)
            with torch.no_grad(), counter() as flops:
                answers(pruner, tokens)
            counts.add(flops.get_total_flops())
        expect(
            len(counts) == 1,
            f"takes {min(counts)} to {max(counts)} FLOPs on tokens of the same shapes: "
            "take work_by_shape out of its class",
        )
    return "the same FLOPs on the same shapes"


def _inputs(tokens: VisualTokens) -> Iterator[tuple[str, Any]]:
    yield "features", tokens.features
    yield "index", tokens.index
    for signal, value in tokens.signals.items():
        yield str(signal), value


def _unchanged(was: Any, now: Any) -> bool:
    if isinstance(was, Tensor):
        return torch.equal(was, now)
    if isinstance(was, tuple):
        return len(was) == len(now) and all(map(_unchanged, was, now))
    return bool(was == now)


def _equal(first: Sequence[Keep], second: Sequence[Keep]) -> bool:
    pairs = zip(first, second, strict=True)
    return all(
        torch.equal(one.index, other.index) and _same(one.features, other.features)
        for one, other in pairs
    )


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(one, other)


def _afresh(pruner: Pruner, untouched: Pruner) -> Pruner:
    """The pruner as a new process would have it: module, class and instance made anew."""
    method = type(pruner)
    if len(members(pruner)) > 1:
        together = registry.build(registry.name_of(untouched), registry.settings(untouched))
        return together.prepared(facts())
    source = inspect.getsourcefile(method)
    if source is None or method.__qualname__ != method.__name__:
        return untouched  # made inside a function: there is no module to run again
    # run again, not reloaded: a module may keep what it saw in a global
    path = Path(source)
    module = run_file(path, f"_prunebench_fresh.{path.stem}")
    fresh: Pruner = getattr(module, method.__name__)(**registry.settings(untouched))
    return fresh.prepared(facts())
