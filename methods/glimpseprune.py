"""GlimpsePrune (2025): a glimpse token looks at the image, and a small network predicts from its
attention what to keep.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, scaled_dot_product_attention, silu

from prunebench import (
    Budget,
    Example,
    Facts,
    Keep,
    Reads,
    Signal,
    Site,
    Stage,
    Trained,
    Unsupported,
    VisualTokens,
    late_layer,
    llm,
    register,
    solve,
    top,
)

BLOCKS = 4
ROPE_BASE = 10000.0
DROPOUT = 0.1
FILE = "new_modules_gp.pt"


@register(
    paper="https://arxiv.org/abs/2508.01548",
    code="https://github.com/HVision-NKU/GlimpsePrune",
    variant="also tiles (each an image of its own; a newline token fares like the best of its row), several images and batches",
)
@dataclass(frozen=True)
class GlimpsePrune(Trained):
    """Keep the tokens whose predicted importance exceeds `threshold`, at most as many as the budget
    allows, at least `floor`.

    The glimpse token runs behind the prompt; its attention logits in layer `layer`, by heads, and
    four feature maps of the vision encoder go into the visual importance predictor. What is dropped
    behind that layer leaves the caches of all earlier layers, too; positions stay. The layers up to
    `layer` see every token, so that a mean budget below their share is out of reach: give a "kv"
    budget, which is the paper's retention. Without a budget there is no cap.

    `layer` -1 is the weights' own: about 2/3 of the depth, as released. `attention` is what of the
    logits is read: "logits" as for the released Qwen2.5-VL, "log_attention" as for LLaVA-1.5; "" is
    the weights' own.
    """

    dynamic: ClassVar[bool] = True
    layer: int = -1
    threshold: float = 0.5
    floor: int = 1
    attention: str = ""

    def __post_init__(self) -> None:
        if self.attention not in ("", "logits", "log_attention"):
            raise ValueError(
                f"attention is {self.attention!r}; it is 'logits', 'log_attention' or '' for the weights' own"
            )
        if not 0 <= self.threshold < 1 or self.floor < 1:
            raise ValueError(
                f"threshold is {self.threshold} and floor {self.floor}; 0 <= threshold < 1 and floor >= 1"
            )

    @property
    def needs(self) -> frozenset[Signal]:
        read = (
            Signal.PROBE_LOG_ATTENTION if self.attention == "log_attention" else Signal.PROBE_LOGITS
        )
        return frozenset({read, Signal.ENCODER_FEATURES})

    def site(self) -> Site:
        return llm(before=max(1, self.layer + 1))

    def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
        site = llm(before=1 + (self.layer if self.layer >= 0 else late_layer(layers)))
        if budget is None:
            return (Stage(site, available, compact=True),)
        return solve(budget, [site], available, layers, compact=True)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        chances = self.predict(tokens).sigmoid()
        kept = int((chances > self.threshold).sum())
        return Keep(top(chances, max(min(kept, stage.keep), min(self.floor, stage.keep))))

    def predict(self, tokens: VisualTokens) -> Tensor:
        """[N] logit of every token's importance."""
        predictor: Any = self._module(tokens.features.device).attn_fuser
        read = (
            tokens.probe_log_attention if self.attention == "log_attention" else tokens.probe_logits
        )
        layout, newline = tokens.layout, tokens.layout.newline[tokens.index]
        tile, row, column = (
            values[tokens.index] for values in (layout.tile, layout.row, layout.column)
        )
        patch = (~newline).nonzero()[:, 0].to(read.device)
        places = torch.stack([tile, row, column], dim=1).to(read.device)
        maps = tokens.encoder_features.float()
        logits = read.new_full((len(tokens),), float("-inf"), dtype=torch.float32)
        found = predictor(read.float().mT[patch], maps[:, patch], places[patch])
        logits = logits.index_copy(0, patch, found)
        for place in newline.nonzero()[
            :, 0
        ].tolist():  # a newline is no image token: it goes with its row
            logits[place] = logits[
                ((tile == tile[place]) & (row == row[place])).to(logits.device)
            ].max()
        return logits

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        read = (
            tokens.probe_log_attention if self.attention == "log_attention" else tokens.probe_logits
        )
        return {
            "logits": self.predict(tokens),
            "glimpse_attention": read.mT,
            "glimpse_embeds": self._module(None).glimpse(),
        }

    @property
    def reads(self) -> Reads:
        """The probe is the glimpse, [L, D] RMSNorm(W E_l + b)."""
        module = self._module(None)
        blocks = {Signal.ENCODER_FEATURES: module.blocks}
        return Reads(self.needs, blocks=blocks, probe=module.glimpse)

    def _module(self, device: torch.device | None) -> Any:
        if self.module is None:
            raise ValueError("glimpseprune has no weights yet: prepared() finds them")
        return self.module if device is None else self.module.to(device)

    # ---- weights ---------------------------------------------------------------------------------

    @classmethod
    def sizes(cls, facts: Facts) -> dict[str, Any]:
        """As released for large models; predictors of small models are small, too."""
        if facts.vision_blocks is None or facts.vision_width is None or facts.feature_block is None:
            raise Unsupported("glimpseprune reads the vision encoder; a bare decoder has none")
        large = facts.width >= 1024
        return {
            "layers": facts.layers,
            "width": facts.width,
            "heads": facts.heads,
            "eps": facts.eps,
            "vision_width": facts.vision_width,
            "blocks": [
                max(0, facts.feature_block - part * (facts.vision_blocks // BLOCKS))
                for part in range(BLOCKS)
            ],
            "layer": late_layer(facts.layers),
            "attention": "logits",
            "stream": 256 if large else 64,
            "condition": 512 if large else 64,
            "fuser_heads": 4,
        }

    @classmethod
    def build(cls, sizes: Mapping[str, Any]) -> nn.Module:
        return _Modules(sizes)

    def adapted(self, sizes: Mapping[str, Any]) -> Self:
        return replace(
            self,
            layer=self.layer if self.layer >= 0 else int(sizes["layer"]),
            attention=self.attention or str(sizes["attention"]),
        )

    @classmethod
    def read(cls, folder: Path) -> tuple[dict[str, Any], nn.Module]:
        """A folder in the official layout: config.json and new_modules_gp.pt, which must fit
        exactly.
        """
        state = _tensors(folder / FILE)
        sizes = _sizes_of(state, json.loads((folder / "config.json").read_text(encoding="utf-8")))
        with torch.device("meta"):
            module = cls.build(sizes)
        module.load_state_dict(state, assign=True)
        return sizes, module

    @classmethod
    def write(
        cls, folder: Path, sizes: Mapping[str, Any], module: nn.Module, told: Mapping[str, Any]
    ) -> None:
        """The official layout; `told` goes into config.json beside the official fields."""
        torch.save(_nested(module.state_dict()), folder / FILE)
        (folder / "config.json").write_text(
            json.dumps({**_to_config(sizes), **told}, indent=2) + "\n"
        )

    def loss(self, example: Example) -> tuple[Tensor, dict[str, float]]:
        """Dice + 0.1 BCE of the predicted importance, and the model's loss on the answer behind the
        glimpse token.
        """
        logits = self.predict(example.tokens)
        real = ~example.tokens.layout.newline[example.tokens.index].to(logits.device)
        logits, target = logits[real], example.target.to(logits)[real]
        chances = logits.sigmoid()
        shared = 2 * (chances * target).sum()
        dice = 1 - (shared + 1e-6) / (chances.sum() + target.sum() + 1e-6)
        location = dice + 0.1 * binary_cross_entropy_with_logits(logits, target)
        answer = location.new_zeros(()) if example.answer_loss is None else example.answer_loss
        kept = chances > self.threshold
        both, either = (kept & (target > 0)).sum(), (kept | (target > 0)).sum()
        figures = {
            "location_loss": float(location.detach()),
            "answer_loss": float(answer.detach()),
            "iou": float(both / either.clamp(min=1)),
            "retention": float(kept.float().mean()),
        }
        return location + answer, figures


# ---- the modules, named as in the released checkpoints -------------------------------------------


class _Modules(nn.Module):
    """The glimpse's embeddings and the visual importance predictor (VIP)."""

    def __init__(self, sizes: Mapping[str, Any]) -> None:
        super().__init__()
        layers, width = int(sizes["layers"]), int(sizes["width"])
        self.blocks = tuple(sizes["blocks"])
        self.learnable_embeddings = nn.Parameter(0.02 * torch.randn(layers, 1, width))
        self.le_proj = nn.Linear(width, width)
        self.le_norm = nn.RMSNorm(width, eps=float(sizes["eps"]))
        self.le_dropout = nn.Dropout(DROPOUT)
        self.attn_fuser = _Predictor(sizes)
        for name, weight in self.named_parameters():
            if "proj" in name and name != "learnable_embeddings":
                nn.init.zeros_(weight) if name.endswith("bias") else nn.init.xavier_uniform_(weight)

    def glimpse(self) -> Tensor:
        """[L, D]."""
        found: Tensor = self.le_dropout(self.le_norm(self.le_proj(self.learnable_embeddings[:, 0])))
        return found


class _Predictor(nn.Module):
    """Four blocks in which attention evidence spreads where the vision encoder's features say it
    belongs together.
    """

    def __init__(self, sizes: Mapping[str, Any]) -> None:
        super().__init__()
        stream, condition = int(sizes["stream"]), int(sizes["condition"])
        self.attn_in_proj = nn.Linear(int(sizes["heads"]), stream)
        self.cond_in_projs = nn.ModuleList(
            nn.Linear(int(sizes["vision_width"]), condition) for _ in range(BLOCKS)
        )
        self.layers = nn.ModuleList(
            _Block(stream, condition, int(sizes["fuser_heads"])) for _ in range(BLOCKS)
        )
        # heads behind the earlier blocks exist only where they are supervised, which the released
        # models are not
        self.attn_out_projs = nn.ModuleList(
            [nn.Identity() for _ in range(BLOCKS - 1)] + [nn.Linear(stream, 1)]
        )

    def forward(self, attention: Tensor, maps: Tensor, places: Tensor) -> Tensor:
        """[N] logits from [N, H] attention, [4, N, D_v] feature maps (deepest first) and [N, 3]
        (tile, row, column).
        """
        hidden = self.attn_in_proj(attention)
        tiles = places[:, 0]
        several = bool((tiles != tiles[:1]).any())
        together = (
            (tiles[:, None] == tiles)[None, None] if several else None
        )  # every image by itself
        for block, condition, features in zip(self.layers, self.cond_in_projs, maps, strict=True):
            hidden = block(hidden, condition(features), places[:, 1:], together)
        logits: Tensor = self.attn_out_projs[-1](hidden)[:, 0]
        return logits


class _Block(nn.Module):
    """Attention whose queries and keys see the condition, too, and whose values do not; then a
    gated MLP.
    """

    def __init__(self, stream: int, condition: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.RMSNorm(stream, eps=1e-6), nn.RMSNorm(stream, eps=1e-6)
        both = stream + condition
        self.attn = nn.ModuleDict(
            {name: nn.Linear(both, both, bias=False) for name in ("q_proj", "k_proj")}
            | {name: nn.Linear(stream, stream, bias=False) for name in ("v_proj", "o_proj")}
        )
        self.mlp = nn.ModuleDict(
            {name: nn.Linear(stream, 2 * stream) for name in ("gate_proj", "up_proj")}
        )
        self.mlp["down_proj"] = nn.Linear(2 * stream, stream)

    def forward(
        self, hidden: Tensor, condition: Tensor, places: Tensor, together: Tensor | None
    ) -> Tensor:
        normed = self.norm1(hidden)
        both = torch.cat([normed, condition], dim=-1)
        query, key = (
            _rotated(self._split(self.attn[name](both)), places) for name in ("q_proj", "k_proj")
        )
        attended = scaled_dot_product_attention(
            query, key, self._split(self.attn["v_proj"](normed)), attn_mask=together
        )
        hidden = hidden + self.attn["o_proj"](attended[0].transpose(0, 1).flatten(1))
        normed = self.norm2(hidden)
        gated: Tensor = self.mlp["down_proj"](
            silu(self.mlp["gate_proj"](normed)) * self.mlp["up_proj"](normed)
        )
        return hidden + gated

    def _split(self, values: Tensor) -> Tensor:
        """[1, heads, N, d]."""
        return values.view(len(values), self.heads, -1).transpose(0, 1)[None]


def _rotated(values: Tensor, places: Tensor) -> Tensor:
    """2-D rotary positions: the first half of the angles goes by rows, the second by columns;
    halves are rotated.
    """
    half = values.shape[-1] // 2
    frequency = ROPE_BASE ** (-torch.arange(0, half, 2, device=values.device).float() / half)
    angle = (places.float()[:, :, None] * frequency).flatten(1)  # [N, half]
    angle = torch.cat([angle, angle], dim=-1)
    first, second = values.chunk(2, dim=-1)
    return values * angle.cos() + torch.cat([-second, first], dim=-1) * angle.sin()


# ---- the official file layout --------------------------------------------------------------------


def _tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of an official checkpoint by their full names; raises OSError, and ValueError for
    what else it holds.
    """
    if not file.is_file():  # a pipe would be waited for
        raise FileNotFoundError(f"there is no file {file.name}")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch raises at garbage is as various as garbage
        raise ValueError(
            f"{file.name} is a broken file, or a pickle of more than tensors, which is not read"
        ) from error
    if not isinstance(state, Mapping) or not isinstance(state.get("learnable_embeddings"), Tensor):
        raise ValueError(
            f"{file.name} is no checkpoint of GlimpsePrune: it holds no learnable_embeddings"
        )
    flat: dict[str, Any] = {}
    for part, values in state.items():
        flat |= (
            {f"{part}.{name}": value for name, value in values.items()}
            if isinstance(values, Mapping)
            else {part: values}
        )
    odd = [name for name, value in flat.items() if not isinstance(value, Tensor)]
    if odd:
        raise ValueError(f"{file.name} holds something else than tensors: {odd[0]}")
    return flat


def _nested(state: Mapping[str, Tensor]) -> dict[str, Any]:
    nested: dict[str, Any] = {"learnable_embeddings": state["learnable_embeddings"]}
    for name, value in state.items():
        part, _, rest = name.partition(".")
        if rest:
            nested.setdefault(part, {})[rest] = value
    return nested


def _sizes_of(state: Mapping[str, Tensor], config: Any) -> dict[str, Any]:
    """The sizes, from the tensors, and what only an official config.json says; raises ValueError
    where that makes no sense.
    """
    if not isinstance(config, dict):
        raise ValueError("config.json holds no settings")
    # their LLaVA counts hidden states, of which the first is the embedding; their Qwen2.5-VL counts
    # blocks
    shift = 1 if "llava" in str(config.get("model_type", "")) else 0
    into, condition = (
        state["attn_fuser.attn_in_proj.weight"],
        state["attn_fuser.cond_in_projs.0.weight"],
    )
    layers, stream, joint = (
        len(state["learnable_embeddings"]),
        into.shape[0],
        into.shape[0] + condition.shape[0],
    )
    blocks, layer, heads = (
        config["selected_visual_layers"],
        config["reduce_layer"],
        config["attn_fuse_num_heads"],
    )
    logits, eps = (
        config["use_attention_logits"],
        (config.get("text_config") or config)["rms_norm_eps"],
    )
    sensible = {
        f"selected_visual_layers (a list of {BLOCKS} numbers)": isinstance(blocks, list)
        and len(blocks) == BLOCKS
        and all(type(block) is int for block in blocks),
        f"reduce_layer (one of 0..{layers - 1})": type(layer) is int and 0 <= layer < layers,
        f"attn_fuse_num_heads (it divides {stream} and {joint})": type(heads) is int
        and heads > 0
        and stream % heads == joint % heads == 0,
        "use_attention_logits (true or false)": isinstance(logits, bool),
        "rms_norm_eps (a small number above 0)": isinstance(eps, float) and 0 < eps < 1,
    }
    wrong = [name for name, fits in sensible.items() if not fits]
    if wrong:
        raise ValueError(f"config.json needs another {wrong[0]}")
    return {
        "layers": layers,
        "width": state["learnable_embeddings"].shape[-1],
        "heads": into.shape[1],
        "eps": eps,
        "vision_width": condition.shape[1],
        "blocks": [block - shift for block in blocks],
        "layer": layer,
        "attention": "logits" if logits else "log_attention",
        "stream": stream,
        "condition": condition.shape[0],
        "fuser_heads": heads,
    }


def _to_config(sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Our own weights in the same fields; visual layers are blocks."""
    return {
        "num_hidden_layers": sizes["layers"],
        "hidden_size": sizes["width"],
        "num_attention_heads": sizes["heads"],
        "rms_norm_eps": sizes["eps"],
        "vision_hidden_size": sizes["vision_width"],
        "selected_visual_layers": list(sizes["blocks"]),
        "reduce_layer": sizes["layer"],
        "selected_layers": [sizes["layer"]],
        "use_attention_logits": sizes["attention"] == "logits",
        "attn_fuse_type": "AttnFuserV1",
        "attn_fuse_size": sizes["stream"],
        "visual_cond_size": sizes["condition"],
        "attn_fuse_num_heads": sizes["fuser_heads"],
        "attn_fuse_hidden_act": "silu",
        "attn_fuse_global": True,
        "le_layers": list(range(sizes["layers"])),
        "le_length": 1,
        "le_norm_type": "rmsnorm",
        "le_dropout_prob": DROPOUT,
        "reduce_threshold": 0.5,
        "min_remain_num": 1,
        "max_remain_ratio": None,
        "deep_supervision": False,
        "ori_attn_supervision": False,
    }
