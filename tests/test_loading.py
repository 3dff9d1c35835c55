"""Loading: nothing is filled up in silence, no foreign code runs, and every refusal is a line that
says the way out.
"""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import transformers
from jinja2.exceptions import SecurityError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prunebench import models
from prunebench.budget import Budget, Stage
from prunebench.engine.clip import load_clip
from prunebench.models import LoadError
from prunebench.pruner import Facts, Unsupported
from prunebench.registry import Card, build
from prunebench.sites import INPUT
from prunebench.testbed import MODELS, TOWERS
from prunebench.tokens import Keep, VisualTokens
from prunebench.trained import Example, Trained

TINY = MODELS["tiny-llava-1.5"]
WEIGHT = "language_model.model.layers.0.mlp.down_proj.weight"

State = dict[str, Tensor]
Edit = Callable[[Path], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole checkpoint to break."""
    return Path(shutil.copytree(TINY, tmp_path / "model"))


def refusal(name: object, **options: Any) -> str:
    """Why a model is not loaded: one printable line of at most 300 characters."""
    with pytest.raises((LoadError, Unsupported)) as told:
        models.load(str(name), **options)
    text = str(told.value)
    assert len(text) <= 300
    assert text.isprintable()
    return text


def tensors(change: Callable[[State], State]) -> Edit:
    def edit(folder: Path) -> None:
        file = folder / "model.safetensors"
        save_file(change(load_file(file)), file, metadata={"format": "pt"})

    return edit


def one(change: Callable[[Tensor], Tensor]) -> Edit:
    """Change the one tensor that the tests are about."""
    return tensors(
        lambda state: {
            name: change(value) if name == WEIGHT else value for name, value in state.items()
        }
    )


def setting(file: str, **values: Any) -> Edit:
    """Change values of a JSON file; "text_config__x" is x inside of text_config."""

    def edit(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        for name, value in values.items():
            *path, last = name.split("__")
            place = content
            for part in path:
                place = place.setdefault(part, {})
            place[last] = value
        (folder / file).write_text(json.dumps(content))

    return edit


def content(file: str, data: bytes) -> Edit:
    return lambda folder: (folder / file).write_bytes(data)


def gone(file: str) -> Edit:
    return lambda folder: (folder / file).unlink()


def sharded(folder: Path, lost: bool = False) -> None:
    """The same weights in two files with an index."""
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(state)
    places = {
        name: f"model-0000{1 + number % 2}-of-00002.safetensors"
        for number, name in enumerate(names)
    }
    for file in sorted(set(places.values()))[: 1 if lost else 2]:
        save_file(
            {name: state[name] for name in names if places[name] == file},
            folder / file,
            metadata={"format": "pt"},
        )
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": places})
    )


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def tokenizer_of_another(folder: Path) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json", "processor_config.json"):
        shutil.copy(MODELS["tiny-qwen2.5-vl"] / file, folder / file)


BROKEN: dict[str, tuple[Edit, str]] = {
    "12 tensors gone": (
        tensors(lambda state: dict(list(state.items())[12:])),
        r"lack 12 tensors \(.+, .+ and 10 more\)",
    ),
    "half of it gone": (
        tensors(lambda state: dict(list(state.items())[len(state) // 2 :])),
        r"lack \d+ tensors \(",
    ),
    "a tensor too many": (
        tensors(lambda state: {**state, "extra.head": torch.zeros(2)}),
        r"unexpected tensor \(extra.head\)",
    ),
    "another shape": (
        one(lambda value: value.T.contiguous()),
        r"1 tensor of another size \(.*down_proj.* for \[",
    ),
    "NaN": (
        one(lambda value: value * float("nan")),
        "down_proj.weight has values that are not finite",
    ),
    "infinite": (one(lambda value: value / 0), "down_proj.weight has values that are not finite"),
    "whole numbers": (
        one(lambda value: value.to(torch.int8)),
        r"no real numbers \(.*down_proj.weight\)",
    ),
    "cut off": (
        lambda f: os.truncate(f / "model.safetensors", 5_000_000),
        "model.safetensors is no whole safetensors file",
    ),
    "empty": (content("model.safetensors", b""), "model.safetensors is no whole safetensors file"),
    "a shard gone": (
        lambda f: sharded(f, lost=True),
        r"names 1 files that are not there \(model-00002-of-00002",
    ),
    "fewer layers": (
        setting("config.json", text_config__num_hidden_layers=5),
        "unexpected tensors",
    ),
    "more layers": (
        setting("config.json", text_config__num_hidden_layers=13),
        r"lack \d+ tensors .*layers.12",
    ),
    "endless layers": (
        setting("config.json", text_config__num_hidden_layers=10**9),
        "num_hidden_layers above 1000",
    ),
    "another width": (
        setting("config.json", text_config__intermediate_size=481),
        "tensors of another size",
    ),
    "a width of terabytes": (
        setting("config.json", text_config__hidden_size=10**8),
        r"describes [\d,]{12,} parameters",
    ),
    "a width that is text": (
        setting("config.json", text_config__hidden_size="wide"),
        "hidden_size",
    ),
    "a NaN in the settings": (
        setting("config.json", text_config__rms_norm_eps=float("nan")),
        "rms_norm_eps is NaN",
    ),
    "settings that are a list": (content("config.json", b"[]"), "no settings"),
    "an unknown quantization": (
        setting("config.json", quantization_config={"quant_method": "mine"}),
        "quantization",
    ),
    "another model's tokenizer": (tokenizer_of_another, "marks images with token|image"),
    "another image token": (
        setting("config.json", image_token_id=3),
        "marks images with token 4, its model with 3",
    ),
    "no tokenizer": (gone("tokenizer.json"), "tokenizer"),
    "no processor": (gone("processor_config.json"), "processor"),
    "an endless mean": (
        setting("processor_config.json", image_processor__image_std=[0, 0, 0]),
        "not finite",
    ),
    "another patch size": (
        setting("processor_config.json", patch_size=7),
        "room for 576 visual tokens .* makes 144",
    ),
    "a template that is broken": (
        content("chat_template.jinja", b"{% if %}"),
        "cannot put a question about an image",
    ),
    "a template without images": (
        content("chat_template.jinja", b"{{ messages[0].role }}"),
        "image",
    ),
    "no chat template": (gone("chat_template.jinja"), "no chat template"),
    "an adapter": (content("adapter_config.json", b"{}"), "low-rank adapter"),
    "something else": (gone("config.json"), "holds no config.json"),
}


@pytest.mark.parametrize(("edit", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_checkpoint_that_is_not_whole_is_refused_by_name(
    edit: Edit, reason: str, folder: Path
) -> None:
    edit(folder)
    text = refusal(folder)
    assert re.search(reason, text), text
    assert "nline" not in text


@pytest.mark.parametrize(
    "edit",
    [
        sharded,
        pickled,
        tensors(lambda state: {name: value.bfloat16() for name, value in state.items()}),
        tensors(
            lambda state: {
                **state,
                "language_model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(2),
            }
        ),
        tensors(
            lambda state: {
                **state,
                "vision_tower.vision_model.embeddings.position_ids": torch.zeros(1, 2).long(),
            }
        ),
    ],
    ids=["sharded", "pickled", "half precision", "old rotary tables", "old position ids"],
)
def test_what_transformers_itself_leaves_aside_is_no_fault(edit: Edit, folder: Path) -> None:
    edit(folder)
    assert models.load(str(folder)).revision.startswith("sha256:")


def test_a_shard_that_is_still_to_be_fetched_is_no_fault_of_the_hub_s_cache(folder: Path) -> None:
    sharded(folder, lost=True)
    assert models.checkpoint.header(folder, partial=True) is None
    with pytest.raises(LoadError, match="not there"):
        models.checkpoint.header(folder)


def test_a_model_of_the_hub_is_known_by_its_commit_and_a_folder_by_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    commit, cached = "a" * 40, tmp_path / "models--me--tiny"
    snapshot = shutil.copytree(TINY, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    assert models.load("me/tiny").revision == commit
    assert models.load(str(snapshot)).revision == models.load("tiny-llava-1.5").revision
    tensors(lambda state: dict(list(state.items())[9:]))(snapshot)
    assert "lack 9 tensors" in refusal("me/tiny")


def test_tied_weights_are_stored_once(folder: Path) -> None:
    setting("config.json", tie_word_embeddings=True, text_config__tie_word_embeddings=True)(folder)
    tensors(lambda state: {name: value for name, value in state.items() if "lm_head" not in name})(
        folder
    )
    model = models.load(str(folder)).model
    assert torch.equal(model.lm_head.weight, model.get_input_embeddings().weight)


def test_values_beyond_the_asked_for_precision_are_no_numbers(folder: Path) -> None:
    one(lambda value: value + 1e6)(folder)
    models.load(str(folder))
    assert "not finite as float16" in refusal(folder, dtype="float16")


def test_the_checks_cost_milliseconds() -> None:
    models.load("tiny-qwen2.5-vl")
    loaded = models.load("tiny-qwen2.5-vl")
    nothing: dict[str, Any] = {
        "missing_keys": (),
        "unexpected_keys": (),
        "mismatched_keys": (),
        "error_msgs": (),
    }
    times = []
    for _ in range(5):
        start = time.perf_counter()
        models.checkpoint.header(MODELS["tiny-qwen2.5-vl"])
        models.checkpoint.check_loaded(loaded.model, nothing)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.1


# ---- foreign code --------------------------------------------------------------------------------

CODE = """
import os
open(os.environ["MARKER"], "w").close()
from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
from transformers import PreTrainedTokenizerFast
class Config(LlavaConfig):
    model_type = "foreign"
class Model(LlavaForConditionalGeneration): ...
class Processor(LlavaProcessor): ...
class Tokenizer(PreTrainedTokenizerFast): ...
def generate(model, **options): ...
"""

MODEL_MAP = {
    "AutoConfig": "foreign.Config",
    "AutoModelForImageTextToText": "foreign.Model",
    "AutoModel": "foreign.Model",
}
PARTS_MAP = {"AutoProcessor": "foreign.Processor", "AutoImageProcessor": "foreign.Processor"}
TOKENIZER_MAP = {"AutoTokenizer": [None, "foreign.Tokenizer"]}


class _Runs:
    """Unpickled, it runs a command."""

    def __reduce__(self) -> Any:
        return os.system, (f"touch {os.environ['MARKER']}",)


def generating(folder: Path) -> None:
    (folder / "custom_generate").mkdir()
    shutil.copy(folder / "foreign.py", folder / "custom_generate" / "generate.py")


def running_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({WEIGHT: _Runs()}, folder / "pytorch_model.bin")


FOREIGN: dict[str, Edit] = {
    "configuration": setting("config.json", model_type="foreign", auto_map=MODEL_MAP),
    "known configuration": setting(
        "config.json", auto_map={**MODEL_MAP, **PARTS_MAP, **TOKENIZER_MAP}
    ),
    "processor": setting("processor_config.json", processor_class="Processor", auto_map=PARTS_MAP),
    "image processor": content(
        "preprocessor_config.json", json.dumps({"auto_map": PARTS_MAP}).encode()
    ),
    "image processor inside": setting(
        "processor_config.json",
        image_processor__auto_map=PARTS_MAP,
        image_processor__image_processor_type="Processor",
    ),
    "tokenizer": setting(
        "tokenizer_config.json", tokenizer_class="Tokenizer", auto_map=TOKENIZER_MAP
    ),
    "generation": generating,
    "pickle": running_pickle,
}


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that foreign code writes when it runs; somebody pipes "yes" into whatever is asked."""
    monkeypatch.setenv("MARKER", str(tmp_path / "ran"))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules")
    )

    def say_yes(_question: str = "") -> str:
        (tmp_path / "asked").touch()
        return "yes"

    monkeypatch.setattr("builtins.input", say_yes)
    return tmp_path / "ran"


