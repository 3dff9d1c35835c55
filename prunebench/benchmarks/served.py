"""Served: what lmms-eval's tasks ask for, read off their files, so that nobody waits for an import.

A task's YAML says its kind, its data and its functions. Whether those ask a judge, or make a file
to submit in place of a number, stands in the sources of the functions and of what they call inside
lmms-eval. Nothing is imported and nothing runs: all files are read in seconds.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from prunebench.benchmarks import reviewed, sources
from prunebench.benchmarks.cached import cache_folder
from prunebench.benchmarks.request import TaskError
from prunebench.benchmarks.reviewed import review_of
from prunebench.benchmarks.sources import PACKAGE, Call, Sources, installed
from prunebench.border import files

GENERATE = "generate_until"
"""The one kind of lmms-eval's tasks that can be run: free answers."""

KINDS: Mapping[str, str] = {
    "generate_until_multi_round": "it asks in rounds, each a new prompt with other images that its "
    "code makes from the answers before; no round goes on from another, so that no pruned cache "
    "could be kept, and lmms-eval's wrappers of the families here ask no such task either",
    "generate_until_agentic": "its turns call tools that its own code runs in between",
    "generate_visual_cot": "it is answered from an image that the model draws first, and models "
    "here write text",
    "multiple_choice": "it compares the likelihoods of its options, and nothing is answered",
}
"""Why tasks of lmms-eval's other kinds are not run."""

ROUNDS: Mapping[str, str] = {
    "mmsearch_end2end": "it searches the web through a browser between its rounds, so that no two "
    "methods would be asked the same",
}
"""The same of single tasks, where there is more to say."""

JUDGE = re.compile(
    r"get_server\(|llm_judge|OpenAI\(|requests\.post\(|get_chat_response|Verifier\(|get_eval\("
    r"|ProviderFactory|server\.(?:evaluate|generate)|client\.chat|genai\."
)
"""What in a source asks another model for a score."""

SPOKEN = re.compile(r"\baudio|speech|asr|voicebench|librispeech|fleurs|whisper")
SOUND = re.compile(r"audio|\.wav|soundfile|librosa", re.IGNORECASE)
FILM = re.compile(r"\.mp4|\.mkv|video", re.IGNORECASE)
"""Words by which the media of a task are told: in its name, and in what reads them."""

PATTERNS = {"judge": JUDGE, "sound": SOUND, "film": FILM}

Config = dict[str, Any]
"""A task's YAML, with what it includes; functions are `Call`s."""


@dataclass(frozen=True)
class PublicTask:
    """One of lmms-eval's tasks or groups, as its files have it.

    `kind` is its output type, or group; `media` what it shows: image, video, audio or text.
    `judge`: another model has a part in its scores. `submission`: none of its metrics is a number.
    `login`: its file asks for a token of the hub. `packages` are what its module imports, `members`
    the tasks of a group.
    """

    name: str
    kind: str
    media: str = ""
    metrics: tuple[str, ...] = ()
    judge: bool = False
    submission: bool = False
    login: bool = False
    packages: tuple[str, ...] = ()
    members: tuple[str, ...] = ()

    @property
    def missing(self) -> list[str]:
        """The packages that are not installed here."""
        return [package for package in self.packages if not installed(package)]

    @property
    def refusal(self) -> str:
        """Why it cannot be served here, whoever judges; empty where it can."""
        if self.kind == "group":
            return f"a group of {len(self.members)}; name the tasks: {', '.join(self.members)}"
        if self.kind != GENERATE:
            return unserved(self.kind, self.name)
        if self.media == "audio":
            return "it plays audio"
        if self.missing:
            return f"needs the package {', '.join(self.missing)}"
        return ""

    def why_not(self, lacking: str) -> str:
        """Why it cannot be served; `lacking` is what a judge lacks for being asked, empty where
        one is configured.
        """
        if not self.refusal and self.judge and lacking:
            return f"scored by a judge, and none is configured: set {lacking}"
        return self.refusal

    @property
    def notes(self) -> str:
        """What is to be known of one that is served."""
        notes = {
            "asks a judge": self.judge,
            "no number, only a file to submit": self.submission,
            "its file asks for a login": self.login,
            "text alone, nothing to prune": self.media == "text",
        }
        return "; ".join(note for note, holds in notes.items() if holds)


def unserved(kind: str, name: str = "") -> str:
    """Why a task of another kind than GENERATE is not run, in words that follow "it is"."""
    why = ROUNDS.get(name) or KINDS.get(kind)
    return f"of kind {kind}; only {GENERATE} is run" + (f": {why}" if why else "")


@cache
def public_tasks() -> Mapping[str, PublicTask]:
    """Every task and group of the installed lmms-eval by name, sorted; what was read is kept.

    Raises TaskError where lmms-eval is not installed.
    """
    site = _site()
    path = cache_folder() / f"lmms-eval-{_digest(site)}.json"
    kept = _kept(path)
    if kept is not None:
        return kept
    reader = _Reader(Sources(site, PATTERNS))
    tasks: dict[str, PublicTask] = {}
    for file in _files(site / PACKAGE / "tasks", (".yaml",)):
        content = reader.whole(file)
        name, group = content.get("task"), content.get("group")
        if isinstance(name, str):
            # a name that stands twice is that of the later file, as lmms-eval has it
            tasks[name] = reader.task(name, file)
        elif isinstance(name, list) and isinstance(group, str):
            tasks[group] = PublicTask(group, "group", members=tuple(_names(name)))
    tasks = dict(sorted(tasks.items()))
    with suppress(OSError):  # read again the next time
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, json.dumps([asdict(task) for task in tasks.values()]).encode())
    return tasks


