"""The two objectives: a CLIP learns to match views and captions, an LVLM to answer; both label what
every token shows.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from prunebench.testbed.batches import LABELS, NO_TARGET, SceneBatch, WordIds, batch
from prunebench.testbed.captions import ViewBatch, view_batch
from prunebench.testbed.learner import Learner
from prunebench.testbed.recipe import ClipRecipe, LvlmRecipe, Recipe
from prunebench.testbed.scenes import KINDS, MINIATURES_STREAM
from prunebench.testbed.tiny_clip import patch_features, pooled
from prunebench.testbed.views import normal

Loss = tuple[Tensor, dict[str, float]]
"""A loss, and figures by name."""

MAX_SCALE = 100.0  # of the similarities, as in CLIP's own training


class Answering:
    """Scenes with packed questions for an LVLM: first its eyes alone, then answers."""

    def __init__(self, learner: Learner, tokenizer: Any, recipe: LvlmRecipe, seed: int) -> None:
        self.learner = learner
        self.tokenizer = tokenizer
        self.recipe = recipe
        self.seed = seed
        self.network = _WithHead(learner.module, learner.feature_width, seed)

    def batch(self, step: int) -> SceneBatch:
        """Scenes of one resolution; no questions in the first stage."""
        recipe, tokenizer = self.recipe, self.tokenizer

        def encode(text: str) -> list[int]:
            return [tokenizer.convert_tokens_to_ids(word) for word in text.split()]

        return batch(
            MINIATURES_STREAM + self.seed,
            step,
            boxes=self.learner.boxes,
            tokens=recipe.tokens,
            questions=recipe.questions if step >= recipe.vision_steps else 0,
            colour_keyed=recipe.colour_keyed,
            ids=WordIds(encode, tokenizer.eos_token_id, tokenizer.pad_token_id),
            fine=recipe.fine,
        )

    def loss(self, data: SceneBatch, step: int) -> Loss:
        """Labels of tokens; in the second stage also answers and attention on the evidence."""
        recipe = self.recipe
        features = self.learner.see(data.pixels)
        loss, figures = dense_loss(self.network.head(features).float(), data.labels, recipe)
        if step < recipe.vision_steps:
            return loss, figures
        answers = self.learner.answer(features, data)
        answer_loss, answer_figures = _answer_loss(answers.logits.float(), data)
        attention = answers.attention[:, :, : recipe.evidence_heads]
        evidence_loss, evidence_figures = _evidence_loss(attention, data.evidence)
        loss = recipe.dense * loss + answer_loss + recipe.evidence * evidence_loss
        return loss, figures | answer_figures | evidence_figures


class Matching:
    """Views of scenes with captions for a CLIP."""

    def __init__(self, model: Any, tokenizer: Any, recipe: ClipRecipe, seed: int) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.recipe = recipe
        self.seed = seed
        self.network = _WithHead(model, model.config.vision_config.hidden_size, seed)

    def batch(self, step: int) -> ViewBatch:
        """Thumbnails and tiles of scenes of one resolution."""
        recipe = self.recipe

        def encode(texts: list[str]) -> Tensor:
            ids: Tensor = self.tokenizer(texts, padding=True, return_tensors="pt")["input_ids"]
            return ids

        return view_batch(
            MINIATURES_STREAM + self.seed,
            step,
            images=recipe.aligned_images if self._aligning(step) else recipe.images,
            fine=recipe.fine,
            crowded=recipe.crowded_sizes if step < recipe.crowded_steps else 0,
            encode=encode,
        )

    def loss(self, data: ViewBatch, step: int) -> Loss:
        """Labels of the patches before the last block, and the match of views and captions behind
        it; in the last stage only the match, and of what lies behind the patches.
        """
        model, tower = self.model, self.model.vision_model
        # the last stage leaves the patches alone: the labels' loss is then a mere figure
        with torch.set_grad_enabled(not self._aligning(step)):
            hidden = patch_features(tower, normal(data.views))
            labels = self.network.head(hidden[:, 1:]).float()  # of the patches, not of CLS
            loss, figures = dense_loss(labels, data.labels, self.recipe)
        images = normalize(model.visual_projection(pooled(tower, hidden)), dim=-1)
        mask = data.words != self.tokenizer.pad_token_id
        text_features = model.get_text_features(data.words, attention_mask=mask)
        texts = normalize(text_features.pooler_output, dim=-1)
        scale = model.logit_scale.exp().clamp(max=MAX_SCALE)
        match_loss, match_figures = _match_loss(images @ texts.T * scale, data.true)
        return loss + self.recipe.contrast * match_loss, figures | match_figures

    def _aligning(self, step: int) -> bool:
        """Whether the patches stay as they are."""
        return step >= self.recipe.crowded_steps + self.recipe.vision_steps


class _WithHead(nn.Module):
    """The model being trained and a head that labels its visual tokens, which is left behind
    afterwards.
    """

    def __init__(self, model: nn.Module, width: int, seed: int) -> None:
        super().__init__()
        self.model = model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = nn.Linear(width, sum(LABELS.values()))


def dense_loss(logits: Tensor, labels: Tensor, recipe: Recipe) -> Loss:
    """Labels [B, kinds of labels, N] of all tokens from [B, N, all classes]; accuracies count
    tokens with an object.
    """
    objects = labels[:, 0] > 0
    weights = torch.where(objects, 1.0, recipe.background)
    loss = torch.zeros(())
    figures = {}
    parts = torch.split(logits, list(LABELS.values()), dim=-1)
    for number, (name, part) in enumerate(zip(LABELS, parts, strict=True)):
        label = labels[:, number]
        single = cross_entropy(part.transpose(1, 2), label, reduction="none")
        share = recipe.digit if name == "digit" else 1.0
        loss = loss + share * (single * weights).sum() / weights.sum()
        right = part.argmax(-1) == label
        figures[f"see_{name}"] = float(right[objects].float().mean())
    return loss, {"dense_loss": float(loss.detach()), **figures}


def _answer_loss(logits: Tensor, data: SceneBatch) -> Loss:
    """Loss of [B, Q, WORDS, V] logits on the answer word and the end; accuracies are those of the
    answer word.
    """
    loss = cross_entropy(logits.flatten(0, 2), data.targets.flatten(), ignore_index=NO_TARGET)
    right = logits.argmax(-1) == data.targets
    # [B, Q]: at the place that foretells the answer word
    right = right.gather(2, data.last.unsqueeze(2)).squeeze(2)
    figures = {"answer_loss": float(loss.detach())}
    for number, kind in enumerate(KINDS):
        hits = right[data.kinds == number]
        if len(hits):
            figures[kind] = float(hits.float().mean())
    return loss, figures


def _evidence_loss(attention: Tensor, evidence: Tensor) -> Loss:
    """-log of the attention [B, Q, heads, N] that falls on the evidence [B, Q, N], over the
    questions that have any.
    """
    mass = (attention * evidence.unsqueeze(2)).sum(-1)
    mass = mass[evidence.any(-1)]
    loss = -(mass + 1e-4).log().mean()
    return loss, {"evidence_mass": float(mass.detach().mean())}


def _match_loss(similarity: Tensor, true: Tensor) -> Loss:
    """Contrastive loss, both ways, of [V, V] scaled similarities; pairs that are `true` beside a
    view's own do not count.
    """
    own = torch.arange(len(similarity))
    others = own != own[:, None]
    similarity = similarity.masked_fill(true & others, float("-inf"))
    by_view = cross_entropy(similarity, own)
    by_caption = cross_entropy(similarity.T, own)
    loss = (by_view + by_caption) / 2
    share = (similarity.argmax(1) == own).float().mean()
    return loss, {"match_loss": float(loss.detach()), "match": float(share)}
