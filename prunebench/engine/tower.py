"""Tower: visual tokens leave inside the vision encoder, and their rows are gone from there on.

From a stage at vision:j on, the blocks run over the survivors' rows alone, packed into one
sequence; attention keeps to the images, frames, windows or crops that the rows came in. Wherever
anything but the next block reads a block's output, all rows are there again in their places, those
of dropped tokens as zeros, so that patch merging, pixel shuffle and stitching find what they
expect. What these make of a zero row is dropped before the language model.

Rows that belong to no visual token (CLS, padding that the model cuts off behind the encoder) stay.
So does a row that a dropped token shares with a survivor, where tokens are interpolated from
neighbouring patches: a survivor always keeps all rows that it is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from prunebench.budget import BudgetError, Stage
from prunebench.contract import NOTHING
from prunebench.engine.attention import implementation, probed
from prunebench.engine.encoder import Observer, vision_configs
from prunebench.engine.hooks import after, before, overheard
from prunebench.engine.passage import Passage
from prunebench.engine.stream import EngineError
from prunebench.models.base import EncoderRows, Family, Unsupported
from prunebench.sites import Part, Site, vision
from prunebench.tokens import Keep


@dataclass
class Passenger:
    """One sample on its way through the vision encoder.

    `alive` [n] are the original visual indices of its live tokens, ascending, and `kept` what was
    alive behind each site. The last token is `pinned` where the prompt ends with it, for an answer
    starts from there.
    """

    rows: EncoderRows
    stages: Sequence[Stage]
    pinned: bool = False
    alive: Tensor = field(init=False)
    kept: dict[Site, Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.alive = torch.arange(len(self.rows.patches))

    @property
    def early(self) -> list[Stage]:
        """Its stages inside the vision encoder."""
        return [stage for stage in self.stages if stage.site.part is Part.VISION]

    def stage_at(self, site: Site) -> Stage | None:
        """The stage at that site, None where the sample has none."""
        return next((stage for stage in self.stages if stage.site == site), None)

    def offered(self) -> Tensor:
        """[n] bool which of the live tokens a method may choose from: not those without patches
        (newlines), nor a pinned one. The others survive whatever it says.
        """
        offered = self.rows.patches[self.alive, 0] >= 0
        if self.pinned:
            offered &= self.alive < len(self.rows.patches) - 1
        return offered


@dataclass(frozen=True)
class Candidates:
    """What a stage offers of one sample, the batch's `number`.

    `index` [N] are the original visual indices of the tokens to choose from. `features` [N, G * D]
    are the rows of the G patches that each is made of, side by side, as they enter the block: D is
    the encoder's width. `stage` counts these tokens alone: those that survive anyway are taken off.
    """

    number: int
    stage: Stage
    index: Tensor
    features: Tensor


Choose = Callable[[Candidates], Keep]
"""The survivors among the candidates, in reading order."""


class Tower:
    """Hooks on the vision encoder that take dropped tokens out of it.

    `expect` is asked for a batch's samples when the encoder is about to see them, `choose` for the
    survivors of every sample at every stage. An `observer` of the same encoder is told which rows
    are left.
    """

    def __init__(
        self,
        family: Family,
        model: nn.Module,
        expect: Callable[[], Sequence[Passenger]],
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
        """Blocks whose output anything but the next block reads."""
        self.samples: Sequence[Passenger] = ()
        self.rows_before = 0
        """How many rows this batch's earlier runs had."""
        self.passage = Passage(0)
        self.inside = ExitStack()
        """The hooks on blocks, for as long as a run needs them."""

    def reset(self) -> None:
        """Forget the batch: another is about to be encoded."""
        self.samples, self.rows_before = (), 0

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Install the hooks; on leaving, the encoder is as it was."""
        encoder = self.family.vision(self.model)
        with ExitStack() as undo:
            for config in vision_configs(self.family, self.attention):
                undo.enter_context(probed(config))
            undo.callback(self.inside.close)
            before(undo, encoder, self._enter)
            after(undo, encoder, self._leave, always=True)
            yield

    def settle(self) -> None:
        """Check that every stage of every sample took place; raises EngineError."""
        for number, sample in enumerate(self.samples):
            for stage in sample.early:
                if stage.site not in sample.kept:
                    raise EngineError(f"the stage at {stage.site} never ran for sample {number}")

    # ---- one run over images or videos -----------------------------------------------------------

    def _enter(self, _args: Any, _kwargs: Any) -> None:
        """Hook the blocks from the first stage on."""
        # images and videos may come in two runs, of the same samples
        if not self.samples:
            self.samples = self.expect()
        self.inside.close()
        self.passage = Passage(self.rows_before)
        first = len(self.blocks)
        for sample in self.samples:
            layers = [stage.site.layer for stage in sample.early]
            first = min([first, *layers])
        for number in range(first, len(self.blocks)):
            listen = partial(self._block, number)
            self.inside.enter_context(overheard(self.blocks[number], "forward", listen))

    def _leave(self, _args: Any, _output: Any) -> None:
        self.inside.close()
        self.rows_before += self.passage.total
        if self.observer is not None:
            self.observer.survivors = None

    def _block(self, number: int, stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run one block on the rows that are left behind the stage before it."""
        passage = self.passage
        # by name, because what fits an argument to the rows left depends on which it is
        arguments = {**dict(zip(self.names, args, strict=False)), **kwargs}
        hidden = passage.enter(arguments.pop(self.names[0]))
        hidden = self._stage(vision(number), hidden)
        # no stage has done anything yet: the block does bit for bit what it does in a stock model
        if passage.untouched:
            return stock(passage.restored(hidden), **arguments)
        if self.observer is not None:
            self.observer.survivors = passage.survivors
        fitted = {name: passage.fitted(name, value) for name, value in arguments.items()}
        with passage.apart(self.attention[number]):
            output = stock(passage.shaped(hidden), **fitted)
        if number not in self.read_outside:
            return output
        if isinstance(output, tuple):
            return (passage.restored(output[0]), *output[1:])
        return passage.restored(output)

    # ---- one stage -------------------------------------------------------------------------------

    def _stage(self, site: Site, hidden: Tensor) -> Tensor:
        """The rows [n, D] that are left of `hidden` behind a site, merged ones in their places."""
        stages = 0
        for number, sample in enumerate(self.samples):
            stage = sample.stage_at(site)
            if stage is not None and self._belongs(sample, site):
                hidden = self._narrow(number, sample, stage, hidden)
                sample.kept[site] = sample.alive
                stages += 1
        if not stages:
            return hidden
        # of all samples, also those without a stage here: their rows stay as their tokens' own
        owned = [sample.rows.patches for sample in self.samples]
        live = [sample.rows.patches[sample.alive] for sample in self.samples]
        return self.passage.drop(hidden, owned, live)

    def _belongs(self, sample: Passenger, site: Site) -> bool:
        """Whether the sample's tokens are those of this run; raises Unsupported where only some
        are.
        """
        patches = sample.rows.patches
        here = self.passage.holds(patches).any(-1)
        # newlines have no patch (-1) and are in no run
        if bool(here.any()) and not torch.equal(here, patches[:, 0] >= 0):
            raise Unsupported(
                f"a prompt with an image and a video cannot be pruned at {site}: "
                f"{self.family.name} encodes the one behind the other, and no stage sees both"
            )
        return bool(here.any())

    def _narrow(self, number: int, sample: Passenger, stage: Stage, hidden: Tensor) -> Tensor:
        """Ask which tokens of one sample survive; `hidden` [n, D] with merged rows written in."""
        offered = sample.offered()
        index, fixed = sample.alive[offered], sample.alive[~offered]
        keep = stage.keep - len(fixed)
        if stage.keep == 0:
            # nothing is to choose: newlines, which no method is shown, go with all others
            fixed, keep = sample.alive[len(sample.alive) - sample.pinned :], 0
        if keep < 0:
            raise BudgetError(
                f"{stage.keep} visual tokens are out of reach at {stage.site}: "
                f"{len(fixed)} are newlines or end the prompt, and always survive there"
            )
        places = self.passage.places(sample.rows.patches[index])
        answer = NOTHING
        if keep and len(index):
            # [N * G, D], token by token, so that a token's patches end up side by side
            rows = hidden[places.flatten().to(hidden.device)]
            features = rows.reshape(len(index), -1)
            stage = replace(stage, keep=keep)
            answer = self.choose(Candidates(number, stage, index, features))
        survivors = answer.index
        sample.alive = torch.cat([index[survivors], fixed]).sort().values
        if answer.features is not None or answer.bias is not None:
            _check_apart(places, stage.site)
        if answer.bias is not None:
            self._check_bias(stage.site)
            self.passage.weigh(sample.rows.patches[index[survivors]], answer.bias, hidden.device)
        if answer.features is None:
            return hidden
        return _written(hidden, places[survivors], answer.features)

    def _check_bias(self, site: Site) -> None:
        """Raise Unsupported where the encoder's attention kernel takes no bias."""
        for config in vision_configs(self.family, self.attention):
            if "flash" in implementation(config):
                raise Unsupported(
                    f"a bias at {site} is nothing that flash attention takes; load the model with "
                    "attn_implementation='sdpa'"
                )


def _check_apart(places: Tensor, site: Site) -> None:
    """Raise Unsupported where tokens, whose rows are at `places` [N, G], share some: what is done
    to one of them would be done to another.
    """
    if len(places.unique()) < places.numel():
        raise Unsupported(
            f"tokens cannot be merged or weighed at {site}: visual tokens of this image share "
            "patches"
        )


def _written(hidden: Tensor, places: Tensor, merged: Tensor) -> Tensor:
    """`hidden` [n, D] with `merged` rows [K, G * D] written into their `places` [K, G]."""
    values = merged.reshape(-1, hidden.shape[-1])
    return hidden.index_copy(0, places.flatten().to(hidden.device), values.to(hidden))
