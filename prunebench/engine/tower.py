"""Tower: visual tokens leave inside the vision encoder, and their rows are really gone from there on.

From a stage at vision:j on, the blocks run over the survivors' rows alone, packed into one sequence;
attention keeps to the images, frames, windows or crops that the rows came in. Wherever anything but
the next block reads a block's output, all rows are there again in their places, those of dropped
tokens as zeros, so that patch merging, pixel shuffle and stitching find what they expect. What these
make of a zero row is dropped before the language model.

Rows that belong to no visual token (CLS, padding that the model cuts off behind the encoder) stay.
So does a row that a dropped token shares with a survivor, where tokens are interpolated from
neighbouring patches: a survivor always keeps all rows that it is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from prunebench.budget import BudgetError, Stage
from prunebench.engine.attention import packed, probed
from prunebench.engine.encoder import Observer, Survivors, vision_configs
from prunebench.engine.hooks import after, before, overheard
from prunebench.engine.stream import EngineError
from prunebench.models.base import EncoderRows, Family, Unsupported
from prunebench.sites import Part, Site, vision


@dataclass
class Encoded:
    """One sample on its way through the vision encoder.

    `alive` are the original visual indices [n] of its live tokens, ascending. `pinned` is the token
    that must survive because the prompt ends with it, None where the prompt ends otherwise. `kept`
    holds what was alive behind each site.
    """

    rows: EncoderRows
    stages: Sequence[Stage]
    pinned: int | None = None
    alive: Tensor = field(init=False)
    kept: dict[Site, Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.alive = torch.arange(len(self.rows.patches))

    def stage_at(self, site: Site) -> Stage | None:
        """The stage at that site, None where the sample has none."""
        return next((stage for stage in self.stages if stage.site == site), None)


@dataclass(frozen=True)
class Shown:
    """What a stage offers of one sample.

    `index` [N] are the original visual indices of the tokens to choose from, `features`
    [N, G * D_v] the rows of the G patches that each is made of, side by side, as they enter the
    block. `stage` counts these tokens alone: those that always survive have been taken off.
    """

    number: int
    stage: Stage
    index: Tensor
    features: Tensor


Choose = Callable[[Shown], tuple[Tensor, Tensor | None]]
"""What survives of the tokens shown: their places [K], ascending, and merged rows [K, G * D_v] where
the method merges.
"""


class Tower:
    """Hooks on the vision encoder that take dropped tokens out of it.

    `expect` is asked for the samples of a batch when the encoder is about to see them, `choose` for
    the survivors of every sample at every stage. An `observer` of the same encoder is told which
    rows are left.
    """

    def __init__(
        self,
        family: Family,
        model: nn.Module,
        expect: Callable[[], Sequence[Encoded]],
        choose: Choose,
        observer: Observer | None = None,
    ) -> None:
        self.family, self.model, self.observer = family, model, observer
        self.expect, self.choose = expect, choose
        self.blocks = list(family.blocks(model))
        self.attention = [family.block_attention(block) for block in self.blocks]
        self.names = list(signature(self.blocks[0].forward).parameters)
        """A block's arguments; the first are the hidden states."""
        self.read_outside = {*family.feature_blocks(model), len(self.blocks) - 1}
        self.samples: Sequence[Encoded] = ()
        self.inside = ExitStack()
        """The hooks on blocks, for as long as a pass needs them."""
        self.reset()

    def reset(self) -> None:
        """Forget the batch: another is about to be encoded."""
        self.samples = ()
        self.rows_before = 0
        """Rows of this batch's earlier passes: videos are encoded behind the images."""
        self.run: _Pass | None = None

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Install the hooks; on leaving, the encoder is as it was."""
        tower = self.family.vision(self.model)
        with ExitStack() as undo:
            for config in vision_configs(self.family, self.attention):
                undo.enter_context(probed(config))
            undo.callback(self.inside.close)
            before(undo, tower, self._enter)
            after(undo, tower, self._leave, always=True)
            yield

    def finish(self) -> None:
        """Check that every stage of every sample took place; raises EngineError."""
        for number, sample in enumerate(self.samples):
            for stage in sample.stages:
                if stage.site.part is Part.VISION and stage.site not in sample.kept:
                    raise EngineError(f"the stage at {stage.site} never ran for sample {number}")

    # ---- one pass over images or videos ----------------------------------------------------------

    def _enter(self, _args: Any, _kwargs: Any) -> None:
        """Hook the blocks from the first stage on."""
        if not self.samples:
            self.samples = self.expect()
        self.inside.close()
        self.run = _Pass(self.rows_before)
        layers = [
            stage.site.layer
            for sample in self.samples
            for stage in sample.stages
            if stage.site.part is Part.VISION
        ]
        for number in range(min(layers, default=len(self.blocks)), len(self.blocks)):
            self.inside.enter_context(
                overheard(self.blocks[number], "forward", partial(self._block, number))
            )

    def _leave(self, _args: Any, _output: Any) -> None:
        self.inside.close()
        if self.run is not None:
            self.rows_before += self.run.total
        self.run = None
        if self.observer is not None:
            self.observer.survivors = None

    def _block(self, number: int, stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run one block, on the rows that are left, behind the stage before it."""
        assert self.run is not None
        arguments = {**dict(zip(self.names, args, strict=False)), **kwargs}
        hidden = self.run.enter(arguments.pop(self.names[0]))
        hidden = self._stage(vision(number), hidden)
        if self.run.whole:
            return stock(self.run.restored(hidden), **arguments)
        arguments = {name: self.run.narrowed(name, value) for name, value in arguments.items()}
        if self.observer is not None:
            self.observer.survivors = self.run.survivors
        with self.run.apart(self.attention[number]):
            output = stock(self.run.shaped(hidden), **arguments)
        if number not in self.read_outside:
            return output
        if isinstance(output, tuple):
            return (self.run.restored(output[0]), *output[1:])
        return self.run.restored(output)

    # ---- one stage -------------------------------------------------------------------------------

    def _stage(self, site: Site, hidden: Tensor) -> Tensor:
        """Let every sample of this pass that has a stage at `site` drop tokens; the rows [n, D] that
        are left of `hidden`, with merged ones in their places.
        """
        assert self.run is not None
        ran = False
        for number, sample in enumerate(self.samples):
            stage = sample.stage_at(site)
            if stage is None or not self._belongs(sample, site):
                continue
            hidden = self._narrow(number, sample, stage, hidden)
            sample.kept[site] = sample.alive
            ran = True
        return self.run.left(hidden, self.samples) if ran else hidden

    def _belongs(self, sample: Encoded, site: Site) -> bool:
        """Whether the sample's tokens are those of this pass; raises Unsupported where only some
        are.
        """
        assert self.run is not None
        patches = sample.rows.patches
        real = patches[:, 0] >= 0
        mine = self.run.holds(patches).any(-1)
        if bool(mine.any()) and not torch.equal(mine, real):
            raise Unsupported(
                f"a prompt with an image and a video cannot be pruned at {site}: "
                f"{self.family.name} encodes them one after the other, so no one sees both"
            )
        return bool(mine.any())

    def _narrow(self, number: int, sample: Encoded, stage: Stage, hidden: Tensor) -> Tensor:
        """Ask what survives of one sample, and write merged rows into `hidden` [n, D]."""
        assert self.run is not None
        patches = sample.rows.patches
        offered = patches[sample.alive, 0] >= 0
        if sample.pinned is not None:
            offered &= sample.alive != sample.pinned
        index, fixed = sample.alive[offered], sample.alive[~offered]
        keep = stage.keep - len(fixed)
        if keep < 0:
            raise BudgetError(
                f"{stage.keep} of {len(sample.alive)} visual tokens are out of reach at "
                f"{stage.site}: {len(fixed)} are newlines or end the prompt, and always survive"
            )
        places = self.run.places(patches[index])
        features = hidden[places.flatten().to(hidden.device)].reshape(len(index), -1)
        shown = Shown(number, Stage(stage.site, keep, stage.compact), index, features)
        survivors, merged = index[:0], None
        if keep and len(index):
            chosen, merged = self.choose(shown)
            survivors = index[chosen]
        if merged is not None:
            if len(places.unique()) < places.numel():
                raise Unsupported(
                    f"merged tokens cannot be put in place at {stage.site}: "
                    "visual tokens of this image share patches"
                )
            hidden = hidden.clone()
            rows = places[chosen].flatten().to(hidden.device)
            hidden[rows] = merged.reshape(-1, hidden.shape[-1]).to(hidden)
        sample.alive = torch.cat([survivors, fixed]).sort().values
        return hidden


