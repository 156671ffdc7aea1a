"""Ray Serve applications: the project's files as they are, and what the graph answers here to the example.

The project is imported in its author's own process, from the very zip that is uploaded, so that a file that was left
out shows before the upload. Serve runs the graph in this process (its local testing mode): no Ray cluster is needed.
"""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from moorage_common.contracts.examples import Examples
from moorage_common.contracts.tensors import Format, Signature, TensorSpec
from moorage_common.errors import MoorageError
from moorage_runtime.libraries import libraries
from moorage_runtime.projects import MAX_FILES, checked_import_path, pack, unpack
from moorage_runtime.v2 import Array, canonical, datatype_of, decode_request
from moorage_sdk.errors import ModelRefused
from moorage_sdk.models.examples import example_of
from moorage_sdk.models.packaged import Packaged

FORMAT: Format = "ray-serve"
EXAMPLE = "example_inputs"
"""What a module may call its own example."""
_NOT_THE_PROJECTS = frozenset({"__pycache__", "node_modules", "site-packages"})


def package_application(named: str, example: Any, include: Sequence[str]) -> Packaged:
    """The project of an application, with its signature and what it answers to the example.

    Args:
        named: `pipeline.py:app` (the project is the file's directory) or `package.module:app` (the working directory).
        example: named arrays or a V2 request; None takes the module's `example_inputs`.
        include: patterns of files that go along with the Python files, such as `weights/*.npz`.

    Raises:
        ModelRefused: with the way out.
    """
    root, import_path = _located(named)
    try:
        content = pack(import_path, _files(root, include))
        with _unpacked(content) as directory:
            return _answered(content, directory, import_path, example)
    except MoorageError as error:
        raise ModelRefused(error.message) from error
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "ray":
            raise
        raise ModelRefused("format='ray-serve' needs Ray; run: pip install 'moorage-sdk[pipelines]'") from None


def _located(named: str) -> tuple[Path, str]:
    """The project's directory and the import path within it."""
    path, _, attribute = named.rpartition(":")
    if not path.endswith(".py"):
        return Path.cwd(), checked_import_path(named)
    file = Path(path)
    if not file.is_file():
        raise ModelRefused(f"{path} is not there; name the file and the application in it: pipeline.py:app")
    return file.resolve().parent, checked_import_path(f"{file.stem}:{attribute}")


def _files(root: Path, include: Sequence[str]) -> dict[str, bytes]:
    """The project's Python files, without hidden directories and environments, and those that `include` matches."""
    found = dict.fromkeys(_python_files(root))
    for pattern in include:
        matched = [path for path in root.glob(pattern) if path.is_file()]
        if not matched:
            raise ModelRefused(f"include={pattern!r} matches no file in {root}")
        found |= dict.fromkeys(matched)
    for path in found:
        if path.is_symlink() or not path.resolve().is_relative_to(root):
            raise ModelRefused(f"{path} is a link, which is not taken; put the file itself into the project")
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


def _python_files(root: Path) -> Iterator[Path]:
    count = 0
    for text, below, names in os.walk(root):
        directory = Path(text)
        below[:] = sorted(
            name
            for name in below
            if not name.startswith(".") and name not in _NOT_THE_PROJECTS and not _is_environment(directory / name)
        )
        for name in sorted(names):
            if name.endswith(".py"):
                count += 1
                if count > MAX_FILES:
                    raise ModelRefused(f"{root} has more than {MAX_FILES} Python files; put the project by itself")
                yield directory / name


def _is_environment(directory: Path) -> bool:
    return (directory / "pyvenv.cfg").is_file()


@contextmanager
def _unpacked(content: bytes) -> Iterator[Path]:
    """The project as a host finds it; the modules of this process are afterwards as they were."""
    from moorage_runtime.formats.ray_serve import PROJECT_PREFIX, forget  # noqa: PLC0415 - loads Ray

    modules = dict(sys.modules)
    with tempfile.TemporaryDirectory(prefix=PROJECT_PREFIX) as text:
        directory = Path(text) / PROJECT_PREFIX
        directory.mkdir()
        blob = Path(text) / "blob"
        blob.write_bytes(content)
        unpack(blob, directory)
        try:
            yield directory
        finally:
            forget(directory)
            sys.modules |= {name: module for name, module in modules.items() if name not in sys.modules}


def _answered(content: bytes, directory: Path, import_path: str, example: Any) -> Packaged:
    from moorage_runtime.formats.ray_serve import imported, local_handle  # noqa: PLC0415 - loads Ray

    application = imported(directory, import_path)
    if example is None:
        example = getattr(sys.modules[import_path.partition(":")[0]], EXAMPLE, None)
    inputs = _named(example)
    handle = local_handle(application)

    async def ask() -> Any:
        return await handle.remote(inputs)

    try:
        with ThreadPoolExecutor(1) as apart:  # a notebook has a running event loop of its own
            answer = apart.submit(lambda: asyncio.run(ask())).result()
    except Exception as error:
        raise ModelRefused(f"the application fails on the example: {type(error).__name__}: {error}") from error
    if not isinstance(answer, Mapping) or not answer:
        raise ModelRefused(f"the application answers {type(answer).__name__}; answer a dict of arrays by output name")
    outputs = {str(name): canonical(np.asarray(value)) for name, value in answer.items()}
    return Packaged(
        format=FORMAT,
        content=content,
        signature=_signature(inputs, outputs),
        libraries=libraries(FORMAT),
        examples=Examples(examples=[example_of(inputs, outputs)]),
    )


def _named(example: Any) -> dict[str, Array]:
    if not isinstance(example, Mapping) or not example:
        raise ModelRefused(
            "an application needs an example to know what it takes and gives: example={'x': array, ...} "
            f"(--example inputs.json), or {EXAMPLE} = {{...}} in its module"
        )
    if isinstance(example.get("inputs"), list) and all(isinstance(t, Mapping) for t in example["inputs"]):
        return dict(decode_request(json.dumps(dict(example)).encode()).inputs)
    return {str(name): canonical(np.asarray(value)) for name, value in example.items()}


def _signature(inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> Signature:
    """Rows are independent where every input and every output has as many; their number is free in any case."""
    arrays = [*inputs.values(), *outputs.values()]
    is_batchable = all(a.ndim for a in arrays) and len({len(a) for a in arrays}) == 1

    def specs(named: Mapping[str, Array]) -> list[TensorSpec]:
        return [
            TensorSpec(name=n, datatype=datatype_of(a), shape=[-1, *a.shape[1:]][: a.ndim]) for n, a in named.items()
        ]

    return Signature(inputs=specs(inputs), outputs=specs(outputs), batchable=is_batchable)
