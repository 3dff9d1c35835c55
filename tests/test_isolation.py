"""Isolation: a bad method, or a bad sample, fails alone; what the others answer is what they answer
without it.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from test_benchmarks import UTILS

from prunebench.cli import main
from prunebench.testing import new_file

HEAD = '''"""A method."""
from dataclasses import dataclass

import torch

from prunebench import ScorePruner, VisualTokens, register


@register()
@dataclass(frozen=True)
class Method(ScorePruner):
    """A method."""
'''

# the model at work, from wherever the method is called; outside a model there is none to find
MODEL = """
import sys
frame, model = sys._getframe(), None
while frame is not None and model is None:
    here = getattr(frame.f_locals.get("loaded"), "model", frame.f_locals.get("model"))
    model, frame = here if hasattr(here, "lm_head") else None, frame.f_back
if model is not None:
    CHANGE
"""

# what stands in `score`, with what the cell's reason must name
CHANGES = {
    "dtype": ("torch.set_default_dtype(torch.float64)", "torch's default dtype"),
    "device": ("torch.set_default_device('meta')", "torch's default device"),
    "hook": (
        "torch.nn.modules.module.register_module_forward_hook(lambda m, i, o: None)",
        "torch's hooks on every module",
    ),
    "model_hook": (
        MODEL.replace("CHANGE", "model.lm_head.register_forward_hook(lambda m, i, o: -o)"),
        "hooks on lm_head",
    ),
    "weights": (
        MODEL.replace("CHANGE", "model.lm_head.weight.data.zero_()"),
        "the model's weights",
    ),
    "library": (
        "torch.nn.functional.silu = lambda x, inplace=False: x",
        "torch.nn.functional.silu",
    ),
    "ours": (
        "import prunebench.benchmarks as b; b.Benchmark.value = lambda *_: 1.0",
        "prunebench.benchmarks.benchmark.Benchmark.value",
    ),
    "modelling": (
        "import sys\n"
        "name = 'transformers.models.qwen2_5_vl.modeling_qwen2_5_vl'\n"
        "sys.modules[name].rotate_half = lambda x: x",
        "modeling_qwen2_5_vl.rotate_half",
    ),
    "kernel": (
        "from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as F\n"
        "F.register('sdpa', lambda *a, **k: None)",
        "the registered attention functions",
    ),
    "tf32": (
        "torch.backends.cudnn.allow_tf32 = False",
        "torch's backends",
    ),
    "folder": ("import os; os.chdir('/')", "the working directory"),
}

# what a class body holds, with the status and what the reason must say
FAULTS = {
    "prepared": (
        "def prepared(self, facts): raise RuntimeError('not today')",
        "failed",
        "not today",
    ),
    "prepared_none": ("def prepared(self, facts): return None", "failed", "must give the method"),
    "needs": (
        "@property\n    def needs(self): raise RuntimeError('no needs')",
        "failed",
        "no needs",
    ),
    "exits": ("def score(self, tokens): raise SystemExit(0)", "failed", "SystemExit"),
    "exits_planning": (
        "def plan(self, budget, available, layers): raise SystemExit(3)",
        "failed",
        "SystemExit",
    ),
    "interrupts": (
        "def score(self, tokens): raise KeyboardInterrupt",
        "failed",
        "KeyboardInterrupt",
    ),
    "generator": ("def score(self, tokens): raise GeneratorExit", "failed", "GeneratorExit"),
    "nan": (
        "def score(self, tokens): return tokens.features.norm(dim=-1) * float('nan')",
        "failed",
        "NaN",
    ),
    "mute": (
        "def score(self, tokens):\n"
        "        class Mute(Exception):\n"
        "            def __str__(self): raise ValueError\n"
        "        raise Mute",
        "failed",
        "whose text cannot be shown",
    ),
    "surrogate": (
        "def score(self, tokens): raise ValueError('odd \\udcff text')",
        "failed",
        "odd \\udcff text",
    ),
    "long": ("def score(self, tokens): raise ValueError('x' * 10**6)", "failed", "xxx"),
    "tensor": (
        "w: object = None\n"
        "    def __post_init__(self): object.__setattr__(self, 'w', torch.ones(3))",
        "ok",
        "",
    ),
    "settings": (
        "s: object = None\n    def __post_init__(self): object.__setattr__(self, 's', {1, 2})",
        "ok",
        "",
    ),
    "opaque": (
        "s: object = None\n    def __post_init__(self): object.__setattr__(self, 's', object())",
        "failed",
        "setting s",
    ),
    "mutates": (
        "def score(self, tokens):\n"
        "        s = tokens.features.norm(dim=-1)\n"
        "        tokens.features.zero_()\n"
        "        return s",
        "ok",
        "",
    ),
    "vanishes": (
        "def score(self, tokens):\n"
        "        Path(__file__).unlink(missing_ok=True)\n"
        "        return tokens.features.norm(dim=-1)",
        "ok",
        "",
    ),
    "complex": (
        "def score(self, tokens): return tokens.features.norm(dim=-1).to(torch.complex64)",
        "failed",
        "no order",
    ),
}

SCORE = "    def score(self, tokens: VisualTokens):\n        return tokens.features.norm(dim=-1)\n"
OPTIONS = ["budgets=0.5", "limit=2", "cost=false", "controls=false"]


def method(body: str) -> str:
    text = (
        HEAD.replace("import torch\n", "from pathlib import Path\n\nimport torch\n")
        + f"    {body}\n"
    )
    return text if "def score" in body else text + SCORE


def changing(code: str) -> str:
    lines = "\n".join(f"        {line}" for line in code.strip().splitlines())
    score = f"    def score(self, tokens: VisualTokens):\n{lines}\n"
    return f"{HEAD}{score}        return tokens.features.norm(dim=-1)\n"


def sweep(out: Path, *options: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code, and what every cell.json says by the method's label."""
    code = main(["sweep", *OPTIONS, *options, f"out={out}"])
    facts = [json.loads(path.read_text()) for path in out.glob("cells/*/cell.json")]
    return code, {cell["method"]: cell for cell in facts}


