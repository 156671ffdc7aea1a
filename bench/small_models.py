"""Many small models with different weights, pushed and deployed as any other: ONNX networks and XGBoost boosters."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xgboost
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from moorage_sdk import Client

WIDTH, HIDDEN = 16, 32
_PUSHERS = 4


@dataclass(frozen=True)
class SmallModel:
    """One model of one tenant, a row to ask it and its answer."""

    tenant: str
    name: str
    format: str
    content: bytes
    row: NDArray[np.float32]
    answer: list[float]

    @cached_property
    def signature(self) -> dict[str, Any]:
        out = ("y", [-1, 1]) if self.format == "onnx" else ("predict", [-1])
        return {
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, WIDTH]}],
            "outputs": [{"name": out[0], "datatype": "FP32", "shape": out[1]}],
        }

    @cached_property
    def request(self) -> dict[str, Any]:
        """A V2 inference request."""
        return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, WIDTH], "data": self.row.tolist()}]}

    def holds(self, body: bytes) -> bool:
        """Whether a V2 answer is this model's and no other's."""
        data = json.loads(body)["outputs"][0]["data"]
        return bool(np.allclose(data, self.answer, rtol=1e-3, atol=1e-4))


def made(tenants: Sequence[str], each: int) -> Iterator[SmallModel]:
    """`each` models a tenant, ONNX and XGBoost in turn, no two alike."""
    for number, tenant in enumerate(tenants):
        for index in range(each):
            seed = number * each + index
            yield _onnx(tenant, f"onnx-{index}", seed) if index % 2 == 0 else _xgboost(tenant, f"xgb-{index}", seed)


def _onnx(tenant: str, name: str, seed: int) -> SmallModel:
    random = np.random.default_rng(seed)
    first = random.normal(size=(WIDTH, HIDDEN)).astype(np.float32)
    second = random.normal(size=(HIDDEN, 1)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "first"], ["a"]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("MatMul", ["b", "second"], ["y"]),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(first, "first"), numpy_helper.from_array(second, "second")],
    )
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    row = random.normal(size=WIDTH).astype(np.float32)
    answer = np.maximum(row @ first, 0) @ second
    return SmallModel(tenant, name, "onnx", content, row, answer.tolist())


def _xgboost(tenant: str, name: str, seed: int) -> SmallModel:
    random = np.random.default_rng(seed)
    x = random.normal(size=(200, WIDTH)).astype(np.float32)
    y = x @ random.normal(size=WIDTH)
    booster = xgboost.train({"max_depth": 4, "nthread": 1, "seed": seed}, xgboost.DMatrix(x, y), 20)
    answer = booster.inplace_predict(x[:1])
    return SmallModel(tenant, name, "xgboost", bytes(booster.save_raw("ubj")), x[0], np.asarray(answer).tolist())


@dataclass(frozen=True)
class Tenants:
    """The tenants of a benchmark, made by an operator; a key of each."""

    keys: Mapping[str, str]
    clients: Mapping[str, Client]

    @classmethod
    def make(cls, local: Mapping[str, Any], names: Sequence[str]) -> "Tenants":
        """New tenants whose limits do not bind."""
        limits = {"requests_per_s": 1_000_000, "burst": 1_000_000, "max_concurrent": 10_000}
        operator = Client(local["registry"], local["router"], local["admin_key"])
        keys, clients = {}, {}
        for name in names:
            operator.registry.create_tenant(name, limits)
            clients[name] = Client(local["registry"], local["router"], local["admin_key"], tenant=name)
            keys[name] = clients[name].registry.create_key(["infer:*"])["key"]
        return cls(keys, clients)

    def deploy(self, models: Sequence[SmallModel], isolation: str, **scaling: int) -> None:
        """Push and deploy all; returns once they are wanted."""
        with ThreadPoolExecutor(_PUSHERS) as pushers:
            for done in [pushers.submit(self._deploy, model, isolation, scaling) for model in models]:
                done.result()

    def _deploy(self, model: SmallModel, isolation: str, scaling: Mapping[str, int]) -> None:
        registry = self.clients[model.tenant].registry
        outputs = [{**model.signature["outputs"][0], "shape": [1, 1] if model.format == "onnx" else [1]}]
        examples = {"examples": [{"request": model.request, "outputs": [{**outputs[0], "data": model.answer}]}]}
        digests = []
        for content in (model.content, json.dumps(examples).encode()):
            digests.append(f"sha256:{hashlib.sha256(content).hexdigest()}")
            registry.upload_artifact(digests[-1], content)
        body = {
            "artifact_digest": digests[0],
            "examples_digest": digests[1],
            "format": model.format,
            "signature": model.signature,
        }
        version = registry.create_version(model.name, body).version
        wanted = {
            "version": version,
            "isolation": isolation,
            "scaling": {"min": 1, "max": 1} | dict(scaling),
            "resources": {"cpu_milli": 20, "host_mem_mib": 128},
        }
        registry.put_deployment(model.name, {"versions": [wanted]})
