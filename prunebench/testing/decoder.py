"""Decoder: the tiny language model that a vector brings, with a method at work in it through the
engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from prunebench.budget import Stage
from prunebench.pruner import Pruner
from prunebench.signals import Signal
from prunebench.testing.vectors import Vector, VerifyError
from prunebench.tokens import Keep, Layout, VisualTokens

WEIGHTS = "llm."
"""What the names of the language model's weights begin with."""


@dataclass(frozen=True)
class Decoder:
    """A language model and the prompt that it reads.

    `embeds` [n, D] are the prompt's, `image` [N] the positions of its visual tokens, `position_ids`
    [3, n] those of multimodal rotary embeddings, None where the model counts them itself. `signals`
    are what a method needs and a bare decoder cannot give.
    """

    model: nn.Module
    embeds: Tensor
    image: Tensor
    position_ids: Tensor | None = None
    signals: Mapping[Signal, Any] | None = None

    @classmethod
    def read(cls, vector: Vector, signals: Mapping[Signal, Any] | None = None) -> Decoder | None:
        """The decoder of a vector, None where it has none."""
        if "llm_config" not in vector.meta or "input_embeds" not in vector.tensors:
            return None
        tensors = vector.tensors
        positions = tensors.get("prompt_position_ids")
        return cls(_model(vector), tensors["input_embeds"], vector.image(), positions, signals)

    def answers(self, pruner: Pruner, stages: Sequence[Stage], layout: Layout) -> dict[str, Tensor]:
        """What is left of the prompt behind one prefill, and the values that led there, by the
        names of the vectors.
        """
        from prunebench.engine.session import prune_embeds

        visual = torch.zeros(1, len(self.embeds), dtype=torch.bool)
        visual[:, self.image] = True
        positions: dict[str, Tensor] = {}
        if self.position_ids is not None:
            # [3, 1, n]: a batch of one
            positions["position_ids"] = self.position_ids[:, None]
        seen_stages: list[tuple[VisualTokens, Stage]] = []
        observer = _noting(pruner, seen_stages)
        pruning = prune_embeds(
            self.model,
            observer,
            visual=visual,
            layouts=[layout],
            plan=tuple(stages),
            signals=[self.signals or {}],
        )
        with torch.no_grad(), pruning as trace:
            out = self.model(inputs_embeds=self.embeds[None], use_cache=True, **positions)
        sample = trace.samples[0]
        lengths = [layer.keys.shape[-2] for layer in out.past_key_values.layers]
        places = trace.positions[-1]
        named = {
            "keep": sample.survivors(),
            "kv_lengths": torch.tensor(lengths),
            "llm_output": out.last_hidden_state[0],
            # of four axes the first is the text's own, which the vectors do not have
            "position_ids": places[-3:, 0] if places.dim() == 3 else places[0],
        }
        for number, stage in enumerate(stages):
            named[f"stage{number}.keep"] = sample.kept[stage.site]
        # a stage that keeps nothing is not asked, and has nothing to explain
        for tokens, stage in seen_stages:
            values = pruner.explain(tokens, stage)
            for name, value in values.items():
                named[f"stage{stages.index(stage)}.{name}"] = value
            named |= values
        return named


def _noting(pruner: Pruner, seen_stages: list[tuple[VisualTokens, Stage]]) -> Pruner:
    """The same pruner, of a class of its own that notes what each stage is shown."""

    class Noting(type(pruner)):  # type: ignore[misc]  # a base that is known only now
        def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
            seen_stages.append((tokens, stage))
            keep: Keep = super().prune(tokens, stage)
            return keep

    values = {option.name: getattr(pruner, option.name) for option in fields(pruner)}
    noting: Pruner = Noting(**values)
    return noting


def _model(vector: Vector) -> nn.Module:
    """The language model with the vector's weights; raises VerifyError where they do not fit it."""
    from transformers import LlamaConfig, LlamaModel, Qwen2_5_VLTextConfig, Qwen2_5_VLTextModel

    sizes = dict(vector.meta["llm_config"])
    sections = sizes.pop("mrope_section", None)
    rope = {"rope_type": "default", "rope_theta": sizes.pop("rope_theta")}
    sizes |= {
        "rope_parameters": rope,
        # the vectors give embeddings, so the vocabulary is a single unused row
        "vocab_size": 1,
        "bos_token_id": None,
        "eos_token_id": None,
        "attn_implementation": "sdpa",
    }
    model: Any
    if sections is None:
        model = LlamaModel(LlamaConfig(**sizes))
    else:
        rope["mrope_section"] = sections
        del sizes["attention_bias"]  # on queries, keys and values, as this class always has it
        model = Qwen2_5_VLTextModel(Qwen2_5_VLTextConfig(**sizes))
    weights = {
        name.removeprefix(WEIGHTS): tensor
        for name, tensor in vector.tensors.items()
        if name.startswith(WEIGHTS)
    }
    misfit = model.load_state_dict(weights, strict=False)
    if misfit.unexpected_keys or misfit.missing_keys != ["embed_tokens.weight"]:
        raise VerifyError(f"the LLM's weights do not fit: {misfit}")
    return model.eval()  # type: ignore[no-any-return]
