"""Where to reach the platform: arguments, then `MOORAGE_*` variables, then the profile file.

The file holds API keys, so it is written with mode 0600 into a directory of mode 0700.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs
import yaml

from moorage_sdk.errors import NotConfigured

DEFAULT_PROFILE = "default"


@dataclass(frozen=True, slots=True)
class Profile:
    """The addresses and the key of one platform. An empty string is one not set."""

    registry: str = ""
    router: str = ""
    api_key: str = field(default="", repr=False)


def profile_path() -> Path:
    """`MOORAGE_PROFILE_FILE`, or `profiles.yaml` in the user's configuration directory."""
    set_path = os.environ.get("MOORAGE_PROFILE_FILE")
    return Path(set_path) if set_path else Path(platformdirs.user_config_dir("moorage")) / "profiles.yaml"


def _read_all() -> dict[str, dict[str, Any]]:
    path = profile_path()
    if not path.exists():
        return {}
    found = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if not isinstance(found, dict) or not all(isinstance(p, dict) for p in found.values()):
        raise NotConfigured(f"{path} does not have the expected form; run: moorage login")
    return found


def load_profile(name: str | None = None) -> Profile:
    """The profile called `name`; without a name, `MOORAGE_PROFILE` or `default`, empty where there is none.

    Raises:
        NotConfigured: a profile asked for by name does not exist.
    """
    asked = name or os.environ.get("MOORAGE_PROFILE")
    every = _read_all()
    if asked and asked not in every:
        known = ", ".join(sorted(every)) or "none"
        raise NotConfigured(f"there is no profile {asked!r} (there are: {known}); run: moorage --profile {asked} login")
    found = every.get(asked or DEFAULT_PROFILE, {})
    return Profile(**{key: str(found[key]) for key in ("registry", "router", "api_key") if found.get(key)})


def save_profile(profile: Profile, name: str | None = None) -> Path:
    """Write `profile` under `name` (`default` without one) beside the others, readable by its owner alone."""
    every = _read_all()
    every[name or DEFAULT_PROFILE] = {
        "registry": profile.registry,
        "router": profile.router,
        "api_key": profile.api_key,
    }
    path = profile_path()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        yaml.safe_dump(every, file, sort_keys=True)
    part.replace(path)
    return path


def resolve(
    registry: str | None = None, router: str | None = None, api_key: str | None = None, profile: str | None = None
) -> Profile:
    """Each setting from its argument, else from `MOORAGE_REGISTRY`, `MOORAGE_ROUTER`, `MOORAGE_API_KEY`, else from
    the profile. A profile named by argument goes before the variables.
    """
    stored = load_profile(profile)
    variables = Profile(
        registry=os.environ.get("MOORAGE_REGISTRY", ""),
        router=os.environ.get("MOORAGE_ROUTER", ""),
        api_key=os.environ.get("MOORAGE_API_KEY", ""),
    )
    first, second = (stored, variables) if profile else (variables, stored)
    return Profile(
        registry=(registry or first.registry or second.registry).rstrip("/"),
        router=(router or first.router or second.router).rstrip("/"),
        api_key=api_key or first.api_key or second.api_key,
    )
