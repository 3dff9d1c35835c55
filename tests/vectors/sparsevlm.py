"""SparseVLM's vectors: embeddings, and per stage the states and the text's attention; four with a
tiny LLaMA.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from prunebench import INPUT, Signal, Stage, llm
from prunebench.testing.case import Case
from prunebench.testing.decoder import Decoder
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """The input comes first, where the raters are chosen; the vector's stages follow."""
    meta = vector.meta
    pruner = method(layers=(2, 6, 15), depth=17)
    tokens = vector.tokens()
    counts = [sum(pair) for pair in meta["kept_and_merged"]]
    stages = [Stage(INPUT, len(tokens))]
    for layer, count in zip(meta["pruning_layers"], counts, strict=True):
        stages.append(Stage(llm(before=layer + 1), count))

    def observe(
        stage: int, _index: Tensor, features: Tensor
    ) -> tuple[Tensor, Mapping[Signal, Tensor]]:
        if stage == 0:
            return features, {Signal.TEXT_FEATURES: vector.tensors["text_embeds"]}
        states = vector.tensors[f"stage{stage - 1}.features"]
        rows = vector.tensors[f"stage{stage - 1}.llm_attention"]
        return states, {Signal.TEXT_ATTENTION: rows}

    def retold(answers: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return in_its_terms(answers, meta["kept_and_merged"])

    yield Case(pruner, tuple(stages), tokens, observe, Decoder.read(vector), renamed=retold)


def in_its_terms(answers: Mapping[str, Tensor], counts: list[list[int]]) -> dict[str, Tensor]:
    """The answers as the vector gives them: its stages begin behind the input and count places
    among the tokens that enter them, and a merged token is -1.
    """
    names = ("kv_lengths", "llm_output", "scores", "raters", "rater_scores")
    retold = {name: answers[name] for name in names if name in answers}
    if "stage1.scores" not in answers:  # inside the model, which numbers what is left otherwise
        return retold
    output = torch.arange(len(answers["stage1.scores"]))
    for number, (_, merged) in enumerate(counts):
        own = {
            name.removeprefix(f"stage{number + 1}."): answer
            for name, answer in answers.items()
            if name.startswith(f"stage{number + 1}.")
        }
        places = own["kept"].sort().values
        stayed = output[places]
        output = torch.cat([stayed, torch.full((merged,), -1)])
        of_stage = {
            "scores": own["scores"],
            "recycled": own["recycled"],
            "keep": places,
            "merged_features": own["merged"],
            "output_index": output,
        }
        retold |= {f"stage{number}.{name}": answer for name, answer in of_stage.items()}
        retold |= {"keep": stayed[stayed >= 0], "output_index": output, "order": own["kept"]}
    return retold
