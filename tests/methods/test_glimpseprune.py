"""GlimpsePrune: sizes and files of the released checkpoints, a token that leaves no trace, caches
that are compacted.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import families
import pytest
import torch
from conftest import picture
from families import Miniature
from torch import Tensor

from prunebench import (
    Budget,
    BudgetError,
    Facts,
    Pruner,
    Signal,
    Trained,
    Unsupported,
    llm,
    prune,
    registry,
)
from prunebench.testing import tokens

# layers, width, heads, vision width, vision blocks, feature block
# -> VIP and glimpse parameters, layer, blocks
RELEASED = {
    "Qwen2.5-VL-7B": ((28, 3584, 28, 1280, 32, 31), 9_454_081, 12_952_576, 18, [31, 23, 15, 7]),
    "Qwen2.5-VL-3B": ((36, 2048, 16, 1280, 32, 31), 9_451_009, 4_272_128, 23, [31, 23, 15, 7]),
    "LLaVA-1.5-7B": ((32, 4096, 32, 1024, 24, 22), 8_930_817, 16_916_480, 21, [22, 16, 10, 4]),
    "LLaVA-1.5-13B": ((40, 5120, 40, 1024, 24, 22), 8_932_865, 26_429_440, 26, [22, 16, 10, 4]),
}


def method(**settings: Any) -> Any:
    return registry.build("glimpseprune", {"weights": "random", **settings})


def facts(layers: int, width: int, heads: int, vision: int, blocks: int, feature: int) -> Facts:
    return Facts(
        name=None,
        layers=layers,
        width=width,
        heads=heads,
        eps=1e-6,
        vision_width=vision,
        vision_blocks=blocks,
        feature_block=feature,
    )


SMALL = facts(6, 24, 4, 12, 4, 3)


@pytest.mark.parametrize("name", RELEASED)
def test_parameters_are_as_many_as_in_the_released_models(name: str) -> None:
    about, predictor, glimpse, layer, blocks = RELEASED[name]
    kind = type(method())
    sizes = kind.sizes(facts(*about))
    assert (sizes["layer"], sizes["blocks"]) == (layer, blocks)
    with torch.device("meta"):
        module = kind.build(sizes)
    counted = sum(weight.numel() for weight in module.attn_fuser.parameters())
    assert counted == predictor
    assert sum(weight.numel() for weight in module.parameters()) - counted == glimpse


def official(folder: Path, module: Any, **changes: Any) -> dict[str, Any]:
    """A folder as the authors publish it, with the weights of `module`."""
    state = module.state_dict()
    parts: dict[str, Any] = {"learnable_embeddings": state["learnable_embeddings"]}
    for part in ("attn_fuser", "le_proj", "le_norm"):
        parts[part] = {
            name[len(part) + 1 :]: value
            for name, value in state.items()
            if name.startswith(f"{part}.")
        }
    folder.mkdir(exist_ok=True)
    torch.save(parts, folder / "new_modules_gp.pt")
    config = {
        "model_type": "qwen2_5_vl_gp",
        "rms_norm_eps": 1e-6,
        "selected_layers": [3],
        "reduce_layer": 3,
        "use_attention_logits": True,
        "attn_fuse_type": "AttnFuserV1",
        "attn_fuse_size": 64,
        "visual_cond_size": 64,
        "attn_fuse_num_heads": 4,
        "selected_visual_layers": [3, 2, 1, 0],
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return parts


def test_the_official_file_layout_loads_strictly(tmp_path: Path) -> None:
    made = method().prepared(SMALL)
    parts = official(tmp_path, made.module)
    pruner = registry.build("glimpseprune", {"weights": str(tmp_path)})
    ready: Any = pruner.prepared(SMALL)
    assert (ready.layer, ready.attention) == (3, "logits")
    assert ready.reads.blocks[Signal.ENCODER_FEATURES] == (3, 2, 1, 0)
    weights, stored = made.module.state_dict(), ready.module.state_dict()
    for ours, theirs in zip(weights.values(), stored.values(), strict=True):
        assert torch.equal(ours, theirs)
    del parts["attn_fuser"]["layers.2.norm1.weight"]
    torch.save(parts, tmp_path / "new_modules_gp.pt")
    with pytest.raises(Unsupported, match="cannot be read"):
        registry.build("glimpseprune", {"weights": str(tmp_path), "floor": 2}).prepared(
            replace(SMALL, name="again")
        )


def test_official_llava_counts_hidden_states(tmp_path: Path) -> None:
    official(
        tmp_path,
        method().prepared(SMALL).module,
        model_type="llava_llama_gp",
        selected_visual_layers=[4, 3, 2, 1],
        use_attention_logits=False,
    )
    pruner = registry.build("glimpseprune", {"weights": str(tmp_path)})
    ready: Any = pruner.prepared(SMALL)
    assert ready.reads.blocks[Signal.ENCODER_FEATURES] == (3, 2, 1, 0)
    assert Signal.PROBE_LOG_ATTENTION in ready.needs


def test_what_it_writes_it_reads(tmp_path: Path) -> None:
    made = method().prepared(SMALL)
    sizes = type(made).sizes(SMALL)
    type(made).write(tmp_path, sizes, made.module, {"trained": {"steps": 1}})
    again, module = type(made).read(tmp_path)
    assert again == sizes
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            made.module.state_dict().values(), module.state_dict().values(), strict=True
        )
    )


def test_weights_for_another_model_are_refused(tmp_path: Path) -> None:
    official(tmp_path, method().prepared(SMALL).module)
    with pytest.raises(Unsupported, match="width 24; this one's is 32"):
        registry.build("glimpseprune", {"weights": str(tmp_path)}).prepared(
            replace(SMALL, width=32)
        )
    with pytest.raises(
        Unsupported, match=r"has no weights for Some-Model; .*prunebench train glimpseprune"
    ):
        registry.build("glimpseprune").prepared(replace(SMALL, name="Some-Model"))


def test_threshold_cap_and_floor_come_in_that_order() -> None:
    pruner = method().prepared(facts(28, 16, 4, 12, 8, 7))
    sample = tokens(rows=6, columns=8, needs=pruner.needs, blocks={Signal.ENCODER_FEATURES: 4})
    chances = pruner.predict(sample).sigmoid()
    order = chances.sort(descending=True, stable=True).indices
    split = float(chances[order[19]] + chances[order[20]]) / 2
    pruner = replace(pruner, threshold=split)
    stage = pruner.plan(None, 48, 28)[0]
    assert (stage.site, stage.keep, stage.compact) == (llm(19), 48, True)
    assert pruner.prune(sample, stage).index.tolist() == order[:20].tolist()
    assert pruner.prune(sample, replace(stage, keep=5)).index.tolist() == order[:5].tolist()
    none = replace(pruner, threshold=0.999999, floor=3)
    assert none.prune(sample, stage).index.tolist() == order[:3].tolist()
    assert none.prune(sample, replace(stage, keep=2)).index.tolist() == order[:2].tolist()


def test_a_newline_goes_with_its_row() -> None:
    pruner = method().prepared(facts(28, 16, 4, 12, 8, 7))
    sample = tokens(
        rows=3, columns=4, newlines=True, needs=pruner.needs, blocks={Signal.ENCODER_FEATURES: 4}
    )
    rows = pruner.predict(sample).view(3, 5)
    assert torch.equal(rows[:, 4], rows[:, :4].max(dim=1).values)


def test_images_are_predicted_apart() -> None:
    pruner = method().prepared(facts(28, 16, 4, 12, 8, 7))
    both = tokens(
        rows=3, columns=4, tiles=2, needs=pruner.needs, blocks={Signal.ENCODER_FEATURES: 4}
    )
    first = tokens(rows=3, columns=4, needs=pruner.needs, blocks={Signal.ENCODER_FEATURES: 4})
    signals = {
        Signal.PROBE_LOGITS: both.probe_logits[:, :12],
        Signal.ENCODER_FEATURES: both.encoder_features[:, :12],
    }
    torch.testing.assert_close(
        pruner.predict(both)[:12], pruner.predict(replace(first, signals=signals))
    )


def test_a_mean_budget_below_the_layers_before_is_out_of_reach() -> None:
    with pytest.raises(BudgetError, match="out of reach"):
        method().plan(Budget(0.25), 576, 28)
    assert method().plan(Budget(0.25, "kv"), 576, 28)[0].keep == 144


# ---- in models -----------------------------------------------------------------------------------

FAMILIES = ("qwen2_5_vl", "llava", "llava_next", "internvl", "qwen3_vl")


def prompt(family: Miniature) -> dict[str, Any]:
    return family.inputs(
        ([picture(*family.sizes[0])], "color of 5"),
        ([picture(*family.sizes[1], 1)], "digit on red square"),
    )


def answers(
    family: Miniature, inputs: dict[str, Any], pruner: Pruner | None, budget: Any = None
) -> tuple[Tensor, Any, Any]:
    options = {
        "max_new_tokens": 4,
        "min_new_tokens": 4,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    if pruner is None:
        out = family.model.generate(**inputs, **options)
        return torch.stack(out.logits, 1), None, out.past_key_values
    with prune(family.model, pruner, budget) as trace:
        out = family.model.generate(**inputs, **options)
    return torch.stack(out.logits, 1), trace, out.past_key_values


@pytest.mark.parametrize("name", FAMILIES)
def test_keeping_all_gives_the_model_bit_by_bit(name: str) -> None:
    """The glimpse looks, and neither prompt nor answer shows that it did."""
    family = families.build(name)
    inputs = prompt(family)
    plain, _, before = answers(family, inputs, None)
    seen, trace, cache = answers(family, inputs, method(threshold=0.0))
    assert torch.equal(plain, seen)
    assert [layer.keys.shape for layer in cache.layers] == [
        layer.keys.shape for layer in before.layers
    ]
    assert all(sample.entering == [sample.available] * 6 for sample in trace.samples)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_cache_holds_the_kept_tokens_alone(name: str) -> None:
    family = families.build(name)
    inputs = prompt(family)
    _, trace, cache = answers(family, inputs, method(threshold=0.0), "kv:0.3")
    kept = [len(sample.survivors()) for sample in trace.samples]
    assert [sample.cached for sample in trace.samples] == [[count] * 6 for count in kept]
    longest = max(count + sample.text for count, sample in zip(kept, trace.samples, strict=True))
    assert {layer.keys.shape[-2] for layer in cache.layers} == {longest + 3}
    assert all(sample.entering[:4] == [sample.available] * 4 for sample in trace.samples)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_is_pruned_as_its_samples_are(name: str) -> None:
    family = families.build(name)
    questions = [
        ([picture(*family.sizes[0])], "color of 5"),
        ([picture(*family.sizes[1], 1)], "digit on red square"),
    ]
    _, together, _ = answers(family, family.inputs(*questions), method(threshold=0.0), "kv:0.3")
    for row, question in enumerate(questions):
        _, alone, _ = answers(family, family.inputs(question), method(threshold=0.0), "kv:0.3")
        assert together.samples[row].survivors().tolist() == alone.samples[0].survivors().tolist()


def test_several_images_share_one_cap() -> None:
    family = families.build("qwen2_5_vl")
    inputs = family.inputs(
        ([picture(*family.sizes[0]), picture(*family.sizes[1], 1)], "color of 5")
    )
    _, trace, _ = answers(family, inputs, method(threshold=0.0), "kv:0.25")
    sample = trace.samples[0]
    assert len(sample.survivors()) == round(sample.available / 4)


def test_its_weights_are_trained_ones() -> None:
    assert isinstance(method(), Trained)