def rows(out: Path, label: str) -> pd.DataFrame:
    (path,) = out.glob(f"cells/*__{label}__*/samples.parquet")
    return pd.read_parquet(path).drop(columns="seconds")


@pytest.fixture(scope="module", autouse=True)
def no_figures() -> Iterator[None]:
    """They cost more than a small sweep."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prunebench.report.figures.draw", lambda *_, **__: [])
        yield


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("honest") / "study"
    assert sweep(out, "methods=none,fastv,divprune")[0] == 0
    return out


def test_bad_methods_fail_alone(tmp_path: Path, honest: Path) -> None:
    for name, (body, _, _) in FAULTS.items():
        (tmp_path / f"bad_{name}.py").write_text(method(body))
    files = [str(tmp_path / f"bad_{name}.py") for name in FAULTS]
    status, cells = sweep(
        tmp_path / "study", f"methods={','.join(['none', 'fastv', *files, 'divprune'])}"
    )
    assert status == 1
    for name, (_, verdict, reason) in FAULTS.items():
        cell = cells[f"bad_{name}"]
        assert (cell["status"], reason in cell["reason"]) == (verdict, True), cell["reason"][:300]
        assert len(cell["reason"]) < 30_000
    for label in ("none", "fastv", "divprune"):
        pd.testing.assert_frame_equal(rows(tmp_path / "study", label), rows(honest, label))


def test_a_method_that_changes_what_all_share_is_named_and_undone(
    tmp_path: Path, honest: Path
) -> None:
    for name, (code, _) in CHANGES.items():
        (tmp_path / f"bad_{name}.py").write_text(changing(code))
    files = [str(tmp_path / f"bad_{name}.py") for name in CHANGES]
    folder = os.getcwd()
    status, cells = sweep(
        tmp_path / "study", f"methods={','.join(['none', 'fastv', *files, 'divprune'])}"
    )
    assert status == 1
    assert (os.getcwd(), torch.get_default_dtype(), str(torch.get_default_device())) == (
        folder,
        torch.float32,
        "cpu",
    )
    for name, (_, culprit) in CHANGES.items():
        cell = cells[f"bad_{name}"]
        assert (cell["status"], culprit in cell["reason"]) == ("failed", True), (
            name,
            cell["reason"][:300],
        )
    for label in ("none", "fastv", "divprune"):
        pd.testing.assert_frame_equal(rows(tmp_path / "study", label), rows(honest, label))


@pytest.mark.parametrize(
    "code",
    [
        "raise SystemExit(0)",
        "raise KeyboardInterrupt",
        "torch.set_default_dtype(torch.float64)",
        "import nothing_like_this",
    ],
)
def test_a_file_that_exits_or_changes_things_when_imported_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], code: str
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"import torch\n{code}\n")
    for command in (
        ["check", str(path)],
        ["sweep", f"methods={path}", *OPTIONS, f"out={tmp_path / 'study'}"],
    ):
        assert main(command) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert str(path) in lines[0]
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize(
    "name", ["exits", "interrupts", "generator", "nan", "prepared", "needs", "complex"]
)
def test_check_finds_a_method_that_exits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(method(FAULTS[name][0]))
    assert main(["check", str(path)]) == 1
    assert "FAIL" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["dtype", "hook", "model_hook", "library"])
def test_check_finds_a_method_that_changes_what_all_share(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = tmp_path / "mine.py"
    code, culprit = CHANGES[name]
    path.write_text(changing(code))
    assert main(["check", str(path)]) == 1
    assert culprit in capsys.readouterr().out
    assert torch.get_default_dtype() == torch.float32


TASK = """
task: awkward
dataset_path: parquet
dataset_kwargs: {data_files: {test: data.parquet}}
output_type: generate_until
test_split: test
doc_to_visual: !function utils.visual
doc_to_text: question
doc_to_target: answer
generation_kwargs: {max_new_tokens: 4, temperature: 0}
process_results: !function utils.results
metric_list:
  - {metric: accuracy, aggregation: mean, higher_is_better: true}
