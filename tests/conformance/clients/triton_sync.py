"""tritonclient.http."""

from collections.abc import Callable
from typing import Any

import triton_shared
from job import Json, done, run
from tritonclient.http import InferenceServerClient, InferInput


def calls(client: InferenceServerClient, job: Json) -> dict[str, Callable[[], Any]]:
    """Everything but inference, by the suite's names."""
    key, digits = {"headers": dict(job["headers"])}, job["digits"]
    below = InferenceServerClient(f"{job['host']}/t/{job['tenant']}")
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


def many_at_once(client: InferenceServerClient, job: Json) -> Json:
    """`async_infer`: greenlets over a pool of connections."""
    waiting = [
        client.async_infer(**triton_shared.arguments(item), headers=dict(job["headers"]))
        for item in job["infer"][:1] * 20
    ]
    answers = [triton_shared.result(one.get_result()) for one in waiting]
    return {"value": len([answer for answer in answers if answer["outputs"] == answers[0]["outputs"]])}


def answer(job: Json) -> list[Json]:
    client = InferenceServerClient(job["host"], concurrency=4)

    def infer(item: Json) -> Json:
        return triton_shared.result(client.infer(**triton_shared.arguments(item), headers=dict(job["headers"])))

    results = [done(lambda item=item: infer(item), item["cell"]) for item in job["infer"]]
    for name, call in calls(client, job).items():
        results.append(done(lambda call=call: {"value": call()}, name))
    results.append(done(lambda: many_at_once(client, job), "20 at once"))
    client.close()
    return results


if __name__ == "__main__":
    run("tritonclient", answer)
