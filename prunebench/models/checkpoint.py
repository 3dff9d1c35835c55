"""Checkpoint: what is looked at before and after transformers loads a model, so that nothing is
filled up in silence.
"""

from __future__ import annotations

import errno
import json
import math
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunebench.border import weights
from prunebench.border.text import message, one_line
from prunebench.models.base import Family, Originals

DEEPEST = 1000
"""Layers beyond which a config.json describes no model: building one would never end."""

SPARE = 250_000_000
"""Parameters, 1 GB as float32, that may be made up before their names are known."""

MEMORY = Path("/proc/meminfo")

SAMPLE = (224, 224)
"""Width and height of the image that is asked about to see whether a processor works."""

_DEPTHS = ("num_hidden_layers", "num_layers", "n_layers", "depth")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_SPENT = ("can't allocate memory", "not enough memory", "out of memory")


class LoadError(ValueError):
    """A model that cannot be found, fetched or read."""


@dataclass(frozen=True)
class Header:
    """What the safetensors files of a folder say that they hold."""

    elements: int
    odd: tuple[str, ...]
    """Names of weights and biases that are stored as anything but real numbers."""


def header(folder: Path, partial: bool = False) -> Header | None:
    """The header of a folder's weights; None where it holds none in safetensors.

    Raises LoadError naming the file that is gone or broken. A `partial` folder, the hub's cache,
    may still get some.
    """
    elements, odd = 0, []
    files = _files(folder, partial)
    for file in files:
        for name, (dtype, shape) in _tensors(file).items():
            elements += torch.Size(shape).numel()
            if not dtype.startswith(("F", "BF")) and name.endswith((".weight", ".bias")):
                odd.append(name)
    return Header(elements, tuple(odd)) if files else None


def check_config(values: Any) -> None:
    """Raises LoadError for the content of a config.json that has no end, or no number where one is
    due.

    This comes before transformers reads it: a list of a billion layers is made there already.
    """
    if not isinstance(values, Mapping):
        raise LoadError(
            "its config.json holds no settings; it starts with { and names a model_type"
        )
    for settings in _nested(values):
        for name in _DEPTHS:
            depth = settings.get(name)
            if isinstance(depth, int) and depth > DEEPEST:
                raise LoadError(
                    f"its config.json gives {name} above {DEEPEST}; no model has that many layers"
                )
        for name, value in settings.items():
            if isinstance(value, float) and math.isnan(value):
                raise LoadError(
                    f"its config.json says that {one_line(str(name), 80)} is NaN; give a number"
                )


def check_size(
    model: nn.Module, stored: Header | None, quantized: bool, dtype: torch.dtype, device: str
) -> None:
    """Compare a model without data with what is stored and with the memory there is.

    transformers makes up the tensors that do not fit before it says so: a wrong size in a
    config.json costs any amount of memory. Raises LoadError.
    """
    due = sum(parameter.numel() for parameter in model.parameters())
    if stored is not None and not quantized:
        if stored.odd:
            names = ", ".join(one_line(name, 70) for name in stored.odd[:2])
            raise LoadError(
                f"its weights are no real numbers ({names}), and its config.json names no quantization"
            )
        # less is not checked here: what is lacking has a name once it is loaded
        if due > 4 * stored.elements + SPARE:
            raise LoadError(
                f"its config.json describes {due:,} parameters, and its weights are {stored.elements:,}"
            )
    room = _available()
    need = due * dtype.itemsize
    if device == "cpu" and not quantized and room is not None and need > room:
        raise LoadError(
            f"not enough memory: {need / 1e9:.1f} GB as {str(dtype).removeprefix('torch.')} and {room / 1e9:.1f} GB are free; "
            "take a smaller model, another dtype or a GPU"
        )


