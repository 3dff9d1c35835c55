"""GlimpsePrune (2025): a glimpse token looks at the image, and a small network predicts from its
attention what to keep.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

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
    variant="also tiles (each an image of its own; a newline token fares like the best of its "
    "row), several images and batches",
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

    Settings:

    - `layer`: counted from 0; -1 is the weights' own, about 2/3 of the depth, as released;
    - `threshold`: the least importance, as a probability, that a token needs to stay;
    - `floor`: tokens that stay at least;
    - `attention`: what of the logits is read: "logits" as for the released Qwen2.5-VL,
      "log_attention" as for LLaVA-1.5; "" is the weights' own.
    """

    dynamic = True
    work_by_shape = True
    layer: int = -1
    threshold: float = 0.5
    floor: int = 1
    attention: str = ""

    def __post_init__(self) -> None:
        if self.attention not in ("", "logits", "log_attention"):
            raise ValueError(
                f"attention is {self.attention!r}; "
                "it is 'logits', 'log_attention' or '' for the weights' own"
            )
        if not 0 <= self.threshold < 1 or self.floor < 1:
            raise ValueError(
                f"threshold is {self.threshold} and floor {self.floor}; "
                "0 <= threshold < 1 and floor >= 1"
            )

    @property
    def needs(self) -> frozenset[Signal]:
        attention = Signal.PROBE_LOGITS
        if self.attention == "log_attention":
            attention = Signal.PROBE_LOG_ATTENTION
        return frozenset({attention, Signal.ENCODER_FEATURES})

    def site(self) -> Site:
        return llm(before=max(1, self.layer + 1))

    def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
        """One stage behind the layer of the weights, or about as deep as released where there are
        none yet; it compacts the caches before it.
        """
        layer = self.layer if self.layer >= 0 else late_layer(layers)
        site = llm(before=layer + 1)
        if budget is None:
            return (Stage(site, available, compact=True),)
        return solve(budget, [site], available, layers, compact=True)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """Those above the threshold, no more than the stage keeps and no fewer than the floor."""
        chances = self.predict(tokens).sigmoid()
        likely = int((chances > self.threshold).sum())
        # the budget outranks the floor: a stage may keep fewer than that
        count = max(min(likely, stage.keep), min(self.floor, stage.keep))
        return Keep(top(chances, count))

    def predict(self, tokens: VisualTokens) -> Tensor:
        """[N] logit of every token's importance."""
        predictor: Any = self._module(tokens.features.device).attn_fuser
        attention = self._attention(tokens)
        newline, tile, row = tokens.newline, tokens.tile, tokens.row
        patch = (~newline).nonzero()[:, 0].to(attention.device)
        places = torch.stack([tile, row, tokens.column], dim=1).to(patch)
        maps = tokens.encoder_features.float()[:, patch]
        evidence = attention.float().mT[patch]  # [patches, H]
        of_patches = predictor(evidence, maps, places[patch])
        # -inf where newlines stand, so that the largest of a row is one of its patches
        logits = attention.new_full((len(tokens),), float("-inf"), dtype=torch.float32)
        logits = logits.index_copy(0, patch, of_patches)
        # a newline is no image token: it goes with its row
        for place in newline.nonzero()[:, 0].tolist():
            of_row = (tile == tile[place]) & (row == row[place])
            logits[place] = logits[of_row.to(logits.device)].max()
        return logits

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        """[N] logits of the predictor, [N, H] what it reads, and [L, D] the glimpse token, by the
        names of the official vectors.
        """
        return {
            "logits": self.predict(tokens),
            "glimpse_attention": self._attention(tokens).mT,
            "glimpse_embeds": self._module(None).glimpse(),
        }

    def _attention(self, tokens: VisualTokens) -> Tensor:
        """[H, N] what the glimpse token pays the image, as the weights read it."""
        if self.attention == "log_attention":
            return tokens.probe_log_attention
        return tokens.probe_logits

    @property
    def reads(self) -> Reads:
        """The probe is the glimpse, [L, D] RMSNorm(W E_l + b)."""
        module = self._module(None)
        blocks = {Signal.ENCODER_FEATURES: module.blocks}
        return Reads(self.needs, blocks=blocks, probe=module.glimpse)

    def _module(self, device: torch.device | None) -> Any:
        """The module on that device, or where it is; raises ValueError before it was prepared."""
        if self.module is None:
            raise ValueError("glimpseprune has no weights yet: prepared() finds them")
        return self.module if device is None else self.module.to(device)

    # ---- weights ---------------------------------------------------------------------------------

    @classmethod
    def sizes(cls, facts: Facts) -> dict[str, Any]:
        """As released for large models; predictors of small models are small, too."""
        if facts.vision_blocks is None or facts.vision_width is None or facts.feature_block is None:
            raise Unsupported("glimpseprune reads the vision encoder; a bare decoder has none")
        is_large = facts.width >= 1024
        # the block whose output the projector reads, and those a quarter, a half and three quarters
        # of the encoder below it
        step = facts.vision_blocks // BLOCKS
        blocks = [max(0, facts.feature_block - part * step) for part in range(BLOCKS)]
        return {
            "layers": facts.layers,
            "width": facts.width,
            "heads": facts.heads,
            "eps": facts.eps,
            "vision_width": facts.vision_width,
            "blocks": blocks,
            "layer": facts.attending_near(late_layer(facts.layers), last=facts.layers - 2),
            "attention": "logits",
            "stream": 256 if is_large else 64,
            "condition": 512 if is_large else 64,
            "fuser_heads": 4,
        }

    @classmethod
    def build(cls, sizes: Mapping[str, Any]) -> nn.Module:
        return _Modules(sizes)

    def adapted(self, sizes: Mapping[str, Any]) -> Self:
        """Layer and kind of attention of the weights, where no setting says otherwise."""
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
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        sizes = _sizes_of(state, config)
        with torch.device("meta"):  # its tensors are replaced, so that none need be drawn
            module = cls.build(sizes)
        module.load_state_dict(state, assign=True)
        return sizes, module

    @classmethod
    def write(
        cls, folder: Path, sizes: Mapping[str, Any], module: nn.Module, notes: Mapping[str, Any]
    ) -> None:
        """The official layout; `notes` go into config.json beside the official fields."""
        torch.save(_nested(module.state_dict()), folder / FILE)
        config = {**_to_config(sizes), **notes}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    def loss(self, example: Example) -> tuple[Tensor, dict[str, float]]:
        """Dice + 0.1 BCE of the predicted importance, and the model's loss on the answer behind the
        glimpse token.
        """
        logits = self.predict(example.tokens)
        is_patch = ~example.tokens.newline.to(logits.device)
        logits = logits[is_patch]
        target = example.target.to(logits)[is_patch]
        chances = logits.sigmoid()
        overlap = 2 * (chances * target).sum()
        total = chances.sum() + target.sum()
        # 1e-6 on both sides: to predict nothing is right where nothing is evidence
        dice = 1 - (overlap + 1e-6) / (total + 1e-6)
        location = dice + 0.1 * binary_cross_entropy_with_logits(logits, target)
        answer = example.answer_loss
        if answer is None:
            answer = location.new_zeros(())
        kept, evident = chances > self.threshold, target > 0
        both = (kept & evident).sum()
        either = (kept | evident).sum()
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
            # every linear map has it in its name; norms and embeddings stay as they were made
            if "proj" not in name:
                continue
            if name.endswith("bias"):
                nn.init.zeros_(weight)
            else:
                nn.init.xavier_uniform_(weight)

    def glimpse(self) -> Tensor:
        """[L, D] what the glimpse token is in every layer."""
        projected = self.le_proj(self.learnable_embeddings[:, 0])
        embeds: Tensor = self.le_dropout(self.le_norm(projected))
        return embeds


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
        # tile behind tile, for each attends to itself alone
        order = places[:, 0].sort(stable=True).indices
        sizes = places[order, 0].unique_consecutive(return_counts=True)[1].tolist()
        hidden, places = self.attn_in_proj(attention[order]), places[order, 1:]
        for block, condition, features in zip(self.layers, self.cond_in_projs, maps, strict=True):
            hidden = block(hidden, condition(features[order]), places, sizes)
        logits: Tensor = self.attn_out_projs[-1](hidden)[:, 0]
        return logits[order.argsort()]