class _Pass:
    """One run of the encoder: which of its rows are left, and how a block's arguments follow.

    Rows count from `start` through the batch. Hidden states come as one packed sequence [R, D] or
    as crops [C, L, D]; here they are rows [n, D].
    """

    def __init__(self, start: int) -> None:
        self.start = start
        self.total = 0
        self.shape: torch.Size | None = None
        self.alive = torch.empty(0, dtype=torch.int64)
        """[n] the rows left, counted from this pass's first, ascending, on the CPU."""
        self.survivors: Survivors | None = None
        self.arguments: dict[int, tuple[Any, Any]] = {}
        """By identity, arguments that come again at every block: the full one and ours."""

    @property
    def whole(self) -> bool:
        """Whether all rows are left."""
        return len(self.alive) == self.total

    def enter(self, hidden: Tensor) -> Tensor:
        """[n, D] the rows left of what a block was given, which is all rows or those left."""
        if self.shape is None:
            self.shape = hidden.shape
            self.total = hidden.shape[:-1].numel()
            self.alive = torch.arange(self.total)
        rows = hidden.reshape(-1, hidden.shape[-1])
        if self.survivors is not None and len(rows) == self.total:
            rows = rows.index_select(0, self.survivors.rows)
        return rows

    def holds(self, patches: Tensor) -> Tensor:
        """Which of these rows of the batch are of this pass."""
        return (patches >= self.start) & (patches < self.start + self.total)

    def places(self, patches: Tensor) -> Tensor:
        """Where these rows of the batch stand among the rows left."""
        return torch.searchsorted(self.alive, patches - self.start)

    def left(self, hidden: Tensor, samples: Sequence[Encoded]) -> Tensor:
        """The rows of `hidden` [n, D] that a live token is made of, or no token at all."""
        free = torch.ones(self.total, dtype=torch.bool)
        for sample in samples:
            free[self._own(sample.rows.patches)] = False
        for sample in samples:
            free[self._own(sample.rows.patches[sample.alive])] = True
        remaining = free[self.alive]
        if bool(remaining.all()):
            return hidden
        if not bool(remaining.any()):
            remaining[0] = True  # no block runs on nothing; what comes of this row is dropped
        hidden = hidden.index_select(0, remaining.nonzero()[:, 0].to(hidden.device))
        self.alive = self.alive[remaining]
        self.survivors = Survivors(self.alive.to(hidden.device), self.total)
        self.arguments = {}
        return hidden

    def shaped(self, hidden: Tensor) -> Tensor:
        """The rows as the block takes them: packed, or one long crop."""
        assert self.shape is not None
        return hidden if len(self.shape) == 2 else hidden[None]

    def restored(self, hidden: Tensor) -> Tensor:
        """All rows in their places, in the shape in which they entered; zeros for those that left."""
        assert self.shape is not None
        rows = hidden.reshape(-1, hidden.shape[-1])
        if self.survivors is not None:
            full = rows.new_zeros(self.total, rows.shape[-1])
            rows = full.index_copy(0, self.survivors.rows, rows)
        return rows.view(self.shape)

    @contextmanager
    def apart(self, attention: nn.Module) -> Iterator[None]:
        """Let crops attend to themselves alone, though they come as one; packed sequences do by
        their `cu_seqlens`.
        """
        assert self.shape is not None
        if len(self.shape) == 2:
            yield
            return
        bounds = torch.arange(self.shape[0] + 1) * self.shape[1]
        with packed(attention, self._lengths(bounds)):
            yield

    def narrowed(self, name: str, value: Any) -> Any:
        """A block's argument for the rows that are left."""
        if isinstance(value, tuple):
            return tuple(self.narrowed(name, part) for part in value)
        if not isinstance(value, Tensor):
            # how long the longest sequence is, which the attention finds out itself
            return None if name == "max_seqlen" else value
        if id(value) not in self.arguments:
            self.arguments[id(value)] = value, self._narrowed(name, value)
        return self.arguments[id(value)][1]

    def _narrowed(self, name: str, value: Tensor) -> Tensor | None:
        if name == "cu_seqlens":
            ends = torch.tensor([0, *self._lengths(value.cpu())]).cumsum(0)
            return ends.to(value)
        if name == "attention_mask":
            hidden = value != 0 if value.is_floating_point() else value == 0
            if bool(hidden.any()):
                raise Unsupported(
                    "images that are padded inside the encoder cannot be pruned there"
                )
            return None
        assert self.survivors is not None
        if value.shape[:1] == (self.total,):
            return value.index_select(0, self.survivors.rows)
        return value

    def _lengths(self, bounds: Tensor) -> list[int]:
        """How many rows are left between each of these and the next, where any are."""
        counts = torch.searchsorted(self.alive, bounds).diff()
        return [count for count in counts.tolist() if count]

    def _own(self, patches: Tensor) -> Tensor:
        """The rows of this pass among those of the batch, counted from its first."""
        return patches[self.holds(patches)] - self.start
