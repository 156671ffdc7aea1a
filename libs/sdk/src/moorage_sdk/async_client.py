"""The client for asyncio: inference, labels and readiness."""

import asyncio
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self, Unpack

from moorage_sdk.answer import Answer
from moorage_sdk.errors import MoorageApiError, WaitTimedOut
from moorage_sdk.feedback import FeedbackTaken, Label, feedback_calls, together
from moorage_sdk.profiles import resolve
from moorage_sdk.protocol import (
    NOTHING_KNOWN,
    InferOptions,
    Metadata,
    infer_call,
    is_request,
    is_unready,
    metadata_call,
    model_path,
    read_answer,
    read_metadata,
    ready_call,
)
from moorage_sdk.retry import RetryPolicy
from moorage_sdk.transport import CONNECTIONS, TIMEOUT_S, AsyncTransport
from moorage_sdk.wire import Service

_POLL_S = 0.1


class AsyncClient:
    """One tenant's door to its models, for one event loop.

    Settings come from where `Client` takes them. Any number of calls may run at once; they share `connections` kept
    connections and wait for one in order. Cancelling a call closes its connection, which ends the work on the platform.
    What is desired (push, deploy, traffic) is `Client`'s: `await asyncio.to_thread(client.push, model, name="digits")`.

    >>> async with AsyncClient() as client:
    ...     answers = await asyncio.gather(*(client.infer("digits", rows) for rows in batches))

    Args:
        router: base URL of the router.
        api_key: `mrg_...`.
        profile: name of a profile; goes before the variables.
        retries: times a call may be sent again, see `moorage_sdk.retry`; 0 switches it off.
        timeout_s: for a call, waits and further attempts included.
        connections: most connections at once.
    """

    def __init__(
        self,
        router: str | None = None,
        api_key: str | None = None,
        profile: str | None = None,
        *,
        retries: int = RetryPolicy().retries,
        timeout_s: float = TIMEOUT_S,
        connections: int = CONNECTIONS,
    ) -> None:
        settings = resolve(None, router, api_key, profile)
        service = Service(settings.router, settings.api_key, "MOORAGE_ROUTER")
        self._router = AsyncTransport(
            service, policy=RetryPolicy(retries), timeout_s=timeout_s, connections=connections
        )
        self._known: dict[str, Metadata] = {}
        self._asking: dict[str, asyncio.Lock] = {}

    async def infer(self, name: str, inputs: Any, **options: Unpack[InferOptions]) -> Any:
        """As `Client.infer`."""
        version = options.get("version")
        known = NOTHING_KNOWN if is_request(inputs) else await self.metadata(name, version)
        call = infer_call(model_path(name, version), inputs, known, options)
        try:
            reply = await self._router.send(call)
        except MoorageApiError as error:
            if error.status in (400, 404):
                self._known.pop(model_path(name, version), None)
            raise
        return read_answer(reply, inputs, known, options)

    async def feedback(
        self,
        name: str,
        answers: str | Answer | Label | Iterable[Label],
        *,
        label: str | float | bool | None = None,
        correct: bool | None = None,
        loss: float | None = None,
        timeout_s: float | None = None,
    ) -> FeedbackTaken:
        """As `Client.feedback`."""
        taken = FeedbackTaken()
        for one in feedback_calls(name, answers, {"label": label, "correct": correct, "loss": loss}, timeout_s):
            taken = together(taken, one.read(await self._router.send(one.call)))
        return taken

    async def metadata(self, name: str, version: int | None = None) -> Metadata:
        """What a model takes and gives; asked once, by the first of many calls at once."""
        path = model_path(name, version)
        async with self._asking.setdefault(path, asyncio.Lock()):
            if path not in self._known:
                self._known[path] = read_metadata(await self._router.send(metadata_call(path)))
            return self._known[path]

    async def is_ready(self, name: str, version: int | None = None) -> bool:
        """Whether a replica answers; False also while the router does not know the model yet."""
        try:
            await self._router.send(ready_call(model_path(name, version)))
        except MoorageApiError as error:
            if is_unready(error):
                return False
            raise
        return True

    async def wait_until_ready(self, name: str, version: int | None = None, *, timeout_s: float = 120.0) -> None:
        """Wait until a replica answers. Raises WaitTimedOut."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    if await self.is_ready(name, version):
                        return
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise WaitTimedOut(f"{name} is not ready after {timeout_s:g} s; see: moorage status {name}") from None

    async def close(self) -> None:
        await self._router.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
