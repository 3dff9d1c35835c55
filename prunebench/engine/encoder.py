"""Observer: attention, keys and hidden states read in the vision encoder, beside its own attention
kernel.

What a CLIP makes of the encoder's crops is observed the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from operator import itemgetter
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from prunebench.engine.attention import (
    Heads,
    check_kernel,
    implementation,
    probed,
    unwatch,
    watch,
    watched,
)
from prunebench.engine.clip import load_clip
from prunebench.engine.counter import counter
from prunebench.engine.hooks import Hook, before
from prunebench.engine.readings import READINGS, Queries
from prunebench.engine.stream import EngineError, sent
from prunebench.models.base import EncoderRows, Family, Unsupported
from prunebench.signals import CLIP, Signal

Key = tuple[Signal, int | str]
"""A signal and the block it is read in, or the CLIP."""


@dataclass
class Observed:
    """What was read in one pass over a batch, and what reading cost.

    `values` holds, for every signal and block, a tensor whose rows are those of all the encoder's
    sequences one behind the other: R of them. Attention is [H, R], and received attention [3, H, R]
    over the queries that `Queries` tells apart; hidden states are [R, D], heads [H, R, d], CLIP's
    projections [R, P].
    """

    values: dict[Key, Tensor] = field(default_factory=dict)
    seconds: dict[Key, float] = field(default_factory=dict)
    flops: dict[Key, int] = field(default_factory=dict)

    def cost(self, keys: Sequence[Key]) -> tuple[float, int]:
        """Seconds and FLOPs that reading these took; a CLIP runs once for all its signals."""
        paid: dict[object, Key] = {}
        for key in keys:
            signal, source = key
            paid[source if signal in CLIP else key] = key
        seconds = sum(self.seconds.get(key, 0.0) for key in paid.values())
        flops = sum(self.flops.get(key, 0) for key in paid.values())
        return seconds, flops

    def charge(self, key: Key, seconds: float, flops: int) -> None:
        """Note what reading took."""
        seconds_before = self.seconds.get(key, 0.0)
        flops_before = self.flops.get(key, 0)
        self.seconds[key] = seconds_before + seconds
        self.flops[key] = flops_before + flops

    def of(
        self,
        signal: Signal,
        blocks: Sequence[int | str],
        rows: EncoderRows,
        index: Tensor,
        queries: Queries = Queries.ALL,
    ) -> Tensor:
        """A signal as `VisualTokens` gives it, for the tokens `index` [n] of the sample that `rows`
        belongs to; received attention is averaged over these `queries`.
        """
        values = [self._select(signal, block, rows, index) for block in blocks]
        if signal is Signal.RECEIVED_ATTENTION:
            values = [value[queries] for value in values]
        return values[0] if signal in CLIP else torch.stack(values)

    def _select(self, signal: Signal, block: int | str, rows: EncoderRows, index: Tensor) -> Tensor:
        """The rows of one block: those of the tiles' CLS tokens, or means over tokens' patches."""
        values = self.values[signal, block]
        reading = READINGS[signal]
        if not reading.of_tiles:
            patches = rows.patches[index]
            return _means(values, reading.axis, sent(patches, values.device))
        if rows.summaries is None:
            raise EngineError(f"{signal} was asked of an encoder without a CLS token")
        summaries = sent(rows.summaries, values.device)
        return values.index_select(reading.axis, summaries).float()


def _means(values: Tensor, axis: int, patches: Tensor) -> Tensor:
    """`values` with their axis of R rows replaced by one of N tokens: the mean over the rows
    `patches` [N, G] that each was made of.
    """
    # a newline has no patch (-1): it reads any row, which then counts as zero
    entries = values.index_select(axis, patches.clamp(min=0).flatten())
    entries = entries.float().unflatten(axis, patches.shape)
    real = patches >= 0
    # [N, G, 1, ..] to broadcast over the axes behind the tokens, such as d of keys
    while real.dim() < entries.dim() - axis:
        real = real[..., None]
    mean: Tensor = (entries * real).mean(dim=axis + 1)
    return mean


class Encodings(dict[str, Any]):
    """The encoder's output by modality, as a model takes it for `mm_encoder_outputs`, with what was
    read while it was made.

    A dict of our own carries the observations because it is handed on as it is: `dict(inputs)` and
    `generate(**inputs)` pass this very object, and the engine hears the call before transformers
    can rebuild it.
    """

    def __init__(self, outputs: Mapping[str, Any], observed: Observed | None = None) -> None:
        super().__init__(outputs)
        self.observed = observed


def observed_in(encodings: Any) -> Observed | None:
    """What was read when `encode` made these encodings; None for those of other origin."""
    return encodings.observed if isinstance(encodings, Encodings) else None


def required(observed: Observed | None, keys: Sequence[Key], name: str) -> Observed:
    """What was observed; raises EngineError where a signal that the method reads is not in it."""
    if observed is None or any(key not in observed.values for key in keys):
        raise EngineError(
            f"{name} reads the vision encoder, which ran before prune(...): "
            "pass pruners=[...] to encode(...)"
        )
    return observed


@dataclass(frozen=True, eq=False)
class Survivors:
    """The rows [n] of one pass that are still in the encoder, of `total` that entered it."""

    rows: Tensor
    total: int

    def spread(self, values: Tensor, axis: int) -> Tensor:
        """`values` with their rows in their places along an axis, zeros where others had left."""
        shape = list(values.shape)
        shape[axis] = self.total
        zeros = values.new_zeros(shape)
        return zeros.index_copy(axis, self.rows.to(values.device), values)


Piece = tuple[Survivors | None, Tensor]
"""What one call gave, and the rows that the block at work had been given."""


class Observer:
    """Reads signals in every pass of the vision encoder while attached.

    `wants` names the blocks in which each signal is read. `everywhere` hooks all blocks instead of
    these, for a method that asks batch by batch (`ask`) what to read. What reading costs in FLOPs
    is known where it is to `count` them, which takes time of its own.
    """

    def __init__(
        self,
        family: Family,
        model: nn.Module,
        wants: Mapping[Signal, Sequence[int | str]],
        count: bool = True,
        everywhere: bool = False,
    ) -> None:
        self.family = family
        self.model = model
        self.count = count
        self.everywhere = everywhere
        self.blocks = list(family.blocks(model))
        self.keys: list[Key] = []
        """What is read."""
        for signal, places in wants.items():
            self.keys += [(signal, place) for place in places]
        self.survivors: Survivors | None = None
        """Which rows the block at work has been given; None for all of the pass."""
        self._kernels: list[tuple[Any, str]] = []
        """Every configuration of the encoder's attention, and the kernel that it named."""
        self._parts: dict[Key, list[Piece]] = {}
        self._spent = Observed()

    def ask(self, keys: Sequence[Key]) -> None:
        """From here on read these and nothing else."""
        self.keys = list(keys)

    def reset(self) -> None:
        """Forget what was read: another batch is about to be encoded."""
        self._parts = {}
        self._spent = Observed()
        self.survivors = None

    def read(self, keys: Sequence[Key] | None = None) -> Observed | None:
        """What the passes since `reset` gave, of all keys or of some; None where nothing was read.

        Rows that had left the encoder before they could be read are zero.
        """
        values = {}
        for key, pieces in self._parts.items():
            if keys is None or key in keys:
                signal, _ = key
                values[key] = _joined(pieces, READINGS[signal].axis)
        if not values:
            return None
        return Observed(values, self._spent.seconds, self._spent.flops)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Install the hooks; on leaving, the encoder is as it was."""
        heads, outputs, clips = self._places()
        with ExitStack() as undo:
            self._watch(undo, sorted(heads))
            for number in sorted(outputs):
                hook = Hook(partial(self._leave, number))
                handle = self.blocks[number].register_forward_hook(hook)
                undo.callback(handle.remove)
            for name in sorted(clips):
                encoder = self.family.vision(self.model)
                before(undo, encoder, partial(self._enter, name))
            yield

    def _watch(self, undo: ExitStack, blocks: Sequence[int]) -> None:
        """Let the attention of these blocks be read, until `undo` closes."""
        modules = [self.family.block_attention(self.blocks[number]) for number in blocks]
        for config in vision_configs(self.family, modules):
            undo.enter_context(probed(config))
            self._kernels.append((config, implementation(config)))
        undo.callback(self._kernels.clear)
        for number, module in zip(blocks, modules, strict=True):
            if watched(module):
                raise EngineError(
                    "the vision encoder is read by another prune(...) block; leave that one first"
                )
            watch(module, partial(self._attend, number))
            undo.callback(unwatch, module)

    def check_kernels(self) -> None:
        """Raise EngineError where the encoder's attention was set to another kernel since the hooks
        went in.
        """
        for config, kernel in self._kernels:
            check_kernel(config, kernel, probes=True)

    def _places(self) -> tuple[set[int], set[int], set[str]]:
        """The blocks whose attention is read, those whose output is, and the CLIPs' names."""
        heads: set[int] = set()
        outputs: set[int] = set()
        clips: set[str] = set()
        for signal, place in self.keys:
            if signal in CLIP:
                clips.add(str(place))
                continue
            blocks = range(len(self.blocks)) if self.everywhere else [int(place)]
            if READINGS[signal].from_heads is None:
                outputs.update(blocks)
            else:
                heads.update(blocks)
        return heads, outputs, clips

    def _note(self, key: Key, value: Tensor) -> None:
        """Keep what one call gave."""
        pieces = self._parts.setdefault(key, [])
        pieces.append((self.survivors, value))

    def _enter(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Show the crops that the encoder is about to see to the CLIP of that name, once for all
        its signals.
        """
        crops = kwargs["pixel_values"] if "pixel_values" in kwargs else args[0]
        clip = load_clip(name, crops.device, crops.dtype)
        keys = [key for key in self.keys if key[1] == name]
        with self._charged(keys):
            rows = clip.rows(crops)
        for key in keys:
            self._note(key, rows)

    def _leave(self, number: int, _module: nn.Module, _args: Any, output: Any) -> None:
        """Keep what a block put out."""
        hidden = output[0] if isinstance(output, tuple) else output
        # [R, D]; the rows are there anyway, so that nothing is charged for keeping them
        rows = hidden.detach().reshape(-1, hidden.shape[-1])
        for key in self.keys:
            signal, block = key
            reading = READINGS[signal]
            if block == number and reading.from_heads is None:
                self._note(key, rows)

    def _attend(self, number: int, heads: Heads) -> None:
        """Keep what is made of the queries and keys of a block's attention."""
        for key in self.keys:
            signal, block = key
            reading = READINGS[signal]
            if block == number and reading.from_heads is not None:
                with self._charged([key]):
                    self._note(key, reading.from_heads(heads))

    @contextmanager
    def _charged(self, keys: Sequence[Key]) -> Iterator[None]:
        """Note what the block takes as the cost of each key, without gradients."""
        start = perf_counter()
        with counter() if self.count else nullcontext() as flops, torch.no_grad():
            yield
        seconds = perf_counter() - start
        spent = flops.get_total_flops() if flops is not None else 0
        for key in keys:
            self._spent.charge(key, seconds, spent)


def vision_configs(family: Family, modules: Sequence[nn.Module]) -> list[Any]:
    """The configurations that say which kernel these attention modules use, each once.

    Raises Unsupported where a module has none.
    """
    configs: dict[int, Any] = {}
    for module in modules:
        config = getattr(module, "config", None)
        if config is None:
            raise Unsupported(
                f"the vision attention of {family.name} does not say which kernel it uses"
            )
        configs[id(config)] = config
    return list(configs.values())


def _joined(pieces: Sequence[Piece], axis: int) -> Tensor:
    """What several calls gave, one behind the other along the axis of the rows."""
    runs = []
    # Survivors compare by identity: a group is what was read between two stages
    for survivors, group in groupby(pieces, key=itemgetter(0)):
        values = torch.cat([value for _, value in group], dim=axis)
        # a block hands out all rows again where others than the next block read its output
        if survivors is not None and values.shape[axis] != survivors.total:
            values = survivors.spread(values, axis)
        runs.append(values)
    return torch.cat(runs, dim=axis)
