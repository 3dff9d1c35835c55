"""Verify: run pruners on vectors from official code, through their public interface, and compare."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from prunebench import registry
from prunebench.budget import Stage
from prunebench.contract import Step, walk
from prunebench.engine.attention import Heads
from prunebench.identity import source_digest
from prunebench.pruner import Pruner
from prunebench.signals import PROBE
from prunebench.tokens import Keep, Layout, Signal, Tile, VisualTokens

FORMAT = "visual-token-pruning-golden/1"
PROBE_QUERY, PROBE_KEYS = "glimpse_query", "glimpse_keys"
"""What the token behind the prompt asks with, and the keys it meets, its own last."""
CAPPED = "max_remain_ratio_capped"
"""A second setting of the same vector; what it leads to has names that end in `_capped`."""
TOLERANCE = 1e-4
"""For float tensors whose file suggests none."""


class VerifyError(ValueError):
    """A folder in which there is nothing to verify."""


@dataclass(frozen=True)
class Comparison:
    """One expected tensor of one file beside what the pruner gave.

    `difference` counts the indices that differ or is the largest absolute difference; text where
    there was nothing to compare. `field` is the tensor's name, "engine " before it where the real
    engine ran, or "file" or "run" where that failed.
    """

    method: str
    file: str
    field: str
    agree: bool
    difference: float | str


@dataclass(frozen=True)
class Vector:
    """One file of vectors: tensors by name, and its metadata (tests/golden/README.md)."""

    name: str
    case: Mapping[str, Any]
    tensors: Mapping[str, Tensor] = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> Vector:
        """Raises VerifyError for a file that is damaged or of another format."""
        try:
            with safe_open(path, "pt") as file:
                header = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        except (SafetensorError, OSError) as error:
            raise VerifyError(f"cannot be read, it may be truncated: {error}") from error
        if header.get("format") != FORMAT or "meta" not in header:
            raise VerifyError(f"its format is {header.get('format')!r}, not {FORMAT!r}")
        return cls(path.name, json.loads(header["meta"]), tensors)

    def input(self, name: str, stage: int) -> Tensor | None:
        """An input tensor, that of the stage where there is one."""
        return self.tensors.get(f"stage{stage}.{name}", self.tensors.get(name))

    def expected(self) -> list[str]:
        """The names of the expected tensors."""
        return list(self.case["expected"])


def verify(folder: Path, methods: Sequence[str] | None = None) -> list[Comparison]:
    """Compare every `METHOD-i.safetensors` of `folder` whose method is registered, or those of
    `methods` alone.

    A method may be a file (./mine.py): its stem names its vectors. Raises VerifyError where the
    folder or a method asked for has none, RegistryError for an unknown method.
    """
    if not folder.is_dir():
        raise VerifyError(f"no folder {folder}")
    wanted = {Path(name).stem: registry.get(name) for name in methods or registry.names()}
    files = {
        name: [path for own in (name, *pruner.vectors) for path in _files(folder, own)]
        for name, pruner in wanted.items()
    }
    without = [name for name in wanted if not files[name]]
    if without and (methods or len(without) == len(wanted)):
        raise VerifyError(f"{folder} has no vectors METHOD-i.safetensors for {', '.join(without)}")
    return [
        found
        for name in wanted
        for path in files[name]
        for found in _compare(name, wanted[name], path)
    ]


def summary(comparisons: Sequence[Comparison]) -> dict[str, tuple[int, int]]:
    """Per method, how many of its files agree in everything, and how many there are."""
    files: dict[str, dict[str, bool]] = {}
    for found in comparisons:
        of_method = files.setdefault(found.method, {})
        of_method[found.file] = of_method.get(found.file, True) and found.agree
    return {method: (sum(agree.values()), len(agree)) for method, agree in files.items()}


def write_verified(comparisons: Sequence[Comparison], path: Path | None = None) -> Path:
    """Record each method's count beside the hash of its file; methods that were not verified now
    keep their record.
    """
    path = path or _record()
    record = read_verified(path)
    for method, (agree, files) in summary(comparisons).items():
        if method in registry.names():
            record[method] = {"agree": agree, "files": files, "source": _source(method)}
    try:
        path.write_text(json.dumps(dict(sorted(record.items())), indent=2) + "\n")
    except OSError as error:
        raise VerifyError(f"{path} cannot be written: {error.strerror}") from error
    return path


def read_verified(path: Path | None = None) -> dict[str, dict[str, Any]]:
    """The record that `write_verified` left: method -> {agree, files, source}."""
    path = path or _record()
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def status(method: str) -> str:
    """What is known about an installed method's faithfulness, in a few words."""
    found = read_verified().get(method)
    card = registry.card(registry.get(method))
    told = "no vectors"
    if found is not None:
        told = f"verified {found['agree']}/{found['files']}"
        told += "" if found["source"] == _source(method) else " (before its last change)"
    notes = [f"variant: {card.variant}"] if card.variant else []
    notes += ["reconstruction"] if card.reconstruction else []
    return "; ".join([told, *notes] if found is not None or not notes else notes)


