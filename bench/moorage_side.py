"""Moorage's own side: a whole platform, the models pushed and deployed as a user would, batching on and off."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import joblib  # type: ignore[import-untyped]
import onnx
import psutil
from peers.side import Asked
from platform_run import lift_limits, platform
from workload import Body, Model

import moorage_sdk
from moorage_sdk.models.packaging import package
from moorage_sdk.upload import upload, wait_until_validated

SETTINGS = {
    "moorage": "moorage up: key, quota, routing, metrics and metering on; 1 dedicated replica a model; limits lifted",
    "moorage-unbatched": "the same, with versions whose signature says that they cannot be batched",
}

_PATH = "/v2/models/{}/infer"


@dataclass(frozen=True)
class Running:
    """A platform that answers for the models under the names `<model>` and, unbatched, `<model>-single`."""

    router: str
    headers: Mapping[str, str]
    pid: int
    inputs: Mapping[str, str]
    """Name of the input by model, which the SDK chose."""
    second_key: str = ""

    def tree(self) -> list[psutil.Process]:
        top = psutil.Process(self.pid)
        return [top, *top.children(recursive=True)]

    def asked(self, case: str, *, single: bool) -> Asked:
        name = {"digits": "digits", "binary": "rowmean"}.get(case, "network") + ("-single" if single else "")
        if case in ("digits", "onnx-json"):
            return Asked(_PATH.format(name), self._named(Model.v2_json), "V2 JSON")
        return Asked(_PATH.format(name), self._named(Model.v2_binary), "V2 binary")

    def _named(self, encode: Any) -> Any:
        def encoded(model: Model) -> list[Body]:
            return list(encode(dataclasses.replace(model, input_name=self.inputs[model.name])))

        return encoded


@contextmanager
def started(models: Sequence[Model], sides: Sequence[str], *options: str) -> Iterator[Running]:
    """Start a platform and deploy `models` for each of `sides`."""
    with platform("--no-demo", *options) as local:
        lift_limits(local)
        with moorage_sdk.Client(registry=local["registry"], router=local["router"], api_key=local["api_key"]) as client:
            inputs = {model.name: _deploy(client, model, sides) for model in models}
        with moorage_sdk.Client(
            registry=local["registry"], router=local["router"], api_key=local["admin_key"], tenant=local["tenant"]
        ) as operator:
            second_key = operator.registry.create_key(["infer:*"])["key"]
        headers = {"authorization": f"Bearer {local['api_key']}"}
        yield Running(local["router"], headers, local["pid"], inputs, second_key)


def _deploy(client: moorage_sdk.Client, model: Model, sides: Sequence[str]) -> str:
    """Push and deploy for each side; the name of the input."""
    loaded = joblib.load(model.path) if model.path.suffix == ".joblib" else onnx.load(str(model.path))
    packaged = package(loaded, model.rows[:4])
    wanted = {"moorage": (model.name, True), "moorage-unbatched": (f"{model.name}-single", False)}
    for name, batchable in (wanted[side] for side in sides):
        signature = packaged.signature.model_copy(update={"batchable": batchable})
        one = dataclasses.replace(packaged, signature=signature)
        version = upload(client.registry, name, one, feature_service=None, new=False, progress=lambda _line: None)
        client.deploy(wait_until_validated(client.registry, version, 120, lambda _line: None))
    return packaged.signature.inputs[0].name
