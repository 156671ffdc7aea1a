"""kserve.InferenceRESTClient with protocol v2."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from job import Json, array, packed, run, told
from kserve import InferenceRESTClient, InferInput, InferRequest, InferResponse, RESTConfig
from kserve.protocol.infer_type import RequestedOutput


def request(item: Json) -> InferRequest:
    """All JSON or all binary is said once for the request, a mixture for each output."""
    inputs = []
    for tensor in item["inputs"]:
        made = InferInput(tensor["name"], tensor["shape"], tensor["datatype"])
        made.set_data_from_numpy(array(tensor), binary_data=tensor["binary"])
        inputs.append(made)
    wanted = item["answered"]
    is_mixed = len(set(wanted.values())) == 2
    return InferRequest(
        model_name=item["model"],
        infer_inputs=inputs,
        request_id=item["id"],
        parameters=None if is_mixed else {"binary_data_output": all(wanted.values())},
        request_outputs=[RequestedOutput(n, {"binary_data": raw}) for n, raw in wanted.items()] if is_mixed else None,
    )


def result(answer: InferResponse) -> Json:
    """The client keeps no model_version."""
    tensors = {o.name: packed(o.as_numpy(), o.datatype, o.shape) for o in answer.outputs}
    return {"outputs": tensors, "model_name": answer.model_name, "model_version": None, "id": answer.id}


async def answered(job: Json) -> list[Json]:
    client, url, headers = InferenceRESTClient(RESTConfig(protocol="v2", retries=0)), job["url"], job["headers"]
    digits = job["digits"]

    async def infer(item: Json, base: str = url) -> Json:
        accepted = "identity" if item["packing"] == "plain" else item["packing"]
        found = await client.infer(base, request(item), item["model"], headers | {"accept-encoding": accepted})
        assert isinstance(found, InferResponse)
        return result(found)

    async def done(made: Callable[[], Awaitable[Json]], cell: str) -> Json:
        try:
            return {"cell": cell, **(await made())}
        except Exception as error:  # noqa: BLE001 - a client may raise anything
            return {"cell": cell, **told(error)}

    async def called(call: Callable[[], Awaitable[Any]]) -> Json:
        return {"value": await call()}

    async def of_array(model: str, sent: dict[str, str]) -> None:
        tensor = InferInput("x", [1, 1], "INT32")
        tensor.set_data_from_numpy(np.ones((1, 1), np.int32), binary_data=False)
        await client.infer(url, InferRequest(model, [tensor]), model, dict(sent))

    async def below() -> Json:
        found = await infer(job["infer"][0], f"{url}/t/{job['tenant']}")
        return {"value": sorted(found["outputs"])}

    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "server live": lambda: client.is_server_live(url),
        "server ready": lambda: client.is_server_ready(url),
        "model ready": lambda: client.is_model_ready(url, digits, headers),
        "absent model ready": lambda: client.is_model_ready(url, "nothing", headers),
        "infer without a key": lambda: of_array(digits, {}),
        "infer of an absent model": lambda: of_array("nothing", headers),
        "infer of another input": lambda: of_array(digits, headers),
    }
    results = [await done(lambda item=item: infer(item), item["cell"]) for item in job["infer"]]
    for name, call in calls.items():
        results.append(await done(lambda call=call: called(call), name))
    results.append(await done(below, "infer below a base path"))
    return results


if __name__ == "__main__":
    run("kserve", lambda job: asyncio.run(answered(job)))
