"""tritonclient.http.aio."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import triton_shared
from job import Json, run, told
from tritonclient.http import InferInput
from tritonclient.http.aio import InferenceServerClient


def calls(
    client: InferenceServerClient, below: InferenceServerClient, job: Json
) -> dict[str, Callable[[], Awaitable[Any]]]:
    """Everything but inference, by the suite's names."""
    key, digits = {"headers": dict(job["headers"])}, job["digits"]
    nothing = InferInput("x", [1, 1], "INT32")
    return {
        "server live": client.is_server_live,
        "server ready": client.is_server_ready,
        "model ready": lambda: client.is_model_ready(digits, **key),
        "version ready": lambda: client.is_model_ready(digits, "2", **key),
        "absent version ready": lambda: client.is_model_ready(digits, "9", **key),
        "server metadata": client.get_server_metadata,
        "model metadata": lambda: client.get_model_metadata(digits, **key),
        "version metadata": lambda: client.get_model_metadata(digits, "2", **key),
        "absent model metadata": lambda: client.get_model_metadata("nothing", **key),
        "metadata below a base path": lambda: below.get_model_metadata(digits, **key),
        "repository index": lambda: client.get_model_repository_index(**key),
        "statistics of a version": lambda: client.get_inference_statistics(digits, "2", **key),
        "statistics of a model": lambda: client.get_inference_statistics(digits, **key),
        "statistics of all": lambda: client.get_inference_statistics(**key),
        "infer without a key": lambda: client.infer(digits, [nothing]),
        "infer of an absent model": lambda: client.infer("nothing", [nothing], **key),
        "infer without data": lambda: client.infer(digits, [nothing], **key),
    }


async def answered(job: Json) -> list[Json]:
    async with (
        InferenceServerClient(job["host"], conn_limit=8) as client,
        InferenceServerClient(f"{job['host']}/t/{job['tenant']}") as below,
    ):

        async def infer(item: Json) -> Json:
            arguments = triton_shared.arguments(item)
            return triton_shared.result(await client.infer(**arguments, headers=dict(job["headers"])))

        async def done(made: Callable[[], Awaitable[Json]], cell: str) -> Json:
            try:
                return {"cell": cell, **(await made())}
            except Exception as error:  # noqa: BLE001 - a client may raise anything
                return {"cell": cell, **told(error)}

        async def called(call: Callable[[], Awaitable[Any]]) -> Json:
            return {"value": await call()}

        results = [await done(lambda item=item: infer(item), item["cell"]) for item in job["infer"]]
        for name, call in calls(client, below, job).items():
            results.append(await done(lambda call=call: called(call), name))

        async def many_at_once() -> Json:
            answers = await asyncio.gather(*(infer(job["infer"][0]) for _ in range(20)))
            return {"value": len([one for one in answers if one["outputs"] == answers[0]["outputs"]])}

        results.append(await done(many_at_once, "20 at once"))
    return results


if __name__ == "__main__":
    run("tritonclient", lambda job: asyncio.run(answered(job)))
