"""Reinforce: tune a model's language layers, through a low-rank adapter, to answer from the tokens
of the evidence alone.

The first stage of GlimpsePrune+ (arXiv 2508.01548): groups of sampled answers, rewards compared
within a group, a penalty for leaving the untuned model. Adapters are peft's, through transformers;
the loop is ours, for trl's trainers generate and score without hooks, and here both have to run on
a pruned cache.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from prunebench.border.bounds import BoundsError
from prunebench.depth import late_layer
from prunebench.engine.session import prune
from prunebench.learning.loop import (
    Course,
    Figures,
    Pace,
    Progress,
    learn,
    no_progress,
    require_number,
    update,
)
from prunebench.learning.run import open_run
from prunebench.learning.schedule import Tuning
from prunebench.models import Loaded
from prunebench.training import lora
from prunebench.training.batch import inputs_of
from prunebench.training.blame import blamed
from prunebench.training.evidence import Evidence, evidence_of
from prunebench.training.lesson import Lesson, TrainingData
from prunebench.training.loop import HELD_OUT, LORA, WAY_OUT
from prunebench.training.origin import run_identity
from prunebench.training.rollout import lengths, log_probabilities, sampled_answers

PACE = Pace(log_every=1, report_every=10)
"""The log has every step, of which few are reported, for rewards of single steps say little."""

Reward = Callable[[Lesson, str], float]
"""How good an answer is, 0..1; a judge is any such function."""


def exact_match(lesson: Lesson, answer: str) -> float:
    """1 for the reference answer, upper and lower case alike."""
    return float(answer.strip().lower() == lesson.answer.strip().lower())


def reinforce(
    loaded: Loaded,
    data: TrainingData,
    out: Path,
    tuning: Tuning,
    *,
    reward: Reward = exact_match,
    pace: Pace = PACE,
    progress: Progress = no_progress,
) -> Path:
    """Tune and write `out/lora`, a folder in peft's layout; returns it. The model wears the adapter
    afterwards.

    The run folder also holds `checkpoint.pt`, `log.csv` and `held_out.json`: accuracy on held-out
    lessons, pruned to the evidence, without the adapter and with it. A run that was interrupted
    goes on from its checkpoint.

    Raises BoundsError for settings that the model cannot have, RunError where `out` holds another
    run, is in use or cannot be written, and at the first loss, gradient or weight that is no
    number.
    """
    tuning = _fitted(tuning, loaded)
    about = {"reward": getattr(reward, "__qualname__", type(reward).__qualname__)}
    identity = run_identity(loaded, data, tuning, about)
    with open_run(out, identity, writes=(HELD_OUT,), folders=(LORA,), way_out=WAY_OUT) as run:
        begin = run.resume(tuning.steps)
        untuned, _ = _accuracy(loaded, data.held_out(tuning.held_out), tuning)
        config = lora.wear(loaded, tuning)
        learn(run, _course(loaded, data, tuning, reward), begin, pace, progress)
        loaded.model.eval()
        tuned, count = _accuracy(loaded, data.held_out(tuning.held_out), tuning)
        figures = {"lessons": count, "untuned": untuned, "tuned": tuned}
        run.log.rewrite()
        run.write(HELD_OUT, f"{json.dumps(figures, indent=2)}\n".encode())
        with run.replaced(LORA) as folder:
            lora.write(loaded, config, folder)
        return run.folder / LORA


def _fitted(tuning: Tuning, loaded: Loaded) -> Tuning:
    """The tuning with its layer, checked against the model; raises BoundsError."""
    depth = len(loaded.family.layers(loaded.model))
    layer = late_layer(depth) if tuning.layer < 0 else tuning.layer
    if layer > depth - 2:
        rule = f"of the {depth} layers of {loaded.id} it is one from 0 to {depth - 2}, or -1"
        raise BoundsError(f"layer is {layer}; {rule}")
    lora.check_rank(loaded, tuning.rank)
    return replace(tuning, layer=layer)


def _course(loaded: Loaded, data: TrainingData, tuning: Tuning, reward: Reward) -> Course:
    """What the run repeats."""
    weights = lora.weights_of(loaded.model)
    optimizer = torch.optim.AdamW(weights.values(), lr=tuning.learning_rate, weight_decay=0.0)

    def step(number: int) -> Figures:
        # a factor above the most steps there can be: no two seeds share the numbers of a step
        torch.manual_seed(tuning.seed * 1_000_003 + number)  # sampling is the step's own
        lessons = data.batch(number, tuning.batch)
        with blamed("reinforce", f"step {number + 1} on {lessons[0].name}", Evidence):
            loss, figures = _objective(loaded, lessons, tuning, reward)
        require_number(float(loss.detach()), "the loss", number, optimizer)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        update(optimizer, list(weights.values()), number)
        loaded.model.eval()
        return figures

    return Course(
        tuning.steps, lambda: weights, optimizer, lambda number, _: tuning.rate(number), step
    )


def _objective(
    loaded: Loaded, lessons: Sequence[Lesson], tuning: Tuning, reward: Reward
) -> tuple[Tensor, Figures]:
    """The loss on one group of sampled answers a lesson, and figures by name.

    An answer's advantage is its reward less the mean of its group, in deviations of the group. The
    loss of a token is `penalty` times how far the policy is from the untuned model there, less the
    advantage times the ratio of the token's probability to that when it was sampled. Losses are
    averaged over the tokens of an answer, then over the answers.
    """
    inputs = inputs_of(loaded, lessons)
    pruner = evidence_of(loaded, inputs, lessons, tuning.layer)
    answers = sampled_answers(loaded, inputs, pruner, tuning)
    rewards = _rewards(loaded, lessons, answers, reward)
    grouped = rewards.view(len(lessons), tuning.group)
    deviation = grouped.std(1, keepdim=True) + 1e-4  # some of a group are equally good
    advantages = (grouped - grouped.mean(1, keepdim=True)) / deviation
    advantages = advantages.flatten()
    counts = lengths(answers, loaded.processor.tokenizer.eos_token_id)
    loaded.model.train()
    policy = log_probabilities(loaded, inputs, pruner, answers, tuning.group)
    with torch.no_grad(), lora.unworn(loaded.model):
        reference = log_probabilities(loaded, inputs, pruner, answers, tuning.group)
    places = torch.arange(answers.shape[1], device=answers.device)
    real = places < counts[:, None]
    # one update a rollout: the ratio is 1, and only its gradient matters
    ratio = (policy - policy.detach()).exp()
    gain = ratio * advantages[:, None].to(ratio)
    # how far the policy went from the untuned model, never below 0 at any token
    difference = reference - policy
    away = difference.exp() - difference - 1
    losses = (tuning.penalty * away - gain) * real
    loss = (losses.sum(1) / counts).mean()
    mean_away = (away.detach() * real).sum() / real.sum()
    return loss, {
        "reward": float(rewards.mean()),
        "loss": float(loss.detach()),
        "kl": float(mean_away),
    }


def _rewards(loaded: Loaded, lessons: Sequence[Lesson], answers: Tensor, reward: Reward) -> Tensor:
    """[rows] how good each answer [rows, T] is, as many a lesson."""
    texts = loaded.processor.tokenizer.batch_decode(answers, skip_special_tokens=True)
    group = len(texts) // len(lessons)
    values = []
    for row, text in enumerate(texts):
        lesson = lessons[row // group]
        values.append(float(reward(lesson, text)))
    return torch.tensor(values)


@torch.no_grad()
def _accuracy(
    loaded: Loaded, lessons: Iterable[Lesson], tuning: Tuning
) -> tuple[float | None, int]:
    """The share of exact answers, greedy, pruned to the evidence, of how many lessons; None of
    none.
    """
    right, count = 0.0, 0
    for lesson in lessons:
        inputs = inputs_of(loaded, [lesson])
        pruner = evidence_of(loaded, inputs, [lesson], tuning.layer)
        with prune(loaded.model, pruner, seeds=[0]):
            sequence = loaded.model.generate(
                **inputs, do_sample=False, max_new_tokens=tuning.max_new_tokens
            )
        answer = sequence[0, inputs["input_ids"].shape[1] :]
        text = loaded.processor.tokenizer.decode(answer, skip_special_tokens=True)
        right += exact_match(lesson, text)
        count += 1
    return (round(right / count, 4) if count else None), count


__all__ = ["Evidence", "Reward", "Tuning", "exact_match", "reinforce"]
