"""Probes: attention rows and keys read beside the model's own attention kernel, for asked layers
only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from prunebench.engine.stream import EngineError

PREFIX = "prunebench_"


@dataclass(frozen=True)
class Heads:
    """Queries [B, H, S, d], keys and values [B, H_kv, S, d] of one layer, the first two rotated, as
    its attention kernel got them.

    So are `mask`, boolean or additive, and `lengths`, the places where packed sequences begin and
    the last one ends. `sinks` [H] are scores of no key, which take their share of every row.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    scaling: float
    mask: Tensor | None = None
    lengths: Tensor | None = None
    sinks: Tensor | None = None

    def rows(self, sample: int, rows: Tensor, valid: Tensor) -> Tensor:
        """[H, R, S] post-softmax attention of the query places `rows` on all keys, in float32.

        The softmax runs over the keys a query may see: of those that are `valid` [S] the ones that
        the kernel's mask shows it, and without a mask those up to its own place. What the mask adds
        to their scores is added here, too.
        """
        return self._paid(sample, rows, valid, rows)

    def last(self, sample: int, valid: Tensor) -> Tensor:
        """[H, S] the same of the last query, which sees all `valid` [S] keys where no mask says
        otherwise; there may be more keys than queries.
        """
        last = torch.tensor([self.query.shape[2] - 1, self.key.shape[2] - 1], device=valid.device)
        return self._paid(sample, last[:1], valid, last[1:])[:, 0]

    def _paid(self, sample: int, rows: Tensor, valid: Tensor, ends: Tensor) -> Tensor:
        """[H, R, S] the attention of the queries `rows` [R], which without a mask see the keys up
        to the places `ends` [R].
        """
        scores = self.logits(sample, rows)
        if self.mask is not None and self.mask.dim() == 4:
            # one mask may serve all samples; it knows who sees what stands behind it, too
            own = self.mask[min(sample, len(self.mask) - 1), 0, rows]
            visible = valid & shown(own)
            scores = scores if own.dtype == torch.bool else scores + own.float()
        else:
            # by columns, not positions: a query sees the rows before its own, whatever their order
            visible = valid & (torch.arange(self.key.shape[2], device=rows.device) <= ends[:, None])
        scores = scores.masked_fill(~visible, float("-inf"))
        if self.sinks is None:
            return scores.softmax(dim=-1)
        sinks = self.sinks.float()[:, None, None].expand(*scores.shape[:2], 1)
        return torch.cat([scores, sinks], dim=-1).softmax(dim=-1)[..., :-1]

    def logits(self, sample: int, rows: Tensor | slice = slice(None)) -> Tensor:
        """[H, R, S] scaled products of the queries `rows` and all keys, in float32, not masked."""
        query = self.query[sample, :, rows].float()
        key = self.key[sample].float()
        groups = query.shape[0] // key.shape[0]
        # [H_kv, groups * R, d]: the queries that share a key head, so that no key is repeated
        grouped = query.reshape(key.shape[0], groups * query.shape[1], query.shape[-1])
        return (grouped @ key.transpose(1, 2) * self.scaling).reshape(
            *query.shape[:2], key.shape[1]
        )

    def without(self, last: int) -> Heads:
        """The heads as they were without the last so many places."""
        if last == 0:
            return self
        mask = None if self.mask is None else self.mask[..., :-last, :-last]
        query, key, value = (part[:, :, :-last] for part in (self.query, self.key, self.value))
        return replace(self, query=query, key=key, value=value, mask=mask)


def shown(mask: Tensor) -> Tensor:
    """[.., S] bool which keys rows [.., S] of a kernel's mask let a query see, where a window hides
    more than what stands behind it.
    """
    # additive: a bias is small, and what is hidden is the least number there is
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


Probe = Callable[[Heads], None]

_PROBES: WeakKeyDictionary[nn.Module, Probe] = WeakKeyDictionary()