"""


def picture(width: int, height: int, broken: bool = False) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.effect_noise((width, height), 50).convert("RGB").save(file, "PNG")
    whole = file.getvalue()
    return whole[: len(whole) // 2] if broken else whole


SAMPLES = {
    "plain": ("color of 5", picture(112, 112)),
    "broken": ("color of 5", picture(112, 112, broken=True)),
    "placeholder": ("what is <|image_pad|> here", picture(112, 112)),
    "aspect": ("color of 5", picture(8, 4000)),
    "small": ("color of 5", picture(28, 28)),
    "last": ("color of 7", picture(112, 112)),
}


@pytest.fixture(scope="module")
def awkward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task most of whose samples cannot be asked of everybody."""
    from datasets import Dataset, Features, Image, Value

    folder = tmp_path_factory.mktemp("awkward")
    (folder / "utils.py").write_text(UTILS)
    (folder / "awkward.yaml").write_text(TASK)
    columns = {
        "question_id": list(SAMPLES),
        "question": [question for question, _ in SAMPLES.values()],
        "answer": ["yes"] * len(SAMPLES),
        "image": [{"bytes": image, "path": None} for _, image in SAMPLES.values()],
    }
    kinds = Features(
        {
            "question_id": Value("string"),
            "question": Value("string"),
            "answer": Value("string"),
            "image": Image(),
        }
    )
    Dataset.from_dict(columns, features=kinds).to_parquet(folder / "data.parquet")
    return folder / "awkward.yaml"


@pytest.mark.parametrize("batch", [1, 3])
def test_a_sample_that_cannot_be_asked_is_a_row_with_its_reason(
    tmp_path: Path, awkward: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.chdir(awkward.parent)
    options = [
        f"tasks={awkward}",
        "methods=none,random,fastv",
        "budgets=9",
        f"batch={batch}",
        "limit=6",
    ]
    code, cells = sweep(tmp_path / "study", *options)
    assert code == 0
    none, random = (
        rows(tmp_path / "study", label).set_index("sample_id") for label in ("none", "random")
    )
    never = ["broken", "placeholder", "aspect"]
    assert set(none.index) == set(random.index) == set(SAMPLES)
    for sample in never:
        for table in (none, random):
            assert str(table.at[sample, "status"]) == "unreadable"
        assert sample in str(none.at[sample, "error"])
    assert (none.drop(never)["status"] == "ok").all()
    assert random.loc["small", "status"] == "infeasible"
    assert random.loc[["plain", "last"], "status"].tolist() == ["ok", "ok"]
    assert cells["none"]["samples"] == {"asked": 6, "answered": 3}
    assert cells["random"]["samples"] == {"asked": 6, "answered": 2}
    assert all("speaks for" in cells[label]["reason"] for label in ("none", "random"))
    assert cells["fastv"]["status"] == "ok"


def test_a_sample_that_takes_too_long_is_a_row(tmp_path: Path) -> None:
    slow = (
        "def score(self, tokens):\n"
        "        first = SEEN.setdefault('first', tokens.seed)\n"
        "        while tokens.seed == min(first, tokens.seed): pass\n"
        "        return tokens.features.norm(dim=-1)"
    )
    (tmp_path / "slow.py").write_text(
        method(slow).replace("@register()", "SEEN = {}\n\n\n@register()")
    )
    code, cells = sweep(tmp_path / "study", f"methods=none,{tmp_path / 'slow.py'}", "timeout=1.5")
    assert code == 1
    assert cells["none"]["status"] == "ok"
    assert cells["slow"]["status"] == "failed"
    assert "timeout=1.5" in cells["slow"]["reason"]
    assert "timeout" in set(rows(tmp_path / "study", "slow")["status"])


@pytest.mark.slow
def test_a_library_that_is_loaded_later_is_no_trace(tmp_path: Path) -> None:
    """In a fresh process the checks themselves load transformers, with its registry of kernels."""
    new_file("mine", tmp_path)
    command = [sys.executable, "-m", "prunebench.cli", "check", "mine.py"]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "FAIL" not in checked.stdout
    assert checked.returncode == 0, checked.stderr
