"""One inference, told once: decode, hold against the signature, predict, encode. Knows no HTTP."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from moorage_common.errors import DeadlineExceeded, Internal
from moorage_runtime.conform import chosen_outputs, conform
from moorage_runtime.v2 import Array, Encoded, InferRequest, decode_request, encode_response
from moorage_runtime.versions import Versions

OutputState = Literal["ok", "nan", "constant"]

INLINE_BYTES = 256 * 1024
"""Larger bodies are decoded and encoded in a thread, so that they do not hold up the small ones."""

CONSTANT_ROWS = 16
"""Fewer equal rows than this say nothing about a model."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An encoded answer and what the router wants to know of it. `refusal` is set where JSON cannot carry it."""

    encoded: Encoded | None
    refusal: Internal | None
    rows: int
    service_us: int
    state: OutputState


class Inference:
    """Answers inference requests from the versions held."""

    def __init__(self, versions: Versions) -> None:
        self._versions = versions

    async def answer(self, model: str, version: int, body: bytes, header_length: str | None, deadline: float) -> Answer:
        """Answer one V2 request within `deadline` (on `time.monotonic`).

        Raises:
            MoorageError: 400, 404, 500, 503 or 504, with a text for the caller.
        """
        served = self._versions.serving(model, version)
        if deadline <= time.monotonic():
            raise DeadlineExceeded("the deadline passed before the request reached the model")
        inline = len(body) <= INLINE_BYTES
        request = (
            decode_request(body, header_length)
            if inline
            else await asyncio.to_thread(decode_request, body, header_length)
        )
        inputs, rows = conform(served.signature, request.inputs)
        wanted = chosen_outputs(served.signature, request.outputs)
        predicted = await served.batcher.predict(inputs, rows=rows, wanted=wanted, deadline=deadline)
        state = output_state(inputs, predicted.outputs, rows)
        size = sum(array.nbytes for array in predicted.outputs.values())
        try:
            encoded = (
                _encode(request, model, version, predicted.outputs)
                if size <= INLINE_BYTES
                else await asyncio.to_thread(_encode, request, model, version, predicted.outputs)
            )
        except Internal as refusal:
            return Answer(None, refusal, rows, predicted.service_us, state)
        return Answer(encoded, None, rows, predicted.service_us, state)


def _encode(request: InferRequest, model: str, version: int, outputs: Mapping[str, Array]) -> Encoded:
    return encode_response(request, model_name=model, model_version=str(version), outputs=outputs)


def output_state(inputs: Mapping[str, Array], outputs: Mapping[str, Array], rows: int) -> OutputState:
    """`nan` if a float output holds NaN or Inf; `constant` if CONSTANT_ROWS or more rows that differ all got the very
    same floats; else `ok`."""
    floats = [a for a in outputs.values() if a.dtype.kind == "f" and a.size]
    if not all(np.isfinite(a).all() for a in floats):
        return "nan"
    if rows < CONSTANT_ROWS or not floats or not all(len(a) == rows and (a == a[0]).all() for a in floats):
        return "ok"
    return "ok" if all((a == a[0]).all() for a in inputs.values()) else "constant"