class Packing:
    """How the R rows that one call of an attention module is given are sequences.

    `lengths` are those of the sequences, where they come as the one row of a batch; None where the
    module takes its rows apart itself. `bias` [R] is added to every score that a row's key gets.
    """

    def __init__(self, lengths: Sequence[int] | None, bias: Tensor | None = None) -> None:
        self.lengths = lengths
        self.bias = bias
        self._start = 0

    def next_mask(self, query: Tensor) -> Tensor | None:
        """[B, 1, 1, n] the bias of the keys that belong to the next queries [B, H, n, d]."""
        if self.bias is None:
            return None
        batch, _, count, _ = query.shape
        # a module that takes its rows apart calls its kernel sequence by sequence, in this order
        end = self._start + batch * count
        bias = self.bias[self._start : end]
        self._start = end
        return bias.view(batch, 1, 1, count).to(query)


_PACKINGS: WeakKeyDictionary[nn.Module, Packing] = WeakKeyDictionary()


class _Captured(Exception):
    """Ends a dry run at the moment its attention inputs are known."""

    def __init__(self, heads: Heads) -> None:
        self.heads = heads


@dataclass
class _Probed:
    """A configuration whose kernel carries our name, what it was before, and how many sessions ask
    for that.
    """

    config: Any
    before: Any
    users: int = 0


_PROBED: dict[int, _Probed] = {}
_LOCK = Lock()


@contextmanager
def probed(config: Any) -> Iterator[None]:
    """Let probes see the attention of the modules that go by `config`; their own kernel still does
    the work.

    Models may share a configuration, and sessions end in any order: the last one puts back what the
    first one met.
    """
    # without our prefix, which another session may have set already
    base = implementation(config)
    name = PREFIX + base
    with _LOCK:
        if name not in ALL_ATTENTION_FUNCTIONS:
            ALL_ATTENTION_FUNCTIONS.register(name, _beside(base))
            # without its mask function a custom attention gets no mask at all, and no error says so
            ALL_MASK_ATTENTION_FUNCTIONS.register(name, ALL_MASK_ATTENTION_FUNCTIONS[base])
        # by identity, which no other can take: the entry holds the configuration
        entry = _PROBED.setdefault(id(config), _Probed(config, config._attn_implementation))
        entry.users += 1
        config._attn_implementation = name
    try:
        yield
    finally:
        with _LOCK:
            entry.users -= 1
            if not entry.users:
                config._attn_implementation = entry.before
                del _PROBED[id(config)]


def check_kernel(config: Any, expected: str, probes: bool) -> None:
    """Raise EngineError where the kernel is not what it was when the session began, or no longer
    lets probes see.
    """
    now = str(config._attn_implementation)
    if now.removeprefix(PREFIX) != expected or (probes and not now.startswith(PREFIX)):
        raise EngineError(
            f"attention was set to {now.removeprefix(PREFIX)!r} inside the prune(...) block "
            "(set_attn_implementation); "
            "set it before the block"
        )


@contextmanager
def packed(attention: nn.Module, packing: Packing) -> Iterator[None]:
    """Let one attention module, which `probed` reaches, see its rows that way for one call."""
    _PACKINGS[attention] = packing
    try:
        yield
    finally:
        del _PACKINGS[attention]


def watch(attention: nn.Module, probe: Probe) -> None:
    """Call `probe` with the heads of every call of one attention module, until `unwatch`."""
    _PROBES[attention] = probe


def watched(attention: nn.Module) -> bool:
    """Whether a probe looks at the module."""
    return attention in _PROBES


def unwatch(attention: nn.Module) -> None:
    """Forget the module's probe; harmless where it has none."""
    _PROBES.pop(attention, None)


def dry_run(
    layer: nn.Module,
    attention: nn.Module,
    hidden: Tensor,
    kwargs: dict[str, Any],
    place: int | None = None,
) -> Heads:
    """The heads that `layer` would attend with; runs its norm and projections, nothing behind them,
    and no cache. Values are nobody's: they are not worked out.

    Where one query is asked for, it is that at `place`, and the others are nobody's, either.
    """

    def stop(heads: Heads) -> None:
        raise _Captured(heads)

    watch(attention, stop)
    try:
        with ExitStack() as undo:
            undo.enter_context(_one_row(attention, "v_proj", hidden, -1))
            if place is not None:
                undo.enter_context(_one_row(attention, "q_proj", hidden, place))
            # not called as a module: the session's hook there would run the stage anew
            layer.forward(hidden, **{**kwargs, "past_key_values": None, "use_cache": False})
    except _Captured as captured:
        return captured.heads
    finally:
        unwatch(attention)
    raise RuntimeError(f"{type(layer).__name__} never called its attention function")


