"""Questions and orders to the leading scheduler of a cluster, over core NATS."""

from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog
from pydantic import ValidationError

from moorage_common.bus import BUS_ERRORS, Bus
from moorage_common.contracts.cluster import SchedulerAnswer, SchedulerAsk, unpacked
from moorage_common.contracts.model import Contract
from moorage_common.contracts.names import scheduler_subject
from moorage_common.errors import Conflict, Unavailable
from moorage_registry.clusters.turns import Turns

log = structlog.get_logger()

T = TypeVar("T", bound=Contract)

TIMEOUT_S = 3.0
ORDER_TIMEOUT_S = 15.0
"""For what the scheduler computes over the whole cluster before it answers."""
ANSWER_MAX_BYTES = 256 * 1024 * 1024
_RETRY_S = 3.0
_NO_ANSWER: tuple[type[Exception], ...] = (*BUS_ERRORS, ValidationError)


@dataclass(frozen=True)
class Schedulers:
    """The schedulers that answer to this registry."""

    bus: Bus
    cluster: str
    timeout_s: float = TIMEOUT_S
    turns: Turns = field(default_factory=Turns)

    async def ask(self, question: SchedulerAsk, answer: type[T], timeout_s: float | None = None) -> T:
        """What the leading scheduler answers.

        Raises:
            Unavailable: `scheduler_silent`, nobody answered in time, or not what was asked for.
            Conflict: `scheduler_refused`, with the scheduler's own sentence.
            OverQuota: `too_many_questions` of one tenant; operators may ask at any time.
        """
        found = await self.ask_json(question, timeout_s)
        try:
            return answer.model_validate(found)
        except ValidationError as error:
            raise self._silent(f"unreadable: {error.error_count()} errors") from error

    async def ask_json(self, question: SchedulerAsk, timeout_s: float | None = None) -> dict[str, Any]:
        """As `ask`, the answer as it came."""
        if not question.tenant or question.everything:
            return await self._whole(question, timeout_s)
        async with self.turns.of(question.tenant):
            return await self._whole(question, timeout_s)

    async def _whole(self, question: SchedulerAsk, timeout_s: float | None) -> dict[str, Any]:
        first = await self._request(question, timeout_s)
        if not first.packed:
            return first.answer
        parts = [first.packed]
        for part in range(1, first.parts):
            more = question.model_copy(update={"take": first.take, "part": part})
            parts.append((await self._request(more, timeout_s)).packed)
        try:
            return unpacked(parts, ANSWER_MAX_BYTES)
        except ValueError as error:
            raise self._silent(str(error)) from error

    async def _request(self, question: SchedulerAsk, timeout_s: float | None) -> SchedulerAnswer:
        wait_s = self.timeout_s if timeout_s is None else timeout_s
        payload = question.model_dump_json().encode()
        try:
            reply = await self.bus.client.request(scheduler_subject(self.cluster), payload, timeout=wait_s)
            answer = SchedulerAnswer.model_validate_json(reply.data)
        except _NO_ANSWER as error:
            raise self._silent(str(error) or type(error).__name__) from error
        if answer.error:
            raise Conflict(answer.error, code="scheduler_refused")
        return answer

    def _silent(self, detail: str) -> Unavailable:
        log.warning("the scheduler gave no answer", cluster=self.cluster, error=detail)
        message = (
            f"the scheduler of cluster {self.cluster} does not answer; it may just be taking over: try again, and see "
            "its /readyz if it stays so"
        )
        return Unavailable(message, code="scheduler_silent", retry_after_s=_RETRY_S)
