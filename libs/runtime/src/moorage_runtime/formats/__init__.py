"""Formats of models, one a file, behind one Protocol. Importing this imports none of their libraries."""

import contextlib
import inspect
from collections.abc import Callable, Collection
from importlib import import_module
from pathlib import Path
from typing import Protocol

from typing_extensions import TypeIs

from moorage_common.contracts.desired import LoadSpec
from moorage_common.errors import Unprocessable
from moorage_runtime.pacing import INLINE_S
from moorage_runtime.v2 import Array

LOADERS: dict[str, str] = {
    "onnx": "moorage_runtime.formats.onnx",
    "skops": "moorage_runtime.formats.skops",
    "xgboost": "moorage_runtime.formats.xgboost",
    "lightgbm": "moorage_runtime.formats.lightgbm",
    "ray-serve": "moorage_runtime.formats.ray_serve",
}
"""Format -> module with a `Loader` called `load`, imported when the first model of the format is loaded."""


class Model(Protocol):
    """A loaded model. Called from one thread at a time."""

    def predict(self, inputs: dict[str, Array], wanted: Collection[str]) -> dict[str, Array]:
        """Answer `wanted` outputs (more may come) for inputs that agree with the signature.

        Raises:
            BadRequest: the model refuses the values.
        """
        ...


class AsyncModel(Protocol):
    """A loaded model that is asked from an event loop, many times at once. Cancelled, it works no further."""

    async def predict(self, inputs: dict[str, Array], wanted: Collection[str]) -> dict[str, Array]:
        """Answer `wanted` outputs (more may come) for inputs that agree with the signature.

        Raises:
            MoorageError: the model refuses the values, or cannot be reached.
        """
        ...

    def close(self) -> None:
        """End what it started. Safe for threads."""
        ...


Loader = Callable[[Path, LoadSpec], Model | AsyncModel]


def is_async(model: Model | AsyncModel) -> TypeIs[AsyncModel]:
    """Whether `model` answers in coroutines."""
    return inspect.iscoroutinefunction(model.predict)


def inline_s(model: Model) -> float:
    """The most that one predict may take of the event loop: a model may say another `inline_s` than INLINE_S."""
    return float(getattr(model, "inline_s", INLINE_S))


def load_model(path: Path, spec: LoadSpec) -> Model | AsyncModel:
    """Load the verified artifact at `path`.

    Raises:
        Unprocessable: another format, a file that is not of the format, untrusted content; the text names it.
    """
    module = LOADERS.get(spec.format)
    if module is None:
        raise Unprocessable(f"this host does not load format '{spec.format}'", code="unsupported_format")
    if is_pickle(path):
        raise Unprocessable(
            "the file is a pickle, which runs code when it is loaded; save scikit-learn models with skops.io.dump "
            "or export them to ONNX",
            code="pickle_refused",
        )
    loader: Loader = import_module(module).load
    return loader(path, spec)


def warm(model_format: str) -> None:
    """Import what the format needs, so that the first load does not wait; a missing library shows at the load."""
    with contextlib.suppress(KeyError, ImportError):
        import_module(LOADERS[model_format])


def is_pickle(path: Path) -> bool:
    """Whether the file starts as pickles of protocol 2 and later do, or as zlib and gzip that joblib writes."""
    with path.open("rb") as file:
        head = file.read(2)
    return (head[:1] == b"\x80" and 2 <= (head[1] if len(head) > 1 else 0) <= 5) or head in _COMPRESSED_HEADS


_COMPRESSED_HEADS = frozenset({b"x\x9c", b"x\x01", b"x\xda", b"x^", b"\x1f\x8b", b"BZ", b"\xfd7"})
