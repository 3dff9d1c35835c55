"""Reinforce: tune a model's language layers, through a low-rank adapter, to answer from the tokens of the evidence alone.

The first stage of GlimpsePrune+ (arXiv 2508.01548): groups of sampled answers, rewards compared within a group, a penalty
for leaving the untuned model. Adapters are peft's, through transformers; the loop is ours, for trl's trainers generate and
score without hooks, and here both have to run on a pruned cache.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from prunebench.budget import Budget, Stage
from prunebench.engine.aside import aside
from prunebench.engine.lora import PREFIX
from prunebench.engine.session import prune
from prunebench.engine.stream import Stream
from prunebench.models import Loaded
from prunebench.pruner import Pruner
from prunebench.sites import Site, llm
from prunebench.tokens import Keep, VisualTokens
from prunebench.training.data import Lesson, TrainingData
from prunebench.training.examples import Frozen, inputs_of, layouts_of, target
from prunebench.training.loop import Plan, append, resume, save

Reward = Callable[[Lesson, str], float]
"""How good an answer is, 0..1; a judge is any such function."""


def exact_match(lesson: Lesson, answer: str) -> float:
    """1 for the reference answer, upper and lower case alike."""
    return float(answer.strip().lower() == lesson.answer.strip().lower())


@dataclass(frozen=True)
class Tuning:
    """The settings of the tuning; defaults are the paper's, but for `steps` and `batch`.

    `layer` is the one behind which everything but the evidence is dropped, `group` the answers sampled a question.
    """

    layer: int
    steps: int = 200
    batch: int = 4
    group: int = 4
    rank: int = 32
    alpha: int = 64
    dropout: float = 0.05
    learning_rate: float = 1e-4
    warmup: float = 0.1
    penalty: float = 0.04
    temperature: float = 1.0
    max_new_tokens: int = 8
    seed: int = 0
    held_out: int = 200


@dataclass(frozen=True)
class Evidence(Pruner):
    """Keeps the tokens that show the evidence, which `targets`, one a sample, name; no method, but what tuning prunes by."""

    layer: int = 0
    targets: tuple[Tensor, ...] = ()
    dynamic: ClassVar[bool] = True

    def site(self) -> Site:
        return llm(self.layer + 1)

    def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
        return (Stage(self.site(), available, compact=True),)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        # `seed` numbers the samples: the session hands it through, however often generate repeats a prompt
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
    """Tune and write `out/adapter`, a folder in peft's layout; returns it.

    The run folder also holds `checkpoint.pt`, `log.csv` and `held_out.json`: accuracy on held-out lessons, pruned to the
    evidence, without the adapter and with it. Goes on from its checkpoint. Raises DataError where `out` holds another run.
    """
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    out.mkdir(parents=True, exist_ok=True)
    model, identity = loaded.model, {"model": loaded.id, **asdict(tuning)}
    before = _accuracy(loaded, list(data.held_out(tuning.held_out)), tuning)
    names = {module: name for name, module in model.named_modules()}
    linear = [names[part] for layer in loaded.adapter.layers(model) for part in layer.modules() if isinstance(part, nn.Linear)]
    torch.manual_seed(tuning.seed)
    config = LoraConfig(r=tuning.rank, lora_alpha=tuning.alpha, lora_dropout=tuning.dropout, target_modules=linear)
    model.add_adapter(config)
    learnt = {name: weight for name, weight in model.named_parameters() if "lora_" in name}
    optimizer = torch.optim.AdamW(learnt.values(), lr=tuning.learning_rate, weight_decay=0.0)
    weights, step, seconds = resume(out, identity, optimizer)
    if weights is not None:
        model.load_state_dict(weights, strict=False)
    plan = Plan(tuning.steps, learning_rate=tuning.learning_rate, warmup=tuning.warmup)
    began, saved = time.monotonic() - seconds, time.monotonic()
    while step < tuning.steps:
        for group in optimizer.param_groups:
            group["lr"] = plan.rate(step)
        torch.manual_seed(tuning.seed * 1_000_003 + step)
        figures = _step(loaded, data.batch(step, tuning.batch), tuning, reward, optimizer)
        step += 1
        append(out / "log.csv", {"step": step, "seconds": round(time.monotonic() - began, 1), **figures})
        if step % 10 == 0 or step == tuning.steps:
            progress(step, tuning.steps, figures)
        if time.monotonic() - saved >= checkpoint_seconds or step == tuning.steps:
            save(
                out,
                identity,
                {name: weight.detach() for name, weight in learnt.items()},
                optimizer,
                step,
                time.monotonic() - began,
            )
            saved = time.monotonic()
    model.eval()
    after = _accuracy(loaded, list(data.held_out(tuning.held_out)), tuning)
    figures = {"lessons": tuning.held_out, "untuned": before, "tuned": after}
    (out / "held_out.json").write_text(json.dumps(figures, indent=2) + "\n")
    folder = out / "adapter"
    folder.mkdir(exist_ok=True)
    from safetensors.torch import save_file

    state = get_peft_model_state_dict(model, adapter_name="default")
    named = {f"{PREFIX}{name.removeprefix(PREFIX)}": value.detach().cpu().contiguous() for name, value in state.items()}
    save_file(named, folder / "adapter_model.safetensors")
    config.base_model_name_or_path = loaded.id
    config.save_pretrained(str(folder))
    return folder


def _step(
    loaded: Loaded, lessons: Sequence[Lesson], tuning: Tuning, reward: Reward, optimizer: torch.optim.Optimizer
) -> dict[str, float]:
    """One update from one group of sampled answers a lesson."""
    model, tokenizer = loaded.model, loaded.processor.tokenizer
    inputs = inputs_of(loaded, lessons)
    pruner = _evidence(loaded, inputs, lessons, tuning)
    model.eval()
    with torch.no_grad(), prune(model, pruner, seeds=range(len(lessons))):
        made = model.generate(
            **inputs,
            do_sample=True,
            temperature=tuning.temperature,
            top_k=0,
            top_p=1.0,
            num_return_sequences=tuning.group,
            max_new_tokens=tuning.max_new_tokens,
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        )
    answers = made[:, inputs["input_ids"].shape[1] :]
    texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
    rewards = torch.tensor([reward(lessons[row // tuning.group], text) for row, text in enumerate(texts)])
    grouped = rewards.view(len(lessons), tuning.group)
    advantages = ((grouped - grouped.mean(1, keepdim=True)) / (grouped.std(1, keepdim=True) + 1e-4)).flatten()
    counts = _lengths(answers, tokenizer.eos_token_id)
    model.train()
    policy = _log_probabilities(loaded, inputs, pruner, answers, tuning)
    with torch.no_grad(), _untuned(model):
        reference = _log_probabilities(loaded, inputs, pruner, answers, tuning)
    real = torch.arange(answers.shape[1], device=answers.device) < counts[:, None]
    # one update a rollout: the ratio is 1, and only its gradient matters
    ratio = (policy - policy.detach()).exp()
    away = (reference - policy).exp() - (reference - policy) - 1
    loss = ((-ratio * advantages[:, None].to(ratio) + tuning.penalty * away) * real).sum(1) / counts
    optimizer.zero_grad(set_to_none=True)
    loss.mean().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    model.eval()
    return {
        "reward": float(rewards.mean()),
        "loss": float(loss.detach().mean()),
        "kl": float((away.detach() * real).sum() / real.sum()),
    }


def _log_probabilities(loaded: Loaded, inputs: dict[str, Any], pruner: Evidence, answers: Tensor, tuning: Tuning) -> Tensor:
    """[rows, T] log probability of every token of the answers, each behind the pruned prompt, as generation saw it."""
    model, parts, group = loaded.model, loaded.adapter, tuning.group
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
        logits = torch.cat([first, model.get_output_embeddings()(decoder.norm(hidden)).float()], dim=1)
    found: Tensor = logits.log_softmax(-1).gather(-1, answers[..., None])[..., 0]
    return found


def _repeated(cache: Any, rows: Tensor) -> Any:
    """The cache with its samples repeated, gradients kept."""
    for part in cache.layers:
        part.keys, part.values = part.keys[rows], part.values[rows]
    return cache


def _evidence(loaded: Loaded, inputs: dict[str, Any], lessons: Sequence[Lesson], tuning: Tuning) -> Evidence:
    layouts = layouts_of(loaded, inputs, lessons)
    return Evidence(tuning.layer, tuple(target(layout, lesson) for layout, lesson in zip(layouts, lessons, strict=True)))


@torch.no_grad()
def _accuracy(loaded: Loaded, lessons: Sequence[Lesson], tuning: Tuning) -> float:
    """The share of exact answers, greedy, pruned to the evidence."""
    right = 0.0
    for lesson in lessons:
        inputs = inputs_of(loaded, [lesson])
        with prune(loaded.model, _evidence(loaded, inputs, [lesson], tuning), seeds=[0]):
            made = loaded.model.generate(**inputs, do_sample=False, max_new_tokens=tuning.max_new_tokens)
        text = loaded.processor.tokenizer.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        right += exact_match(lesson, text)
    return round(right / max(1, len(lessons)), 4)


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
