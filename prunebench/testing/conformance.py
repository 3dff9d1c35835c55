"""Conformance: the checks that every pruner must pass, built in or not."""

from __future__ import annotations

import copy
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunebench import registry
from prunebench.border.guard import Guard, RandomState
from prunebench.border.interruption import interrupts
from prunebench.border.text import message, one_line
from prunebench.budget import Budget, BudgetError, Stage, alive, cached, spent
from prunebench.contract import Breach, walk
from prunebench.pruner import Pruner
from prunebench.signals import CLIP, GIVEN, NotShown
from prunebench.sites import PIXELS, Part, Site
from prunebench.testing.samples import QUESTION, facts, random_model, tokens
from prunebench.tokens import Keep, Signal, VisualTokens
from prunebench.trained import RANDOM, Trained

BUDGETS = (Budget(1.0), Budget(0.5), Budget(0.25), Budget(5), Budget(0.5, "kv"))
DEPTHS = (6, 28, 32)


@dataclass(frozen=True)
class Check:
    """One conformance check: what was looked at, whether it holds, and what was found."""

    name: str
    ok: bool
    message: str


def check_pruner(pruner: Pruner) -> list[Check]:
    """Run every conformance check; a later one runs whatever an earlier one found.

    A method with weights is checked with random ones, unless it names others.
    """
    if isinstance(pruner, Trained) and not pruner.weights:
        pruner = replace(pruner, weights=RANDOM)
    guard, random = Guard(), RandomState()
    trace = _Traces(guard, random, type(pruner).__module__)
    preparing = _run("prepared", lambda: _prepared(pruner))
    if not preparing.ok:
        return [preparing, trace.check()]
    bare, pruner = pruner, pruner.prepared(facts())
    untouched = copy.deepcopy(pruner)
    checks: list[tuple[str, Callable[[], str]]] = [
        ("card", lambda: _card(type(pruner))),
        ("settings", lambda: _settings(pruner)),
        ("budget", lambda: _resized(pruner) if pruner.site() == PIXELS else _budget(pruner)),
        ("count and index", lambda: _contract(pruner, torch.float32)),
        ("bfloat16", lambda: _contract(pruner, torch.bfloat16)),
        ("declared signals", lambda: _signals(pruner)),
        ("same twice", lambda: _twice(pruner)),
        ("no memory", lambda: _memory(pruner, untouched)),
        ("inputs untouched", lambda: _inputs(pruner)),
        ("keeps all at 1.0", lambda: _all(bare)),
        ("in a model", lambda: _model(bare)),
    ]
    results = []
    for name, check in checks:
        results.append(_run(name, check))
        trace.look()
    return [*results, trace.check()]


class _Traces:
    """What a method leaves behind in the process, looked for after every check and put back."""

    def __init__(self, guard: Guard, random: RandomState, owner: str) -> None:
        self.guard, self.random, self.owner = guard, random, owner
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
        changed = ", ".join(dict.fromkeys(self.changes))
        return Check(
            "no trace", False, f"changes {one_line(changed, 200)}: a method leaves no trace behind"
        )


def check_file(path: Path) -> list[Check]:
    """The checks for the method of a file, with default settings; raises RegistryError where it
    cannot be loaded.
    """
    if path.suffix != ".py":
        raise registry.RegistryError(f"{path} is no Python file; a method is a .py file")
    return check_pruner(registry.build(str(path.resolve())))


class _Fault(Exception):
    """What a check found; its text is the message."""


def _run(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, True, check())
    except (_Fault, Breach) as fault:
        return Check(name, False, message(fault))
    except BaseException as error:  # an author's code may raise anything; the report names it
        if interrupts(error):
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}, line {last.lineno}"
        return Check(
            name, False, f"{type(error).__name__}: {one_line(message(error), 400)} ({place})"
        )


