"""Manifests of `moorage apply -f`: YAML documents, one a model, strict about every field."""

from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from moorage_common.contracts.desired import Isolation, SchedulingClass
from moorage_common.contracts.names import NAME_MAX, is_name
from moorage_common.contracts.rollouts import FeedbackPolicy, RolloutPolicy
from moorage_sdk.errors import InvalidManifest, InvalidQuantity
from moorage_sdk.hints import explain, read_text, read_yaml
from moorage_sdk.spec import Json, Placing, Profile, resources_spec, traffic_spec, version_spec

_SHORTHAND = ("version", "resources", "scaling", "isolation", "scheduling_class", "priority", "pinned")
_PLACING_RESOURCES = ("gpu_models", "elastic", "node_labels")
_PLACING_SCALING = ("idle", "target_in_flight")
_PLACING_VERSION = ("scheduling_class", "priority", "pinned")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ProfilePart(_Part):
    """`{gpu: 0.2, gpu_memory: 4Gi}` of one GPU model."""

    gpu: str | int | float
    gpu_memory: str | int | float | None = None

    def profile(self) -> Profile:
        return Profile(gpu=self.gpu) if self.gpu_memory is None else Profile(gpu=self.gpu, gpu_memory=self.gpu_memory)


class ResourcesPart(_Part):
    """`{gpu: 0.5, gpu_memory: 4Gi, cpu: 500m, memory: 1Gi}`; left out is the platform's default."""

    gpu: str | int | float = 0
    gpu_memory: str | int | float | None = None
    cpu: str | int | float | None = None
    memory: str | int | float | None = None
    gpu_models: list[str] | None = None
    gpu_profiles: dict[str, ProfilePart] | None = None
    elastic: str | int | float | None = None
    node_labels: dict[str, str] | None = None


class ScalingPart(_Part):
    """Replicas of a version: at least `min`, at most `max`; with `min: 0`, none after `idle` without a request."""

    min: int = Field(default=1, ge=0)
    max: int | None = Field(default=None, ge=1)
    target_in_flight: int | None = Field(default=None, ge=1)
    idle: str | int | None = None


class VersionPart(_Part):
    """One version that the deployment holds."""

    version: int | Literal["latest"] = "latest"
    resources: ResourcesPart = ResourcesPart()
    scaling: ScalingPart = ScalingPart()
    isolation: Isolation = "dedicated"
    scheduling_class: SchedulingClass | None = None
    priority: int | None = Field(default=None, ge=0, le=100)
    pinned: bool | None = None

    def _placing(self) -> Placing:
        given = {
            **{name: getattr(self.resources, name) for name in _PLACING_RESOURCES},
            **{name: getattr(self.scaling, name) for name in _PLACING_SCALING},
            **{name: getattr(self, name) for name in _PLACING_VERSION},
        }
        profiles = self.resources.gpu_profiles
        if profiles is not None:
            given["gpu_profiles"] = {model: part.profile() for model, part in profiles.items()}
        return cast("Placing", {name: value for name, value in given.items() if value is not None})

    def spec(self) -> Json:
        asked = self.resources
        return version_spec(
            self.version,
            resources_spec(asked.gpu, asked.gpu_memory, asked.cpu, asked.memory),
            least=self.scaling.min,
            most=self.scaling.max if self.scaling.max is not None else max(1, self.scaling.min),
            isolation=self.isolation,
            placing=self._placing(),
        )


class TrafficPart(_Part):
    """`{version: 1, weight: 90}`, in percent."""

    version: int | Literal["latest"]
    weight: float


class FeaturesPart(_Part):
    """How features are joined: for each entity join key, the input that carries it."""

    entity: dict[str, str] = Field(min_length=1)
    deadline_ms: int = Field(default=50, ge=1)
    on_miss: Literal["fail", "default"] = "fail"
    default: float = 0.0


class StickyPart(_Part):
    """What keeps a caller at one version: `{header: x-user}`, or `{entity: customer}` for an input's first row."""

    header: str | None = Field(default=None, min_length=1, max_length=256)
    entity: str | None = Field(default=None, min_length=1, max_length=256)

    @model_validator(mode="after")
    def _one_of(self) -> "StickyPart":
        if (self.header is None) == (self.entity is None):
            message = "give either header or entity"
            raise ValueError(message)
        return self

    def spec(self) -> Json:
        return {"by": "entity", "name": self.entity} if self.header is None else {"by": "header", "name": self.header}


