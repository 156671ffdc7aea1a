"""open-inference-openapi, generated from the specification: JSON alone, and every number a float."""

from collections.abc import Callable
from typing import Any

import httpx
from job import Json, array, done, packed, run
from open_inference.openapi import InferenceRequest, RequestInput
from open_inference.openapi.client import OpenInferenceClient
from open_inference.openapi.core.api_error import ApiError
from open_inference.openapi.types.inference_response import InferenceResponse


def request(item: Json) -> InferenceRequest:
    inputs = []
    for tensor in item["inputs"]:
        values = array(tensor)
        data = [[e.decode() if isinstance(e, bytes) else e for e in row] for row in values.tolist()]
        inputs.append(RequestInput(name=tensor["name"], shape=tensor["shape"], datatype=tensor["datatype"], data=data))
    return InferenceRequest(id=item["id"], inputs=inputs)


def result(answer: InferenceResponse) -> Json:
    tensors = {o.name: packed(o.data.__root__, o.datatype, o.shape) for o in answer.outputs}
    known = {"model_name": answer.model_name, "model_version": answer.model_version, "id": answer.id}
    return {"outputs": tensors, **known}


def told_status(call: Callable[[], Any]) -> Callable[[], Any]:
    """The status and body that the client raises."""

    def ask() -> Any:
        try:
            return call()
        except ApiError as error:
            return {"status": error.status_code, "body": error.body}

    return ask


def answer(job: Json) -> list[Json]:
    http = httpx.Client(headers=job["headers"], timeout=30, trust_env=False)
    client = OpenInferenceClient(base_url=job["url"], httpx_client=http)
    below = OpenInferenceClient(base_url=f"{job['url']}/t/{job['tenant']}", httpx_client=http)
    stranger = OpenInferenceClient(base_url=job["url"])
    digits = job["digits"]
    floats = request(next(item for item in job["infer"] if item["inputs"][0]["datatype"] == "FP64"))

    def infer(item: Json) -> Json:
        made = request(item)
        try:
            if item["version"]:
                return result(client.model_version_infer(item["model"], item["version"], request=made))
            return result(client.model_infer(item["model"], request=made))
        except ApiError as error:
            return {"error": f"{error.status_code} {error.body}"}

    calls: dict[str, Callable[[], Any]] = {
        "server live": client.check_server_liveness,
        "server ready": client.check_server_readiness,
        "model ready": lambda: client.check_model_readiness(digits),
        "version ready": lambda: client.check_model_version_readiness(digits, "2"),
        "absent version ready": lambda: client.check_model_version_readiness(digits, "9"),
        "server metadata": lambda: client.read_server_metadata().dict(),
        "model metadata": lambda: client.read_model_metadata(digits).dict(),
        "version metadata": lambda: client.read_model_version_metadata(digits, "2").dict(),
        "absent model metadata": lambda: client.read_model_metadata("nothing").dict(),
        "metadata below a base path": lambda: below.read_model_metadata(digits).dict(),
        "infer without a key": lambda: stranger.model_infer(digits, request=floats),
        "infer of an absent model": lambda: client.model_infer("nothing", request=floats),
        "infer of another input": lambda: client.model_infer(digits, request=floats),
    }
    results = [done(lambda item=item: infer(item), item["cell"]) for item in job["infer"]]
    for name, call in calls.items():
        results.append(done(lambda call=call: {"value": told_status(call)()}, name))
    return results


if __name__ == "__main__":
    run("open-inference-openapi", answer)
