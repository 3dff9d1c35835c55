"""A low-rank adapter is worn as peft wears it, on whatever weights; one that is not whole or not
served is named.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from conftest import miniature, picture
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import linear

from prunebench.engine.lora import tuned
from prunebench.models import LoadError
from prunebench.models.base import Unsupported

SHORT = ["q_proj", "v_proj", "down_proj"]


@pytest.fixture(scope="module")
def inputs(inputs_of: Any) -> dict[str, Any]:
    return dict(inputs_of(([picture(112, 84)], "color of 5")))


def adapter(folder: Path, **settings: Any) -> Any:
    """Write an adapter that changes something; returns peft's own model with it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = peft.get_peft_model(
            miniature(), peft.LoraConfig(**{"r": 4, "target_modules": SHORT, **settings})
        ).eval()
        with torch.no_grad():
            for name, weight in made.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.2)
    made.save_pretrained(str(folder))
    return made


def logits(model: Any, inputs: dict[str, Any], folder: Path | None = None) -> Tensor:
    with torch.no_grad(), tuned(model, folder):
        return model(**inputs).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True, "lora_alpha": 3},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.self_attn.v_proj": 40}},
        {"target_modules": r".*language_model.*\.(o_proj|up_proj)"},
        {"layers_to_transform": [1, 3], "layers_pattern": "layers"},
        {"exclude_modules": ["language_model.layers.0.self_attn.q_proj"]},
        {"target_modules": "all-linear"},
    ],
    ids=lambda settings: ", ".join(settings) or "plain",
)
def test_an_adapter_is_worn_as_peft_wears_it(
    tmp_path: Path, inputs: dict[str, Any], settings: dict[str, Any]
) -> None:
    worn = adapter(tmp_path, **settings)
    model = miniature()
    plain = logits(model, inputs)
    got = logits(model, inputs, tmp_path)
    with torch.no_grad():
        want = worn(**inputs).logits
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
    assert (got - plain).abs().max() > 1e-2
    assert torch.equal(logits(model, inputs), plain)


def offloaded(model: Any) -> Any:
    from accelerate import cpu_offload

    return cpu_offload(model, execution_device=torch.device("cpu"))


class Quantised(nn.Module):
    """A linear layer whose weights are whole numbers, which no change could be added to."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bias = (
            layer.in_features,
            layer.out_features,
            layer.bias,
        )
        self.scale = float(layer.weight.abs().max()) / 127
        self.register_buffer("weight", (layer.weight.detach() / self.scale).round().to(torch.int8))

    def forward(self, rows: Tensor) -> Tensor:
        weight: Any = self.weight
        return linear(rows, weight.to(rows.dtype) * self.scale, self.bias)


def quantised(model: Any) -> Any:
    for part in list(model.get_decoder().modules()):
        for name, layer in part.named_children():
            if isinstance(layer, nn.Linear):
                setattr(part, name, Quantised(layer))
    return model


def small(model: Any) -> Any:
    """Weights so coarse that the adapter's change would be rounded away."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.mul(64).round().div(64))
    return model


@pytest.mark.parametrize("change", [offloaded, quantised, small])
def test_weights_are_never_touched(
    tmp_path: Path, inputs: dict[str, Any], change: Callable[[Any], Any]
) -> None:
    """What the adapter adds is the same wherever and however the weights are kept."""
    adapter(tmp_path)
    model = change(miniature())
    modules = dict(model.named_modules())
    name = "model.language_model.layers.1.mlp.down_proj"
    rows: list[tuple[Tensor, Tensor]] = []
    layer = modules[name]
    handle = layer.register_forward_hook(lambda _, args, output: rows.append((args[0], output)))
    plain = logits(model, inputs)
    rows.clear()
    worn = logits(model, inputs, tmp_path)
    handle.remove()
    ((entered, before_term),) = rows
    late: list[Tensor] = []
    with torch.no_grad(), tuned(model, tmp_path):
        handle = layer.register_forward_hook(lambda _, __, output: late.append(output))
        model(**inputs)
        handle.remove()
    state = load_file(tmp_path / "adapter_model.safetensors")
    down, up = (state[f"base_model.model.{name}.lora_{half}.weight"] for half in "AB")
    torch.testing.assert_close(
        late[0] - before_term, entered @ down.T @ up.T * 2, atol=1e-3, rtol=1e-3
    )
    assert (worn - plain).abs().max() > 1e-2


