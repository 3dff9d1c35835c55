"""Reinforce: tune a model's language layers, through a low-rank adapter, to answer from the tokens
of the evidence alone.

The first stage of GlimpsePrune+ (arXiv 2508.01548): groups of sampled answers, rewards compared
within a group, a penalty for leaving the untuned model. Adapters are peft's, through transformers;
the loop is ours, for trl's trainers generate and score without hooks, and here both have to run on
a pruned cache.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from prunebench.border.bounds import BoundsError
from prunebench.budget import Budget, Stage
from prunebench.depth import late_layer
from prunebench.engine.behind import aside
from prunebench.engine.lora import PREFIX
from prunebench.engine.session import prune
from prunebench.engine.stream import Stream
from prunebench.learning.checkpoint import Row, Run, open_run
from prunebench.learning.loop import Course, learn, require_number, update
from prunebench.learning.schedule import Tuning
from prunebench.models import Loaded
from prunebench.pruner import Pruner
from prunebench.sites import Site, llm
from prunebench.tokens import Keep, VisualTokens
from prunebench.training.data import Lesson, TrainingData
from prunebench.training.examples import Frozen, inputs_of, layouts_of, target
from prunebench.training.loop import HELD_OUT, WAY_OUT
from prunebench.training.origin import run_identity
from prunebench.training.student import MOST_PARAMETERS, blamed

ADAPTER = "adapter"
"""The folder of a run that holds what was learnt."""

REPORT_EVERY = 10
"""Steps between two reports of progress; the log has every step, for rewards of single steps say
little.
"""

Reward = Callable[[Lesson, str], float]
"""How good an answer is, 0..1; a judge is any such function."""


def exact_match(lesson: Lesson, answer: str) -> float:
    """1 for the reference answer, upper and lower case alike."""
    return float(answer.strip().lower() == lesson.answer.strip().lower())


@dataclass(frozen=True)
class Evidence(Pruner):
    """Keeps the tokens that show the evidence, which `targets`, one a sample, name; no method, but
    what tuning prunes by.
    """

    layer: int = 0
    targets: tuple[Tensor, ...] = ()
    dynamic: ClassVar[bool] = True

    def site(self) -> Site:
        return llm(self.layer + 1)

    def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
        return (Stage(self.site(), available, compact=True),)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        # `seed` numbers the samples: the session hands it through, however often generate repeats a
        # prompt
        return Keep(self.targets[tokens.seed].nonzero()[:, 0])


def reinforce(
    loaded: Loaded,
    data: TrainingData,
    out: Path,
    tuning: Tuning,
    *,
    reward: Reward = exact_match,
    checkpoint_seconds: float = 60.0,
    progress: Callable[[int, int, dict[str, float]], None] = lambda step, steps, figures: None,
) -> Path:
    """Tune and write `out/adapter`, a folder in peft's layout; returns it. The model wears the
    adapter afterwards.

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
    with open_run(out, identity, writes=(HELD_OUT,), folders=(ADAPTER,), way_out=WAY_OUT) as run:
        begin = run.resume(tuning.steps)
        untuned = _accuracy(loaded, data.held_out(tuning.held_out), tuning)
        config = _wear_adapter(loaded, tuning)
        course = _course(loaded, data, tuning, reward)

        def report(row: Row) -> None:
            step = int(row["step"])
            if step % REPORT_EVERY == 0 or step == tuning.steps:
                progress(step, tuning.steps, {name: row[name] for name in ("reward", "loss", "kl")})

        learn(run, course, begin, log_every=1, checkpoint_seconds=checkpoint_seconds, report=report)
        loaded.model.eval()
        tuned = _accuracy(loaded, data.held_out(tuning.held_out), tuning)
        figures = {"lessons": tuned[1], "untuned": untuned[0], "tuned": tuned[0]}
        run.log.rewrite()
        run.write(HELD_OUT, f"{json.dumps(figures, indent=2)}\n".encode())
        return _write_adapter(run, loaded, config)


def _fitted(tuning: Tuning, loaded: Loaded) -> Tuning:
    """The tuning with its layer, checked against the model; raises BoundsError."""
    depth = len(loaded.family.layers(loaded.model))
    layer = late_layer(depth) if tuning.layer < 0 else tuning.layer
    if layer > depth - 2:
        raise BoundsError(
            f"layer is {layer}; of the {depth} layers of {loaded.id} it is one from 0 to {depth - 2}, or -1"
        )
    sides = [(part.in_features, part.out_features) for _, part in _linear(loaded)]
    most = min(min(pair) for pair in sides)
    if tuning.rank > most:
        raise BoundsError(
            f"rank is {tuning.rank}; the smallest matrix of {loaded.id} that is tuned has {most}"
        )
    count = tuning.rank * sum(map(sum, sides))
    if count > MOST_PARAMETERS:
        raise BoundsError(
            f"rank is {tuning.rank}, which makes {count:,} parameters; at most {MOST_PARAMETERS:,} can be trained"
        )
    return replace(tuning, layer=layer)


