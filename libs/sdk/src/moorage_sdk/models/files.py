"""Model files, read as a host reads them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from moorage_common.errors import MoorageError
from moorage_sdk.errors import ModelRefused
from moorage_sdk.models.kinds import file_format
from moorage_sdk.models.prepared import Prepared


def from_file(path: Path, example: Any) -> Prepared:
    """The file's own bytes, with the signature of what is in it.

    Raises:
        ModelRefused: no such file, a pickle, another format, or content that cannot be loaded.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelRefused(f"{path} cannot be read: {error.strerror or error}") from error
    if (kind := file_format(path, content[:16])) == "onnx":
        from moorage_sdk.models.graphs import as_it_is  # noqa: PLC0415 - each loads its own library

        return as_it_is(content)
    if kind == "skops":
        return _skops(path, content, example)
    return _xgboost(path, content, example) if kind == "xgboost" else _lightgbm(path, content, example)


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Whatever a library's parser raises, as a refusal of the file."""
    try:
        yield
    except ModelRefused:
        raise
    except MoorageError as error:
        raise ModelRefused(f"{path.name}: {error.message}") from error
    except Exception as error:
        raise ModelRefused(f"{path.name} cannot be loaded: {' '.join(str(error).split())[:300]}") from error


def _skops(path: Path, content: bytes, example: Any) -> Prepared:
    from skops import io as skops_io  # noqa: PLC0415 - loads scikit-learn

    from moorage_runtime.formats.skops import untrusted_types  # noqa: PLC0415
    from moorage_sdk.models.estimators import as_skops  # noqa: PLC0415

    with _refusing(path):
        strange = untrusted_types(path)
        if strange:
            raise ModelRefused(f"{path.name} holds types that are not trusted: {', '.join(strange)}")
        estimator = skops_io.load(path, trusted=skops_io.get_untrusted_types(file=path))
    return replace(as_skops(estimator, example), content=content)


def _xgboost(path: Path, content: bytes, example: Any) -> Prepared:
    import xgboost  # noqa: PLC0415 - heavy

    from moorage_sdk.models.boosters import xgboost_model  # noqa: PLC0415

    with _refusing(path):
        booster = xgboost.Booster()
        booster.load_model(bytearray(content))
        wrapper = json.loads(booster.attr("scikit_learn") or "{}")
        model: Any = booster
        if wrapper.get("_estimator_type") == "classifier":
            model = xgboost.XGBClassifier()
            model.load_model(bytearray(content))
    return replace(xgboost_model(model, example), content=content, answer=None)


def _lightgbm(path: Path, content: bytes, example: Any) -> Prepared:
    import lightgbm  # noqa: PLC0415 - heavy

    from moorage_sdk.models.boosters import lightgbm_model  # noqa: PLC0415

    with _refusing(path):
        booster = lightgbm.Booster(model_str=content.decode())
    return replace(lightgbm_model(booster, example), content=content, answer=None)
