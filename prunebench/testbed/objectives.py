"""The two objectives: a CLIP learns to match views and captions, an LVLM to answer; both label what
every token shows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from prunebench.learning.folder import RunError
from prunebench.learning.schedule import stage_of
from prunebench.testbed.batches import LABELS, NO_TARGET, SceneBatch, SceneBatches, Staged, WordIds
from prunebench.testbed.captions import Captions, ViewBatch, ViewBatches
from prunebench.testbed.film_batches import ALL_KINDS, FilmBatches, Mixed
from prunebench.testbed.learner import Learner
from prunebench.testbed.questions import KINDS
from prunebench.testbed.recipe import PLACES, ClipRecipe, FilmRecipe, LvlmRecipe, Recipe
from prunebench.testbed.scenes import MINIATURES_STREAM
from prunebench.testbed.tiny_clip import patch_features, pooled
from prunebench.testbed.views import normal

Loss = tuple[Tensor, dict[str, Tensor]]
"""A loss, and figures by name."""

FROZEN_STAGES = (1, 3)
"""Those in which the eyes stay as they are."""

FINISH_ODD = 0.4
"""Of the scenes of the last stage, those with an odd one."""

MAX_SCALE = 100.0  # of the similarities, as in CLIP's own training


class Answering:
    """Scenes with packed questions for an LVLM: first its eyes alone, then places, then all.

    `kinds` are those that a batch counts.
    """

    def __init__(
        self,
        learner: Learner,
        tokenizer: Any,
        recipe: LvlmRecipe,
        seed: int,
        kinds: tuple[str, ...] = KINDS,
    ) -> None:
        self.learner = learner
        self.recipe = recipe
        self.network = _WithHead(learner.module, learner.feature_width, seed)
        self.kinds = kinds
        self.levels = sorted(set(recipe.levels.values()))
        ids = WordIds(dict(tokenizer.get_vocab()), tokenizer.pad_token_id)
        stream = MINIATURES_STREAM + seed
        every = SceneBatches(
            stream, learner.boxes, recipe.tokens, recipe.questions, ids, recipe.shares, recipe.fine
        )
        every = replace(every, kinds=kinds)
        finish = replace(every, shares=recipe.finish, odd=FINISH_ODD)
        parts = replace(every, questions=1), replace(every, shares=PLACES), every, finish
        self.batch: Callable[[int], Any] = Staged(recipe.stages, parts)
        # where in `levels` the evidence of a kind is read; -1 where nowhere
        numbers = dict(zip(self.levels, range(len(self.levels)), strict=True))
        self._level_of = torch.tensor(
            [numbers.get(recipe.levels.get(kind, -1), -1) for kind in kinds]
        )

    def loss(self, data: SceneBatch, step: int) -> Loss:
        """Labels of tokens; then also answers and attention on the evidence."""
        recipe = self.recipe
        stage = stage_of(step, recipe.stages)
        with torch.set_grad_enabled(stage not in FROZEN_STAGES):
            features = self.learner.see(data.pixels)
            logits = self.network.head(self.learner.tokens(features)).float()
            loss, figures = dense_loss(logits, data.labels, recipe)
        if stage == 0:
            return loss, figures
        answers = self.learner.answer(features, data, self.levels)
        answer_loss, answer_figures = _answer_loss(answers.logits.float(), data, self.kinds)
        attention = answers.attention[..., : recipe.evidence_heads, :]
        level = self._level_of.to(data.kinds.device)[data.kinds]
        evidence_loss, early_loss, mass = evidence_losses(attention, data.evidence, level)
        total = answer_loss + recipe.evidence * evidence_loss + recipe.early * early_loss
        if stage not in FROZEN_STAGES:
            total = total + recipe.dense * loss
        return total, figures | answer_figures | {"evidence_mass": mass}

    def check(self, step: int, figures: Mapping[str, float]) -> None:
        """Places must be known before the rest is worth its time."""
        recipe = self.recipe
        if not recipe.place_steps or step != recipe.vision_steps + recipe.place_steps:
            return
        for kind, least in recipe.gates.items():
            share = figures[kind]
            if share < least:
                raise RunError(
                    f"after {recipe.place_steps} place_steps {kind} is {share:.2f}, below {least}: "
                    "all kinds together would only take its share; give more place_steps"
                )


class AnsweringFilms(Answering):
    """Scenes, clips and pairs in turn, with packed questions, for an LVLM that sees already."""

    def __init__(self, learner: Learner, tokenizer: Any, recipe: FilmRecipe, seed: int) -> None:
        super().__init__(learner, tokenizer, recipe, seed, ALL_KINDS)
        ids = WordIds(dict(tokenizer.get_vocab()), tokenizer.pad_token_id)
        stream = MINIATURES_STREAM + seed
        parts: dict[str, Callable[[int], SceneBatch]] = {"scenes": self.batch}
        for name, shares in (("clips", recipe.clips), ("pairs", recipe.pairs)):
            parts[name] = FilmBatches(
                stream, recipe.tokens, recipe.film_questions, ids, shares, name == "pairs"
            )
        names = list(recipe.media)
        self.batch = Mixed(stream, [parts[name] for name in names], list(recipe.media.values()))


class Matching:
    """Views of scenes with captions for a CLIP."""

    def __init__(self, model: Any, tokenizer: Any, recipe: ClipRecipe, seed: int) -> None:
        self.model = model
        self.recipe = recipe
        self.pad = tokenizer.pad_token_id
        self.network = _WithHead(model, model.config.vision_config.hidden_size, seed)
        stream = MINIATURES_STREAM + seed
        later = ViewBatches(stream, recipe.images, recipe.fine, 0, Captions(tokenizer))
        crowded = replace(later, crowded=recipe.crowded_sizes)
        aligned = replace(later, images=recipe.aligned_images)
        self.batch = Staged(recipe.stages, (crowded, later, aligned))

    def check(self, step: int, figures: Mapping[str, float]) -> None:
        """Nothing has to be reached on the way."""

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
        mask = data.words != self.pad
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
    """Cross-entropy of [B, N, labels] logits with [B, len(LABELS), N] labels, over all classes of
    each kind of label; accuracies are those on objects.
    """
    objects = labels[:, 0] > 0
    weights = torch.where(objects, 1.0, recipe.background)
    total = weights.sum()
    loss = logits.new_zeros(())
    figures = {}
    parts = torch.split(logits, list(LABELS.values()), dim=-1)
    for number, (name, part) in enumerate(zip(LABELS, parts, strict=True)):
        label = labels[:, number]
        single = cross_entropy(part.transpose(1, 2), label, reduction="none")
        share = recipe.digits if name in ("tens", "ones") else 1.0
        loss = loss + share * (single * weights).sum() / total
        right = (part.argmax(-1) == label) & objects
        figures[f"see_{name}"] = right.sum() / objects.sum()
    return loss, {"dense_loss": loss.detach(), **figures}


def _answer_loss(logits: Tensor, data: SceneBatch, names: Sequence[str]) -> Loss:
    """Loss of [B, T, V] logits on the words of the answers and their ends; accuracies are those of
    whole answers, by the `names` of kinds.
    """
    loss = cross_entropy(logits.flatten(0, 1), data.targets.flatten(), ignore_index=NO_TARGET)
    right = logits.argmax(-1) == data.targets
    # an answer has one word or two, whose places are the same then
    hits = right.gather(1, data.ends.flatten(1)).view(data.ends.shape).all(-1)
    kinds = data.kinds.flatten()
    counts = torch.zeros(len(names), device=logits.device).index_add_(
        0, kinds, torch.ones_like(kinds, dtype=torch.float32)
    )
    sums = torch.zeros_like(counts).index_add_(0, kinds, hits.flatten().float())
    shares = sums / counts  # NaN where there is no such question
    return loss, {"answer_loss": loss.detach(), **dict(zip(names, shares.unbind(), strict=True))}


def evidence_losses(
    attention: Tensor, evidence: Tensor, level: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """-log of the attention [levels, B, Q, 2, heads, N] that falls on the evidence [B, Q, N] at the
    `level` [B, Q] of each question, -log of what falls elsewhere at those before it, and the mean
    attention on the evidence.

    Questions without evidence, or whose level is -1, do not count.
    """
    mass = (attention * evidence[None, :, :, None, None]).sum(-1).mean(3)  # of both words
    counts = (evidence.any(-1) & (level >= 0))[None]
    number = torch.arange(len(mass), device=level.device)[:, None, None]
    here, before = (number == level) & counts, (number < level) & counts
    reading = -(mass + 1e-4).log().mean(-1)
    waiting = -(1 - mass + 1e-4).log().mean(-1)
    most = here.sum().clamp(min=1)
    reading_loss = (reading * here).sum() / most
    waiting_loss = (waiting * before).sum() / before.sum().clamp(min=1)
    return reading_loss, waiting_loss, (mass.detach().mean(-1) * here).sum() / most


def _match_loss(similarity: Tensor, true: Tensor) -> Loss:
    """Contrastive loss, both ways, of [V, V] scaled similarities; pairs that are `true` beside a
    view's own do not count.
    """
    own = torch.arange(len(similarity), device=similarity.device)
    others = own != own[:, None]
    similarity = similarity.masked_fill(true & others, float("-inf"))
    by_view = cross_entropy(similarity, own)
    by_caption = cross_entropy(similarity.T, own)
    loss = (by_view + by_caption) / 2
    share = (similarity.argmax(1) == own).float().mean()
    return loss, {"match_loss": loss.detach(), "match": share}