def test_a_half_precision_layer_rounds_once(tmp_path: Path, inputs: dict[str, Any]) -> None:
    adapter(tmp_path)
    model = miniature().bfloat16()
    half = {
        name: value.bfloat16() if value.is_floating_point() else value
        for name, value in inputs.items()
    }
    worn, plain = logits(model, half, tmp_path), logits(model, half)
    assert worn.dtype == torch.bfloat16
    assert (worn - plain).abs().max() > 0.1
    assert all(weight.dtype == torch.bfloat16 for weight in model.parameters())


def test_a_copy_made_inside_wears_nothing(tmp_path: Path, inputs: dict[str, Any]) -> None:
    adapter(tmp_path)
    model = miniature()
    plain = logits(model, inputs)
    with tuned(model, tmp_path):
        twin = copy.deepcopy(model)
    assert torch.equal(logits(twin, inputs), plain)


def edited(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    state = load_file(folder / "adapter_model.safetensors")
    change(state)
    save_file(state, folder / "adapter_model.safetensors")


def name_of(state: dict[str, Tensor], half: str = "A") -> str:
    return next(name for name in sorted(state) if f"lora_{half}" in name and "language" in name)


DAMAGES: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "half gone": (lambda s: s.pop(name_of(s, "B")), r"missing tensors: \S+lora_B\.weight"),
    "a layer gone": (
        lambda s: [s.pop(n) for n in list(s) if "layers.2.mlp.down_proj" in n],
        r"missing tensors: \S+layers\.2\.mlp",
    ),
    "all gone": (lambda s: s.clear(), "missing tensors.*more"),
    "one too many": (lambda s: s.update(extra=torch.ones(2)), "unexpected tensors: extra"),
    "dora": (
        lambda s: s.update({"base_model.model.x.lora_magnitude_vector": torch.ones(2)}),
        "unexpected tensors",
    ),
    "a layer of no target": (
        lambda s: s.update({name_of(s).replace("down_proj", "up_proj"): torch.ones(4, 80)}),
        "unexpected tensors: .*up_proj",
    ),
    "another rank": (
        lambda s: s.update({name_of(s): s[name_of(s)][:2].clone()}),
        r"does not fit \S+: lora_A is \[2, ",
    ),
    "another width": (
        lambda s: s.update({name_of(s, "B"): torch.ones(3, 4)}),
        r"does not fit \S+: lora_B is \[3, 4\]",
    ),
    "nan": (lambda s: s[name_of(s)].fill_(float("nan")), "holds NaN or infinity"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_adapter_that_is_not_whole_is_named(tmp_path: Path, damage: str) -> None:
    adapter(tmp_path)
    change, message = DAMAGES[damage]
    edited(tmp_path, change)
    with pytest.raises(LoadError, match=message) as error, tuned(miniature(), tmp_path):
        pass
    assert len(str(error.value)) <= 300


def test_an_adapter_of_another_model_is_unsupported(tmp_path: Path) -> None:
    adapter(tmp_path)
    edited(
        tmp_path,
        lambda state: state.update(
            {"base_model.model.other.q_proj.lora_A.weight": torch.ones(4, 2)}
        ),
    )
    with pytest.raises(Unsupported, match=r"changes other\.q_proj"), tuned(miniature(), tmp_path):
        pass


@pytest.mark.parametrize(
    ("setting", "error", "message"),
    [
        ({"use_dora": True}, Unsupported, "use_dora=True"),
        ({"bias": "all"}, Unsupported, "bias='all'"),
        ({"lora_bias": True}, Unsupported, "lora_bias"),
        ({"modules_to_save": ["lm_head"]}, Unsupported, "modules_to_save"),
        ({"fan_in_fan_out": True}, Unsupported, "fan_in_fan_out"),
        ({"init_lora_weights": "pissa"}, Unsupported, "init_lora_weights='pissa'"),
        ({"a_setting_of_tomorrow": 1}, Unsupported, "a_setting_of_tomorrow"),
        ({"peft_type": "LOHA"}, Unsupported, "LOHA adapter"),
        ({"r": 0}, LoadError, "does not say r"),
        ({"r": "four"}, LoadError, "is damaged"),
        ({"lora_alpha": float("inf")}, LoadError, "is damaged"),
        ({"target_modules": "(["}, LoadError, "is damaged"),
        ({"target_modules": ["nowhere"]}, LoadError, "unexpected tensors"),
        ({"rank_pattern": [1]}, LoadError, "is damaged"),
    ],
    ids=str,
)
def test_settings_are_honoured_or_refused(
    tmp_path: Path, setting: dict[str, Any], error: Any, message: str
) -> None:
    adapter(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **setting}))
    with pytest.raises(error, match=message), tuned(miniature(), tmp_path):
        pass


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 100_000])
def test_a_configuration_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    adapter(tmp_path)
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(Unsupported, match="holds"), tuned(miniature(), tmp_path):
        pass
