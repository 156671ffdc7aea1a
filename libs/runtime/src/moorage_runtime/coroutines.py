"""Models that answer in coroutines: each request goes to the model at once, and no thread waits for it.

The counterpart of `batching` for formats that gather, queue and spread requests themselves.
"""

import asyncio
import time

import structlog

from moorage_common.errors import DeadlineExceeded, Internal, MoorageError, Unavailable
from moorage_runtime.formats import AsyncModel
from moorage_runtime.limits import Limits
from moorage_runtime.predicting import Predicted, all_finite, model_failed
from moorage_runtime.v2 import Array

log = structlog.get_logger()


class Concurrent:
    """One model's requests, at most `limits.max_waiting` at a time. `Batcher`'s counterpart, with the same methods."""

    def __init__(self, model: AsyncModel, limits: Limits) -> None:
        self._model = model
        self._limits = limits
        self._closed = False
        self.waiting = 0
        """Requests that the model works on."""

    def close(self) -> None:
        """Take no more, and end what the model started. Safe for threads."""
        self._closed = True
        self._model.close()

    async def predict(
        self, inputs: dict[str, Array], *, rows: int, wanted: tuple[str, ...], deadline: float
    ) -> Predicted:
        """Answer inputs that agree with the signature. Past its deadline, or cancelled, the model is told to stop.

        Args:
            deadline: on `time.monotonic`.

        Raises:
            Unavailable: too many are under way (`host_busy`); the version leaves (`draining`).
            DeadlineExceeded: not answered in time.
            MoorageError: as the model raised it.
            Internal: the model failed, or did not answer all outputs.
        """
        if self._closed:
            raise Unavailable("this replica is letting the version go; try again", code="draining", retry_after_s=1)
        if self.waiting >= self._limits.max_waiting:
            raise Unavailable(
                f"this replica works on {self.waiting} requests; try again, or raise the deployment's max replicas",
                code="host_busy",
                retry_after_s=1,
            )
        self.waiting += 1
        began = time.monotonic()
        try:
            async with asyncio.timeout(deadline - began) as limit:
                outputs = await self._model.predict(inputs, wanted)
        except MoorageError:
            raise
        except Exception as error:  # noqa: BLE001 - a model may raise anything
            if limit.expired():
                message = "the deadline passed before the model answered; allow more time or add replicas"
                raise DeadlineExceeded(message) from None
            log.warning("the model failed", error=repr(error)[:500])
            raise model_failed(error) from None
        finally:
            self.waiting -= 1
        if missing := [name for name in wanted if name not in outputs]:
            raise Internal(f"the model did not answer output '{missing[0]}'", code="model_failed")
        chosen = {name: outputs[name] for name in wanted}
        return Predicted(chosen, round((time.monotonic() - began) * 1e6), 0, rows, all_finite(chosen))