def test_nobody_is_asked_about_parts_for_which_transformers_forgets_what_it_was_told(
    folder: Path, marker: Path
) -> None:
    (folder / "foreign.py").write_text(CODE)
    FOREIGN["image processor inside"](folder)
    refusal(folder, trust_remote_code=True)
    assert not (marker.parent / "asked").exists()


@pytest.mark.parametrize("edit", FOREIGN.values(), ids=FOREIGN)
def test_code_of_a_model_s_own_does_not_run_and_nobody_is_asked(
    edit: Edit, folder: Path, marker: Path
) -> None:
    (folder / "foreign.py").write_text(CODE)
    edit(folder)
    try:
        loaded = models.load(str(folder))
    except LoadError as error:
        assert "trust_remote_code=true" in str(error) or "pickle" in str(error)  # noqa: PT017
    else:
        assert type(loaded.model).__module__.startswith("transformers.")
        assert type(loaded.processor).__module__.startswith("transformers.")
        assert loaded.trust_remote_code is False
    assert not marker.exists()
    assert not (marker.parent / "asked").exists()


def test_code_runs_where_it_is_allowed_and_that_is_recorded(folder: Path, marker: Path) -> None:
    (folder / "foreign.py").write_text(CODE)
    FOREIGN["generation"](folder)
    loaded = models.load(str(folder), trust_remote_code=True)
    assert marker.exists()
    assert loaded.trust_remote_code is True
    assert not (marker.parent / "asked").exists()