def check_loaded(model: nn.Module, report: Mapping[str, Any]) -> None:
    """Raises LoadError naming tensors that transformers had to make up, did not use, or that are no
    numbers.

    What is legitimate is left out of the report by the model's class: tied weights, buffers that
    are computed, keys of older layouts, heads that the class says it ignores.
    """
    resized = {name: (tuple(stored), tuple(due)) for name, stored, due in report["mismatched_keys"]}
    wrong = weights.misfit(report["missing_keys"], report["unexpected_keys"], resized)
    if wrong is not None:
        raise LoadError(f"its weights do not fit its config.json: they {wrong}")
    if report["error_msgs"]:
        raise LoadError(f"its weights do not load: {one_line(str(report['error_msgs'][0]), 150)}")
    if getattr(model, "_hf_peft_config_loaded", False):
        raise LoadError(
            "it holds a low-rank adapter, not a model; merge it into its base first (peft: merge_and_unload)"
        )
    quantization = getattr(model.config, "quantization_config", None)
    if quantization is not None and getattr(model, "hf_quantizer", None) is None:
        raise LoadError(
            f"its config.json names a quantization that is not known here: {one_line(str(quantization), 100)}"
        )
    broken = weights.non_finite(model.state_dict().items())
    if broken is not None:
        raise LoadError(
            f"tensor {one_line(broken, 100)} has values that are not finite as {_dtype_of(model, broken)}"
        )


def check_processor(processor: Any, model: nn.Module, placeholders: tuple[int, ...]) -> None:
    """Raises LoadError for a processor that lacks a part, or that marks images by another token
    than the model.
    """
    for part in ("tokenizer", "image_processor"):
        if getattr(processor, part, None) is None:
            raise LoadError(
                f"its processor has no {part.replace('_', ' ')}; its files belong into the folder, too"
            )
    if getattr(processor, "chat_template", None) is None:
        raise LoadError(
            "its processor has no chat template, so no question can be put; add its chat_template.jinja"
        )
    marker = getattr(processor, "image_token_id", None)
    if marker is None and isinstance(getattr(processor, "image_token", None), str):
        marker = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    if marker is not None and marker not in placeholders:
        raise LoadError(
            f"its processor marks images with token {marker}, its model with {placeholders[0]}; one of the two is another model's"
        )
    rows = getattr(model.get_input_embeddings(), "num_embeddings", None)  # type: ignore[operator]
    if rows is not None and max(placeholders) >= rows:
        raise LoadError(
            f"its config.json marks images with token {max(placeholders)}, and there are embeddings for {rows}"
        )


def check_prompt(processor: Any, model: nn.Module, family: Family) -> None:
    """Ask about a grey image and look at what the processor makes of it; the model does not run.

    Sizes, grids and templates that do not fit fail here once, not at every sample. Raises
    LoadError.
    """
    from PIL import Image

    question = [{"type": "image"}, {"type": "text", "text": "what is it?"}]
    try:
        text = processor.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True
        )
        inputs = processor(
            text=[text],
            images=[[Image.new("RGB", SAMPLE, "grey")]],
            padding=True,
            return_tensors="pt",
        )
        odd = weights.non_finite(
            (name, value) for name, value in inputs.items() if isinstance(value, torch.Tensor)
        )
        tokens = sum(
            map(len, family.layouts(model, dict(inputs), Originals(((SAMPLE,),), processor)))
        )
        marked = int(family.visual(model, inputs["input_ids"]).sum())
    except Exception as error:  # templates and processors raise what they like
        detail = f"{type(error).__name__}: {one_line(message(error), 120)}"
        raise LoadError(f"its processor cannot put a question about an image: {detail}") from error
    if odd is not None:
        raise LoadError(
            f"its processor makes {odd} of an image that are not finite; look at its mean, std and factor"
        )
    if marked != tokens:
        raise LoadError(
            f"its processor makes room for {marked} visual tokens of an image, and its model makes {tokens}"
        )
    if not tokens:
        raise LoadError(
            "its chat template leaves the image out, so the model would be asked without it"
        )


@contextmanager
def explained(
    what: str, source: str, elsewhere: str, raised: type[ValueError] = LoadError
) -> Iterator[None]:
    """Whatever goes wrong in the block as an error of one line about `what`; `elsewhere` is the way
    out where the hub is none.

    Errors of prunebench itself say enough; a LoadError of this file is told what it is about. A
    lack of memory is a status of its own where it is not the model itself that finds no room.
    """
    about = one_line(what, 70)
    try:
        yield
    except LoadError as error:
        raise raised(one_line(f"{about}: {error}")) from error.__cause__
    except Exception as error:
        own = type(error).__module__.startswith("prunebench.")
        if own or (raised is not LoadError and any(map(_out_of_memory, _chain(error)))):
            raise
        raise raised(one_line(f"{about}: {_reason(error, source, elsewhere)}")) from error


