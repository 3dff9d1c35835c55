"""Declarations: the checks of what a method says of itself and of its budgets, before it sees a
token.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from prunebench import registry
from prunebench.budget import Budget, Stage, alive, cached, spent
from prunebench.composition import members
from prunebench.pruner import Pruner
from prunebench.signals import Signal
from prunebench.sites import PIXELS, Site
from prunebench.testing.candidate import BUDGETS, DEPTHS, Candidate, expect, plans
from prunebench.testing.samples import facts

HALF = 0.5 + 1e-6
"""By how many tokens a plan may miss its budget: counts are whole."""

TOKEN_PIXELS = 28
"""Pixels of a token's side in the images that a method at the site "pixels" scales."""

IMAGES = ((224, 224), (640, 480), (300, 900))
"""Their widths and heights."""


def prepared(pruner: Pruner) -> str:
    """`prepared` gives the method itself, whose site is a Site."""
    ready = pruner.prepared(facts())
    kind = type(ready).__name__
    expect(isinstance(ready, Pruner), f"prepared gave a {kind}; it must give the method, ready")
    site = ready.site()
    expect(
        isinstance(site, Site),
        f"site() gave {site!r}; it must give a Site, such as INPUT or llm(before=2)",
    )
    return ", ".join(sorted(ready.needs)) or "needs nothing"


def card(candidate: Candidate) -> str:
    """File and class have a docstring of their own, and official code has a paper."""
    cards = [_card_of(type(part)) for part in members(candidate.ready)]
    return ", ".join(cards)


def _card_of(method: type[Pruner]) -> str:
    declared = registry.card(method)
    module = sys.modules[method.__module__]
    expect(bool(module.__doc__), "the file has no docstring: open it with one sentence")
    # inspect.getdoc inherits, and dataclass writes a signature where there is none
    doc = method.__dict__.get("__doc__") or ""
    has_doc = bool(doc) and not doc.startswith(f"{method.__name__}(")
    expect(has_doc, f"{method.__name__} has no docstring")
    has_source = declared.paper is not None or not declared.code
    expect(has_source, "official code is declared, but no paper")
    return declared.paper or "no paper declared: listed as a baseline"


def settings(candidate: Candidate) -> str:
    """The class is a frozen dataclass, and its class attributes have values that mean something."""
    pruner = candidate.ready
    method = type(pruner)
    options = method.__dict__.get("__dataclass_params__")
    frozen = options is not None and options.frozen
    expect(frozen, f"decorate {method.__name__} with @dataclass(frozen=True), below @register(...)")
    positions = pruner.default_positions
    expect(positions in ("original", "compact"), f"default_positions is {positions!r}")
    strangers = set(pruner.needs) - set(Signal)
    expect(not strangers, f"needs holds {strangers}, which are no signals")
    pairs = [f"{key}={value!r}" for key, value in registry.settings(pruner).items()]
    return ", ".join(pairs) or "none"


def budgets(candidate: Candidate) -> str:
    """Every plan within reach spends its budget, to half a token; a method before the model scales
    every image within it.
    """
    pruner = candidate.ready
    if pruner.site() == PIXELS:
        return _sizes(pruner)
    count = 0
    for available in (24, 64, 576):
        for budget, layers, stages in plans(pruner, available, DEPTHS):
            label = f"budget {budget} of {available} tokens, {layers} layers"
            _check_stages(label, stages, available, layers)
            costs = alive(stages, available, layers), cached(stages, available, layers)
            cost = spent(budget.kind, *costs)
            over = cost - budget.tokens(available)
            # a dynamic method may always spend less
            within = over <= HALF and (pruner.dynamic or over >= -HALF)
            expect(within, f"{label}: the plan spends {cost:g}")
            # a plan of 1.0 keeps everything, and proves nothing
            count += budget.amount != 1.0
    listed = ", ".join(map(str, BUDGETS))
    expect(count > 0, f"no budget of {listed} is within reach at any depth")
    return f"{count} plans below 1.0 within half a token"


def _check_stages(label: str, stages: Sequence[Stage], available: int, layers: int) -> None:
    """Raises Fault for stages that do not rise in the model, or whose counts do not fall."""
    counts = [stage.keep for stage in stages]
    sites = [stage.site for stage in stages]
    listed = ", ".join(map(str, sites))
    expect(sites == sorted({*sites}), f"{label}: the stages' sites {listed} must rise")
    falling = sorted(counts, reverse=True)
    expect(counts == falling, f"{label}: the stages keep {counts}, which must fall")
    possible = counts[-1] >= 0 and counts[0] <= available
    expect(possible, f"{label}: the stages keep {counts}")
    deep = [str(site) for site in sites if not site.exists_in(layers)]
    expect(not deep, f"{label}: no site {', '.join(deep)}")


def _sizes(pruner: Pruner) -> str:
    """Every image is scaled to a size within its budget."""
    for width, height in IMAGES:
        columns, rows = round(width / TOKEN_PIXELS), round(height / TOKEN_PIXELS)
        available = columns * rows
        for budget in BUDGETS:
            _check_size(pruner, (width, height), available, budget)
    return "every size within its budget"


def _check_size(pruner: Pruner, size: tuple[int, int], available: int, budget: Budget) -> None:
    new = pruner.resize(size, TOKEN_PIXELS, budget)
    count = available
    if new != size:
        width, height = new
        count = (width // TOKEN_PIXELS) * (height // TOKEN_PIXELS)
    expect(
        0 < count <= max(1.0, budget.tokens(available)),
        f"budget {budget} of {available} tokens: {size} becomes {new}, {count} tokens",
    )
