"""The language model's side of a miniature: its settings, and several questions packed behind one
image, each blind to the others.
"""

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
    evidence_layer: int,
) -> Answers:
    """Answers of a stock model (`lm_head` over `model.language_model`) to the questions of a batch.

    `image` [B, P, D] holds all embeddings before the questions: one mark, `tokens` visual tokens,
    perhaps more. `positions` are position ids as the language model takes them; `mask_key` names
    the mask where it takes a dictionary.
    """
    language = model.model.language_model
    scenes, questions, length = batch.words.shape
    prefix = image.shape[1]
    text = language.embed_tokens(batch.words).flatten(1, 2)
    mask = _packed_mask(prefix, questions, length)
    last = prefix + torch.arange(questions) * length + batch.last  # [B, Q]
    attention: list[Tensor] = []

    def look(module: Any, _: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden, rotary = kwargs["hidden_states"], kwargs["position_embeddings"]
        attention.append(_last_word_attention(module, hidden, rotary, last, mask, tokens))

    # the stock kernel gives no weights: they are computed again, for the last words alone
    layer = language.layers[evidence_layer].self_attn
    handle = layer.register_forward_pre_hook(look, with_kwargs=True)
    everyone = mask[None, None].expand(scenes, 1, -1, -1)
    try:
        hidden = language(
            inputs_embeds=torch.cat([image.to(text.dtype), text], dim=1),
            attention_mask=everyone if mask_key is None else {mask_key: everyone},
            position_ids=positions,
            use_cache=False,
        ).last_hidden_state
    finally:
        handle.remove()
    logits: Tensor = model.lm_head(hidden[:, prefix:])
    return Answers(logits.view(scenes, questions, length, -1), attention[0])


def _packed_mask(prefix: int, questions: int, length: int) -> Tensor:
    """[L, L] who may see whom: causal, and of the questions everybody only their own."""
    nobody = torch.full((prefix,), -1)
    owner = torch.cat([nobody, torch.arange(questions).repeat_interleave(length)])
    causal = torch.ones(len(owner), len(owner), dtype=torch.bool).tril()
    everyone_sees = owner[None] == -1
    same_question = owner[None] == owner[:, None]
    return causal & (everyone_sees | same_question)


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


def _last_word_attention(
    module: Any,
    hidden: Tensor,
    rotary: tuple[Tensor, Tensor],
    last: Tensor,
    mask: Tensor,
    tokens: int,
) -> Tensor:
    """[B, Q, heads, N] attention that the rows `last` [B, Q] of a layer pay to the image behind its
    start mark.
    """
    scenes, length, _ = hidden.shape
    query = module.q_proj(hidden).view(scenes, length, -1, module.head_dim).transpose(1, 2)
    key = module.k_proj(hidden).view(scenes, length, -1, module.head_dim).transpose(1, 2)
    query, key = apply_rotary_pos_emb(query, key, *_one_table(module, rotary))
    heads, head_dim = query.shape[1], query.shape[3]
    rows = last[:, None, :, None].expand(-1, heads, -1, head_dim)
    query = query.gather(2, rows)
    key = key.repeat_interleave(module.num_key_value_groups, dim=1)  # one for every query's head
    scores = (query @ key.transpose(2, 3)).float() * module.scaling  # [B, heads, Q, L]
    # [B, 1, Q, L] is the mask of the rows
    scores = scores.masked_fill(~mask[last][:, None], float("-inf"))
    to_image: Tensor = scores.softmax(-1)[..., 1 : 1 + tokens].transpose(1, 2)
    return to_image
