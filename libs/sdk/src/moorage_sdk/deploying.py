"""A deployment, told once: change one version of what stands, wait until it answers, hand out the URL."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Unpack

from moorage_sdk.answers import DeploymentStatus
from moorage_sdk.errors import MoorageApiError, SdkError, WaitTimedOut
from moorage_sdk.inference import Inference
from moorage_sdk.protocol import InferOptions
from moorage_sdk.registry_api import RegistryApi
from moorage_sdk.spec import Json

_POLL_S = 0.1
_KEPT = ("features", "deadline_ms", "policy", "feedback", "stickiness")
"""Of the deployment as a whole: what a change of one version leaves as it is."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A deployed model: its URL for any HTTP client, and calls from here."""

    name: str
    url: str
    inference: Inference = field(repr=False)

    def infer(self, inputs: Any, **options: Unpack[InferOptions]) -> Any:
        """As `Client.infer`, of this model."""
        return self.inference.infer(self.name, inputs, **options)

    def predict(self, inputs: Any, *, version: int | None = None) -> Any:
        """The output `predict`, or the only output, as an array.

        Raises:
            SdkError: the model has several outputs and none of that name.
        """
        outputs = self.infer(inputs, version=version)
        if "predict" in outputs:
            return outputs["predict"]
        if len(outputs) == 1:
            return next(iter(outputs.values()))
        raise SdkError(f"{self.name} has no output `predict` but {', '.join(outputs)}; call infer instead")


def with_version(spec: Json | None, wanted: Json) -> Json:
    """The spec of a standing deployment, as the registry shows it, with one version added or replaced.

    The traffic is left out, so it stays.
    """
    if spec is None:
        return {"versions": [wanted]}
    others = [version for version in spec["versions"] if version["version"] != wanted["version"]]
    kept = {key: spec[key] for key in _KEPT if spec.get(key) is not None}
    return {**kept, "versions": [*others, wanted]}


def wait_until_ready(
    registry: RegistryApi, inference: Inference, name: str, version: int, *, timeout_s: float, progress: Progress
) -> None:
    """Poll until the router answers for `version` (the registry, where the key may deploy but not infer).

    Raises:
        WaitTimedOut: after `timeout_s`, with the replicas' states and reasons.
    """
    started = time.monotonic()
    while not _is_ready(registry, inference, name, version):
        if time.monotonic() - started > timeout_s:
            raise WaitTimedOut(
                f"{name} version {version} is not ready after {timeout_s:g} s: {_why(registry, name, version)}. "
                f"It goes on; see: moorage status {name}"
            )
        time.sleep(_POLL_S)
    progress(f"{name}: version {version} answers after {time.monotonic() - started:.1f} s")


def _is_ready(registry: RegistryApi, inference: Inference, name: str, version: int) -> bool:
    try:
        return inference.is_ready(name, version)
    except MoorageApiError as error:
        if error.status != 403:
            raise
    return registry.status(name).ready.get(version, 0) > 0


def _why(registry: RegistryApi, name: str, version: int) -> str:
    try:
        status: DeploymentStatus = registry.status(name)
    except MoorageApiError as error:
        return error.message
    replicas = [replica for replica in status.replicas if replica.version == version]
    if not replicas:
        return "no replica has been placed"
    return "; ".join(f"{r.host_id} is {r.state}{f' ({r.reason})' if r.reason else ''}" for r in replicas)
