"""Routes in memory, made ready for the hot path: `routes/<tenant>.<model>`."""

from collections.abc import Callable, Iterator
from urllib.parse import quote

import orjson
import structlog
from pydantic import ValidationError

from moorage_common.contracts import host_calls
from moorage_common.contracts.keys import KeyRecord
from moorage_common.contracts.names import NAME_MAX
from moorage_common.contracts.request_id import RequestIds
from moorage_common.contracts.routes import WHOLE_BP, FeatureJoin, Route, RouteVersion
from moorage_common.contracts.tensors import DATA_FORMATS, TensorSpec
from moorage_common.contracts.versioned import Versioned
from moorage_common.errors import NotFound
from moorage_router import splits
from moorage_router.assignment import Assigned, keying_of
from moorage_router.metrics import VersionSeries
from moorage_router.mirrors import mirrors_of
from moorage_router.replicas import EndpointTable, Replicas
from moorage_router.signals.book import Book, Judged

log = structlog.get_logger()


class ServedVersion:
    """One version of a route: what to send, to whom, and what to say about it.

    `asking_line` is `request_line` where the compact output is wanted too.
    """

    __slots__ = (
        "arm", "asking_line", "cluster", "data_format", "features", "ids", "metadata", "model", "number", "replicas",
        "request_line", "revision", "series", "spec", "tenant",
    )  # fmt: skip

    def __init__(
        self, route: Route, spec: RouteVersion, replicas: Replicas, series: VersionSeries, secret: bytes
    ) -> None:
        self.tenant = route.tenant
        self.model = route.model
        self.cluster = route.cluster
        self.number = spec.version
        self.revision = route.revision
        self.spec = spec
        self.arm = next((arm.arm for arm in route.arms if arm.version == spec.version), "direct")
        self.ids = RequestIds(
            secret, route.tenant, model=route.model, version=spec.version, arm=self.arm, revision=route.revision
        )
        self.data_format = spec.format in DATA_FORMATS
        self.features: FeatureJoin | None = route.features if spec.feature_service is not None else None
        self.request_line = (
            f"POST /v2/models/{route.model}/versions/{spec.version}/infer HTTP/1.1\r\n{host_calls.ARM}: {self.arm}\r\n"
        ).encode()
        compact = quote(route.feedback.output, safe="") if route.feedback is not None else ""
        self.asking_line = self.request_line + f"{host_calls.COMPACT}: {compact or host_calls.FIRST}\r\n".encode()
        self.replicas = replicas
        self.series = series
        self.metadata = _metadata(route, spec)


class ServedRoute:
    """One model: its split and its versions by number.

    Attributes:
        keying: what of a request decides besides the draw; None where nothing does.
        assigned: by version, the choice that a draw alone makes.
        covered: key records found to cover it, by kid.
        judged: counts the requests of its rollout; None without one.
        kept: share of the requests of which the output is kept for labels.
        mirrors: who gets copies of whose requests.
        is_observed: whether a request is for more than its answer: any of the three.
    """

    __slots__ = (
        "assigned", "covered", "deadline_s", "is_observed", "judged", "kept", "keying", "mirrors", "model", "split",
        "tenant", "versions",
    )  # fmt: skip

    def __init__(self, route: Route, versions: dict[int, ServedVersion], judged: Judged | None) -> None:
        self.tenant = route.tenant
        self.model = route.model
        self.deadline_s = route.deadline_ms / 1000
        self.split = splits.split_of(arm for arm in route.arms if arm.version in versions)
        self.versions = versions
        self.keying = keying_of(route)
        self.assigned = {number: Assigned(served, "", None) for number, served in versions.items()}
        self.kept = 0.0 if route.feedback is None else route.feedback.keep_bp / WHOLE_BP
        self.mirrors = mirrors_of(route, versions)
        self.covered: dict[str, KeyRecord] = {}
        self.judged = judged
        self.is_observed = judged is not None or self.kept > 0 or bool(self.mirrors)

    def version(self, number: str) -> ServedVersion:
        """Version `number` of a path. Raises NotFound."""
        served = self.versions.get(int(number)) if number.isdecimal() and len(number) < 10 else None
        if served is None:
            held = ", ".join(map(str, self.versions)) or "none"
            message = f"{self.model} has no such version deployed; deployed: {held}"
            raise NotFound(message, code="version_not_found")
        return served

    def pinned(self, number: str) -> Assigned:
        """The choice that a path made. Raises NotFound."""
        return Assigned(self.version(number), None, None)

    @property
    def default(self) -> ServedVersion | None:
        """The version most of the traffic goes to."""
        if self.split.arms:
            return self.versions[max(self.split.arms, key=lambda arm: arm.weight_bp).version]
        return next(iter(self.versions.values()), None)


class RouteTable:
    """Routes by tenant, then model."""

    def __init__(
        self,
        endpoints: EndpointTable,
        series: Callable[[str, str, int], VersionSeries],
        request_id_secret: bytes,
        book: Book,
    ) -> None:
        self._book = book
        self._secret = request_id_secret
        self._endpoints = endpoints
        self._series = series
        self._tenants: dict[str, dict[str, ServedRoute]] = {}

    def apply(self, key: str, entry: Versioned) -> None:
        """Take one entry of the bucket `routes`."""
        tenant, _, model = key.partition(".")
        if entry.value is None:
            self._tenants.get(tenant, {}).pop(model, None)
            self._book.forget(tenant, model)
            return
        try:
            route = Route.model_validate(entry.value)
        except ValidationError as error:
            log.warning("unreadable route ignored", key=key, errors=error.error_count())
            return
        versions = {}
        for spec in route.versions:
            replicas = self._endpoints.replicas(tenant, model, spec.version)
            replicas.worked.batches = spec.signature.batchable
            series = self._series(tenant, model, spec.version)
            versions[spec.version] = ServedVersion(route, spec, replicas, series, self._secret)
        self._tenants.setdefault(tenant, {})[model] = ServedRoute(route, versions, self._book.judge(route))

    def find(self, tenant: str, model: str) -> ServedRoute:
        """The tenant's model. Raises NotFound, for another tenant's just the same."""
        models = self._tenants.get(tenant)
        route = models.get(model) if models is not None else None
        if route is None:
            message = f"there is no deployed model {model[:NAME_MAX]!r}; `moorage models` lists yours"
            raise NotFound(message, code="model_not_found")
        return route

    def of_tenant(self, tenant: str) -> Iterator[ServedRoute]:
        return iter(self._tenants.get(tenant, {}).values())


def _metadata(route: Route, spec: RouteVersion) -> bytes:
    """Model metadata of the Open Inference Protocol, encoded once."""
    return orjson.dumps(
        {
            "name": route.model,
            "versions": [str(version.version) for version in route.versions],
            "platform": f"moorage_{spec.format.replace('-', '_')}",
            "inputs": [_tensor(tensor) for tensor in spec.signature.inputs],
            "outputs": [_tensor(tensor) for tensor in spec.signature.outputs],
        }
    )


def _tensor(tensor: TensorSpec) -> dict[str, object]:
    said: dict[str, object] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
    if tensor.columns is not None:
        said["parameters"] = {"columns": tensor.columns}
    return said
