"""Identity: what decides a method's answers, as hashes of code, settings and weights.

A cell is the same cell only while these stay the same. What counts is the code that runs, so that
it is noted when it is loaded: a file that changes or goes afterwards changes nothing that was
computed with the old one.
"""

from __future__ import annotations

import ast
import inspect
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from prunebench.composition import members
from prunebench.pruner import Pruner

BASES = (
    "prunebench.pruner",
    "prunebench.composition",
    "prunebench.trained",
    "prunebench.videos",
)
"""Modules of the classes that every method inherits from."""

_LOADED: dict[str, dict[str, bytes]] = {}
"""By module name: the file it came from and the helpers it imports from its own folder, each with
what it held.
"""


class Unhashable(ValueError):
    """A setting of which no stable text can be made."""


def note_source(module: ModuleType, source: bytes | None = None) -> None:
    """Remember what a module was made of, with the helper modules that it imports from its own
    folder.

    `source` is what ran where the caller knows better than the file, which may have changed since.
    A module that was noted before is noted anew only where `source` is given: it runs what it ran
    then.
    """
    file = getattr(module, "__file__", None)
    if file is None or (source is None and module.__name__ in _LOADED):
        return
    path = Path(file)
    own = path.read_bytes() if source is None else source
    texts = {path.name: own}
    package = module.__package__ or ""
    for helper in helpers(path, own, package):
        texts[str(helper.relative_to(path.parent))] = helper.read_bytes()
    _LOADED[module.__name__] = texts


def code_digest(pruner: Pruner) -> str:
    """sha256 over the code of a method, and of all that it is composed of."""
    digests = [source_digest(type(part)) for part in members(pruner)]
    return digests[0] if len(digests) == 1 else sha256("".join(digests).encode()).hexdigest()


def source_digest(method: type[Pruner]) -> str:
    """sha256 over the code of a method: the files of its class and of every Pruner it inherits
    from, and their helpers.
    """
    digest = sha256()
    for kind in method.__mro__:
        # the package's own bases are no method's: they count with the package, in every cell
        if not issubclass(kind, Pruner) or kind.__module__ in BASES:
            continue
        module = sys.modules.get(kind.__module__)
        if module is not None:
            note_source(module)
        texts = _LOADED.get(kind.__module__)
        if texts is None:  # a class without a file, typed at a prompt
            texts = {kind.__qualname__: _code_of(kind)}
        for name in sorted(texts):
            content = texts[name]
            # the length keeps files apart: lines moved from one to the next are other code
            digest.update(_line(f"{kind.__qualname__} {name} {len(content)}"))
            digest.update(content)
    return digest.hexdigest()


def source_files(method: type[Pruner]) -> list[Path]:
    """The files that `source_digest` is made of, as they lie on the disk now."""
    files: list[Path] = []
    for kind in method.__mro__:
        file = getattr(sys.modules.get(kind.__module__), "__file__", None)
        if issubclass(kind, Pruner) and kind.__module__ not in BASES and file is not None:
            path = Path(file)
            package = sys.modules[kind.__module__].__package__ or ""
            files += [path, *helpers(path, path.read_bytes(), package)]
    return files


def weights_digest(module: nn.Module) -> str:
    """The hash of a module's weights."""
    return tensors_digest(module.state_dict().items())


def tensors_digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """sha256 over the names, types, shapes and contents of all parameters and buffers."""
    digest = sha256()
    for name, tensor in tensors:
        if isinstance(tensor, Tensor):
            digest.update(_line(f"{name} {tensor.dtype} {list(tensor.shape)}"))
            digest.update(_content(tensor))
    return digest.hexdigest()


def folder_digest(folder: Path) -> str:
    """sha256 over the names and contents of all files below a folder."""
    digest = sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            digest.update(_line(f"{path.relative_to(folder)} {len(content)}"))
            digest.update(content)
    return digest.hexdigest()


