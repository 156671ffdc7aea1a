"""Names that enter subjects, keys, paths, actor names and globs, and the places built from them."""

import re
from fnmatch import fnmatchcase
from typing import Annotated, NewType

from pydantic import StringConstraints

NAME_PATTERN = r"^[a-z0-9](-?[a-z0-9])*$"
NAME_MAX = 63

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN, max_length=NAME_MAX)]
"""A tenant, model or deployment name: lower-case letters, digits and single inner hyphens, at most 63 characters."""

TenantId = NewType("TenantId", str)
"""The first argument of every repository, subject, cache key and limiter call."""

_NAME = re.compile(NAME_PATTERN)

BUCKET_KEYS = "moorage_keys"
BUCKET_LIMITS = "moorage_limits"
BUCKET_ROUTES = "moorage_routes"
BUCKET_DESIRED = "moorage_desired"
BUCKET_ENDPOINTS = "moorage_endpoints"
BUCKET_STATUS = "moorage_status"
BUCKET_CLUSTERS = "moorage_clusters"
BUCKET_LEASES = "moorage_leases"

STREAM_EVENTS = "EVT"
STREAM_USAGE = "USAGE"
STREAM_SIGNALS = "SIGNALS"
STREAM_FEEDBACK = "FEEDBACK"
STREAM_OUTPUTS = "OUTPUTS"

TENANT_SERIES_SUBJECT = "series.tenant"
"""Request (core NATS): a tenant's name; each router answers with Prometheus text of that tenant's series."""

STATS_SUBJECT = "stats.tenant"
"""Request (core NATS): `StatsAsk`; every other router answers with a `StatsAnswer`."""

QUOTA_SUBJECT = "quota.reserve"
"""Request (core NATS): a `QuotaAsk`; one of the registries answers with a `QuotaGrant`."""


def is_name(text: str) -> bool:
    """Whether `text` may name a tenant, model or deployment."""
    return len(text) <= NAME_MAX and _NAME.fullmatch(text) is not None


def route_key(tenant: str, model: str) -> str:
    return f"{tenant}.{model}"


def desired_key(cluster: str, tenant: str, model: str) -> str:
    """Key in the `desired` and the `status` bucket."""
    return f"{cluster}.{tenant}.{model}"


def endpoint_key(cluster: str, host_id: str) -> str:
    return f"{cluster}.{host_id}"


def usage_subject(router: str) -> str:
    """Chunks carry many tenants; the shard is the router that wrote them."""
    return f"usage.all.{router}"


def signals_subject(tenant: str, model: str) -> str:
    return f"signals.{tenant}.{model}"


def feedback_subject(tenant: str, model: str) -> str:
    return f"feedback.{tenant}.{model}"


def outputs_subject(router: str) -> str:
    """Chunks carry many tenants; the shard is the router that wrote them."""
    return f"outputs.all.{router}"


def load_subject(router: str) -> str:
    return f"load.{router}"


def wake_subject(cluster: str) -> str:
    return f"wake.{cluster}"


def scheduler_subject(cluster: str) -> str:
    """Request (core NATS): a `SchedulerAsk`; the leading scheduler answers with a `SchedulerAnswer`."""
    return f"scheduler.{cluster}"


def model_glob_matches(glob: str, model: str) -> bool:
    """Whether a scope's model glob (`*`, `fraud-*`) covers `model`; case-sensitive."""
    return glob == "*" or fnmatchcase(model, glob)
