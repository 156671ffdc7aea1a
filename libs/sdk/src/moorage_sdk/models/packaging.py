"""From a model as people have it to what is uploaded, told once."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from moorage_sdk.errors import ModelRefused
from moorage_sdk.models.examples import record, usable_rows
from moorage_sdk.models.kinds import Kind, kind_of
from moorage_sdk.models.packaged import Packaged
from moorage_sdk.models.prepared import Prepared

APPLICATION = "ray-serve"
_OWN_FORMATS: dict[Kind, str] = {"onnx": "onnx", "xgboost": "xgboost", "lightgbm": "lightgbm", "torch": "onnx"}


def package(
    model: Any,
    example: Any = None,
    format: str | None = None,  # noqa: A002 - as in push
    include: Sequence[str] = (),
) -> Packaged:
    """Save `model` in a safe format, work out its signature, and record what it answers to `example`.

    Args:
        model: an estimator, booster, module, graph or path: see `Client.push`.
        example: some rows of input; at most 256 are kept, and none that holds NaN.
        format: "skops" or "onnx" for scikit-learn; "ray-serve" for the name of an application.
        include: of an application, patterns of files that go along.

    Raises:
        ModelRefused: with the way out.
    """
    if format == APPLICATION:
        from moorage_sdk.models.applications import package_application  # noqa: PLC0415 - only where one is pushed

        return package_application(str(model), example, include)
    if include:
        raise ModelRefused("include= goes with format='ray-serve'; leave it out")
    kind = kind_of(model)
    rows = None if example is None else usable_rows(example)
    prepared = _preparer(kind, format)(model, rows)
    examples = None if rows is None else record(prepared, rows)
    return Packaged(
        format=prepared.format,
        content=prepared.content,
        signature=prepared.signature,
        libraries=prepared.libraries,
        examples=examples,
    )


def _preparer(kind: Kind, wanted: str | None) -> Callable[[Any, Any], Prepared]:
    """What prepares a model of `kind`. Each imports its own library alone."""
    if kind == "sklearn":
        return _sklearn(wanted)
    own = _OWN_FORMATS.get(kind)
    if wanted is not None and wanted != own:
        goes = f"goes as {own}" if own else "keeps its own format"
        raise ModelRefused(f"a model of this kind {goes}; leave format= out")
    if kind == "file":
        return _file
    if kind == "onnx":
        return _graph
    if kind == "torch":
        return _module
    return _booster(kind)


def _sklearn(wanted: str | None) -> Callable[[Any, Any], Prepared]:
    from moorage_sdk.models.estimators import as_onnx, as_skops  # noqa: PLC0415 - loads numpy and runtime

    if wanted not in (None, "skops", "onnx"):
        raise ModelRefused(f"scikit-learn estimators go as skops or onnx, not {wanted}")
    return as_onnx if wanted == "onnx" else as_skops


def _booster(kind: Kind) -> Callable[[Any, Any], Prepared]:
    from moorage_sdk.models.boosters import lightgbm_model, xgboost_model  # noqa: PLC0415

    return xgboost_model if kind == "xgboost" else lightgbm_model


def _file(model: Any, rows: Any) -> Prepared:
    from moorage_sdk.models.files import from_file  # noqa: PLC0415

    return from_file(Path(model), rows)


def _graph(model: Any, _rows: Any) -> Prepared:
    from moorage_sdk.models.graphs import from_proto  # noqa: PLC0415

    return from_proto(model)


def _module(model: Any, rows: Any) -> Prepared:
    from moorage_sdk.models.networks import from_module  # noqa: PLC0415

    return from_module(model, rows)
