"""The interface of a method: Pruner, and ScorePruner for methods that rank tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from prunebench.border.interruption import interrupts
from prunebench.border.text import message, one_line
from prunebench.budget import Budget, BudgetError, Stage, solve
from prunebench.course import Course
from prunebench.reads import Reads
from prunebench.select import places_on_cpu, share, top, top_of_each
from prunebench.signals import Signal
from prunebench.sites import INPUT, Part, Site
from prunebench.steps import DecodingStep
from prunebench.tokens import Keep, VisualTokens

Positions = Literal["original", "compact"]


class Unsupported(ValueError):
    """The model cannot give what was asked of it; a result with a reason, not a failure."""


class MethodError(RuntimeError):
    """A method did what no method may do, such as ending the program; the message names both."""


class contained:  # lower case, for it is used like a function: with contained(...)
    """A context for a method's own code, its `member`, in which it cannot end the program.

    What is no ordinary exception becomes a MethodError that names `name.member`.
    SystemExit, GeneratorExit, StopIteration and exceptions of a method's own making that are no
    Exception would end the program, or a loop, without a word. A person's Ctrl-C and ordinary
    exceptions pass.
    """

    def __init__(self, name: str, member: str) -> None:
        self._name, self._member = name, member

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: object
    ) -> None:
        if error is None or interrupts(error):
            return
        ends_loops = isinstance(error, StopIteration | StopAsyncIteration)
        if isinstance(error, Exception) and not ends_loops:
            return
        kind, text = type(error).__name__, message(error)
        if text != kind:
            kind = f"{kind}({text})"
        member = f"{self._name}.{self._member}"
        fault = f"{member} raised {kind}, which would end more than itself"
        raise MethodError(one_line(fault)) from error


@dataclass(frozen=True)
class Facts:
    """What a method may know of the model it is about to work in.

    A field is None where a bare decoder has no such part, or nobody has said.
    `name` is that of the checkpoint, `width` the language model's, `eps` that of its norms;
    `feature_block` is the vision block whose output the projector reads, counted from 0; `stateful`
    are the layers that keep a state (linear attention, convolution) and attend to nothing.

    `heads` and `kv_heads` count a layer's heads of queries and of keys, each `head_width` wide;
    `frequencies` are the inverse frequencies of its rotary position embedding, one a pair of
    channels, None where it has none. Where layers differ, these are of those that look at
    everything. `norm` is the one behind the last layer, of rows [n, D], for methods that compare
    states as the model's head would see them.

    `tiled` says whether an image can come as a thumbnail and crops, `clipped` whether a CLIP can be
    shown what the vision encoder sees.
    """

    name: str | None
    layers: int
    width: int
    heads: int
    eps: float
    vision_blocks: int | None = None
    vision_width: int | None = None
    feature_block: int | None = None
    kv_heads: int | None = None
    head_width: int | None = None
    frequencies: tuple[float, ...] | None = None
    tiled: bool | None = None
    clipped: bool | None = None
    stateful: frozenset[int] = frozenset()
    norm: Callable[[Tensor], Tensor] | None = field(default=None, repr=False, compare=False)

    @property
    def attending(self) -> tuple[int, ...]:
        """The layers that attend, in order."""
        return tuple(number for number in range(self.layers) if number not in self.stateful)

    def attending_near(self, layer: int, first: int = 0, last: int | None = None) -> int:
        """The layer that attends and is nearest to `layer`, which is that one where it does; of two
        the earlier.

        It lies in `first`..`last`, counted from 0, or to the end. Raises Unsupported where none
        there attends.
        """
        if layer not in self.stateful:
            return layer
        end = self.layers - 1 if last is None else last
        there = [number for number in self.attending if first <= number <= end]
        if not there:
            raise Unsupported(
                f"of layers {first}..{end} none attends; those that do are {list(self.attending)}"
            )
        return min(there, key=lambda number: abs(number - layer))


@dataclass(frozen=True)
class Pruner(ABC):
    """A pure function from visual tokens to survivors; its dataclass fields are its settings.

    `needs` are the signals it reads, a class attribute or, where a setting decides, a property; a
    method that says more of how it reads them overrides `reads`, and `stand_ins` where others serve
    on models that lack some. `default_positions` says what its paper does with the survivors'
    position ids: "original" keeps them, gaps included, "compact" closes the gaps. A `dynamic`
    method may keep fewer than it may, even none.

    `own_share` is the share of the tokens that the paper's main setting keeps at the method's one
    site, where there is such a setting: its operating point without a budget.

    The FLOPs of selecting are counted anew for every sample, which takes time, unless a class says
    `work_by_shape`: that its matrix products follow from the stage, the layout and the shapes that
    it is shown, and from no value, text or number of rounds. A class that inherits says it anew.
    """

    default_positions: ClassVar[Positions] = "original"
    dynamic: ClassVar[bool] = False
    work_by_shape: ClassVar[bool] = False
    own_share: ClassVar[float | None] = None

    @property
    def needs(self) -> frozenset[Signal]:
        """The signals that it reads; what else there is to say of them is in `reads`."""
        return self.reads.signals

    @property
    def stand_ins(self) -> Mapping[Signal, Signal | None]:
        """For signals that some models lack, what is read in their place, or None where it does
        without; none unless it says so.

        A method sees what it is shown by what `VisualTokens.signals` holds.
        """
        return {}

    @property
    def reads(self) -> Reads:
        """What it asks the engine to observe: its `needs`, unless it says more."""
        # each defaults to the other: asked for where it is not overridden, `needs` would never end
        says_needs = type(self).needs is not Pruner.needs
        return Reads(frozenset(self.needs)) if says_needs else Reads()

    @property
    def port(self) -> str:
        """What else than a signal stands in for something that the model it was made ready for
        lacks, such as parts of one picture for crops; empty where it runs as published.
        """
        return ""

    def site(self) -> Site:
        """Where it prunes; behind the projector unless it says otherwise."""
        return INPUT

    def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
        """The stages for a sample of `available` visual tokens in a model of `layers` LLM layers.

        `budget` None means the method's own. Raises BudgetError where it has none, or cannot meet
        the one given.
        """
        if budget is None:
            if self.own_share is None:
                raise BudgetError(
                    f"{type(self).__name__} has no budget of its own; give one, such as 0.25 or 64"
                )
            return (Stage(self.site(), max(1, round(self.own_share * available))),)
        return solve(budget, [self.site()], available, layers)

    def positions_at(self, site: Site) -> Positions:
        """What becomes of position ids at a stage there: as its paper does, wherever it is."""
        return self.default_positions

    def replan(self, tokens: VisualTokens, course: Course) -> tuple[Stage, ...]:
        """The stages ahead, of which the first is shown `tokens`, with what they are to keep now
        that these are seen.

        Only counts may change, and the whole run still spends its budget; raises BudgetError where
        it cannot. Asked before `prune`, in the language model and at its input, of a class that
        overrides it, unless the caller has set the stages.
        """
        return course.ahead

    @property
    def replans(self) -> bool:
        """Whether what later stages keep depends on what is seen on the way."""
        return type(self).replan is not Pruner.replan

    @abstractmethod
    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """The survivors of `tokens`: exactly `stage.keep` of them, or at most that where the method
        is dynamic.
        """

    def resize(self, size: tuple[int, int], cell: int, budget: Budget | None) -> tuple[int, int]:
        """The size (width, height) in pixels to which an image is scaled first; `cell` pixels make
        one token's side.

        Only a method at the site "pixels" changes it.
        """
        return size

    def prepared(self, facts: Facts) -> Self:
        """The method made ready for a model: settings that depend on it are filled in, weights are
        found.

        Called once before anything else is asked; raises Unsupported where the model cannot be
        served.
        """
        return self

    def decodes_at(self) -> Site | None:
        """The seam from whose layer on `decode` says at every step of an answer what is attended
        to; None where the method leaves decoding alone.
        """
        return None

    def decode(self, step: DecodingStep) -> Tensor | None:
        """[K] places in `step.index` of the visual entries that layers from `decodes_at()` on may
        attend to in this step; None for all.

        Others are hidden for this step alone, and nothing is freed. Where a step reads several
        tokens at once (drafts), it is asked for the last and its answer holds for all. A method
        whose `decodes_at` names a seam overrides it.
        """
        return None

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        """By name, the values that lead to the survivors of a stage; what vectors from official
        code are compared with.
        """
        return {}


def works_by_shape(pruner: Pruner) -> bool:
    """Whether a method and all methods that it holds declare that their work depends on shapes."""
    # of the class itself: one that inherits may do other work
    if not type(pruner).__dict__.get("work_by_shape", False):
        return False
    values = [getattr(pruner, field.name) for field in fields(pruner)]
    return all(works_by_shape(value) for value in values if isinstance(value, Pruner))


def has_own(pruner: Pruner) -> bool:
    """Whether a method has an operating point of its own, and needs no budget."""
    name = type(pruner).__name__
    try:
        with contained(name, "site"):
            if pruner.site().part is Part.PIXELS:  # it makes images smaller, and plans nothing
                return False
        # any sizes will do: whether there is one depends on the method alone
        with contained(name, "plan"):
            pruner.plan(None, 576, 32)
    except BudgetError:
        return False
    except Exception:  # what is wrong with it is said where it is asked
        return True
    return True


@dataclass(frozen=True)
class ScorePruner(Pruner):
    """A method that scores tokens and keeps the highest.

    `per_tile` gives every tile its share of the budget, by its size.
    """

    per_tile: ClassVar[bool] = False

    @abstractmethod
    def score(self, tokens: VisualTokens) -> Tensor:
        """[N] one score a token; higher is kept."""

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        return {"scores": self.score(tokens)}

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        scores = self.score(tokens)
        if scores.shape != (len(tokens),):
            raise ValueError(
                f"{type(self).__name__}.score gave {list(scores.shape)}; it must give one score a "
                f"token, [{len(tokens)}]"
            )
        if scores.is_complex():
            raise ValueError(
                f"{type(self).__name__}.score gave {scores.dtype}, which has no order; it must "
                "give real numbers"
            )
        # ranked on the CPU: a GPU is waited for once here, and not for each question below
        scores = scores.cpu()
        if scores.isnan().any():
            raise ValueError(
                f"{type(self).__name__}.score gave NaN for {int(scores.isnan().sum())} of "
                f"{len(tokens)} tokens"
            )
        if not self.per_tile:
            return Keep(top(scores, stage.keep))
        sizes = torch.bincount(tokens.tile, minlength=len(tokens.tiles))
        # by size and of no more than all, so that no tile is asked for more tokens than it has
        counts = share(min(stage.keep, len(tokens)), sizes)
        return Keep(top_of_each(scores, places_on_cpu(tokens), counts))
