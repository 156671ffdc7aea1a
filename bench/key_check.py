"""What checking a key costs a router: all of it - record, revocation, expiry, networks, tenant - from a full table.

Four ways to meet a key: again on a connection (the same head), with another head, with another head through a trusted
proxy that names the caller, and for the first time (parsed, HMAC). Times are of batches of 100 checks, over the batch.

    python bench/key_check.py [--keys 10000] [--batches 2000]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import report

from moorage_common import api_keys
from moorage_common.contracts.keys import KeyRecord, Rate, TenantLimits
from moorage_common.contracts.versioned import Versioned
from moorage_common.key_table import KeyTable
from moorage_common.networks import Proxies
from moorage_router.auth import Authenticator, Credentials, caller_of

PEPPER = "pepper of the benchmark"
CIDRS = ["192.0.2.0/24", "203.0.113.0/24", "2001:db8::/32", "198.51.100.0/24"]
CALLER, PROXY = "198.51.100.7", "10.0.0.2"
BATCH = 100


@dataclass
class FromProxy:
    """What `caller_of` looks at of a request."""

    peer: str
    fields: list[tuple[bytes, bytes]]

    @property
    def head(self) -> "FromProxy":
        return self


def table_of(keys: list[api_keys.ApiKey]) -> KeyTable:
    """A table of `keys`, each with networks, a rate and an end."""
    table = KeyTable(PEPPER, verified_max=len(keys) + 1)
    for number, key in enumerate(keys):
        tenant = f"tenant-{number % 100}"
        record = KeyRecord(
            kid=key.kid, tenant=tenant, digest=api_keys.digest(PEPPER, key.secret), scopes=["infer:*"], cidrs=CIDRS,
            rate=Rate(requests_per_s=10, burst=20), expires_at=time.time() + 86_400,
        )  # fmt: skip
        table.on_key(key.kid, Versioned(epoch=1, version=1, value=record.model_dump(mode="json")))
        limits = TenantLimits(tenant=tenant)
        table.on_limits(tenant, Versioned(epoch=1, version=1, value=limits.model_dump(mode="json")))
    return table


def timed(batches: int, check: Callable[[int], object]) -> dict[str, Any]:
    """Microseconds a check: median and 99th percentile of the batches' means."""
    means = []
    for batch in range(batches):
        started = time.perf_counter_ns()
        for number in range(batch * BATCH, (batch + 1) * BATCH):
            check(number)
        means.append((time.perf_counter_ns() - started) / BATCH / 1000)
    means.sort()
    return {"p50 us": round(statistics.median(means), 2), "p99 us": round(means[int(len(means) * 0.99)], 2)}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--keys", type=int, default=10_000)
    options.add_argument("--batches", type=int, default=2000)
    args = options.parse_args()
    keys = [api_keys.mint() for _ in range(args.keys)]
    authenticator = Authenticator(table_of(keys), lambda: False)
    headers = [f"Bearer {key.text}".encode() for key in keys]
    known = [Credentials(header, CALLER) for header in headers]
    proxies = Proxies(["10.0.0.0/8"])
    forwarded = FromProxy(PROXY, [(b"host", b"x"), (b"x-forwarded-for", f"192.0.2.1, {CALLER}, {PROXY}".encode())])
    first = timed(
        args.keys // BATCH, lambda number: authenticator.authenticate(Credentials(headers[number], CALLER))
    )  # fmt: skip
    for credentials in known:
        authenticator.authenticate(credentials)
    count = len(keys)
    rows: list[dict[str, Any]] = [
        {
            "check": "again on a connection",
            **timed(args.batches, lambda n: authenticator.authenticate(known[n % count])),
        },
        {
            "check": "another head",
            **timed(args.batches, lambda n: authenticator.authenticate(Credentials(headers[n % count], CALLER))),
        },
        {
            "check": "another head, through a trusted proxy",
            **timed(
                args.batches,
                lambda n: authenticator.authenticate(
                    Credentials(headers[n % count], caller_of(proxies, forwarded))  # type: ignore[arg-type]
                ),
            ),
        },
        {"check": "for the first time", **first},
    ]
    report.table(f"Checking a key, of {args.keys} with {len(CIDRS)} networks each", rows)
    report.keep("key_check", {"keys": args.keys, "batches": args.batches, "checks": rows})


if __name__ == "__main__":
    main()