class _Block(nn.Module):
    """Attention whose queries and keys see the condition, too, and whose values do not; then a
    gated MLP.
    """

    def __init__(self, stream: int, condition: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.RMSNorm(stream, eps=1e-6)
        self.norm2 = nn.RMSNorm(stream, eps=1e-6)
        both = stream + condition
        # drawn in this order, for the weights of a seed are to stay the same
        self.attn = nn.ModuleDict(
            {
                "q_proj": nn.Linear(both, both, bias=False),
                "k_proj": nn.Linear(both, both, bias=False),
                "v_proj": nn.Linear(stream, stream, bias=False),
                "o_proj": nn.Linear(stream, stream, bias=False),
            }
        )
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": nn.Linear(stream, 2 * stream),
                "up_proj": nn.Linear(stream, 2 * stream),
                "down_proj": nn.Linear(2 * stream, stream),
            }
        )

    def forward(
        self, hidden: Tensor, condition: Tensor, places: Tensor, sizes: list[int]
    ) -> Tensor:
        """[N, stream] after one block.

        `hidden` [N, stream], `condition` [N, condition], `places` [N, 2] rows and columns;
        tokens see those of their own tile, and `sizes` are those of the tiles.
        """
        normed = self.norm1(hidden)
        both = torch.cat([normed, condition], dim=-1)
        query = _rotated(self._split(self.attn["q_proj"](both)), places)
        key = _rotated(self._split(self.attn["k_proj"](both)), places)
        value = self._split(self.attn["v_proj"](normed))
        tiles = zip(*(part.split(sizes, dim=2) for part in (query, key, value)), strict=True)
        attended = torch.cat([scaled_dot_product_attention(*tile) for tile in tiles], dim=2)
        # [N, stream]: the heads of a token side by side again
        joined = attended[0].transpose(0, 1).flatten(1)
        hidden = hidden + self.attn["o_proj"](joined)
        normed = self.norm2(hidden)
        gated = silu(self.mlp["gate_proj"](normed)) * self.mlp["up_proj"](normed)
        after: Tensor = hidden + self.mlp["down_proj"](gated)
        return after

    def _split(self, values: Tensor) -> Tensor:
        """[1, heads, N, d] of [N, heads * d]."""
        return values.view(len(values), self.heads, -1).transpose(0, 1)[None]