def _linear(loaded: Loaded) -> list[tuple[str, nn.Linear]]:
    """The matrices of the language layers, by name."""
    inside = {part for layer in loaded.family.layers(loaded.model) for part in layer.modules()}
    return [
        (name, part)
        for name, part in loaded.model.named_modules()
        if isinstance(part, nn.Linear) and part in inside
    ]


def _wear_adapter(loaded: Loaded, tuning: Tuning) -> Any:
    """Give the model a fresh adapter, and return its configuration."""
    from peft import LoraConfig

    torch.manual_seed(tuning.seed)
    config = LoraConfig(
        r=tuning.rank,
        lora_alpha=tuning.alpha,
        lora_dropout=tuning.dropout,
        target_modules=[name for name, _ in _linear(loaded)],
    )
    loaded.model.add_adapter(config)
    return config


def _write_adapter(run: Run, loaded: Loaded, config: Any) -> Path:
    """Put what was learnt in the place of an earlier adapter."""
    from peft.utils import get_peft_model_state_dict
    from safetensors.torch import save_file

    state = get_peft_model_state_dict(loaded.model, adapter_name="default")
    named = {
        f"{PREFIX}{name.removeprefix(PREFIX)}": value.detach().cpu().contiguous()
        for name, value in state.items()
    }
    config.base_model_name_or_path = loaded.id
    with run.replaced(ADAPTER) as folder:
        save_file(named, folder / "adapter_model.safetensors")
        (folder / "adapter_model.safetensors").chmod(
            0o644
        )  # safetensors writes files that only their owner can read
        config.save_pretrained(str(folder))
    return run.folder / ADAPTER


def _course(loaded: Loaded, data: TrainingData, tuning: Tuning, reward: Reward) -> Course:
    """What the run repeats."""
    learnt = {name: weight for name, weight in loaded.model.named_parameters() if "lora_" in name}
    optimizer = torch.optim.AdamW(learnt.values(), lr=tuning.learning_rate, weight_decay=0.0)

    def step(number: int) -> dict[str, float]:
        torch.manual_seed(tuning.seed * 1_000_003 + number)
        lessons = data.batch(number, tuning.batch)
        with blamed("reinforce", f"step {number + 1} on {lessons[0].name}", Evidence):
            loss, figures = _objective(loaded, lessons, tuning, reward)
        require_number(float(loss.detach()), "the loss", number, optimizer)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        update(optimizer, list(learnt.values()), number)
        loaded.model.eval()
        return figures

    return Course(tuning.steps, lambda: learnt, optimizer, tuning.rate, step)


