"""A push, told once: upload what is missing, make the version, wait for its validation."""

import hashlib
import time
from collections.abc import Callable

from moorage_sdk.answers import Version
from moorage_sdk.errors import MoorageApiError, VersionRejected, WaitTimedOut
from moorage_sdk.models.packaged import Packaged
from moorage_sdk.registry_api import RegistryApi
from moorage_sdk.spec import Json

_POLL_S = 0.1

Progress = Callable[[str], None]


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 1e6 else f"{max(1, size_bytes // 1000)} kB"


def _upload_artifact(registry: RegistryApi, content: bytes) -> str:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    if not registry.has_artifact(digest):
        registry.upload_artifact(digest, content)
    return digest


def upload(
    registry: RegistryApi,
    name: str,
    packaged: Packaged,
    *,
    feature_service: str | None,
    new: bool,
    progress: Progress,
) -> Version:
    """Upload artifact and examples where the registry lacks them, and make the version (or find its equal)."""
    body: Json = {
        "artifact_digest": _upload_artifact(registry, packaged.content),
        "format": packaged.format,
        "signature": packaged.signature.model_dump(mode="json"),
        "libraries": packaged.libraries,
    }
    progress(f"{name}: uploaded {_size(len(packaged.content))} of {packaged.format}")
    if packaged.examples is not None:
        body["examples_digest"] = _upload_artifact(registry, packaged.examples.model_dump_json().encode())
    if feature_service:
        body["feature_service"] = feature_service
    if new:
        body["force_new"] = True
    return registry.create_version(name, body)


def wait_until_validated(registry: RegistryApi, version: Version, timeout_s: float, progress: Progress) -> Version:
    """Poll until a host has answered the examples.

    Raises:
        VersionRejected: with the host's reason.
        WaitTimedOut: after `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    started = time.monotonic()
    label = f"{version.model} version {version.version}"
    while version.state in ("uploaded", "validating"):
        if time.monotonic() > deadline:
            raise WaitTimedOut(
                f"{label} is still {version.state} after {timeout_s:g} s; validation goes on. See: "
                f"moorage versions {version.model}"
            )
        time.sleep(_POLL_S)
        version = _poll(registry, version)
    if version.state == "rejected":
        difference = f" (largest difference {version.max_abs_diff:g})" if version.max_abs_diff is not None else ""
        raise VersionRejected(f"{label} was rejected: {version.reason or 'no reason was given'}{difference}")
    progress(f"{label}: ready after {time.monotonic() - started:.1f} s{_outcome(version)}")
    return version


def _poll(registry: RegistryApi, version: Version) -> Version:
    try:
        return registry.version(version.model, version.version)
    except MoorageApiError as error:
        if error.status == 0 or error.status >= 500:
            return version
        raise


def _outcome(version: Version) -> str:
    if version.unchecked:
        return ", loaded but unchecked: give example= to have its answers compared"
    if version.max_abs_diff is None:
        return ""
    return f", answers equal to yours within {version.max_abs_diff:.2g}"
