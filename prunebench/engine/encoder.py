"""Observer: attention, keys and hidden states read in the vision encoder, beside its own attention
kernel.

What a CLIP makes of the encoder's crops is observed the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
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
from prunebench.engine.ready import Ready, union
from prunebench.engine.stream import EngineError
from prunebench.models.base import EncoderRows, Family, Unsupported
from prunebench.signals import CLIP, Signal

HIDDEN = (Signal.ENCODER_FEATURES, Signal.CLS_FEATURES)
"""Signals that are rows of a block's output."""

Key = tuple[Signal, int | str]
"""A signal and the block it is read in, or the CLIP."""


@dataclass
class Observed:
    """What was read in one pass: for every signal and block a tensor whose rows are the encoder's,
    and what reading cost.

    Attention is [H, R], hidden states [R, D], keys [H, R, d], CLIP's projections [R, P], over the R
    rows of all sequences.
    """

    values: dict[Key, Tensor] = field(default_factory=dict)
    seconds: dict[Key, float] = field(default_factory=dict)
    flops: dict[Key, int] = field(default_factory=dict)

    def cost(self, keys: Sequence[Key]) -> tuple[float, int]:
        """Seconds and FLOPs that reading these took; a CLIP runs once for all its signals."""
        once = {key[1] if key[0] in CLIP else key: key for key in keys}.values()
        return sum(self.seconds.get(key, 0.0) for key in once), sum(
            self.flops.get(key, 0) for key in once
        )

    def charge(self, key: Key, seconds: float, flops: int) -> None:
        """Note what reading took."""
        self.seconds[key] = self.seconds.get(key, 0.0) + seconds
        self.flops[key] = self.flops.get(key, 0) + flops

    def of(
        self, signal: Signal, blocks: Sequence[int | str], rows: EncoderRows, index: Tensor
    ) -> Tensor:
        """A signal as `VisualTokens` gives it, for the tokens `index` [n] of the sample that `rows`
        belongs to.
        """
        found = [self._rows(signal, block, rows, index) for block in blocks]
        return found[0] if signal in CLIP else torch.stack(found)

    def _rows(self, signal: Signal, block: int | str, rows: EncoderRows, index: Tensor) -> Tensor:
        values = self.values[signal, block]
        axis = 1 if signal in _READERS else 0
        if signal in (Signal.CLS_FEATURES, Signal.CLIP_TILES):
            assert rows.summaries is not None
            return values[rows.summaries.to(values.device)].float()
        patches = rows.patches[index].to(values.device)
        found = values.index_select(axis, patches.clamp(min=0).flatten()).float()
        found = found.view(*values.shape[:axis], *patches.shape, *values.shape[axis + 1 :])
        known = (patches >= 0).view(*patches.shape, *[1] * (found.dim() - axis - 2))
        mean: Tensor = (found * known).mean(dim=axis + 1)
        return mean


