"""scikit-learn models in the skops format: an archive of a schema and arrays, loaded only if every type is trusted."""

import warnings
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from skops import io as skops_io

from moorage_common.contracts.desired import LoadSpec
from moorage_common.contracts.tensors import Signature
from moorage_common.errors import Unprocessable
from moorage_runtime.formats.estimators import METHODS, as_argument, call_methods
from moorage_runtime.formats.trusted import TRUSTED_TYPES
from moorage_runtime.v2 import Array

MAX_MEMBERS = 100_000
MAX_UNPACKED_BYTES = 4 * 1024**3


class SkopsModel:
    """A fitted estimator; each wanted output is one method's answer."""

    def __init__(self, estimator: Any, signature: Signature) -> None:
        self._estimator = estimator
        self._signature = signature

    def predict(self, inputs: dict[str, Array], wanted: Collection[str]) -> dict[str, Array]:
        """Call the methods that `wanted` names.

        Raises:
            BadRequest: the estimator refuses the values (ValueError, TypeError).
        """
        argument = as_argument(self._signature, inputs)
        return call_methods(self._estimator, argument, wanted)


def untrusted_types(path: Path) -> list[str]:
    """Names of the types in the file that no list trusts; nothing is loaded.

    Raises:
        Unprocessable: not a skops file, or one that unpacks beyond the caps.
    """
    return [name for name in _beyond_skops(path) if name not in TRUSTED_TYPES]


def _beyond_skops(path: Path) -> list[str]:
    """Types in the file that skops does not trust by itself."""
    _check_archive(path)
    try:
        found: list[str] = skops_io.get_untrusted_types(file=path)
    except Exception as error:  # noqa: BLE001 - hostile files fail in many ways
        raise Unprocessable(f"the file cannot be read as skops: {str(error)[:300]}", code="bad_skops") from None
    return found


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError) as error:
        raise Unprocessable(f"the file is not a skops archive: {error}", code="bad_skops") from None
    if len(members) > MAX_MEMBERS or sum(m.file_size for m in members) > MAX_UNPACKED_BYTES:
        raise Unprocessable(
            f"the archive has {len(members)} members and unpacks to {sum(m.file_size for m in members)} bytes; at most "
            f"{MAX_MEMBERS} and {MAX_UNPACKED_BYTES} are allowed",
            code="artifact_too_large",
        )


def _parts(estimator: Any) -> Iterator[Any]:
    """Every object inside the estimator, whatever holds it: what one holder hides, a method of it may still call."""
    seen: set[int] = set()
    level = [estimator]
    while level:
        part = level.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, dict):
            level.extend(part.keys())
            level.extend(part.values())
        elif isinstance(part, list | tuple | set | frozenset):
            level.extend(part)
        elif isinstance(part, np.ndarray):
            if part.dtype.kind == "O":
                level.extend(part.ravel().tolist())
        elif isinstance(getattr(part, "__dict__", None), dict):
            yield part
            level.extend(part.__dict__.values())


def _restrain(estimator: Any, threads: int) -> None:
    """Hold parallel estimators to `threads`, and refuse those that would open files whose names requests carry.

    A saved `n_jobs=-1` would start a pool for each request.
    """
    for part in _parts(estimator):
        if getattr(part, "input", None) in {"filename", "file"}:
            raise Unprocessable(
                f"{type(part).__name__} reads files by name; train it with input='content' and send texts",
                code="reads_files",
            )
        if hasattr(part, "n_jobs"):
            part.n_jobs = threads


def load(path: Path, spec: LoadSpec) -> SkopsModel:
    """Load the estimator if all its types are trusted.

    Raises:
        Unprocessable: `untrusted_types` with their names; `bad_skops`; `bad_signature`.
    """
    beyond = _beyond_skops(path)
    if strange := [name for name in beyond if name not in TRUSTED_TYPES]:
        raise Unprocessable(
            f"the model holds types that are not trusted: {', '.join(strange)}; use scikit-learn's own estimators and "
            "functions, or export to ONNX",
            code="untrusted_types",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            estimator = skops_io.load(path, trusted=beyond)
    except Exception as error:  # noqa: BLE001 - hostile files fail in many ways
        raise Unprocessable(f"scikit-learn cannot load the model: {str(error)[:300]}", code="bad_skops") from None
    for output in spec.signature.outputs:
        if output.name not in METHODS or not hasattr(estimator, output.name):
            raise Unprocessable(
                f"{type(estimator).__name__} cannot answer the signature's output '{output.name}'; outputs are "
                f"methods of the estimator: {', '.join(METHODS)}",
                code="bad_signature",
            )
    _restrain(estimator, spec.threads)
    return SkopsModel(estimator, spec.signature)
