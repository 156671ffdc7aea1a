"""What a replica asks for, as tenants write it: strict, and refused with what to write instead."""

import re

from pydantic import ConfigDict, Field, model_validator

from moorage_common.contracts.desired import GpuProfile, Resources

WHOLE_MILLI = 1000
_LISTED_MAX = 32
_GPU_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._/-]{0,62}")
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,126}[A-Za-z0-9])?")


class GpuProfileSpec(GpuProfile):
    model_config = ConfigDict(extra="forbid")


class ResourcesSpec(Resources):
    """Resources as asked for: a misspelt field is refused rather than ignored."""

    model_config = ConfigDict(extra="forbid")

    gpu_profiles: dict[str, GpuProfileSpec] = Field(default={}, max_length=_LISTED_MAX)  # type: ignore[assignment]
    gpu_models: list[str] = Field(default=[], max_length=_LISTED_MAX)
    node_labels: dict[str, str] = Field(default={}, max_length=_LISTED_MAX)

    @model_validator(mode="after")
    def _makes_sense(self) -> "ResourcesSpec":
        for fault in (_device_fault(self), _models_fault(self), _labels_fault(self)):
            if fault is not None:
                raise ValueError(fault)
        return self


def _device_fault(asked: Resources) -> str | None:
    if asked.devices > 1 and asked.gpu_milli != WHOLE_MILLI:
        return "several devices are whole ones: set gpu_milli to 1000, or devices to 1"
    if asked.devices > 1 and any(profile.gpu_milli != WHOLE_MILLI for profile in asked.gpu_profiles.values()):
        return "several devices are whole ones: set gpu_milli of each of gpu_profiles to 1000, or devices to 1"
    if asked.elastic_pct and asked.devices > 1:
        return "whole devices are not trimmed: set elastic_pct to 0, or devices to 1"
    if asked.gpu_milli == 0 and asked.elastic_pct:
        return "elastic_pct is of a GPU and gpu_milli is 0: set gpu_milli, or elastic_pct to 0"
    return None


def _models_fault(asked: Resources) -> str | None:
    if asked.gpu_milli == 0 and asked.gpu_profiles:
        return "gpu_profiles tell of GPUs and gpu_milli is 0: set gpu_milli to what a replica takes of other models"
    for model in [*asked.gpu_models, *asked.gpu_profiles]:
        if _GPU_MODEL.fullmatch(model) is None:
            return f"{model!r} does not name a GPU model; write it as the node does, such as T4 or H100"
    if len(set(asked.gpu_models)) != len(asked.gpu_models):
        return "gpu_models names a model twice; name each once"
    foreign = [model for model in asked.gpu_profiles if asked.gpu_models and model not in asked.gpu_models]
    if foreign:
        return f"gpu_profiles has {', '.join(sorted(foreign))}, which gpu_models leaves out; add it there or drop it"
    return None


def _labels_fault(asked: Resources) -> str | None:
    for text in [*asked.node_labels, *asked.node_labels.values()]:
        if _LABEL.fullmatch(text) is None:
            return f"node_labels: {text!r} is not a label; write letters, digits and . _ / - inside, such as zone: a"
    return None


def most_milli(asked: Resources) -> int:
    """Thousandths of GPU that a replica takes at most, wherever it is placed: its largest profile, over all devices."""
    profiles = {model: profile.gpu_milli for model, profile in asked.gpu_profiles.items()}
    if asked.gpu_models:
        per_device = max(profiles.get(model, asked.gpu_milli) for model in asked.gpu_models)
    else:
        per_device = max([asked.gpu_milli, *profiles.values()])
    return per_device * asked.devices