def _files(folder: Path, method: str) -> Iterator[Path]:
    for path in sorted(folder.glob("*.safetensors")):
        if re.fullmatch(rf"{re.escape(method)}-\d+\.safetensors", path.name):
            yield path


def _compare(method: str, pruner: type[Pruner], path: Path) -> Iterator[Comparison]:
    def found(name: str, agree: bool, difference: float | str) -> Comparison:
        return Comparison(method, path.name, name, agree, difference)

    try:
        vector = Vector.read(path)
    except VerifyError as error:
        yield found("file", False, str(error))
        return
    try:
        for name, given in _observed(pruner, vector).items():
            yield found(name, *_difference(vector, name.removeprefix("engine "), given))
    except Exception as error:  # a pruner may raise anything; the row says so
        yield found("run", False, f"{type(error).__name__}: {error}")


def _observed(method: type[Pruner], vector: Vector) -> dict[str, Tensor]:
    """What the pruner gives for the expected tensors that its public interface can show."""
    given = _given(method, vector, {**vector.case, "tensors": vector.tensors})
    if CAPPED in vector.case:
        capped = {
            **vector.case,
            "tensors": vector.tensors,
            CAPPED.removesuffix("_capped"): vector.case[CAPPED],
        }
        given |= {f"{name}_capped": value for name, value in _given(method, vector, capped).items()}
    comparable = {
        name: value
        for name, value in given.items()
        if name.removeprefix("engine ") in vector.expected()
    }
    if not comparable:
        raise VerifyError(f"none of {', '.join(vector.expected())} can be compared")
    return comparable


def _given(method: type[Pruner], vector: Vector, case: Mapping[str, Any]) -> dict[str, Tensor]:
    """Everything the pruner gives with the settings of the case: outside a model, and in the
    vector's own where it has one.
    """
    sample = _sample(vector)
    pruner, stages = method.from_official(case, len(sample))
    if pruner.needs & PROBE and PROBE_QUERY not in vector.tensors:
        return _in_engine(pruner, stages, sample.layout, vector)
    steps = walk(
        pruner,
        stages,
        sample,
        lambda stage, index, features: _shown(vector, pruner, stage, index, features),
    )
    given: dict[str, Tensor] = {}
    for number, step in enumerate(steps):
        given |= {f"stage{number}.{name}": value for name, value in _answers(pruner, step).items()}
    given |= _answers(pruner, steps[-1])
    given |= _in_prompt(vector, given["keep"])
    if "input_embeds" in vector.tensors and "llm_config" in vector.case:
        given |= _in_engine(pruner, stages, sample.layout, vector)
    return given


