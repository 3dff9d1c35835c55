"""The language model's side of a miniature: its settings, and several questions packed behind one
image, each blind to the others.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from prunebench.testbed.batches import SceneBatch
from prunebench.testbed.learner import Answers


class LanguageSizes(Protocol):
    """The sizes of a language model."""

    @property
    def layers(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def kv_heads(self) -> int: ...


def language_settings(sizes: LanguageSizes, tokenizer: Any) -> dict[str, Any]:
    """What the configurations of all language models have in common."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": sizes.width,
        "intermediate_size": 3 * sizes.width,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "max_position_embeddings": 4096,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def new_model(kind: Any, config: Any, seed: int) -> Any:
    """A model of that class with random weights, in float32, that answers greedily in few words."""
    # forked: the weights are the seed's, and the caller's own numbers go on as they would
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(config)
    text = config.text_config
    marks = {name: getattr(text, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config.update(**marks, do_sample=False, max_new_tokens=4)
    return model


def answer(
    model: Any,
    image: Tensor,
    tokens: int,
    batch: SceneBatch,
    *,
    positions: Tensor,
    mask_key: str | None,
    layers: Sequence[int],
    **inputs: Any,
) -> Answers:
    """Answers of a stock model (`lm_head` over `model.language_model`) to the questions of a batch.

    `image` [B, P, D] holds all embeddings before the questions: one mark, `tokens` visual tokens,
    perhaps more. `positions` are position ids as the language model takes them, `inputs` what else
    it takes; `mask_key` names the mask where it takes a dictionary. The answers hold the attention
    of `layers`.
    """
    language = model.model.language_model
    prefix = image.shape[1]
    text = language.embed_tokens(batch.words)
    mask = _packed_mask(prefix, batch.owner)
    rows = (prefix + batch.ends).flatten(1)  # [B, 2 Q]
    attention: list[Tensor] = []

    def look(module: Any, _: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden, rotary = kwargs["hidden_states"], kwargs["position_embeddings"]
        attention.append(_attention_of_rows(module, hidden, rotary, rows, mask, tokens))

    with ExitStack() as stack:
        for number in layers:
            # the stock kernel gives no weights: they are computed again, for some words alone
            layer = language.layers[number].self_attn
            stack.callback(layer.register_forward_pre_hook(look, with_kwargs=True).remove)
        hidden = language(
            inputs_embeds=torch.cat([image.to(text.dtype), text], dim=1),
            attention_mask=mask if mask_key is None else {mask_key: mask},
            position_ids=positions,
            use_cache=False,
            **inputs,
        ).last_hidden_state
    logits: Tensor = model.lm_head(hidden[:, prefix:])
    scenes, questions, _ = batch.ends.shape
    shape = scenes, questions, 2, -1, tokens
    return Answers(logits, torch.stack([weights.view(shape) for weights in attention]))


def _packed_mask(prefix: int, owner: Tensor) -> Tensor:
    """[B, 1, L, L] who may see whom: causal, and of the questions everybody only their own.

    `owner` [B, T] numbers the questions of the words behind the prefix.
    """
    whole = torch.cat([owner.new_full((len(owner), prefix), -1), owner], dim=1)
    length = whole.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=owner.device).tril()
    everyone_sees = whole[:, None, :] == -1
    same_question = whole[:, :, None] == whole[:, None, :]
    return (causal & (everyone_sees | same_question))[:, None]


def _one_table(module: Any, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """[B, L, d] tables; older transformers leave those of M-RoPE's three axes [3, B, L, d] to the
    attention to mix.
    """
    if rotary[0].dim() == 3:
        return rotary
    # twice: a table holds every angle for both halves that are rotated
    sections = 2 * list(module.config.rope_parameters["mrope_section"])
    tables = []
    for table in rotary:
        parts = enumerate(torch.split(table, sections, dim=-1))
        tables.append(torch.cat([part[axis % 3] for axis, part in parts], dim=-1))
    cosine, sine = tables
    return cosine, sine


def _attention_of_rows(
    module: Any,
    hidden: Tensor,
    rotary: tuple[Tensor, Tensor],
    rows: Tensor,
    mask: Tensor,
    tokens: int,
) -> Tensor:
    """[B, R, heads, N] attention that the `rows` [B, R] of a layer pay to the image behind its
    start mark.
    """
    scenes, length, width = hidden.shape
    cosine, sine = _one_table(module, rotary)
    here = rows[:, :, None]
    asking = hidden.gather(1, here.expand(-1, -1, width))
    query = module.q_proj(asking).view(scenes, rows.shape[1], -1, module.head_dim)
    key = module.k_proj(hidden).view(scenes, length, -1, module.head_dim)
    if hasattr(module, "q_norm"):
        query, key = module.q_norm(query), module.k_norm(key)
    tables = cosine.expand(scenes, -1, -1), sine.expand(scenes, -1, -1)
    own = [table.gather(1, here.expand(-1, -1, table.shape[2])) for table in tables]
    query, _ = apply_rotary_pos_emb(query.transpose(1, 2), query.transpose(1, 2), *own)
    key, _ = apply_rotary_pos_emb(key.transpose(1, 2), key.transpose(1, 2), *tables)
    key = key.repeat_interleave(module.num_key_value_groups, dim=1)  # one for every query's head
    scores = (query @ key.transpose(2, 3)).float() * module.scaling  # [B, heads, R, L]
    visible = mask[:, 0].gather(1, here.expand(-1, -1, length))[:, None]
    scores = scores.masked_fill(~visible, float("-inf"))
    to_image: Tensor = scores.softmax(-1)[..., 1 : 1 + tokens].transpose(1, 2)
    return to_image
