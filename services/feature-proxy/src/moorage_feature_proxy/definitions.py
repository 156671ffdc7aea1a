"""A tenant's Feast registry, read from its protobuf alone: feature services ready to be looked up.

Nothing of Feast's object model is used, because it rebuilds a tenant's functions with exec and dill. Whatever holds
code is refused.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mmh3
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError

from moorage_common.contracts.features import FeatureServiceInfo
from moorage_common.contracts.names import TenantId
from moorage_common.errors import NotFound, Unprocessable
from moorage_feature_proxy import values
from moorage_feature_proxy.feast_protos import Registry
from moorage_feature_proxy.values import FEATURE_TYPES, FeatureType

FEATURES_MAX = 500
"""Features a service may have."""

SERVICES_MAX = 500
"""Feature services a tenant may have."""

VIEWS_MAX = 1_000
"""Feature views a tenant may have, stream feature views among them."""

PROJECTIONS_MAX = 2_000
"""Views that a tenant's feature services may name, all services together."""

ENTITIES_MAX = 50
"""Entities a feature view may have: each is a part of every key that is read."""

_NO_ENTITY = "__dummy"
"""Feast's stand-in in a view without entities. Feast writes such a row under one key and reads it under another."""

_CODE = frozenset(
    {
        "UserDefinedFunction", "UserDefinedFunctionV2", "FeatureTransformationV2", "SubstraitTransformationV2",
        "OnDemandFeatureView", "UserDefinedProfiler",
    }
)  # fmt: skip
"""Messages that hold a function of the tenant's."""

_NOT_KEPT = ("infra", "saved_datasets", "validation_references", "permissions", "feature_view_version_history")
"""Parts of a registry that online lookups do not read."""


@dataclass(frozen=True, slots=True)
class JoinKey:
    """A part of a view's key: the name `stored` in the online store, and the one `asked` for in requests."""

    stored: str
    asked: str
    kind: int


@dataclass(frozen=True, slots=True)
class Feature:
    """`name` is `view__feature`; `field` its field of the Redis hash."""

    name: str
    kind: FeatureType
    field: bytes


@dataclass(frozen=True, slots=True)
class View:
    """What one feature view gives to a service: one hash read a row.

    Attributes:
        join_keys: sorted by their stored name, as the key has them.
        ttl_s: greatest age served, in seconds; None for any.
        timestamp_field: field of the hash that holds the event timestamp.
    """

    join_keys: tuple[JoinKey, ...]
    key_prefix: bytes
    ttl_s: float | None
    features: tuple[Feature, ...]
    timestamp_field: bytes


@dataclass(frozen=True, slots=True)
class Service:
    """A feature service. `join_keys` are those that a request must give, with their types."""

    name: str
    fingerprint: str
    join_keys: Mapping[str, int]
    views: tuple[View, ...]

    @property
    def features(self) -> Iterator[Feature]:
        return (feature for view in self.views for feature in view.features)

    def info(self) -> FeatureServiceInfo:
        return FeatureServiceInfo(
            name=self.name,
            fingerprint=self.fingerprint,
            entities=list(self.join_keys),
            features=[f.name for f in self.features],
            datatypes=[f.kind.datatype for f in self.features],
        )


@dataclass(frozen=True, slots=True)
class Definitions:
    """All feature services of a tenant, by name."""

    services: Mapping[str, Service]

    def service(self, name: str) -> Service:
        found = self.services.get(name)
        if found is None:
            message = f"no feature service {name!r}; upload its definitions or check the name"
            raise NotFound(message, code="feature_service_unknown")
        return found


NO_DEFINITIONS = Definitions(services={})