def _in_prompt(vector: Vector, keep: Tensor) -> dict[str, Tensor]:
    """Which positions of the prompt are left, where the vector says which are the image's."""
    image = vector.tensors.get("image_mask")
    if image is None:
        return {}
    left = image == 0
    left[image.nonzero()[:, 0][keep]] = True
    left = left[:-1] if PROBE_QUERY in vector.tensors else left  # the last is the probe's own
    return {"keep_prompt": left.nonzero()[:, 0]}


def _answers(pruner: Pruner, step: Step) -> dict[str, Tensor]:
    tile, kinds = step.tokens.layout.tile[step.order], [tile.kind for tile in step.tokens.tiles]
    given = {"keep": step.order.sort().values, "order": step.order}
    given["kept_per_tile"] = torch.bincount(tile, minlength=len(kinds))
    if "thumbnail" in kinds:
        given["keep_thumbnail"] = step.order[tile == kinds.index("thumbnail")].sort().values
    if step.merged is not None:
        given["merged_features"] = step.merged
    return given | pruner.explain(step.tokens, step.stage)


def _sample(vector: Vector) -> VisualTokens:
    """The visual tokens of a vector as they are before the first stage."""
    features = vector.input("features", 0)
    if features is None and "input_embeds" in vector.tensors:
        features = vector.tensors["input_embeds"][_image(vector)]
    grid = vector.tensors.get("grid")
    if grid is not None and grid.dim() == 2:  # several images
        layout = Layout(
            tuple(Tile(rows, columns, image=i) for i, (rows, columns) in enumerate(grid.tolist()))
        )
        return VisualTokens(
            torch.zeros(len(layout), 0) if features is None else features,
            layout,
            torch.arange(len(layout)),
        )
    rows, columns = (
        grid.tolist() if grid is not None else (1, 0 if features is None else features.shape[-2])
    )
    if features is None:
        # the method was given signals alone: its tokens have no features to look at
        features = torch.zeros(int(vector.case.get("tiles") or 1), rows * columns, 0)
    tiles = features.shape[0] if features.dim() == 3 else 1
    layout = Layout(
        tuple(_crops(vector, rows, columns) or [Tile(rows, columns, image=i) for i in range(tiles)])
    )
    return VisualTokens(features.flatten(0, -2), layout, torch.arange(len(layout)))


def _crops(vector: Vector, rows: int, columns: int) -> list[Tile]:
    """A thumbnail and the grid of crops on which the image lies in the middle, as large as it fits;
    none where there is none.
    """
    if "tile_grid" not in vector.tensors:
        return []
    (down, across), (width, height) = (
        vector.tensors["tile_grid"].tolist(),
        vector.tensors["image_size"].tolist(),
    )
    scale = min(across * columns / width, down * rows / height)  # tokens a pixel

    def edge(step: int, count: int, share: float) -> float:
        return (
            0.5 + (step - count / 2) * share
        )  # of the image's side, in whose middle that of the crops lies

    crops = []
    for y, x in product(range(down), range(across)):
        left, right = (edge(step, across, columns / (width * scale)) for step in (x, x + 1))
        upper, lower = (edge(step, down, rows / (height * scale)) for step in (y, y + 1))
        crops.append(Tile(rows, columns, "crop", region=(left, upper, right, lower)))
    return [Tile(rows, columns, "thumbnail"), *crops]