def _rotated(values: Tensor, places: Tensor) -> Tensor:
    """2-D rotary positions: the first half of the angles goes by rows, the second by columns;
    halves are rotated.
    """
    half = values.shape[-1] // 2
    exponent = -torch.arange(0, half, 2, device=values.device).float() / half
    # rows and columns turn at the same half / 2 frequencies
    frequency = ROPE_BASE**exponent
    angle = (places.float()[:, :, None] * frequency).flatten(1)  # [N, half]
    angle = torch.cat([angle, angle], dim=-1)
    first, second = values.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return values * angle.cos() + turned * angle.sin()


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
        if not isinstance(values, Mapping):
            flat[part] = values
            continue
        for name, value in values.items():
            flat[f"{part}.{name}"] = value
    odd = [name for name, value in flat.items() if not isinstance(value, Tensor)]
    if odd:
        raise ValueError(f"{file.name} holds something else than tensors: {odd[0]}")
    return flat


def _nested(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Tensors by full names as an official checkpoint has them: a dict for every part."""
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
    into = state["attn_fuser.attn_in_proj.weight"]  # [stream, heads]
    condition = state["attn_fuser.cond_in_projs.0.weight"]  # [condition, vision width]
    layers, stream = len(state["learnable_embeddings"]), into.shape[0]
    sizes = {
        "layers": layers,
        "width": state["learnable_embeddings"].shape[-1],
        "heads": into.shape[1],
        "eps": (config.get("text_config") or config)["rms_norm_eps"],
        "vision_width": condition.shape[1],
        "blocks": config["selected_visual_layers"],
        "layer": config["reduce_layer"],
        "attention": config["use_attention_logits"],
        "stream": stream,
        "condition": condition.shape[0],
        "fuser_heads": config["attn_fuse_num_heads"],
    }
    joint = stream + condition.shape[0]
    requirements = {
        f"selected_visual_layers (a list of {BLOCKS} numbers)": _are_blocks(sizes["blocks"]),
        f"reduce_layer (one of 0..{layers - 1})": _is_layer(sizes["layer"], layers),
        f"attn_fuse_num_heads (it divides {stream} and {joint})": _divides(
            sizes["fuser_heads"], stream, joint
        ),
        "use_attention_logits (true or false)": isinstance(sizes["attention"], bool),
        "rms_norm_eps (a small number above 0)": _is_small(sizes["eps"]),
    }
    wrong = [name for name, holds in requirements.items() if not holds]
    if wrong:
        raise ValueError(f"config.json needs another {wrong[0]}")
    # their LLaVA counts hidden states, of which the first is the embedding; their Qwen2.5-VL counts
    # blocks
    shift = 1 if "llava" in str(config.get("model_type", "")) else 0
    sizes["blocks"] = [block - shift for block in sizes["blocks"]]
    sizes["attention"] = "logits" if sizes["attention"] else "log_attention"
    return sizes


def _are_blocks(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != BLOCKS:
        return False
    # by exact type, here and below: to isinstance JSON's true is an int
    return all(type(block) is int for block in value)


def _is_layer(value: Any, layers: int) -> bool:
    return type(value) is int and 0 <= value < layers


def _divides(value: Any, stream: int, joint: int) -> bool:
    if type(value) is not int or value < 1:
        return False
    return stream % value == 0 and joint % value == 0


def _is_small(value: Any) -> bool:
    return isinstance(value, float) and 0 < value < 1


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