class RolloutPart(_Part):
    """The version that is to answer; a rollout takes it there."""

    to: int | Literal["latest"]


class Manifest(_Part):
    """What one document declares of one model. Without `traffic`, the traffic stays as it is.

    With `rollout`, versions say how each runs that the deployment holds; none is added but the one rolled out.
    """

    model: str
    versions: list[VersionPart] = Field(min_length=1)
    traffic: list[TrafficPart] | None = None
    features: FeaturesPart | None = None
    deadline_ms: int | None = Field(default=None, ge=1)
    sticky: StickyPart | None = None
    policy: RolloutPolicy | None = None
    feedback: FeedbackPolicy | None = None
    rollout: RolloutPart | None = None

    @model_validator(mode="before")
    @classmethod
    def _expand_shorthand(cls, found: Any) -> Any:
        """`{model, version, resources, ...}` is a deployment of a single version."""
        if not isinstance(found, dict) or "versions" in found:
            return found
        single = {key: found[key] for key in _SHORTHAND if key in found}
        if isinstance(rollout := found.get("rollout"), dict) and "to" in rollout:
            single = {"version": rollout["to"], **single}
        rest = {key: value for key, value in found.items() if key not in _SHORTHAND}
        return {**rest, "versions": [single]}

    @model_validator(mode="after")
    def _one_owner(self) -> "Manifest":
        if self.rollout is not None and self.traffic is not None:
            message = "traffic: a rollout moves the weights; leave out either rollout or traffic"
            raise ValueError(message)
        return self

    def spec(self) -> Json:
        """The body of `PUT /v1/deployments/{model}`."""
        spec: Json = {"versions": [part.spec() for part in self.versions]}
        if self.traffic is not None:
            spec["traffic"] = traffic_spec([(arm.version, arm.weight) for arm in self.traffic])
        if self.features is not None:
            spec["features"] = self.features.model_dump()
        if self.deadline_ms is not None:
            spec["deadline_ms"] = self.deadline_ms
        if self.sticky is not None:
            spec["stickiness"] = self.sticky.spec()
        for name, policy in (("policy", self.policy), ("feedback", self.feedback)):
            if policy is not None:
                spec[name] = policy.model_dump(mode="json")
        return spec


def _parse_one(written: Any, source: str) -> Manifest:
    if not isinstance(written, dict):
        raise InvalidManifest(f"{source}: a manifest is a mapping that begins with `model: <name>`")
    if "versions" in written and (both := [key for key in _SHORTHAND if key in written]):
        raise InvalidManifest(f"{source}: {', '.join(both)}: belongs into `versions`, or leave `versions` out")
    try:
        manifest = Manifest.model_validate(written)
        manifest.spec()
    except ValidationError as error:
        unsaid = () if "versions" in written else ("versions", 0)
        raise InvalidManifest(f"{source}: {explain(error, Manifest, more=_SHORTHAND, unsaid=unsaid)}") from error
    except (InvalidQuantity, InvalidManifest) as error:
        raise InvalidManifest(f"{source}: {error}") from error
    if not is_name(manifest.model):
        raise InvalidManifest(
            f"{source}: model: {manifest.model!r} is not a name: lower-case letters, digits and single inner hyphens, "
            f"at most {NAME_MAX} characters"
        )
    return manifest


def parse_manifests(text: str, source: str = "manifest") -> list[Manifest]:
    """Every document of `text`, in order; `source` begins each error's text.

    Raises:
        InvalidManifest: no YAML, an unknown field (with the closest valid one), a value of the wrong form.
    """
    documents = read_yaml(text, source)
    several = len(documents) > 1
    return [
        _parse_one(document, f"{source}, document {number}" if several else source)
        for number, document in enumerate(documents, start=1)
    ]


def read_manifests(path: Path) -> list[Manifest]:
    """`parse_manifests` of a file.

    Raises:
        InvalidManifest: also when the file cannot be read.
    """
    return parse_manifests(read_text(path), str(path))