def _shown(
    vector: Vector, pruner: Pruner, stage: int, index: Tensor, features: Tensor
) -> tuple[Tensor, dict[Signal, Tensor]]:
    """What the vector lets the pruner see at a stage; raises VerifyError where it lacks a signal
    that is needed.
    """
    own = vector.tensors.get(f"stage{stage}.features")
    attention, keys, text = (
        vector.input(name, stage) for name in ("llm_attention", "keys", "text_embeds")
    )
    signals = dict[Signal, Tensor]()
    if attention is not None:
        row = attention[:, -1] if attention.dim() == 3 else attention
        signals |= {Signal.LAST_QUERY_ATTENTION: row, Signal.NEXT_QUERY_ATTENTION: row}
        signals |= {Signal.TEXT_ATTENTION: attention} if attention.dim() == 3 else {}
    if keys is not None:
        signals[Signal.KEYS] = (
            keys if keys.shape[1] == len(index) else keys[:, _image(vector)][:, index]
        )
    if text is not None:
        signals[Signal.TEXT_FEATURES] = text
    cls = vector.input("cls_attention", stage)
    if cls is not None and Signal.CLS_ATTENTION in pruner.needs:
        signals[Signal.CLS_ATTENTION] = _blocks(vector, pruner, cls)[..., index]
    signals |= _feature_maps(vector, index) | _of_tiles(vector)
    if PROBE_QUERY in vector.tensors:
        query, probed = vector.tensors[PROBE_QUERY], vector.tensors[PROBE_KEYS]
        logits = Heads(query[None, :, None], probed[None], query.shape[-1] ** -0.5).logits(0)[:, 0]
        columns = vector.tensors["image_mask"].nonzero()[:, 0][index]
        signals[Signal.PROBE_LOGITS] = logits[:, columns]
        signals[Signal.PROBE_LOG_ATTENTION] = logits.log_softmax(-1)[:, columns]
    needs = pruner.needs - {Signal.TILES}
    missing = sorted(needs - signals.keys())
    if missing:
        raise VerifyError(f"the vector brings no {', '.join(missing)}")
    return (features if own is None else own), {signal: signals[signal] for signal in needs}


def _of_tiles(vector: Vector) -> dict[Signal, Any]:
    """What vectors with crops say of every tile as a whole."""
    if "tile_grid" not in vector.tensors:
        return {}
    states = (
        {Signal.CLS_FEATURES: vector.tensors["cls_states"][None]}
        if "cls_states" in vector.tensors
        else {}
    )
    names = {Signal.CLIP_TILES: "clip_image_embeds", Signal.CLIP_TEXT: "clip_text_embeds"}
    return {
        **states,
        **{
            signal: vector.tensors[name] for signal, name in names.items() if name in vector.tensors
        },
    }


def _feature_maps(vector: Vector, index: Tensor) -> dict[Signal, Any]:
    """The vision encoder's feature maps [B, N, D_v], which vectors number."""
    maps = [
        vector.tensors[f"vision_features.{i}"][index]
        for i in range(99)
        if f"vision_features.{i}" in vector.tensors
    ]
    return {Signal.ENCODER_FEATURES: torch.stack(maps)} if maps else {}


def _blocks(vector: Vector, pruner: Pruner, cls: Tensor) -> Tensor:
    """[B, H, N] of CLS attention ([layers, H, N], or [tiles, layers, H, n]) in the blocks that the
    pruner reads.
    """
    if cls.dim() == 4:
        cls = cls.permute(1, 2, 0, 3).flatten(2)
    known = list(vector.case["cls_attention_layers"])
    asked = pruner.reads.blocks.get(Signal.CLS_ATTENTION) or (
        vector.case.get("score_layer", known[0]),
    )
    lacking = [str(block) for block in asked if block not in known]
    if lacking:
        raise VerifyError(
            f"the vector brings CLS attention of blocks {known}, not of {', '.join(lacking)}"
        )
    return cls[[known.index(block) for block in asked]]