def _prepared(pruner: Pruner) -> str:
    ready = pruner.prepared(facts())
    kind = type(ready).__name__
    _expect(isinstance(ready, Pruner), f"prepared gave a {kind}; it must give the method, ready")
    _expect(
        isinstance(ready.site(), Site),
        f"site() gave {ready.site()!r}; it must give a Site, such as INPUT or llm(before=2)",
    )
    return ", ".join(sorted(ready.needs)) or "needs nothing"


def _expect(holds: bool, message: str) -> None:
    if not holds:
        raise _Fault(message)


def _card(method: type[Pruner]) -> str:
    card = registry.card(method)
    _expect(
        bool(sys.modules[method.__module__].__doc__),
        "the file has no docstring: open it with one sentence",
    )
    # inspect.getdoc inherits, and dataclass writes a signature where there is none
    doc = method.__dict__.get("__doc__") or ""
    _expect(
        bool(doc) and not doc.startswith(f"{method.__name__}("),
        f"{method.__name__} has no docstring",
    )
    _expect(card.paper is not None or not card.code, "official code is declared, but no paper")
    return card.paper or "no paper declared: listed as a baseline"


def _settings(pruner: Pruner) -> str:
    method = type(pruner)
    own = (
        "__dataclass_params__" in method.__dict__ and method.__dict__["__dataclass_params__"].frozen
    )
    _expect(own, f"decorate {method.__name__} with @dataclass(frozen=True), below @register(...)")
    _expect(
        pruner.default_positions in ("original", "compact"),
        f"default_positions is {pruner.default_positions!r}",
    )
    _expect(
        set(pruner.needs) <= set(Signal),
        f"needs holds {set(pruner.needs) - set(Signal)}, which are no signals",
    )
    return (
        ", ".join(f"{key}={value!r}" for key, value in registry.settings(pruner).items()) or "none"
    )


def _plans(
    pruner: Pruner, available: int, depths: Sequence[int] = DEPTHS[1:2]
) -> Iterator[tuple[Budget, int, tuple[Stage, ...]]]:
    """Every plan within reach, over budgets and depths."""
    for layers in depths:
        for budget in BUDGETS:
            try:
                yield budget, layers, pruner.plan(budget, available, layers)
            except BudgetError:
                continue


def _budget(pruner: Pruner) -> str:
    met = list[str]()
    for available in (24, 64, 576):
        for budget, layers, stages in _plans(pruner, available, DEPTHS):
            label = f"budget {budget} of {available} tokens, {layers} layers"
            counts, sites = [s.keep for s in stages], [s.site for s in stages]
            _expect(
                sites == sorted({*sites}),
                f"{label}: the stages' sites {', '.join(map(str, sites))} must rise",
            )
            _expect(
                counts == sorted(counts, reverse=True),
                f"{label}: the stages keep {counts}, which must fall",
            )
            _expect(
                counts[-1] >= 1 and counts[0] <= available, f"{label}: the stages keep {counts}"
            )
            deep = [str(s) for s in sites if s.part is Part.LLM and s.layer >= layers]
            _expect(not deep, f"{label}: no site {', '.join(deep)}")
            cost = spent(
                budget.kind, alive(stages, available, layers), cached(stages, available, layers)
            )
            over = cost - budget.tokens(available)
            _expect(over <= 0.5 + 1e-6, f"{label}: the plan spends {cost:g}")
            _expect(pruner.dynamic or over >= -0.5 - 1e-6, f"{label}: the plan spends {cost:g}")
            met += [label] if budget.amount != 1.0 else []
    _expect(bool(met), f"no budget of {', '.join(map(str, BUDGETS))} is within reach at any depth")
    return f"{len(met)} plans below 1.0 within half a token"