def _objective(
    loaded: Loaded, lessons: Sequence[Lesson], tuning: Tuning, reward: Reward
) -> tuple[Tensor, dict[str, float]]:
    """The loss on one group of sampled answers a lesson, and figures by name."""
    inputs = inputs_of(loaded, lessons)
    pruner = _evidence(loaded, inputs, lessons, tuning)
    answers = _answers(loaded, inputs, pruner, tuning)
    tokenizer = loaded.processor.tokenizer
    texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
    rewards = torch.tensor(
        [float(reward(lessons[row // tuning.group], text)) for row, text in enumerate(texts)]
    )
    grouped = rewards.view(len(lessons), tuning.group)
    advantages = (
        (grouped - grouped.mean(1, keepdim=True)) / (grouped.std(1, keepdim=True) + 1e-4)
    ).flatten()
    counts = _lengths(answers, tokenizer.eos_token_id)
    loaded.model.train()
    policy = _log_probabilities(loaded, inputs, pruner, answers, tuning)
    with torch.no_grad(), _untuned(loaded.model):
        reference = _log_probabilities(loaded, inputs, pruner, answers, tuning)
    real = torch.arange(answers.shape[1], device=answers.device) < counts[:, None]
    # one update a rollout: the ratio is 1, and only its gradient matters
    ratio = (policy - policy.detach()).exp()
    away = (reference - policy).exp() - (reference - policy) - 1
    losses = ((-ratio * advantages[:, None].to(ratio) + tuning.penalty * away) * real).sum(
        1
    ) / counts
    loss = losses.mean()
    return loss, {
        "reward": float(rewards.mean()),
        "loss": float(loss.detach()),
        "kl": float((away.detach() * real).sum() / real.sum()),
    }


@torch.no_grad()
def _answers(loaded: Loaded, inputs: dict[str, Any], pruner: Evidence, tuning: Tuning) -> Tensor:
    """[rows, T] sampled answers, `group` a lesson, padded."""
    model, tokenizer = loaded.model.eval(), loaded.processor.tokenizer
    padding = (
        tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    )
    with prune(model, pruner, seeds=range(len(pruner.targets))):
        sequences: Tensor = model.generate(
            **inputs,
            do_sample=True,
            temperature=tuning.temperature,
            top_k=0,
            top_p=1.0,
            num_return_sequences=tuning.group,
            max_new_tokens=tuning.max_new_tokens,
            pad_token_id=padding,
        )
    return sequences[:, inputs["input_ids"].shape[1] :]


def _log_probabilities(
    loaded: Loaded, inputs: dict[str, Any], pruner: Evidence, answers: Tensor, tuning: Tuning
) -> Tensor:
    """[rows, T] log probability of every token of the answers, each behind the pruned prompt, as
    generation saw it.
    """
    model, parts, group = loaded.model, loaded.family, tuning.group
    frozen = Frozen(loaded)
    with frozen.watching(), prune(model, pruner, seeds=range(len(pruner.targets))) as trace:
        out = model(**inputs, use_cache=True, logits_to_keep=1)
    visual = parts.visual(model, inputs["input_ids"])
    mask = inputs.get("attention_mask")
    whole = Stream.of_prompt(visual.shape[0], visual.shape[1], mask)
    source = []
    for row, sample in enumerate(trace.samples):
        alive = torch.zeros_like(visual[row])
        alive[visual[row].nonzero()[:, 0][sample.survivors()]] = True
        source.append(whole.source[row][(alive | ~visual[row])[whole.source[row]]])
    live = whole.narrowed(source)
    rows = torch.arange(len(source), device=answers.device).repeat_interleave(group)
    cache = _repeated(out.past_key_values, rows)
    stream = Stream(tuple(live.source[row] for row in rows.tolist()), live.width)
    read = model.get_input_embeddings()(answers[:, :-1])
    steps = torch.arange(1, read.shape[1] + 1, device=read.device)
    depth = len(parts.layers(model))
    ids = frozen.ids[..., -1:].expand(*frozen.ids.shape[:-2], visual.shape[0], 1)
    first = out.logits[rows, -1:].float()
    logits = first
    if read.shape[1]:
        hidden, _ = aside(
            parts,
            model,
            read,
            added=read.new_zeros(depth, read.shape[-1]),
            ids=ids.index_select(-2, rows) + steps,
            streams=[stream] * depth,
            cache=cache,
            kwargs=frozen.kwargs,
            watched=None,
        )
        decoder: Any = parts.decoder(model)
        logits = torch.cat(
            [first, model.get_output_embeddings()(decoder.norm(hidden)).float()], dim=1
        )
    found: Tensor = logits.log_softmax(-1).gather(-1, answers[..., None])[..., 0]
    return found


def _repeated(cache: Any, rows: Tensor) -> Any:
    """The cache with its samples repeated, gradients kept."""
    for part in cache.layers:
        part.keys, part.values = part.keys[rows], part.values[rows]
    return cache


def _evidence(
    loaded: Loaded, inputs: dict[str, Any], lessons: Sequence[Lesson], tuning: Tuning
) -> Evidence:
    layouts = layouts_of(loaded, inputs, lessons)
    return Evidence(
        tuning.layer,
        tuple(target(layout, lesson) for layout, lesson in zip(layouts, lessons, strict=True)),
    )


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
        with prune(loaded.model, _evidence(loaded, inputs, [lesson], tuning), seeds=[0]):
            sequence = loaded.model.generate(
                **inputs, do_sample=False, max_new_tokens=tuning.max_new_tokens
            )
        answer = sequence[0, inputs["input_ids"].shape[1] :]
        text = loaded.processor.tokenizer.decode(answer, skip_special_tokens=True)
        right, count = right + exact_match(lesson, text), count + 1
    return (round(right / count, 4) if count else None), count


@contextmanager
def _untuned(model: Any) -> Iterator[None]:
    """The model without its adapter, and without dropout."""
    model.disable_adapters()
    model.eval()
    try:
        yield
    finally:
        model.enable_adapters()


def _lengths(answers: Tensor, end: int) -> Tensor:
    """[rows] tokens up to the first end mark, which counts."""
    ended = (answers == end).int().cumsum(1)
    return ((ended - (answers == end).int()) == 0).sum(1)


__all__ = ["Evidence", "Reward", "Tuning", "exact_match", "reinforce"]
