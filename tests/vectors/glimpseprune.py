"""GlimpsePrune's vectors: the predictor alone, and a whole prefill of a tiny language model.

Those of the predictor hold the answers of two settings: the threshold alone, and a cap on top,
whose answers' names end in "_capped".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from prunebench import Signal, Stage, llm
from prunebench.engine.attention import Heads
from prunebench.testing.case import Case
from prunebench.testing.decoder import Decoder
from prunebench.testing.vectors import Vector

SETS = ("glimpseprune", "glimpseprune_llm")

MODULES = ("attn_fuser", "learnable_embeddings", "le_proj", "le_norm")
"""The first parts of the released weights' names."""

BLOCKS = 4
"""Feature maps of the vision encoder that the predictor reads."""


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """One case with the vector's own cap or none, and one with the cap of the second answers."""
    pruner = prepared(method, vector)
    tokens, maps = vector.tokens(), feature_maps(vector)
    if "glimpse_query" in vector.tensors:
        # the last key is the glimpse's own, which is no part of the prompt
        positions = len(vector.tensors["image_mask"]) - 1
        tokens = replace(tokens, signals=maps | read_out(vector))
        case = Case(pruner, (), tokens)
    else:
        positions = len(vector.tensors["image_mask"])
        decoder = Decoder.read(vector, maps)
        case = Case(pruner, (), tokens, decoder=decoder, alone=False)
    case = replace(case, prompt=prompt_answers(vector.image(), positions))
    caps = {"": vector.meta.get("max_remain_ratio")}
    if "max_remain_ratio_capped" in vector.meta:
        caps["_capped"] = vector.meta["max_remain_ratio_capped"]
    for suffix, cap in caps.items():
        count = len(tokens) if cap is None else int(cap * len(tokens))
        stage = Stage(llm(pruner.layer + 1), count, compact=True)
        yield replace(case, stages=(stage,), suffix=suffix)


def prepared(method: Any, vector: Vector) -> Any:
    """The method with the vector's weights, which are small ones under the released names."""
    meta = vector.meta
    predictor = meta["vip_config"]
    state = {
        name: tensor for name, tensor in vector.tensors.items() if name.partition(".")[0] in MODULES
    }
    embeddings = state["learnable_embeddings"]  # [layers, 1, D]
    logarithmic = meta["attention_value"].startswith("log")
    sizes = {
        "layers": len(embeddings),
        "width": embeddings.shape[-1],
        "heads": meta["heads"],
        "eps": meta["le_norm_eps"],
        "vision_width": predictor["vision_hidden_size"],
        "blocks": list(range(BLOCKS)),
        "layer": meta.get("prune_after_layer", 0),
        "attention": "log_attention" if logarithmic else "logits",
        "stream": predictor["attn_fuse_size"],
        "condition": predictor["visual_cond_size"],
        "fuser_heads": predictor["attn_fuse_num_heads"],
    }
    module = method.build(sizes)
    module.load_state_dict(state)
    pruner = method(threshold=meta["threshold"], floor=meta["min_remain_num"]).adapted(sizes)
    return replace(pruner, module=module.eval().requires_grad_(False))


def feature_maps(vector: Vector) -> dict[Signal, Tensor]:
    """[B, N, D_v] the vision encoder's feature maps, the deepest first."""
    maps = [vector.tensors[f"vision_features.{block}"] for block in range(BLOCKS)]
    return {Signal.ENCODER_FEATURES: torch.stack(maps)}


def read_out(vector: Vector) -> dict[Signal, Tensor]:
    """[H, N] what the glimpse pays the image, from its query and the keys of the whole prompt."""
    query, keys = vector.tensors["glimpse_query"], vector.tensors["glimpse_keys"]
    heads = Heads(query[None, :, None], keys[None], keys[None], query.shape[-1] ** -0.5)
    logits = heads.logits(0)[:, 0]
    image = vector.image()
    return {
        Signal.PROBE_LOGITS: logits[:, image],
        Signal.PROBE_LOG_ATTENTION: logits.log_softmax(-1)[:, image],
    }


def prompt_answers(image: Tensor, positions: int) -> Callable[[Tensor], Mapping[str, Tensor]]:
    """What the indices kept say of the prompt: all of its text stays."""

    def answers(keep: Tensor) -> Mapping[str, Tensor]:
        stays = torch.ones(positions, dtype=torch.bool)
        stays[image] = False
        stays[image[keep]] = True
        return {"keep_prompt": stays.nonzero()[:, 0]}

    return answers
