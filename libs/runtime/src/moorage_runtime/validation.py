"""Validation of a version: load it, answer the pusher's examples again, compare with what the notebook saw."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import orjson
from pydantic import ValidationError

from moorage_common.contracts.desired import ValidationResult, ValidationRun
from moorage_common.contracts.examples import Example, Examples
from moorage_common.contracts.tensors import Signature
from moorage_common.errors import MoorageError, Unprocessable
from moorage_runtime.artifacts import ArtifactCache
from moorage_runtime.conform import chosen_outputs, conform
from moorage_runtime.formats import AsyncModel, Model, is_async
from moorage_runtime.libraries import differing, libraries
from moorage_runtime.v2 import Array, decode_json_tensors, decode_request
from moorage_runtime.v2.datatypes import canonical, datatype_of
from moorage_runtime.versions import Versions


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far an answer is from what was expected. `reason` is empty when it agrees."""

    reason: str = ""
    max_abs_diff: float = 0.0


def compare(expected: Mapping[str, Array], got: Mapping[str, Array], *, rtol: float, atol: float) -> Comparison:
    """Floats agree within `atol + rtol * |expected|`, everything else exactly; NaN agrees with NaN.

    Outputs are compared in turn; the first that differs gives the reason.
    """
    largest = 0.0
    for name, want in expected.items():
        if name not in got:
            return Comparison(f"output '{name}' is not among the answers", largest)
        one = _compare_one(name, canonical(want), canonical(got[name]), rtol=rtol, atol=atol)
        largest = max(largest, one.max_abs_diff)
        if one.reason:
            return Comparison(one.reason, largest)
    return Comparison("", largest)


def _compare_one(name: str, want: Array, have: Array, *, rtol: float, atol: float) -> Comparison:
    if datatype_of(want) != datatype_of(have):
        return Comparison(f"output '{name}' is {datatype_of(have)}, expected {datatype_of(want)}")
    if want.shape != have.shape:
        return Comparison(f"output '{name}' has shape {list(have.shape)}, expected {list(want.shape)}")
    if want.dtype.kind != "f":
        wrong = want != have
        count = int(np.count_nonzero(wrong))
        if not count:
            return Comparison()
        place = tuple(int(i[0]) for i in np.nonzero(wrong)) if want.ndim else ()
        values = f"first at {list(place)}: {_shown(have[place])} instead of {_shown(want[place])}"
        return Comparison(f"output '{name}': {count} of {want.size} values differ, {values}")
    close = np.isclose(have, want, rtol=rtol, atol=atol, equal_nan=True)
    finite = np.isfinite(want) & np.isfinite(have)
    gaps = np.abs(have[finite].astype(np.float64) - want[finite].astype(np.float64))
    largest = float(gaps.max()) if gaps.size else 0.0
    if close.all():
        return Comparison("", largest)
    count = int(np.count_nonzero(~close))
    return Comparison(
        f"output '{name}': {count} of {want.size} values differ, by at most {largest:.6g} (allowed: rtol {rtol:g}, "
        f"atol {atol:g})",
        largest,
    )


def _shown(value: object) -> str:
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return repr(text[:60])


def run_validation(run: ValidationRun, versions: Versions, cache: ArtifactCache) -> ValidationResult:
    """Validate beside what is served. Blocks; never raises for a bad version.

    Raises:
        Unavailable: the artifacts cannot be fetched now; nothing is known about the version.
    """
    here = libraries(run.load.format)

    def rejected(reason: str, max_abs_diff: float | None = None) -> ValidationResult:
        strange = differing(run.libraries, here)
        return ValidationResult(
            run_id=run.run_id,
            version=run.load.version,
            state="rejected",
            reason=f"{reason}; library versions differ: {strange}" if strange else reason,
            max_abs_diff=max_abs_diff,
            libraries=here,
        )

    try:
        model = versions.open(run.load)
        if run.examples is None:
            return ValidationResult(run_id=run.run_id, version=run.load.version, state="unchecked", libraries=here)
        examples = _read_examples(cache.fetch(run.examples).read_bytes())
        largest = 0.0
        for number, example in enumerate(examples, start=1):
            found = _check(model, run.load.signature, example, rtol=run.rtol, atol=run.atol)
            largest = max(largest, found.max_abs_diff)
            if found.reason:
                return rejected(f"example {number} of {len(examples)}: {found.reason}", largest)
    except MoorageError as error:
        if error.status == 503:
            raise
        return rejected(error.message)
    except Exception as error:  # noqa: BLE001 - a model may raise anything
        return rejected(f"{type(error).__name__}: {str(error)[:500]}")
    return ValidationResult(
        run_id=run.run_id, version=run.load.version, state="passed", max_abs_diff=largest, libraries=here
    )


def _read_examples(blob: bytes) -> Sequence[Example]:
    try:
        examples = Examples.model_validate(orjson.loads(blob)).examples
    except (ValueError, ValidationError) as error:
        raise Unprocessable(f"the examples cannot be read: {str(error)[:300]}", code="bad_examples") from None
    if not examples:
        raise Unprocessable("the examples are empty; push without examples for a load check only", code="bad_examples")
    return examples


def _check(
    model: Model | AsyncModel, signature: Signature, example: Example, *, rtol: float, atol: float
) -> Comparison:
    request = decode_request(orjson.dumps(example.request))
    inputs, rows = conform(signature, request.inputs)
    wanted = chosen_outputs(signature, request.outputs)
    answers = asyncio.run(model.predict(inputs, wanted)) if is_async(model) else model.predict(inputs, wanted)
    expected = decode_json_tensors(example.outputs)
    if signature.batchable:
        for name, array in answers.items():
            if array.ndim == 0 or len(array) != rows:
                text = f"output '{name}' has shape {list(array.shape)} for {rows} rows; push it as not batchable"
                return Comparison(text)
    return compare(expected, answers, rtol=rtol, atol=atol)