def _resized(pruner: Pruner) -> str:
    cell = 28
    for size in ((224, 224), (640, 480), (300, 900)):
        available = round(size[0] / cell) * round(size[1] / cell)
        for budget in BUDGETS:
            new = pruner.resize(size, cell, budget)
            count = (new[0] // cell) * (new[1] // cell) if new != size else available
            within = 0 < count <= max(1.0, budget.tokens(available))
            _expect(
                within,
                f"budget {budget} of {available} tokens: {size} becomes {new}, {count} tokens",
            )
    return "every size within its budget"


def _samples(pruner: Pruner, dtype: torch.dtype) -> Iterator[VisualTokens]:
    grids = [(4, 6, 1, False), (1, 7, 1, False), (5, 9, 3, False), (3, 4, 2, True)]
    for seed, (rows, columns, tiles, newlines) in enumerate(grids):
        yield _sample(
            pruner,
            rows=rows,
            columns=columns,
            tiles=tiles,
            newlines=newlines,
            seed=seed,
            dtype=dtype,
        )


def _sample(pruner: Pruner, **options: Any) -> VisualTokens:
    """Random tokens with the signals that the pruner asks for, for as many encoder blocks as it
    names.
    """
    reads = pruner.reads
    blocks = {signal: len(blocks) for signal, blocks in reads.blocks.items() if blocks}
    texts = len(reads.texts(QUESTION))
    return tokens(needs=reads.signals, blocks=blocks, texts=texts, **options)


def _contract(pruner: Pruner, dtype: torch.dtype) -> str:
    walks = 0
    for sample in _samples(pruner, dtype):
        for _, _, stages in _plans(pruner, len(sample)):
            with torch.no_grad():  # as in a model that answers
                walk(pruner, stages, sample)
                _expect(
                    not torch.is_grad_enabled(),
                    "switches gradients on: a method leaves torch's modes alone",
                )
            walks += 1
    _expect(walks > 0, "no budget is within reach, so nothing could be run")
    return f"{walks} samples and plans"


def _signals(pruner: Pruner) -> str:
    try:
        _contract(pruner, torch.float32)
    except NotShown as error:
        raise _Fault(str(error)) from error
    except Exception:  # told by the checks before
        pass
    return ", ".join(sorted(pruner.needs)) or "none"


def _answer(pruner: Pruner, sample: VisualTokens) -> list[Keep]:
    """The answers at every stage of the tightest plan within reach."""
    plans = [stages for budget, _, stages in _plans(pruner, len(sample)) if budget.amount != 1.0]
    _expect(bool(plans), f"no budget of {len(sample)} tokens is within reach")
    return [
        step.keep for step in walk(pruner, min(plans, key=lambda stages: stages[-1].keep), sample)
    ]


def _equal(first: list[Keep], second: list[Keep]) -> bool:
    def same(a: Tensor | None, b: Tensor | None) -> bool:
        return a is b if a is None or b is None else torch.equal(a, b)

    pairs = zip(first, second, strict=True)
    return all(same(a.index, b.index) and same(a.features, b.features) for a, b in pairs)


def _twice(pruner: Pruner) -> str:
    for sample in _samples(pruner, torch.float32):
        _expect(
            _equal(_answer(pruner, sample), _answer(pruner, sample)),
            "the same tokens twice give different survivors: seed a generator with the settings and tokens.seed",
        )
    return "equal answers"


def _memory(pruner: Pruner, untouched: Pruner) -> str:
    """Another image after this one is pruned as by a pruner that never saw this one."""
    first, second = (_sample(pruner, seed=seed) for seed in (11, 12))
    before = _answer(pruner, first)
    after = _answer(pruner, second)
    found = "an image is pruned differently after another one: keep nothing of a sample outside tokens.memo"
    _expect(_equal(before, _answer(pruner, first)), found)
    _expect(_equal(after, _answer(_afresh(pruner, untouched), second)), found)
    return "equal answers after another image"


def _afresh(pruner: Pruner, untouched: Pruner) -> Pruner:
    """The pruner as a new process would have it: module, class and instance made anew."""
    method = type(pruner)
    source = inspect.getsourcefile(method)
    if source is None or method.__qualname__ != method.__name__:
        return untouched  # made inside a function: there is no module to run again
    name = f"_prunebench_fresh.{Path(source).stem}"
    spec = importlib.util.spec_from_file_location(name, source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[name]
    fresh: Pruner = getattr(module, method.__name__)(**registry.settings(untouched))
    return fresh.prepared(facts())


def _inputs(pruner: Pruner) -> str:
    for sample in _samples(pruner, torch.float32):
        given = copy.deepcopy(sample)
        _answer(pruner, sample)
        for name, was, now in [
            ("features", given.features, sample.features),
            ("index", given.index, sample.index),
            *((str(s), given.signals[s], sample.signals[s]) for s in sample.signals),
        ]:
            same = (
                all(map(torch.equal, was, now))
                if isinstance(was, tuple) and isinstance(was[0], Tensor)
                else None
            )
            same = (
                same
                if same is not None
                else torch.equal(was, now)
                if isinstance(was, Tensor)
                else was == now
            )
            _expect(same, f"tokens.{name} was changed in place: clone it first")
    return "features, index and signals as before"


def _all(pruner: Pruner) -> str:
    for sample in _samples(pruner.prepared(facts()), torch.float32):
        for layers in DEPTHS:
            ready = pruner.prepared(facts(layers=layers))
            steps = walk(ready, ready.plan(Budget(1.0), len(sample), layers), sample)
            kept = len(steps[-1].keep.index)
            _expect(
                pruner.dynamic or kept == len(sample),
                f"budget 1.0 keeps {kept} of {len(sample)} tokens",
            )
    return "every token" if not pruner.dynamic else "dynamic: as many as it wants"


def _model(pruner: Pruner) -> str:
    if pruner.site() == PIXELS:
        return "before the model: the runner scales the image"
    from prunebench.engine.session import prune
    from prunebench.models.base import Unsupported

    sample = tokens(rows=4, columns=6, needs=GIVEN)
    budget, layers = _within_reach(pruner, len(sample))
    model, inputs = random_model(rows=4, columns=6, layers=layers)
    guard = Guard(model)
    try:
        with prune(model, pruner, budget=budget, **_told(pruner, sample)) as trace:
            model.generate(**inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    except Unsupported as error:
        return f"not on Qwen2.5-VL: {error}"
    finally:
        changes = guard.changes(type(pruner).__module__)
        guard.restore()
    _expect(
        not changes, f"changes {one_line(', '.join(changes), 200)}: a method leaves no trace behind"
    )
    row = trace.samples[0]
    for stage in row.stages:
        kept = len(row.kept[stage.site])
        held = kept <= stage.keep if pruner.dynamic else kept == min(stage.keep, row.available)
        _expect(held, f"{stage.site}: {kept} tokens alive behind it, planned {stage.keep}")
    return f"Qwen2.5-VL of {layers} layers: {row.spent():g} of {row.available} tokens a layer"


def _told(pruner: Pruner, sample: VisualTokens) -> dict[str, Any]:
    """What the caller of `prune` has to give."""

    class Words:
        """A processor that decodes whatever it is given to words of the question."""

        @property
        def tokenizer(self) -> Words:
            return self

        def decode(self, ids: Sequence[int]) -> str:
            words = QUESTION.split()
            return words[ids[0] % len(words)]

    known = {
        "questions": [QUESTION],
        "pictures": [sample.pictures],
        "masks": [sample.masks],
        "processor": Words(),
    }
    return known if pruner.needs & (GIVEN | CLIP) else {}


def _within_reach(pruner: Pruner, available: int) -> tuple[Budget, int]:
    """Half of the tokens, and the smallest number of layers in which a method meets that; of the
    cache for late methods.
    """
    for budget in (Budget(0.5), Budget(0.5, "kv")):
        for layers in (4, 8, 16, 32, 48, 64, 80):
            try:
                pruner.plan(budget, available, layers)
            except BudgetError:
                continue
            return budget, layers
    raise _Fault("budget 0.5 is out of reach in models of up to 80 layers, and kv:0.5, too")
