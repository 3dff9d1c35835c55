"""The two lessons: a CLIP learns to match views and captions, an LVLM to answer; both label what
every token shows.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from prunebench.testbed.batches import LABELS, NO_TARGET, SceneBatch, batch
from prunebench.testbed.captions import ViewBatch, view_batch
from prunebench.testbed.learner import Learner
from prunebench.testbed.recipe import TRAINING_STREAM, ClipRecipe, Recipe, Schedule
from prunebench.testbed.scenes import KINDS
from prunebench.testbed.tiny_clip import patch_features, pooled
from prunebench.testbed.views import normal

MAX_SCALE = 100.0  # of the similarities, as in CLIP's own training


class Answering:
    """Scenes with packed questions for an LVLM: first its eyes alone, then answers."""

    def __init__(self, learner: Learner, tokenizer: Any, recipe: Recipe, seed: int) -> None:
        self.learner, self.tokenizer, self.recipe, self.seed = learner, tokenizer, recipe, seed
        self.student = _Student(learner.module, learner.feature_width, seed)

    def batch(self, step: int) -> SceneBatch:
        """Scenes of one resolution; no questions in the first stage."""
        recipe, tokenizer = self.recipe, self.tokenizer
        return batch(
            TRAINING_STREAM + self.seed,
            step,
            boxes=self.learner.boxes,
            tokens=recipe.tokens,
            questions=recipe.questions if step >= recipe.vision_steps else 0,
            colour_keyed=recipe.colour_keyed,
            encode=lambda text: list(map(tokenizer.convert_tokens_to_ids, text.split())),
            end=tokenizer.eos_token_id,
            pad=tokenizer.pad_token_id,
            fine=recipe.fine,
        )

    def loss(self, data: SceneBatch, step: int) -> tuple[Tensor, dict[str, float]]:
        """Labels of tokens; in the second stage also answers and attention on the evidence."""
        recipe = self.recipe
        features = self.learner.see(data.pixels)
        loss, figures = dense_loss(self.student.head(features).float(), data.labels, recipe)
        if step >= recipe.vision_steps:
            answers = self.learner.answer(features, data)
            told, more = _answer_loss(answers.logits.float(), data)
            found, attended = _evidence_loss(
                answers.attention[:, :, : recipe.evidence_heads], data.evidence
            )
            loss = recipe.dense * loss + told + recipe.evidence * found
            figures |= more | attended
        return loss, figures


class Matching:
    """Views of scenes with captions for a CLIP."""

    def __init__(self, model: Any, tokenizer: Any, recipe: ClipRecipe, seed: int) -> None:
        self.model, self.tokenizer, self.recipe, self.seed = model, tokenizer, recipe, seed
        self.student = _Student(model, model.config.vision_config.hidden_size, seed)

    def batch(self, step: int) -> ViewBatch:
        """Thumbnails and tiles of scenes of one resolution."""
        return view_batch(
            TRAINING_STREAM + self.seed,
            step,
            images=self.recipe.aligned_images if self._aligning(step) else self.recipe.images,
            fine=self.recipe.fine,
            crowded=self.recipe.crowded_sizes if step < self.recipe.crowded_steps else 0,
            encode=lambda texts: self.tokenizer(texts, padding=True, return_tensors="pt")[
                "input_ids"
            ],
        )

    def loss(self, data: ViewBatch, step: int) -> tuple[Tensor, dict[str, float]]:
        """Labels of the patches before the last block, and the match of views and captions behind
        it; in the last stage only the match, and of what lies behind the patches.
        """
        model, tower = self.model, self.model.vision_model
        with torch.set_grad_enabled(not self._aligning(step)):
            hidden = patch_features(tower, normal(data.views))
            loss, figures = dense_loss(
                self.student.head(hidden[:, 1:]).float(), data.labels, self.recipe
            )
        seen = normalize(model.visual_projection(pooled(tower, hidden)), dim=-1)
        mask = data.words != self.tokenizer.pad_token_id
        read = normalize(
            model.get_text_features(data.words, attention_mask=mask).pooler_output, dim=-1
        )
        matched, more = _match_loss(
            seen @ read.T * model.logit_scale.exp().clamp(max=MAX_SCALE), data.true
        )
        return loss + self.recipe.contrast * matched, figures | more

    def _aligning(self, step: int) -> bool:
        """Whether the patches stay as they are."""
        return step >= self.recipe.crowded_steps + self.recipe.vision_steps


class _Student(nn.Module):
    """The model being trained and the head that labels its visual tokens, which is left behind
    afterwards.
    """

    def __init__(self, model: nn.Module, width: int, seed: int) -> None:
        super().__init__()
        self.model = model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = nn.Linear(width, sum(LABELS.values()))


def dense_loss(logits: Tensor, labels: Tensor, recipe: Schedule) -> tuple[Tensor, dict[str, float]]:
    """Labels [B, kinds of labels, N] of all tokens from [B, N, all classes]; accuracies count
    tokens with an object.
    """
    weights = torch.where(labels[:, 0] > 0, 1.0, recipe.background)
    loss, figures = torch.zeros(()), {}
    for number, (name, part) in enumerate(
        zip(LABELS, torch.split(logits, list(LABELS.values()), dim=-1), strict=True)
    ):
        single = cross_entropy(part.transpose(1, 2), labels[:, number], reduction="none")
        loss = (
            loss
            + (recipe.digit if name == "digit" else 1.0) * (single * weights).sum() / weights.sum()
        )
        figures[f"see_{name}"] = float(
            (part.argmax(-1) == labels[:, number])[labels[:, 0] > 0].float().mean()
        )
    return loss, {"dense_loss": float(loss.detach()), **figures}


def _answer_loss(logits: Tensor, data: SceneBatch) -> tuple[Tensor, dict[str, float]]:
    """Loss of [B, Q, WORDS, V] logits on the answer word and the end; accuracies are those of the
    answer word.
    """
    loss = cross_entropy(logits.flatten(0, 2), data.targets.flatten(), ignore_index=NO_TARGET)
    right = (logits.argmax(-1) == data.targets).gather(2, data.last.unsqueeze(2)).squeeze(2)
    by_kind = {kind: right[data.kinds == number] for number, kind in enumerate(KINDS)}
    return loss, {"answer_loss": float(loss.detach())} | {
        kind: float(hits.float().mean()) for kind, hits in by_kind.items() if len(hits)
    }


def _evidence_loss(attention: Tensor, evidence: Tensor) -> tuple[Tensor, dict[str, float]]:
    """-log of the attention [B, Q, heads, N] that falls on the evidence [B, Q, N], over the questions that have any."""
    mass = (attention * evidence.unsqueeze(2)).sum(-1)[evidence.any(-1)]
    return -(mass + 1e-4).log().mean(), {"evidence_mass": float(mass.detach().mean())}


def _match_loss(similarity: Tensor, true: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Contrastive loss, both ways, of [V, V] scaled similarities; pairs that are `true` beside a
    view's own do not count.
    """
    own = torch.arange(len(similarity))
    similarity = similarity.masked_fill(true & (own != own[:, None]), float("-inf"))
    loss = (cross_entropy(similarity, own) + cross_entropy(similarity.T, own)) / 2
    return loss, {
        "match_loss": float(loss.detach()),
        "match": float((similarity.argmax(1) == own).float().mean()),
    }