def _in_engine(
    pruner: Pruner, stages: tuple[Stage, ...], layout: Layout, vector: Vector
) -> dict[str, Tensor]:
    """The vector's tiny LLM with the pruner at work in it, through the engine."""
    from transformers import LlamaConfig, LlamaModel, Qwen2_5_VLTextConfig, Qwen2_5_VLTextModel

    from prunebench.engine.session import prune_embeds

    sizes = dict(vector.case["llm_config"])
    sections = sizes.pop("mrope_section", None)
    sizes["rope_parameters"] = {"rope_type": "default", "rope_theta": sizes.pop("rope_theta")}
    if sections is not None:
        sizes["rope_parameters"]["mrope_section"] = sections
        del sizes["attention_bias"]  # on queries, keys and values, as this class always has it
    # the vectors give embeddings, so the vocabulary is a single unused row
    sizes |= {
        "vocab_size": 1,
        "bos_token_id": None,
        "eos_token_id": None,
        "attn_implementation": "sdpa",
    }
    made: Any = (
        LlamaModel(LlamaConfig(**sizes))
        if sections is None
        else Qwen2_5_VLTextModel(Qwen2_5_VLTextConfig(**sizes))
    )
    llm = made.eval()
    weights = {name[4:]: value for name, value in vector.tensors.items() if name.startswith("llm.")}
    lacking = llm.load_state_dict(weights, strict=False)
    if lacking.unexpected_keys or lacking.missing_keys != ["embed_tokens.weight"]:
        raise VerifyError(f"the LLM's weights do not fit: {lacking}")
    embeds = vector.tensors["input_embeds"][None]
    visual = torch.zeros(embeds.shape[:2], dtype=torch.bool)
    visual[:, _image(vector)] = True
    ids = vector.tensors.get("prompt_position_ids")
    options = {} if ids is None else {"position_ids": ids[:, None]}
    signals = _feature_maps(vector, torch.arange(len(layout)))
    seen: list[tuple[VisualTokens, Stage]] = []
    watched = replace(pruner)

    def prune(tokens: VisualTokens, stage: Stage) -> Keep:
        seen.append((tokens, stage))
        return pruner.prune(tokens, stage)

    object.__setattr__(watched, "prune", prune)  # a frozen dataclass, which is ours alone
    with (
        torch.no_grad(),
        prune_embeds(
            llm, watched, visual=visual, layouts=[layout], plan=stages, signals=[signals]
        ) as trace,
    ):
        out = llm(inputs_embeds=embeds, use_cache=True, **options)
    lengths = [layer.keys.shape[-2] for layer in out.past_key_values.layers]
    given = {"keep": trace.samples[0].survivors(), "kv_lengths": torch.tensor(lengths)}
    given |= {f"stage{i}.keep": trace.samples[0].kept[stage.site] for i, stage in enumerate(stages)}
    places = trace.positions[-1]
    given |= {
        "position_ids": places[-3:, 0] if sections else places.flatten(),
        "llm_output": out.last_hidden_state[0],
    }
    given |= _in_prompt(vector, given["keep"]) | pruner.explain(*seen[-1])
    return {f"engine {name}": value for name, value in given.items()}


def _image(vector: Vector) -> slice | Tensor:
    if "image_mask" in vector.tensors:
        return vector.tensors["image_mask"].nonzero()[:, 0]
    start = int(vector.case["image_start"])
    return slice(start, start + int(vector.case["image_length"]))


def _difference(vector: Vector, name: str, given: Tensor) -> tuple[bool, float | str]:
    wanted = vector.tensors[name]
    tiles = int(vector.case.get("tiles") or 1)
    if tiles > 1 and wanted.dim() > given.dim():
        if name in ("keep", "order") and len(wanted) == tiles:  # places within a tile
            wanted = wanted + torch.arange(tiles)[:, None] * int(vector.tensors["grid"].prod())
        wanted = wanted.flatten()
    if given.shape != wanted.shape:
        return False, f"shape {list(given.shape)} instead of {list(wanted.shape)}"
    if not wanted.is_floating_point():
        wrong = int((given != wanted).sum())
        return wrong == 0, float(wrong)
    tolerance = vector.case.get("tolerance", {}).get(name.split(".")[-1], TOLERANCE)
    largest = float((given.float() - wanted).abs().max())
    return largest <= tolerance, largest


def _record() -> Path:
    return Path(importlib.import_module(registry.PACKAGE).__path__[0]) / "verified.json"


def _source(method: str) -> str:
    """The code that was verified: the method's own, its parents' and their helpers'."""
    return source_digest(registry.get(method))