def checked(tenant: TenantId, uploaded: bytes) -> bytes:
    """What is kept of an upload: a Feast registry of this tenant's project, without code.

    Raises:
        Unprocessable: not a registry, another project, or anything that holds a function.
    """
    registry = _parsed(uploaded)
    for what, message in _messages(registry, "registry"):
        if message.DESCRIPTOR.name in _CODE:
            text = (
                f"{what} holds a function ({message.DESCRIPTOR.name}); Moorage runs none of a tenant's code here: "
                "compute the feature before it is written, and upload definitions without it"
            )
            raise Unprocessable(text, code="feature_code_refused")
    for what, project in _projects(registry):
        if project not in ("", tenant):
            text = f"{what} belongs to the project {project!r}; name the Feast project {tenant!r}, as your tenant"
            raise Unprocessable(text, code="feature_project_mismatch")
    for part in _NOT_KEPT:
        registry.ClearField(part)
    kept: bytes = registry.SerializeToString()
    parse(kept)
    return kept


def parse(kept: bytes) -> Definitions:
    """The feature services of a registry. Raises Unprocessable where one cannot be served, saying why."""
    registry = _parsed(kept)
    _bounded(registry)
    join_keys = {e.spec.name: (e.spec.join_key or e.spec.name, int(e.spec.value_type)) for e in registry.entities}
    views = {v.spec.name: v.spec for v in (*registry.feature_views, *registry.stream_feature_views)}
    services = {}
    for item in registry.feature_services:
        service = _service(item.spec, views, join_keys)
        services[service.name] = service
    return Definitions(services=services)


def _bounded(registry: Any) -> None:
    """Refuse what would take long to build, by counts alone. Raises Unprocessable."""
    views = [view.spec for view in (*registry.feature_views, *registry.stream_feature_views)]
    counts = (
        ("feature services", len(registry.feature_services), SERVICES_MAX),
        ("feature views", len(views), VIEWS_MAX),
        (
            "views named by feature services",
            sum(len(s.spec.features) for s in registry.feature_services),
            PROJECTIONS_MAX,
        ),
        ("entities in one feature view", max((_entities(view) for view in views), default=0), ENTITIES_MAX),
    )
    for what, count, most in counts:
        if count > most:
            text = f"the definitions have {count} {what}, and at most {most} are served; upload fewer"
            raise Unprocessable(text, code="feature_definitions_too_large")


def _entities(view: Any) -> int:
    return max(len(view.entities), len(view.entity_columns))


def _parsed(data: bytes) -> Any:
    try:
        registry = Registry.FromString(data)
    except DecodeError as error:
        message = "not a Feast registry; upload the file that `feast apply` writes"
        raise Unprocessable(message, code="feature_registry_unreadable") from error
    if not registry.feature_views and not registry.feature_services and not registry.entities:
        message = "this Feast registry is empty; run `feast apply` first, then upload the file it writes"
        raise Unprocessable(message, code="feature_registry_unreadable")
    return registry