def _kept(path: Path) -> dict[str, PublicTask] | None:
    """What was read before; None where it is not there, or is nothing of the kind."""
    try:
        rows = json.loads(files.read(path))
        tasks = {}
        for row in rows:
            lists = {name: tuple(value) for name, value in row.items() if isinstance(value, list)}
            tasks[row["name"]] = PublicTask(**(row | lists))
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return tasks


def _digest(site: Path) -> str:
    """A hash of which files there are to be read, and of how they are read here."""
    digest = sha256()
    for module in (__file__, sources.__file__, reviewed.__file__):
        digest.update(Path(module).read_bytes())
    for file in _files(site / PACKAGE / "tasks", (".yaml", "_yaml", ".py")):
        status = file.stat()
        digest.update(f"{file}\n{status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _site() -> Path:
    """Where lmms-eval lies; it is not imported."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise TaskError("lmms-eval is not installed; pip install 'prunebench[eval]' brings it")
    return Path(next(iter(spec.submodule_search_locations))).parent


def _files(folder: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """The files of the tasks, in the order in which lmms-eval reads them."""
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in ("__pycache__", ".ipynb_checkpoints")]
        for name in names:
            if name.endswith(suffixes):
                yield Path(root) / name


def _names(members: list[Any]) -> Iterator[str]:
    """The names of a group's members, which may be configurations of their own."""
    for member in members:
        name = member.get("task", member.get("group")) if isinstance(member, dict) else member
        yield str(name)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # untyped
    """Reads a task's file, ten times faster where libyaml is; a function becomes its name."""


_Loader.add_multi_constructor("!", lambda loader, suffix, node: Call("", str(node.value)))


class _Reader:
    """Reads tasks with what they include, each file once."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self._read: dict[Path, Config] = {}

    def plain(self, file: Path) -> Config:
        """What stands in one file; nothing where it is no mapping, or cannot be read."""
        if file not in self._read:
            try:
                content = yaml.load(file.read_bytes(), _Loader)
            except (OSError, yaml.YAMLError):
                content = None
            own = content if isinstance(content, dict) else {}
            self._read[file] = {str(key): _placed(own[key], file.parent) for key in own}
        return self._read[file]

    def whole(self, file: Path, depth: int = 0) -> Config:
        """The file with all that it includes; of several the first counts most."""
        own = self.plain(file)
        names = own.get("include") or []
        content: Config = {}
        for name in reversed([names] if isinstance(names, str) else names):
            if depth < 10:  # one that includes itself
                content |= self.whole(file.parent / str(name), depth + 1)
        return content | own

    def task(self, name: str, file: Path) -> PublicTask:
        """The facts of a task."""
        config = self.whole(file)
        metrics = [one for one in config.get("metric_list") or [] if isinstance(one, dict)]
        aggregations = [one.get("aggregation") for one in metrics]
        scoring = [config.get("process_results"), *aggregations]
        options = config.get("dataset_kwargs")
        calls = [value for value in config.values() if isinstance(value, Call)]
        calls += [value for value in aggregations if isinstance(value, Call)]
        review = review_of(name)
        judge = review.judged
        if judge is None:
            judge = any("judge" in self._marks(value) for value in scoring)
        return PublicTask(
            name=name,
            kind=str(config.get("output_type") or GENERATE),
            media=self._media(name, file, config),
            metrics=tuple(str(one.get("metric")) for one in metrics),
            judge=judge,
            submission=review.sends or (bool(metrics) and all(map(self._submits, aggregations))),
            login=isinstance(options, dict) and bool(options.get("token")),
            packages=tuple(sorted(self.sources.packages(calls))),
        )

    def _marks(self, value: Any) -> frozenset[str]:
        return self.sources.marks(value) if isinstance(value, Call) else frozenset()

    def _submits(self, aggregation: Any) -> bool:
        """Whether an aggregation is told where files go, and gives no number back."""
        if not isinstance(aggregation, Call):
            return False
        function = self.sources.function(aggregation)
        return function is not None and "args" in function.arguments and not function.returns

    def _media(self, name: str, file: Path, config: Config) -> str:
        """What a task shows, by its name, its options and what reads its media."""
        options = config.get("dataset_kwargs")
        about = f"{name} {config.get('dataset_path')} {file.parent.name} {file.name}".lower()
        visual = self._marks(config.get("doc_to_visual"))
        messages = self._marks(config.get("doc_to_messages"))
        if SPOKEN.search(about) or ("sound" in visual and "film" not in visual):
            return "audio"
        film = isinstance(options, dict) and options.get("video")
        if film or "film" in visual | messages or "video" in about:
            return "video"
        shows = config.get("doc_to_visual") or config.get("doc_to_messages")
        return "image" if shows else "text"


def _placed(value: Any, folder: Path) -> Any:
    """The value, its functions with the folder in which they are looked for: that of the file that
    names them.
    """
    if isinstance(value, Call):
        return Call(str(folder), value.name)
    if isinstance(value, list):
        return [_placed(part, folder) for part in value]
    if isinstance(value, dict):
        return {str(key): _placed(value[key], folder) for key in value}
    return value