@contextmanager
def _one_row(attention: nn.Module, name: str, hidden: Tensor, place: int) -> Iterator[None]:
    """Let a projection of the attention work out the row at `place` of `hidden` [B, S, D] alone;
    all of its rows are copies of that one. Harmless where the attention has none of that name.
    """
    projection = getattr(attention, name, None)
    if not isinstance(projection, nn.Module):
        yield
        return
    count = hidden.shape[1]
    place = place % count

    def cut(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return args[0][:, place : place + 1], *args[1:]

    def stretched(_module: nn.Module, _args: tuple[Tensor, ...], row: Tensor) -> Tensor:
        return row.expand(-1, count, -1)

    handles = [
        projection.register_forward_pre_hook(cut),
        projection.register_forward_hook(stretched),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def unrotated(kwargs: dict[str, Any]) -> dict[str, Any]:
    """A layer's arguments with rotary tables that rotate nothing; raises EngineError for none."""
    tables = kwargs.get("position_embeddings")
    if isinstance(tables, Tensor):
        # complex factors: one turns nothing
        return {**kwargs, "position_embeddings": torch.ones_like(tables)}
    if not isinstance(tables, tuple):
        raise EngineError("the layer is given no rotary tables, so nothing says what unrotated is")
    cosines, sines = tables
    still = torch.ones_like(cosines), torch.zeros_like(sines)
    return {**kwargs, "position_embeddings": still}


def implementation(config: Any) -> str:
    """The kernel that does the work: "sdpa", "eager" or a flash variant."""
    return str(config._attn_implementation).removeprefix(PREFIX)


def _beside(base: str) -> Callable[..., Any]:
    """The kernel of that name, which lets probes see first and keeps packed sequences apart."""

    def kernel_of(module: nn.Module) -> Callable[..., Any]:
        # the eager kernel is a function of each modelling file, by that name
        eager: Any = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        kernel: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get_interface(base, eager)
        return kernel

    def run(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **kwargs: Any,
    ) -> Any:
        probe = _PROBES.get(module)
        if kwargs.get("scaling") is None:
            # what kernels do where they are given none, but for some that are written for others
            kwargs = {**kwargs, "scaling": query.shape[-1] ** -0.5}
        if probe is not None:
            scaling = kwargs["scaling"]
            lengths, sinks = kwargs.get("cu_seq_lens_q"), kwargs.get("s_aux")
            probe(Heads(query, key, value, scaling, attention_mask, lengths, sinks))
        return kernel_of(module)(module, query, key, value, attention_mask, **kwargs)

    def attend(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **kwargs: Any,
    ) -> Any:
        # nothing is asked of any module: so it is at every layer of every step of an answer
        if not _PROBES and not _PACKINGS:
            return kernel_of(module)(module, query, key, value, attention_mask, **kwargs)
        packing = _PACKINGS.get(module)
        if packing is None:
            return run(module, query, key, value, attention_mask, **kwargs)
        # a bias takes the mask's place: the tower lets no mask through that hides anything
        if packing.lengths is None:
            return run(module, query, key, value, packing.next_mask(query), **kwargs)
        outputs = []
        for sequences in _sequences((query, key, value), packing.lengths):
            queries, keys, values = sequences
            mask = packing.next_mask(queries)
            output = run(module, queries, keys, values, mask, **kwargs)[0]
            # kernels put out [B, n, H, d]; together they are again the one row [1, R, H, d]
            outputs.append(output.flatten(0, 1))
        return torch.cat(outputs)[None], None

    return attend


def _sequences(parts: Sequence[Tensor], lengths: Sequence[int]) -> Iterator[Sequence[Tensor]]:
    """Packed queries, keys and values [1, H, R, d], sequence by sequence [1, H, n, d]; all in one
    batch where they are equally long.
    """
    if len(set(lengths)) == 1:
        count = len(lengths)
        # [H, count, n, d] to [count, H, n, d]
        yield [part[0].unflatten(1, (count, -1)).transpose(0, 1) for part in parts]
        return
    cuts = [part.split(list(lengths), dim=2) for part in parts]
    yield from zip(*cuts, strict=True)
