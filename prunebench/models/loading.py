"""Loading: a model by its name, through stock transformers, and checked before it is used."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch

from prunebench.border.text import one_line
from prunebench.identity import tensors_digest
from prunebench.models import checkpoint
from prunebench.models.base import KNOWN_GOOD, Family
from prunebench.models.catalogue import family_of_type, source_of
from prunebench.models.errors import LoadError, explained, unattended
from prunebench.models.loaded import Loaded
from prunebench.models.placement import DeviceMap, device_map_of, tensors_of
from prunebench.models.processors import check_processor, check_prompt
from prunebench.models.quantized import Quantization, keep_packing, quantization_of
from prunebench.testbed import Embedded

Device = Literal["cpu", "cuda"]
DType = Literal["float32", "bfloat16", "float16"]
Kernel = Literal["sdpa", "eager", "flash_attention_2"]
"""The attention kernels that are tested; others that transformers has go by their names."""
Weights = Literal["pretrained", "random"]

ELSEWHERE = (
    f"Go online once, or give a folder: model=PATH. Families are known to load with {KNOWN_GOOD}."
)


def load(  # noqa: PLR0913  (every one but the name is optional, and named where it is called)
    name: Embedded | str,
    *,
    device: Device | str = "cpu",
    dtype: DType | str = "float32",
    attention: Kernel | str = "sdpa",
    weights: Weights = "pretrained",
    seed: int = 0,
    revision: str | None = None,
    trust_remote_code: bool = False,
    quantization: Quantization | str = "none",
    device_map: DeviceMap = "none",
) -> Loaded:
    """Load an embedded model, an alias, a hub id or a local folder through stock transformers.

    >>> import prunebench
    >>> from PIL import Image
    >>> from prunebench.testbed import sample
    >>> scene, question = sample(seed=7, index=1)
    >>> loaded = prunebench.load("tiny-qwen2.5-vl")
    >>> inputs = loaded.inputs(Image.fromarray(scene.render()), question.text)
    >>> with prunebench.prune(loaded.model, "fastv", budget=0.5) as trace:
    ...     output = loaded.model.generate(**inputs, max_new_tokens=8)
    >>> loaded.text(output, inputs) == question.answer
    True

    `weights="random"` builds the configuration with random weights drawn from `seed` and fetches
    none: enough to measure time and memory. Code that comes with a model runs only where
    `trust_remote_code` says so; nobody is asked at a terminal. With `quantization` the linear
    layers' weights get 8 or 4 bits while they are loaded, by bitsandbytes. With `device_map` the
    layers are spread over devices, memory and disk, by accelerate: `device` has no say then.

    Raises LoadError in one line that says what could not be had and what to do, Unsupported where
    prunebench does not know the model's family. Weights that lack a tensor, hold one too many, one
    of another shape or one that is not finite are an error, too.
    """
    source = source_of(name)
    with explained(f"model {name}", source, ELSEWHERE), unattended():
        kernel = _kernel(attention, trust_remote_code)
        loader = _Loader(source, device, _dtype(dtype), kernel, revision, trust_remote_code)
        config = loader.config()
        family = family_of_type(config.model_type)
        bits = quantization_of(quantization, config, loader.dtype, random=weights == "random")
        placement = device_map_of(device_map, random=weights == "random")
        processor = loader.processor()
        if weights == "random":
            model = loader.random(config, seed)
        else:
            model = loader.pretrained(config, bits, placement)
        # what is quantized or spread was made where it is to stay
        stays = bits is not None or placement is not None
        model = model.eval() if stays else model.to(device).eval()
        check_processor(processor, model, family.placeholders(model))
        # new tokens are appended to every row: no padding may stand between
        processor.tokenizer.padding_side = "left"
        check_prompt(processor, model, family)
    # of a folder the name alone, for its weights identify it, wherever it lies
    name_of_source = Path(source).name if Path(source).is_dir() else source
    if weights == "random":
        # the numbers follow from these, and hashing those of a large model takes a minute
        identity = f"random:{seed}:{sha256(config.to_json_string().encode()).hexdigest()[:16]}"
    else:
        identity = loader.commit() or f"sha256:{tensors_digest(tensors_of(model))[:16]}"
    return Loaded(name, name_of_source, model, processor, family, identity, trust_remote_code)


def look_up(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Family:
    """The family of a model, by its name and without its weights; raises what `load` raises."""
    source = source_of(name)
    with explained(f"model {name}", source, ELSEWHERE), unattended():
        loader = _Loader(source, "cpu", torch.float32, "sdpa", revision, trust_remote_code)
        return family_of_type(loader.config().model_type)


@dataclass(frozen=True)
class _Loader:
    """Where a model's parts come from and what they shall be like; each method loads one through
    transformers' auto classes.
    """

    source: str
    device: str
    dtype: torch.dtype
    attention: str
    revision: str | None
    trust: bool

    def config(self) -> Any:
        """The configuration, looked at before transformers builds anything from it."""
        # transformers would load the base that an adapter names
        if (Path(self.source) / "adapter_config.json").is_file():
            raise LoadError(
                "the folder holds a low-rank adapter; "
                "give the folder of a whole model (peft: merge_and_unload)"
            )
        values, _ = _auto("PretrainedConfig").get_config_dict(self.source, revision=self.revision)
        checkpoint.check_config(values)
        return self._from("AutoConfig")

    def processor(self) -> Any:
        """Tokenizer, image processor and chat template."""
        return self._from("AutoProcessor")

    def random(self, config: Any, seed: int) -> Any:
        """The model with random weights, the same for the same seed."""
        self._check_size(config, None, self.device)
        torch.manual_seed(seed)
        # made where it is to stay: a CPU draws billions of numbers for minutes
        with torch.device(self.device):
            return _auto("AutoModelForImageTextToText").from_config(config, **self._options)

    def pretrained(self, config: Any, bits: Any | None, placement: Any | None) -> Any:
        """The model with its stored weights, all of them and no others; quantized as `bits` say,
        its layers where `placement` puts them.
        """
        # how much fits in memory is no matter where layers may lie elsewhere
        self._check_size(config, self._stored(), self.device if placement is None else "several")
        # the sizes are compared below, where the names are at hand; transformers only logs them
        options: dict[str, Any] = {
            "output_loading_info": True,
            "ignore_mismatched_sizes": True,
        }
        if bits is not None:
            options |= {"quantization_config": bits, "device_map": {"": self.device}}
        if placement is not None:
            options["device_map"] = placement
        model, report = self._from("AutoModelForImageTextToText", **options, **self._options)
        checkpoint.check_loaded(model, report)
        keep_packing(model)
        return model

    def commit(self) -> str | None:
        """The hub's commit, by which its cache names the snapshot; None for a folder."""
        snapshot = self._snapshot()
        return None if snapshot is None else snapshot.name

    @property
    def _options(self) -> dict[str, Any]:
        return {
            "attn_implementation": self.attention,
            "dtype": self.dtype,
            "trust_remote_code": self.trust,
        }

    def _from(self, auto: str, **options: Any) -> Any:
        trusted = {"trust_remote_code": self.trust, **options}
        return _auto(auto).from_pretrained(self.source, revision=self.revision, **trusted)

    def _check_size(self, config: Any, stored: checkpoint.Header | None, device: str) -> None:
        """Compare the model's size with what is stored and with the memory there is; LoadError."""
        if self.trust:  # nobody knows what foreign code does without data
            return
        # shapes without memory: the size is known before anything is taken for it
        with torch.device("meta"):
            empty = _auto("AutoModelForImageTextToText").from_config(config, **self._options)
        quantized = getattr(config, "quantization_config", None) is not None
        checkpoint.check_size(empty, stored, quantized, self.dtype, device)

    def _stored(self) -> checkpoint.Header | None:
        """What is known of the weights before they are loaded."""
        snapshot = self._snapshot()
        if snapshot is None:
            return checkpoint.header(Path(self.source))
        return checkpoint.header(snapshot, partial=True)

    def _snapshot(self) -> Path | None:
        """Where the hub's cache keeps the model once its configuration is loaded; None for a
        folder.
        """
        from huggingface_hub import try_to_load_from_cache

        if Path(self.source).is_dir():
            return None
        cached = try_to_load_from_cache(self.source, "config.json", revision=self.revision)
        # besides None there is an object that says a file is known not to exist
        return Path(cached).parent if isinstance(cached, str) else None


def _auto(name: str) -> Any:
    """One of transformers' classes, which are untyped and slow to import."""
    import transformers

    return getattr(transformers, name)


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise LoadError(f"dtype is {one_line(name, 40)!r}; it is float32, bfloat16 or float16")
    return dtype


def _kernel(name: str, trusted: bool) -> str:
    """transformers takes an attention kernel from the hub where a name has a slash: code of others,
    like a model's own.
    """
    if "/" in name and not trusted:
        raise LoadError(
            f"attention {one_line(name, 60)} is code from the hub, which is not run; "
            "allow it with trust_remote_code=true"
        )
    return name