def identity(pruner: Pruner) -> str:
    """sha256 over all that decides a prepared method's answers, except the CLIP that it may ask.

    That is its code, its settings, the weights of modules it holds, its low-rank adapter, and the
    same of every method it holds. Raises Unhashable for a setting of which no stable text can be
    made.
    """
    settings: dict[str, Any] = {}
    holds: dict[str, list[str]] = {}
    for field in fields(pruner):
        value = getattr(pruner, field.name)
        if field.compare:
            settings[field.name] = plain(value, f"setting {field.name}")
        # of fields that are no settings, too: a trained module stands in one
        parts = list(_parts_in(value))
        if parts:
            holds[field.name] = parts
    about: dict[str, Any] = {
        "code": source_digest(type(pruner)),
        "settings": settings,
        "holds": holds,
    }
    adapter = pruner.reads.lora
    if adapter is not None:
        about["adapter"] = folder_digest(Path(adapter))
    return sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def plain(value: Any, name: str) -> Any:
    """A setting as data that JSON holds, equal for equal values; raises Unhashable naming `name`
    where there is none.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        # JSON has no NaN and no infinity
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, Enum):
        return plain(value.value, name)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Pruner):
        return {"method": identity(value)}
    if isinstance(value, Tensor):
        digest = sha256(_content(value)).hexdigest()
        return {"tensor": [str(value.dtype), list(value.shape), digest]}
    if isinstance(value, nn.Module):
        return {"module": weights_digest(value)}
    return _plain_parts(value, name)


def _plain_parts(value: Any, name: str) -> Any:
    """The same of what holds other values; sets and mappings in an order of their own."""
    if is_dataclass(value) and not isinstance(value, type):
        parts: dict[str, Any] = {}
        for field in fields(value):
            parts[field.name] = plain(getattr(value, field.name), name)
        return {type(value).__qualname__: parts}
    if isinstance(value, Mapping):
        pairs = []
        for key, part in value.items():
            pairs.append([plain(key, name), plain(part, name)])
        # keys of several kinds cannot be compared, but their JSON can
        return {"mapping": sorted(pairs, key=json.dumps)}
    if isinstance(value, set | frozenset):
        return {"set": sorted((plain(part, name) for part in value), key=json.dumps)}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return [plain(part, name) for part in value]
    kind = type(value).__qualname__
    raise Unhashable(
        f"{name} is a {kind}, of which no stable text can be made; "
        "settings are numbers, texts and lists of them"
    )


def _line(text: str) -> bytes:
    return f"{text}\n".encode()


def _parts_in(value: Any) -> Iterator[str]:
    """The identities of the methods, modules and tensors in a field's value."""
    if isinstance(value, Pruner):
        yield identity(value)
    elif isinstance(value, nn.Module):
        yield weights_digest(value)
    elif isinstance(value, Tensor):
        yield sha256(_content(value)).hexdigest()
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _parts_in(part)
    elif isinstance(value, list | tuple | set | frozenset):
        for part in value:
            yield from _parts_in(part)


def _content(tensor: Tensor) -> bytes:
    """The bytes of a tensor's values."""
    # a view as bytes wants a dimension, and scalars have none
    values = tensor.detach().cpu().contiguous().flatten()
    return values.view(torch.uint8).numpy().tobytes()


def helpers(path: Path, source: bytes, package: str = "") -> list[Path]:
    """The files in a module's own folder that its imports name, with those that these import in
    turn. Nothing is imported for it; a source that is no Python has none.
    """
    return list(_helpers(path, source, package, set()))


def _helpers(path: Path, source: bytes, package: str, visited: set[Path]) -> Iterator[Path]:
    for name in _imported_names(source, package):
        for candidate in _places(path.parent, name):
            if candidate == path or candidate in visited or not candidate.is_file():
                continue
            # helpers may import one another
            visited.add(candidate)
            yield candidate
            yield from _helpers(candidate, candidate.read_bytes(), package, visited)


def _imported_names(source: bytes, package: str) -> Iterator[str]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        yield from _imported(node, package)


def _imported(node: ast.AST, package: str) -> list[str]:
    """The modules that an import statement may mean, as dotted names below the importing file's
    folder.
    """
    if isinstance(node, ast.Import):
        return [_below(alias.name, package) for alias in node.names]
    # more than one dot leads out of the folder
    if not isinstance(node, ast.ImportFrom) or node.level > 1:
        return []
    module = node.module or ""
    if node.level == 0:
        module = _below(module, package)
    names = [f"{module}.{alias.name}".strip(".") for alias in node.names]
    return [module, *names] if module else names


def _below(module: str, package: str) -> str:
    """The module's name as seen from inside the package."""
    return module.removeprefix(f"{package}.") if package else module


def _places(folder: Path, module: str) -> list[Path]:
    """Where a module of that name would lie below a folder, its packages' own files included."""
    parts = [part for part in module.split(".") if part]
    places = []
    for depth in range(1, len(parts) + 1):
        base = folder.joinpath(*parts[:depth])
        places += [base.with_suffix(".py"), base / "__init__.py"]
    return places


def _code_of(kind: type) -> bytes:
    """The compiled code of a class's functions, for a class that has no file."""
    parts = []
    for _, function in sorted(vars(kind).items()):
        if inspect.isfunction(function):
            code = function.__code__
            # the code itself only numbers its constants: another number is the same code
            head = f"{function.__qualname__} {code.co_consts!r}"
            parts.append(head.encode() + code.co_code)
    return b"\n".join(parts)
