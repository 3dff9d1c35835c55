"""The oracle: the whole sequence, no cache, no slicing; dropped columns are masked from the stage's layer on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def logits(model: Any, inputs: dict[str, Any], answer: Tensor, dead: list[Tensor], compact: bool = False) -> Tensor:
    """[B, T, V] logits that predict each token of `answer` [B, T]; `dead[l]` [B, S] bool: hidden from layer l on.

    Uses the stock decoder alone: per-layer masks (and, for closed-up positions, rotary tables) go in by pre-hooks.
    """
    batch, prompt = inputs["input_ids"].shape
    steps = answer.shape[1]
    ids = torch.cat([inputs["input_ids"], answer], dim=1)[:, :-1]
    total = ids.shape[1]
    valid = torch.cat([inputs["attention_mask"].bool(), torch.ones(batch, steps - 1, dtype=torch.bool)], dim=1)
    types = torch.cat([inputs["mm_token_type_ids"], torch.zeros(batch, steps - 1, dtype=torch.long)], dim=1)
    grids = {k: inputs[k] for k in ("image_grid_thw", "video_grid_thw", "second_per_grid_ts") if k in inputs}
    positions, _ = model.model.get_rope_index(ids, attention_mask=valid.long(), mm_token_type_ids=types, **grids)
    decoder = model.get_decoder()
    causal = torch.ones(total, total, dtype=torch.bool).tril()
    handles = []

    def enter(number: int) -> Any:
        gone = torch.cat([dead[number], torch.zeros(batch, steps - 1, dtype=torch.bool)], dim=1)
        seen = valid & ~gone
        mask = (causal & seen[:, None, :]) | torch.eye(total, dtype=torch.bool)
        tables = decoder.rotary_emb(torch.zeros(1), ranked(positions, seen)) if compact else None

        def hook(_: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            kwargs = {**kwargs, "attention_mask": mask[:, None]}
            if tables is not None:
                kwargs["position_embeddings"] = tables
            return args, kwargs

        return hook

    for number, layer in enumerate(decoder.layers):
        handles.append(layer.register_forward_pre_hook(enter(number), with_kwargs=True))
    vision = {k: v for k, v in inputs.items() if k.startswith("pixel") or k in grids}
    try:
        with torch.no_grad():
            out = model(
                input_ids=ids,
                attention_mask=valid.long(),
                position_ids=positions,
                mm_token_type_ids=types,
                use_cache=False,
                **vision,
            )
    finally:
        for handle in handles:
            handle.remove()
    return out.logits[:, prompt - 1 :]


def ranked(positions: Tensor, seen: Tensor) -> Tensor:
    """M-RoPE ids [3, B, S] in which the values that no seen token uses are closed up; written out slowly on purpose."""
    result = positions.clone()
    for b in range(seen.shape[0]):
        used = sorted({int(v) for axis in range(3) for v in positions[axis, b][seen[b]]})
        for axis in range(3):
            for place in range(seen.shape[1]):
                if seen[b, place]:
                    result[axis, b, place] = used[0] + used.index(int(positions[axis, b, place]))
    return result