@contextmanager
def unattended() -> Iterator[None]:
    """transformers neither asks nor tells at the terminal in this block.

    It asks whether foreign code may run, for parts of a processor whatever it was told, and takes
    what is piped in for an answer. It writes tables of keys as they stand in a file; the errors
    raised here name them.
    """
    from transformers import dynamic_module_utils
    from transformers.utils import logging

    asking: Any = dynamic_module_utils
    verbosity, seconds = logging.get_verbosity(), asking.TIME_OUT_REMOTE_CODE
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    asking.TIME_OUT_REMOTE_CODE = 0  # no time to answer means no
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        asking.TIME_OUT_REMOTE_CODE = seconds


def _reason(error: Exception, source: str, elsewhere: str) -> str:
    """What went wrong and the way out. Causes are looked through: libraries wrap what the system
    said.
    """
    chain = list(_chain(error))
    detail = one_line(message(error), 110)
    if any(_out_of_memory(link) for link in chain):
        return f"not enough memory to load it ({detail}); take a smaller model, another dtype or another device"
    if any(isinstance(link, OSError) and link.errno in _FULL for link in chain):
        return f"the disk is full ({detail}); free some space, or set HF_HOME to a folder on another disk"
    if any(isinstance(link, PermissionError) for link in chain):
        return f"a file may not be read or written ({detail}); change its permissions, or set HF_HOME to a folder of yours"
    if "trust_remote_code" in message(error) or "requires you to execute custom code" in message(
        error
    ):
        return (
            "its files ask to run code of their own, which is not done. Where you have read that code and trust it, "
            "allow it with trust_remote_code=true"
        )
    if isinstance(error, OSError) and not Path(source).is_dir():
        return f"{one_line(source, 60)} could not be fetched and is not in the local cache ({one_line(detail, 55)}). {elsewhere}"
    if isinstance(error, pickle.UnpicklingError):
        return "its weights are a broken file, or a pickle of more than tensors, which is not read; save them as safetensors"
    plain = (
        isinstance(error, OSError | ValueError | ImportError)
        or message(error) == type(error).__name__
    )
    kind = "" if plain else f"{type(error).__name__}: "
    return f"it cannot be loaded: {kind}{one_line(message(error), 160)}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    for _ in range(20):  # a chain can be a ring
        if link is None:
            return
        yield link
        link = link.__cause__ or link.__context__


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(
        words in message(error).lower() for words in _SPENT
    )


def _files(folder: Path, partial: bool) -> list[Path]:
    """The safetensors files that transformers reads; raises LoadError where an index names some
    that are gone.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        return []
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        files = [folder / name for name in names]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LoadError(
            f"{index.name} is no index of weights: {type(error).__name__}: {one_line(message(error), 100)}"
        ) from error
    gone = [file.name for file in files if not file.is_file()]
    if gone and partial:
        return []
    if gone:
        raise LoadError(
            f"{index.name} names {len(gone)} files that are not there ({one_line(', '.join(gone), 120)}); fetch them"
        )
    return files


def _tensors(file: Path) -> dict[str, tuple[str, list[int]]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
            return {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}
    except SafetensorError as error:
        raise LoadError(
            f"{one_line(file.name, 80)} is no whole safetensors file: {one_line(message(error), 120)}"
        ) from error


def _nested(values: Any) -> Iterator[Mapping[str, Any]]:
    """A configuration and those inside it."""
    if isinstance(values, Mapping):
        yield values
        for inner in values.values():
            yield from _nested(inner)


def _dtype_of(model: nn.Module, name: str) -> str:
    return str(model.state_dict()[name].dtype).removeprefix("torch.")


def _available() -> int | None:
    """Bytes that can be had without swapping; None where the system does not say."""
    try:
        lines = MEMORY.read_text().splitlines()
    except OSError:
        return None
    sizes = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return sizes[0] * 1024 if sizes else None
