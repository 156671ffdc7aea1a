"""The client: push, deploy, call and look at what runs."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

from moorage_common.contracts.desired import Isolation
from moorage_common.contracts.events import CloudEvent
from moorage_sdk import applying
from moorage_sdk.answer import Answer
from moorage_sdk.answers import Change, Traffic, Version
from moorage_sdk.deploying import Endpoint, wait_until_ready, with_version
from moorage_sdk.errors import MoorageApiError, NotConfigured
from moorage_sdk.feedback import FeedbackTaken, Label, feedback_calls, together
from moorage_sdk.inference import Inference
from moorage_sdk.keys import Keys
from moorage_sdk.manifest import Manifest
from moorage_sdk.people import People
from moorage_sdk.profiles import Profile, resolve
from moorage_sdk.protocol import InferOptions
from moorage_sdk.quantities import Quantity
from moorage_sdk.registry_api import RegistryApi
from moorage_sdk.retry import RetryPolicy
from moorage_sdk.rollouts import Rollouts
from moorage_sdk.sharing import TrafficChange
from moorage_sdk.spec import Json, Placing, resources_spec, traffic_spec, version_spec
from moorage_sdk.tenants import Tenants
from moorage_sdk.transport import TIMEOUT_S, Transport
from moorage_sdk.upload import upload, wait_until_validated
from moorage_sdk.wire import Service

Progress = Callable[[str], None]
"""Takes one line on what is going on."""


def _silent(_line: str) -> None:
    pass


class Client:
    """One tenant's door to the platform: `registry` for what is desired, `rollouts`, `infer` for answers.

    Each setting comes from its argument, else from `MOORAGE_REGISTRY`, `MOORAGE_ROUTER` and `MOORAGE_API_KEY`, else
    from the profile that `moorage login` wrote. Connections are kept; use as a context manager, or `close()`.

    Args:
        registry: base URL of the registry.
        router: base URL of the router.
        api_key: `mrg_...`.
        profile: name of a profile; goes before the variables.
        tenant: the tenant to act for, with an administrator's key.
        progress: takes a line for each step of a push or a deployment.
        retries: times a call may be sent again, see `moorage_sdk.retry`; 0 switches it off.
        timeout_s: for a call, waits and further attempts included.
    """

    def __init__(
        self,
        registry: str | None = None,
        router: str | None = None,
        api_key: str | None = None,
        profile: str | None = None,
        *,
        tenant: str | None = None,
        progress: Progress = _silent,
        retries: int = RetryPolicy().retries,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        settings = resolve(registry, router, api_key, profile)
        headers = {"moorage-tenant": tenant} if tenant else {}
        of_registry = Service(settings.registry, settings.api_key, "MOORAGE_REGISTRY", headers)
        of_router = Service(settings.router, settings.api_key, "MOORAGE_ROUTER")
        policy = RetryPolicy(retries)
        self._to_registry = Transport(of_registry, policy=policy, timeout_s=timeout_s)
        self._to_router = Transport(of_router, policy=policy, timeout_s=timeout_s)
        self._inference = Inference(self._to_router)
        self._progress = progress
        self.registry = RegistryApi(self._to_registry)
        self.tenants = Tenants(self._to_registry)
        self.people = People(self._to_registry)
        self.keys = Keys(self._to_registry)
        self.rollouts = Rollouts(self._to_registry, progress)

    @classmethod
    def of(cls, profile: Profile) -> Self:
        """A client by these settings alone."""
        return cls(registry=profile.registry, router=profile.router, api_key=profile.api_key)

    def push(
        self,
        model: Any,
        *,
        name: str,
        example: Any = None,
        feature_service: str | None = None,
        format: str | None = None,  # noqa: A002 - the word of the interface
        include: Sequence[str] = (),
        wait: bool = True,
        new: bool = False,
        timeout_s: float = 120.0,
    ) -> Version:
        """Upload a model as a new version of `name`, with what it answers to `example`.

        A host of the tenant answers the example again before the version may serve; a difference rejects it. Pushing
        an equal model returns the version that is there, unless `new`.

        Args:
            model: a scikit-learn estimator or Pipeline, an XGBoost or LightGBM model or booster, a torch module, an
                ONNX ModelProto, or the path of an .onnx, .skops, .ubj, .json (XGBoost) or .txt (LightGBM) file; with
                format="ray-serve" the name of an application: "pipeline.py:app" or "package.module:app".
            name: the model's name; made on its first push.
            example: a few rows of input as the model takes them: an array, a DataFrame, or a mapping of named arrays.
                Without it the version is only loaded, and marked unchecked.
            feature_service: the feature service whose features the model takes.
            format: "skops" or "onnx" for scikit-learn, "ray-serve" for an application; left out, the safe format of the
                model's own library.
            include: of an application, patterns of files that go along with its Python files ("weights/*.npz").
            wait: wait for the validation.
            new: make a new version even where an equal one is there.
            timeout_s: how long to wait.

        Raises:
            ModelRefused: this kind of model, or file, is not taken (pickle, for one); the text shows the way out.
            VersionRejected: the validation failed; says why and by how much.
            WaitTimedOut: the validation goes on.
            MoorageApiError: the registry refused.
        """
        from moorage_sdk.models.packaging import package  # noqa: PLC0415 - loads the model libraries

        packaged = package(model, example, format, include)
        version = upload(
            self.registry, name, packaged, feature_service=feature_service, new=new, progress=self._progress
        )
        return wait_until_validated(self.registry, version, timeout_s, self._progress) if wait else version

    def deploy(
        self,
        model: str | Version,
        *,
        version: int | None = None,
        gpu: Quantity = 0,
        gpu_memory: Quantity | None = None,
        cpu: Quantity | None = None,
        memory: Quantity | None = None,
        min: int = 1,  # noqa: A002 - the manifest's words
        max: int = 1,  # noqa: A002
        isolation: Isolation = "dedicated",
        features: Mapping[str, Any] | None = None,
        traffic: Mapping[int, float] | None = None,
        wait: bool = True,
        timeout_s: float = 120.0,
        **placing: Unpack[Placing],
    ) -> Endpoint:
        """Run a version beside those deployed already, or change how it runs.

        The first deployment of a model sends all traffic to its version; later ones leave the traffic as it is unless
        `traffic` is given.

        Args:
            model: a `Version` as `push` returned it, or a model's name for its latest version.
            version: a version by number, where `model` is a name.
            gpu: share of a GPU (0.5, "500m"), or whole GPUs (2).
            gpu_memory: per GPU, such as "4Gi"; left out, the same share as `gpu`.
            cpu: such as "500m" or 2.
            memory: such as "1Gi".
            min: least replicas.
            max: most replicas.
            isolation: "dedicated" (a process of its own) or "pooled" (shared with the tenant's other small models).
            features: `{"entity": {join key: input}, "deadline_ms": 50, "on_miss": "fail"}`.
            traffic: percent by version, such as {1: 90, 2: 10}.
            wait: wait until a replica answers.
            timeout_s: how long to wait.
            placing: where and how it may run (`gpu_models`, `idle`, `priority`, ...), see `Placing`.

        Raises:
            InvalidQuantity: naming the argument.
            WaitTimedOut: with the replicas' states and reasons.
            MoorageApiError: the registry refused.
        """
        name = model.model if isinstance(model, Version) else model
        number = model.version if isinstance(model, Version) else version or self._latest(name)
        resources = resources_spec(gpu, gpu_memory, cpu, memory)
        wanted = version_spec(number, resources, least=min, most=max, isolation=isolation, placing=placing)
        spec = with_version(self.registry.deployment(name), wanted)
        if traffic is not None:
            spec["traffic"] = traffic_spec(traffic)
        if features is not None:
            spec["features"] = dict(features)
        self.registry.put_deployment(name, spec)
        self._progress(f"{name}: version {number} is being deployed")
        endpoint = self.endpoint(name)
        if wait and min > 0:
            self.wait_until_ready(name, number, timeout_s=timeout_s)
        return endpoint

    def wait_until_ready(self, name: str, version: int, *, timeout_s: float = 120.0) -> None:
        """Wait until a replica answers for a deployed version; `WaitTimedOut` tells why none does."""
        wait_until_ready(self.registry, self._inference, name, version, timeout_s=timeout_s, progress=self._progress)

    def _latest(self, name: str) -> int:
        usable = [found.version for found in self.registry.versions(name) if found.state != "rejected"]
        if not usable:
            raise MoorageApiError(404, "not_found", f"model {name} has no version that can be deployed; push one")
        return usable[-1]

    def endpoint(self, name: str) -> Endpoint:
        """The URL of a model and calls to it."""
        if not self._to_router.base_url:
            raise NotConfigured("MOORAGE_ROUTER is not set; set it, or run: moorage login")
        return Endpoint(name=name, url=f"{self._to_router.base_url}/v2/models/{name}", inference=self._inference)

    def apply(self, manifest: Manifest, *, dry_run: bool = False, again: bool = False) -> list[Change]:
        """Make the deployment as declared; returns what changed (with `dry_run`, would), empty for nothing.

        Args:
            manifest: what `parse_manifests` read.
            dry_run: change nothing.
            again: begin the rollout that it declares even where the last one to that version was rolled back.

        Raises:
            MoorageApiError: the registry refused.
            SdkError: a rollout to another version runs.
        """
        spec = manifest.spec()
        if manifest.rollout is None:
            return self._put(manifest.model, spec, dry_run=dry_run)
        name, asked = manifest.model, manifest.rollout.to
        to = self._latest(name) if asked == "latest" else asked
        standing = self.registry.deployment(name)
        history = self.rollouts.history(name) if standing is not None else []
        what = applying.wanted(name, to, standing, history, again=again)
        settled = applying.spec_for(spec, standing, to, what, applying.settling(history, time.time()))
        changes = self._put(name, settled, dry_run=dry_run)
        if isinstance(what, applying.Leave) and what.why:
            self._progress(f"{name}: {what.why}")
        if isinstance(what, applying.Begin):
            if not dry_run:
                self.rollouts.start(name, to=to)
            changes.append(Change.model_validate({"path": "rollout", "from": what.stable, "to": to}))
        return changes

    def _put(self, name: str, spec: Json, *, dry_run: bool) -> list[Change]:
        changes = self.registry.deployment_changes(name, spec)
        if changes and not dry_run:
            self.registry.put_deployment(name, spec)
        return changes

    def set_traffic(self, name: str, weights: Mapping[int, float]) -> Traffic:
        """Split the traffic by percent, such as {1: 90, 2: 10}; what it sticks to, rings and shadows stay."""
        return self.change_traffic(name, TrafficChange(weights=weights))

    def change_traffic(self, name: str, change: TrafficChange) -> Traffic:
        """Change what of the traffic is named, if nobody else changes it meanwhile (409).

        Raises:
            SdkError: what was written makes no sense.
        """
        return self.registry.put_traffic(name, **change.body(self.registry.traffic(name)))

    def infer(self, name: str, inputs: Any, **options: Unpack[InferOptions]) -> Any:
        """Ask a model.

        Args:
            name: the model.
            inputs: a mapping of input names to arrays, a DataFrame, or for a model of one input its array; a V2
                request (a mapping with `inputs`) is sent as it is, as JSON.
            options: how to ask (`version`, `outputs`, `frame`, `timeout_s`, ...), see `InferOptions`.

        Returns:
            An `Answer`: arrays by output name, with `model_version` and `request_id`. With `frame=True` a DataFrame,
            with `raw=True` the Open Inference Protocol's JSON.

        Raises:
            WrongInputs: the inputs do not fit what the model takes.
            MoorageApiError: the platform refused; `retry_after` says when to try again, where it helps. No answer in
                time has the status 0 and the code `timed_out`.
        """
        return self._inference.infer(name, inputs, **options)

    def feedback(
        self,
        name: str,
        answers: str | Answer | Label | Iterable[Label],
        *,
        label: str | float | bool | None = None,
        correct: bool | None = None,
        loss: float | None = None,
        timeout_s: float | None = None,
    ) -> FeedbackTaken:
        """Tell what was right, at once or days later. An answer has one label, the first; sending again is harmless.

        Args:
            name: the model.
            answers: an `Answer` or its request id, with one of the three below; or several, each a mapping of `id` and
                `label`, `correct` or `loss` (a DataFrame has them as columns), sent 1,000 at a time.
            label: the truth, compared with the answer that was kept.
            correct: whether the answer was right, as you found yourself.
            loss: how far off it was, as you found yourself.
            timeout_s: for each call, waits and further attempts included.

        Raises:
            SdkError: no label, or one of no form.
            MoorageApiError: none of a call's labels was taken (422), or the bus is away (503).
        """
        taken = FeedbackTaken()
        for one in feedback_calls(name, answers, {"label": label, "correct": correct, "loss": loss}, timeout_s):
            taken = together(taken, one.read(self._to_router.send(one.call)))
        return taken

    def usage(self, *, by: str = "model,version", start: str | None = None, end: str | None = None) -> dict[str, Any]:
        """`{rows, total}`: requests, errors, rows, bytes and busy time, grouped by model, version, key or hour."""
        return self.registry.usage(by.split(","), start=start, end=end)

    def events(self, *, follow: bool = False, after: str | None = None) -> Iterator[CloudEvent]:
        """The tenant's events, oldest first; with `follow` for ever, over lost connections and none twice."""
        last = after
        while True:
            try:
                for event in self.registry.events(follow=follow, after=last):
                    yield event
                    last = event.id
            except MoorageApiError as error:
                if not follow or error.code != "unreachable" or last is None:
                    raise
            if not follow:
                return
            time.sleep(1.0)

    def close(self) -> None:
        self._to_registry.close()
        self._to_router.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
