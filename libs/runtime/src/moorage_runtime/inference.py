"""One inference, told once: decode, hold against the signature, predict, encode. Knows no HTTP."""

import asyncio
import time
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np

from moorage_common.contracts.feedback import Output
from moorage_common.errors import DeadlineExceeded, Internal, TooLarge, Unavailable
from moorage_runtime.conform import chosen_outputs, conform
from moorage_runtime.limits import Limits
from moorage_runtime.outputs import compact_output, kept_output
from moorage_runtime.predicting import Predicted
from moorage_runtime.v2 import Array, Encoded, InferRequest, check_forms, decode_request, encode_response
from moorage_runtime.versions import Held, Served

OutputState = Literal["ok", "nan", "constant"]

INLINE_BYTES = 256 * 1024
"""Larger JSON is decoded and encoded in a thread, so that it does not hold up the small requests."""

INLINE_RAW_BYTES = 4 * 1024 * 1024
"""The same for bodies of raw numbers, which are not looked at but copied at most."""

CONSTANT_ROWS = 16
"""Fewer equal rows than this say nothing about a model."""


class Answer(NamedTuple):
    """An encoded answer and what the router wants to know of it. `refusal` is set where JSON cannot carry it.

    `service_us`, `queue_us` and `batch_rows` are `Predicted`'s; `output` is the compact one, where it was asked for.
    """

    encoded: Encoded | None
    refusal: Internal | None
    rows: int
    service_us: int
    state: OutputState
    queue_us: int
    batch_rows: int
    output: Output | None = None


class Inference:
    """Answers inference requests from the versions held. Used from one event loop."""

    def __init__(self, versions: Held, limits: Limits | None = None) -> None:
        self._versions = versions
        self._limits = limits or Limits()
        self._concurrent = 0

    async def answer(
        self,
        model: str,
        version: int,
        body: bytes | bytearray,
        header_length: str | None,
        deadline: float,
        *,
        compact: str | None = None,
    ) -> Answer:
        """Answer one V2 request within `deadline` (on `time.monotonic`). Cancelled, it leaves nothing behind.

        Args:
            compact: the output of which a compact one is wanted, as in `Asked`.

        Raises:
            MoorageError: 400, 404, 413, 500, 503 or 504, with a text for the caller.
        """
        served = self._versions.serving(model, version)
        if deadline <= time.monotonic():
            raise DeadlineExceeded("the deadline passed before the request reached the model")
        if self._concurrent >= self._limits.max_concurrent:
            raise Unavailable(
                f"this replica host answers {self._concurrent} requests already; try again, or raise the deployment's "
                "max replicas",
                code="host_busy",
                retry_after_s=1,
            )
        self._concurrent += 1
        try:
            if served is None:
                served = await self._versions.woken(model, version, deadline)
            return await self._answer(served, body, header_length, deadline, compact)
        finally:
            self._concurrent -= 1

    async def _answer(
        self, served: Served, body: bytes | bytearray, header_length: str | None, deadline: float, compact: str | None
    ) -> Answer:
        limit = self._limits.max_body_bytes
        request = (
            decode_request(body, header_length, limit_bytes=limit)
            if len(body) <= _inline_bytes(served, header_length)
            else await asyncio.to_thread(decode_request, body, header_length, limit_bytes=limit)
        )
        inputs, rows = conform(served.signature, request.inputs, request.datatypes)
        if rows > self._limits.max_rows:
            raise TooLarge(
                f"the request has {rows} rows, at most {self._limits.max_rows} are taken; send fewer rows at a time",
                code="too_many_rows",
            )
        wanted = chosen_outputs(served.signature, request.outputs)
        check_forms(request, wanted, served.given)
        kept = None if compact is None else kept_output(served.signature, compact)
        asked = wanted if kept is None or kept.name in wanted else (*wanted, kept.name)
        predicted = await served.batcher.predict(inputs, rows=rows, wanted=asked, deadline=deadline)
        output = None if kept is None else compact_output(served.signature, kept, predicted.outputs[kept.name])
        if asked is not wanted:  # what is kept does not depend on what the caller asks for, nor the answer on what is
            predicted = predicted._replace(outputs={name: predicted.outputs[name] for name in wanted})
        outputs = predicted.outputs
        state = output_state(inputs, outputs, rows, finite=predicted.finite)
        encoded, refusal = None, None
        try:
            encoded = (
                _encode(request, served, predicted)
                if _encodes_inline(request, outputs)
                else await asyncio.to_thread(_encode, request, served, predicted)
            )
        except Internal as error:
            refusal = error
        service_us, queue_us, batch_rows = predicted.service_us, predicted.queue_us, predicted.batch_rows
        return Answer(encoded, refusal, rows, service_us, state, queue_us, batch_rows, output)


def _inline_bytes(served: Served, header_length: str | None) -> int:
    """The largest body that is decoded in the event loop."""
    if header_length is None or not served.plain or not header_length.isdecimal():
        return INLINE_BYTES
    return INLINE_RAW_BYTES if len(header_length) < 10 and int(header_length) <= INLINE_BYTES else INLINE_BYTES


def _encodes_inline(request: InferRequest, outputs: Mapping[str, Array]) -> bool:
    size = sum([array.nbytes for array in outputs.values()])
    if size <= INLINE_BYTES:
        return True
    raw = all(request.wants_binary(name) and a.dtype.kind in "iufb" for name, a in outputs.items())
    return raw and size <= INLINE_RAW_BYTES


def _encode(request: InferRequest, served: Served, predicted: Predicted) -> Encoded:
    spec = served.spec
    return encode_response(
        request,
        model_name=spec.model,
        model_version=str(spec.version),
        outputs=predicted.outputs,
        datatypes=served.given,
        finite=predicted.finite,
    )


def output_state(
    inputs: Mapping[str, Array], outputs: Mapping[str, Array], rows: int, *, finite: bool = False
) -> OutputState:
    """`nan` if a float output holds NaN or Inf; `constant` if CONSTANT_ROWS or more rows that differ all got the very
    same floats; else `ok`.

    Args:
        finite: the floats are known to be finite.
    """
    if finite and rows < CONSTANT_ROWS:
        return "ok"
    floats = [a for a in outputs.values() if a.dtype.kind == "f" and a.size]
    if not finite and not all(np.isfinite(a).all() for a in floats):
        return "nan"
    if rows < CONSTANT_ROWS or not floats or not all(len(a) == rows and (a == a[0]).all() for a in floats):
        return "ok"
    return "ok" if all((a == a[0]).all() for a in inputs.values()) else "constant"