def test_a_chat_template_reaches_nothing_but_its_messages(folder: Path) -> None:
    escape = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    (folder / "chat_template.jinja").write_text(escape)
    assert "SecurityError" in refusal(folder)
    processor = models.load("tiny-llava-1.5").processor
    for template in (
        escape,
        "{{ cycler.__init__.__globals__.os.system('touch ran') }}",
        "{{ lipsum.__globals__['os'].popen('true').read() }}",
        "{{ strftime_now.__globals__['os'] }}",
        "{{ '{0.__class__.__mro__}'.format(messages) }}",
        "{% set _ = messages.append(1) %}",
    ):
        processor.chat_template = template
        with pytest.raises(SecurityError, match="unsafe"):
            processor.apply_chat_template(
                [{"role": "user", "content": [{"type": "text", "text": "x"}]}], tokenize=False
            )


def test_a_kernel_from_the_hub_is_foreign_code() -> None:
    assert "trust_remote_code=true" in refusal("tiny-llava-1.5", attention="somebody/attention")


# ---- what can go wrong with the machine ----------------------------------------------------------


NO_ROOM = "not enough memory"
FAILURES: dict[str, tuple[Exception, str]] = {
    "memory": (MemoryError(), NO_ROOM),
    "a GPU's": (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"), NO_ROOM),
    "an allocator's": (
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        NO_ROOM,
    ),
    "the system's": (OSError(errno.ENOMEM, "Cannot allocate memory"), NO_ROOM),
    "disk": (
        OSError(errno.ENOSPC, "No space left on device", "/hub/blobs/x"),
        "the disk is full .*HF_HOME",
    ),
    "permission": (
        PermissionError(errno.EACCES, "Permission denied", "/hub/x"),
        "may not be read or written .*HF_HOME",
    ),
}


@pytest.mark.parametrize(("error", "reason"), FAILURES.values(), ids=FAILURES)
def test_a_failure_of_the_machine_is_not_blamed_on_the_network(
    error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    def fail_as_libraries_do(*_: Any, **__: Any) -> None:
        raise OSError(
            "Can't load it. If you were trying to load it from 'https://huggingface.co', ..."
        ) from error

    for function in (fail, fail_as_libraries_do):
        monkeypatch.setattr(transformers.PretrainedConfig, "get_config_dict", function)
        text = refusal("somebody/model")
        assert re.search(reason, text), text
        assert "nline" not in text


@pytest.mark.parametrize(
    "error",
    [
        OSError("We couldn't connect to 'https://huggingface.co'\n\x1b[31mand " + "x" * 5000),
        httpx.ConnectError("[Errno 111] Connection refused"),
        httpx.ReadTimeout("The read operation timed out"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_model_that_cannot_be_fetched_says_how_to_get_it(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(transformers.PretrainedConfig, "get_config_dict", fail)
    assert "Go online once, or give a folder" in refusal("somebody/" + "x" * 90)


def test_a_model_that_has_no_room_is_refused_before_it_takes_any(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 20000 kB\nMemAvailable:    5000 kB\n")
    monkeypatch.setattr("prunebench.models.checkpoint.MEMORY", tmp_path / "meminfo")
    for weights in ("pretrained", "random"):
        assert "not enough memory" in refusal(folder, weights=weights)


@pytest.mark.parametrize(
    "name",
    ["", ".", "/", "/dev/zero", "/etc/passwd", "~/nothing", "./nothing", "a/b/c", "a" * 300,
     "a/" + "b" * 5000, "a\0b", "\udcff", "[red]/x", "x\x1b[31m/y", "org/na me",
     "https://huggingface.co/a/b", "tiny-llava-1.6"],
)  # fmt: skip
def test_a_name_that_is_no_model_is_a_line(name: str) -> None:
    refusal(name)


def test_other_odd_options_are_lines() -> None:
    for options in (
        {"dtype": "float99"},
        {"dtype": "int8"},
        {"device": "gpu"},
        {"attention": "mine"},
    ):
        refusal("tiny-llava-1.5", **options)


# ---- CLIP ----------------------------------------------------------------------------------------


def clip(folder: Path) -> Any:
    return load_clip(str(folder), torch.device("cpu"), torch.float32)


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (tensors(lambda state: dict(list(state.items())[3:])), "lack 3 tensors"),
        (
            tensors(lambda state: {name: value * float("nan") for name, value in state.items()}),
            "not finite",
        ),
        (content("model.safetensors", b"PK"), "no whole safetensors file"),
        (setting("config.json", model_type="siglip"), "describes no CLIP"),
        (gone("tokenizer.json"), "tokenizer"),
    ],
    ids=["gone", "NaN", "garbage", "another kind", "no tokenizer"],
)
def test_a_clip_that_is_not_whole_is_refused(edit: Edit, reason: str, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(TOWERS["tiny-clip"], tmp_path / "clip"))
    edit(copy)
    with pytest.raises(Unsupported, match=reason) as told:
        clip(copy)
    assert len(str(told.value)) <= 300
    assert str(told.value).isprintable()


def test_a_clip_runs_no_code_and_is_read_again_when_it_changes(
    tmp_path: Path, marker: Path
) -> None:
    copy = Path(shutil.copytree(TOWERS["tiny-clip"], tmp_path / "clip"))
    (copy / "foreign.py").write_text(CODE)
    setting("config.json", auto_map=MODEL_MAP)(copy)
    setting("tokenizer_config.json", auto_map=TOKENIZER_MAP, tokenizer_class="Tokenizer")(copy)
    first = clip(copy)
    assert clip(copy) is first
    tensors(
        lambda state: {
            name: value * 2 if name == "logit_scale" else value for name, value in state.items()
        }
    )(copy)
    assert float(clip(copy).model.logit_scale) == 2 * float(first.model.logit_scale)
    assert not marker.exists()
    assert not (marker.parent / "asked").exists()


# ---- trained weights -----------------------------------------------------------------------------

FACTS = Facts(layers=6, width=160, heads=4, eps=1e-6, name="mine")


@dataclass(frozen=True)
class Learned(Trained):
    """A method whose module is one layer."""

    card = Card("learned")

    @classmethod
    def sizes(cls, facts: Facts) -> dict[str, Any]:
        return {"width": facts.width, "hidden": 8, "deep": 1, "scale": 0.5}

    @classmethod
    def build(cls, sizes: Mapping[str, Any]) -> nn.Module:
        return nn.ModuleList(
            nn.Linear(sizes["width"], sizes["hidden"]) for _ in range(sizes["deep"])
        )

    def loss(self, example: Example) -> tuple[Tensor, dict[str, float]]:
        raise NotImplementedError

    def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
        return (Stage(INPUT, available),)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        return Keep(torch.arange(stage.keep))


def stored(folder: Path) -> Path:
    sizes = Learned.sizes(FACTS)
    folder.mkdir()
    Learned.write(folder, sizes, Learned.build(sizes), {})
    return folder


def weighed(folder: object, method: type[Trained] = Learned) -> Trained:
    return method(weights=str(folder)).prepared(FACTS)


def unsupported(folder: object, method: type[Trained] = Learned) -> str:
    with pytest.raises(Unsupported) as told:
        weighed(folder, method)
    text = str(told.value)
    assert text.startswith("learned")
    assert len(text) <= 300
    assert text.isprintable()
    return text


def piped(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


WRONG: dict[str, tuple[Edit, str]] = {
    "empty": (content("model.safetensors", b""), "no whole safetensors file"),
    "garbage": (content("model.safetensors", os.urandom(2000)), "no whole safetensors file"),
    "gone": (gone("model.safetensors"), "there is no file model.safetensors"),
    "a pipe": (piped, "pipe"),
    "a tensor gone": (
        tensors(lambda state: {"0.weight": state["0.weight"]}),
        r"lack 1 tensor \(0.bias\)",
    ),
    "a tensor too many": (
        tensors(lambda state: {**state, "x": torch.ones(1)}),
        r"1 unexpected tensor \(x\)",
    ),
    "whole numbers": (
        tensors(lambda state: {name: value.int() for name, value in state.items()}),
        "2 tensors of whole numbers",
    ),
    "NaN": (
        tensors(lambda state: {name: value / 0 for name, value in state.items()}),
        "values that are not finite",
    ),
    "no JSON": (content("config.json", b"{"), "config.json is no JSON"),
    "deep JSON": (content("config.json", b"[" * 100_000), "config.json is no JSON"),
    "no sizes": (content("config.json", b"{}"), "names no sizes"),
    "sizes in a list": (setting("config.json", sizes=[1, 2]), "names no sizes"),
    "a size gone": (content("config.json", b'{"sizes": {"width": 160}}'), "KeyError"),
    "a size in a list": (setting("config.json", sizes__width=[160]), "cannot be read"),
    "a size below zero": (setting("config.json", sizes__hidden=-1), "cannot be read"),
    "a size of terabytes": (setting("config.json", sizes__hidden=999_999_999), "hidden is above"),
    "a size of gigabytes": (
        setting("config.json", sizes__hidden=999_999),
        "tensors of another size",
    ),
    "endless layers": (setting("config.json", sizes__deep=999_999), "more than"),
    "another model's": (setting("config.json", sizes__width=80), "of another size"),
    "another kind": (setting("config.json", sizes__scale="large"), "scale is 'large'; it is float"),
}


@pytest.mark.parametrize(("edit", "reason"), WRONG.values(), ids=WRONG)
def test_weights_that_do_not_fit_stop_their_method_in_one_line(
    edit: Edit, reason: str, tmp_path: Path
) -> None:
    folder = stored(tmp_path / "weights")
    assert weighed(folder).module is not None
    edit(folder)
    text = unsupported(folder)
    assert re.search(reason, text), text


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    "data",
    [b"", b"text", pickle.dumps(_Runs), pickle.dumps([1]), b"PK\x03\x04" + b"0" * 99],
    ids=range(5),
)
def test_glimpseprune_reads_tensors_alone(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "new_modules_gp.pt").write_bytes(data)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(
        Unsupported, match=r"new_modules_gp\.pt is a broken file, or a pickle"
    ) as told:
        build("glimpseprune", {"weights": str(tmp_path)}).prepared(replace(FACTS, vision_blocks=4))
    assert len(str(told.value)) <= 300


def test_glimpseprune_s_pickle_runs_nothing(tmp_path: Path, marker: Path) -> None:
    torch.save({"learnable_embeddings": _Runs()}, tmp_path / "new_modules_gp.pt")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(Unsupported, match="pickle of more than tensors"):
        build("glimpseprune", {"weights": str(tmp_path)}).prepared(replace(FACTS, vision_blocks=4))
    assert not marker.exists()


@pytest.mark.parametrize(
    "error",
    [SystemExit(0), ZeroDivisionError("x" * 999), GeneratorExit(), RecursionError("a\nb")],
    ids=repr,
)
@pytest.mark.parametrize("part", ["read", "build", "sizes", "adapted"])
def test_whatever_a_method_s_own_code_raises_stops_that_method_alone(
    part: str, error: BaseException, tmp_path: Path
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    folder = stored(tmp_path / "weights")
    broken = type(
        "Broken",
        (Learned,),
        {"card": Card("learned"), part: fail if part == "adapted" else classmethod(fail)},
    )
    assert type(error).__name__ in unsupported(folder, broken)
    if part != "read":
        assert type(error).__name__ in unsupported("random", broken)


def test_a_lack_of_memory_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Learned, "build", fail)
    with pytest.raises(torch.OutOfMemoryError):
        weighed("random")


def test_weights_are_read_again_when_they_change(tmp_path: Path) -> None:
    folder = stored(tmp_path / "weights")
    first = weighed(folder).module
    assert weighed(folder).module is first
    tensors(lambda state: {name: value * 2 for name, value in state.items()})(folder)
    second = weighed(folder).module
    assert first is not None
    assert second is not None
    assert torch.equal(second.state_dict()["0.weight"], 2 * first.state_dict()["0.weight"])


def test_reading_weights_draws_nothing_from_the_generator(tmp_path: Path) -> None:
    folder = stored(tmp_path / "weights")
    before = torch.get_rng_state()
    weighed(folder)
    assert torch.equal(torch.get_rng_state(), before)