def _messages(message: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every message inside `message`, with a path that names the definition."""
    for field, value in message.ListFields():
        if field.type != FieldDescriptor.TYPE_MESSAGE:
            continue
        if field.message_type.GetOptions().map_entry:
            inner = field.message_type.fields_by_name["value"]
            items = list(value.values()) if inner.type == FieldDescriptor.TYPE_MESSAGE else []
        else:
            items = list(value) if field.is_repeated else [value]
        for item in items:
            name = getattr(getattr(item, "spec", item), "name", "")
            here = f"{path}.{field.name}" + (f" {name!r}" if isinstance(name, str) and name else "")
            yield here, item
            yield from _messages(item, here)


def _projects(registry: Any) -> Iterator[tuple[str, str]]:
    for kind in ("entities", "feature_views", "stream_feature_views", "feature_services", "label_views"):
        for item in getattr(registry, kind):
            yield f"{kind} {item.spec.name!r}", item.spec.project
    for source in registry.data_sources:
        yield f"data_sources {source.name!r}", source.project
    for project in registry.projects:
        yield "projects", project.spec.name
    for metadata in registry.project_metadata:
        yield "project_metadata", metadata.project


def _service(spec: Any, views: Mapping[str, Any], join_keys: Mapping[str, tuple[str, int]]) -> Service:
    count = sum(len(projection.feature_columns) for projection in spec.features)
    if count > FEATURES_MAX:
        raise _unserved(spec.name, f"it has {count} features, and at most {FEATURES_MAX} are served")
    named: set[tuple[str, str]] = set()
    found = tuple(_view(spec.name, projection, views, join_keys, named) for projection in spec.features)
    asked: dict[str, int] = {}
    for key in (key for view in found for key in view.join_keys):
        if asked.setdefault(key.asked, key.kind) != key.kind:
            raise _unserved(spec.name, f"its views give the join key {key.asked!r} different types")
    features = [feature for view in found for feature in view.features]
    names = [feature.name for feature in features]
    if len(set(names)) != len(names):
        raise _unserved(spec.name, "it has the same feature twice; give one of the views a name of its own")
    return Service(name=spec.name, fingerprint=_fingerprint(features, list(asked)), join_keys=asked, views=found)


def _view(
    service: str,
    projection: Any,
    views: Mapping[str, Any],
    join_keys: Mapping[str, tuple[str, int]],
    named: set[tuple[str, str]],
) -> View:
    """One view of a service. `named` gathers the views taken so far, each with the name it is shown by."""
    name = projection.feature_view_name
    spec = views.get(name)
    if spec is None:
        raise _unserved(service, f"the feature view {name!r} is not in the registry")
    if projection.version_tag:
        raise _unserved(service, f"it pins version {projection.version_tag} of the feature view {name!r}")
    if not projection.feature_columns:
        raise _unserved(service, f"it takes no feature of the feature view {name!r}")
    shown = projection.feature_view_name_alias or name
    if (name, shown) in named:
        raise _unserved(service, f"it names the feature view {name!r} twice; take all of its features at once")
    named.add((name, shown))
    features = []
    for column in projection.feature_columns:
        kind = FEATURE_TYPES.get(column.value_type)
        if kind is None:
            type_name = values.type_name(column.value_type)
            raise _unserved(service, f"the feature {name}:{column.name} is of the type {type_name}")
        features.append(Feature(f"{shown}__{column.name}", kind, hash_field(name, column.name)))
    keys = sorted(_join_keys(service, spec, projection.join_key_map, join_keys), key=lambda key: key.stored)
    ttl_s = spec.ttl.seconds + spec.ttl.nanos / 1e9
    return View(
        join_keys=tuple(keys),
        key_prefix=values.key_prefix([key.stored for key in keys]),
        ttl_s=ttl_s or None,
        features=tuple(features),
        timestamp_field=f"_ts:{name}".encode(),
    )


def _join_keys(
    service: str, spec: Any, renamed: Mapping[str, str], join_keys: Mapping[str, tuple[str, int]]
) -> Iterator[JoinKey]:
    declared = {column.name: int(column.value_type) for column in spec.entity_columns}
    for entity in spec.entities:
        if entity == _NO_ENTITY:
            raise _unserved(service, f"the feature view {spec.name!r} has no entity; give it one")
        if entity not in join_keys:
            raise _unserved(service, f"the entity {entity!r} of {spec.name!r} is not in the registry")
        stored, entity_kind = join_keys[entity]
        kind = declared.get(stored, entity_kind)
        if kind not in values.ENTITY_TYPES:
            raise _unserved(service, f"the join key {stored!r} is of the type {values.type_name(kind)}")
        yield JoinKey(stored, renamed.get(stored, stored), kind)


def hash_field(view: str, feature: str) -> bytes:
    """Feast's field of a feature: murmur3 of `view:feature`, 32 bits, little-endian."""
    return int(mmh3.hash(f"{view}:{feature}", signed=False)).to_bytes(4, "little")


def _fingerprint(features: Sequence[Feature], join_keys: Sequence[str]) -> str:
    content = {"features": [[f.name, f.kind.name] for f in features], "entities": sorted(join_keys)}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _unserved(service: str, why: str) -> Unprocessable:
    return Unprocessable(f"feature service {service!r} cannot be served: {why}", code="feature_service_unserved")
