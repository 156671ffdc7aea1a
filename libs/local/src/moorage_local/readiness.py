"""Waiting until every service says it is ready."""

import asyncio
from collections.abc import Callable, Sequence

import httpx

from moorage_local.options import StartFailed
from moorage_local.processes import Program

TIMEOUT_S = 180.0
_POLL_S = 0.1


async def wait_until_ready(
    programs: Sequence[Program], *, on_ready: Callable[[str], None], check: Callable[[], None]
) -> None:
    """Poll each `ready_url` until all answered 200.

    Args:
        on_ready: takes the name of each program, once, as it becomes ready.
        check: called between polls; may raise to give up.

    Raises:
        StartFailed: after 180 s, with what each that is missing says.
    """
    waiting = {program.name: program.ready_url for program in programs if program.ready_url}
    reasons = dict.fromkeys(waiting, "does not answer")
    deadline = asyncio.get_running_loop().time() + TIMEOUT_S
    async with httpx.AsyncClient(timeout=2.0, trust_env=False) as client:
        while True:
            for name, url in list(waiting.items()):
                reason = await _ask(client, url)
                if reason is None:
                    del waiting[name]
                    on_ready(name)
                else:
                    reasons[name] = reason
            if not waiting:
                return
            check()
            if asyncio.get_running_loop().time() > deadline:
                said = "; ".join(f"{name}: {reasons[name]}" for name in waiting)
                message = f"not everything was ready after {TIMEOUT_S:g} s: {said}"
                raise StartFailed(message)
            await asyncio.sleep(_POLL_S)


async def _ask(client: httpx.AsyncClient, url: str) -> str | None:
    """Why the service is not ready, or None."""
    try:
        answer = await client.get(url)
    except httpx.HTTPError as error:
        return f"does not answer ({type(error).__name__})"
    return None if answer.status_code == 200 else answer.text[:200]