class Observer:
    """Reads the signals `wants`, each in its blocks, in every pass of the vision encoder while
    attached.

    What reading costs in FLOPs is known where it is to `count` them, which takes time of its own.
    """

    def __init__(
        self,
        family: Family,
        model: nn.Module,
        wants: Mapping[Signal, Sequence[int | str]],
        count: bool = True,
    ) -> None:
        self.family, self.model, self.blocks, self.count = (
            family,
            model,
            list(family.blocks(model)),
            count,
        )
        self.keys: list[Key] = [
            (signal, block) for signal, blocks in wants.items() for block in blocks
        ]
        self._kernels: list[tuple[Any, str]] = []
        self._parts: dict[Key, list[Tensor]] = {}
        self._spent = Observed()

    def reset(self) -> None:
        """Forget what was read: another batch is about to be encoded."""
        self._parts = {}
        self._spent = Observed()

    def read(self) -> Observed | None:
        """What the passes since `reset` gave, None where the encoder did not run."""
        if not self._parts:
            return None
        join = {
            key: torch.cat(parts, dim=1 if key[0] in _READERS else 0)
            for key, parts in self._parts.items()
        }
        return Observed(join, self._spent.seconds, self._spent.flops)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Install the hooks; on leaving, the encoder is as it was."""
        with ExitStack() as undo:
            attended = {block for signal, block in self.keys if signal in _READERS}
            modules = {
                block: self.family.block_attention(self.blocks[int(block)]) for block in attended
            }
            for config in {
                id(c): c for c in (getattr(m, "config", None) for m in modules.values())
            }.values():
                if config is None:
                    raise Unsupported(
                        f"the vision attention of {self.family.name} does not say which kernel it uses"
                    )
                undo.enter_context(probed(config))
                self._kernels.append((config, implementation(config)))
            undo.callback(self._kernels.clear)
            for block, module in modules.items():
                if watched(module):
                    raise EngineError(
                        "the vision encoder is read by another prune(...) block; leave that one first"
                    )
                watch(module, partial(self._attend, block))
                undo.callback(unwatch, module)
            for block in {block for signal, block in self.keys if signal in HIDDEN}:
                hook = Hook(partial(self._leave, block))
                undo.callback(self.blocks[int(block)].register_forward_hook(hook).remove)
            for name in {name for signal, name in self.keys if signal in CLIP}:
                tower = self.family.vision(self.model)
                before(undo, tower, partial(self._enter, str(name)))
            yield

    def check_kernels(self) -> None:
        """Raise EngineError where the encoder's attention was set to another kernel since the hooks
        went in.
        """
        for config, kernel in self._kernels:
            check_kernel(config, kernel, probes=True)

    def _enter(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Show the crops that the encoder is about to see to the CLIP of that name, once for all
        its signals.
        """
        crops = kwargs["pixel_values"] if "pixel_values" in kwargs else args[0]
        keys = [key for key in self.keys if key[1] == name]
        clip = load_clip(name, crops.device, crops.dtype)
        start = perf_counter()
        with counter() if self.count else nullcontext() as flops, torch.no_grad():
            rows = clip.rows(crops)
        took = perf_counter() - start
        for key in keys:
            self._parts.setdefault(key, []).append(rows)
            self._spent.charge(key, took, flops.get_total_flops() if flops is not None else 0)

    def _leave(self, block: int | str, _module: nn.Module, _args: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        for signal in HIDDEN:
            if (signal, block) in self.keys:
                self._parts.setdefault((signal, block), []).append(
                    hidden.detach().reshape(-1, hidden.shape[-1])
                )

    def _attend(self, block: int | str, heads: Heads) -> None:
        for key in self.keys:
            if key[1] == block and key[0] in _READERS:
                start = perf_counter()
                with counter() if self.count else nullcontext() as flops, torch.no_grad():
                    self._parts.setdefault(key, []).append(_READERS[key[0]](heads))
                self._spent.charge(
                    key, perf_counter() - start, flops.get_total_flops() if flops is not None else 0
                )


def _keys(heads: Heads) -> Tensor:
    """[H, R, d]."""
    return heads.key.detach().transpose(0, 1).flatten(1, 2)


def _cls(heads: Heads) -> Tensor:
    """[H, R] attention of every sequence's first row."""
    logits = heads.query[:, :, :1].float() @ heads.key.float().transpose(2, 3) * heads.scaling
    return _masked(logits, heads.mask).softmax(dim=-1)[:, :, 0].transpose(0, 1).flatten(1)


def _received(heads: Heads) -> Tensor:
    """[H, R] attention received, averaged over the queries of the same sequence; one head at a
    time, for it is square.
    """
    packed = heads.lengths is not None and len(heads.lengths) > 2
    pieces = []
    for start, end in (
        zip(heads.lengths.tolist(), heads.lengths.tolist()[1:], strict=False)
        if packed
        else [(0, None)]
    ):  # type: ignore[union-attr]
        query, key = heads.query[:, :, start:end].float(), heads.key[:, :, start:end].float()
        rows = [
            _masked(
                query[:, head] @ key[:, head].transpose(1, 2) * heads.scaling,
                heads.mask,
                squeeze=True,
            )
            .softmax(-1)
            .mean(1)
            for head in range(query.shape[1])
        ]
        pieces.append(torch.stack(rows).flatten(1))
    return torch.cat(pieces, dim=1)


_READERS = {
    Signal.ENCODER_KEYS: _keys,
    Signal.CLS_ATTENTION: _cls,
    Signal.RECEIVED_ATTENTION: _received,
}


def _masked(logits: Tensor, mask: Tensor | None, squeeze: bool = False) -> Tensor:
    if mask is None:
        return logits
    mask = mask[:, 0] if squeeze else mask[:, :, :1]
    return logits.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else logits + mask


def found_in(encodings: Mapping[str, Any] | None) -> Observed | None:
    """What `encode` read beside the encodings it made; None for encodings of other origin."""
    for output in (encodings or {}).values():
        observed = getattr(output, "observed", None)
        if isinstance(observed, Observed):
            return observed
    return None


def observed_encoding(
    family: Family, model: nn.Module, inputs: Mapping[str, Any], methods: Sequence[Ready]
) -> dict[str, Any]:
    """The encodings of the family, with what the methods read in the encoder kept beside the first."""
    wants = union(methods)
    observer = Observer(family, model, wants)
    with observer.attached() if wants else nullcontext():
        encodings = family.encode(model, inputs)
    for output in encodings.values():
        output.observed = observer.read() if wants else None
        break
    return encodings


def required(observed: Observed | None, keys: Sequence[Key], name: str) -> Observed:
    """What was observed; raises EngineError where a signal that the method reads is not in it."""
    if observed is None or any(key not in observed.values for key in keys):
        raise EngineError(
            f"{name} reads the vision encoder, which ran before prune(...): pass pruners=[...] to encode(...)"
        )
    return observed
