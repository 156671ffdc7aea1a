"""A bounded closed loop over many models: each of `connections` asks the next model of a Zipf sequence on the answer.

Runs in this process; every answer is held against its own model's. Only loopback addresses are taken.
"""

import asyncio
import ipaddress
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np
from small_models import SmallModel


@dataclass
class Found:
    """What came of a load; latencies in milliseconds of answers with status 200."""

    latencies: list[float] = field(default_factory=list)
    models: set[tuple[str, str]] = field(default_factory=set)
    errors: int = 0
    mismatches: int = 0
    first_error: str = ""
    seconds: float = 0.0

    def told(self) -> dict[str, float | int | str]:
        ms = np.array(self.latencies or [0.0])
        p50, p95, p99 = (round(float(np.percentile(ms, q)), 2) for q in (50, 95, 99))
        return {
            "requests": len(self.latencies),
            "models_answered": len(self.models),
            "errors": self.errors,
            "mismatches": self.mismatches,
            "per_second": round(len(self.latencies) / self.seconds, 1) if self.seconds else 0.0,
            "p50_ms": p50,
            "p95_ms": p95,
            "p99_ms": p99,
            "max_ms": round(float(ms.max()), 2),
            "first_error": self.first_error,
        }


def zipf(count: int, exponent: float, length: int, seed: int = 7) -> list[int]:
    """A sequence of `length` indexes below `count`; which is popular is drawn, too."""
    random = np.random.default_rng(seed)
    weights = 1.0 / np.arange(1, count + 1) ** exponent
    order = random.permutation(count)
    return [int(order[at]) for at in random.choice(count, size=length, p=weights / weights.sum())]


def message(router: str, model: SmallModel, key: str) -> bytes:
    """The request as it goes over the wire."""
    parts = urlsplit(router)
    if not ipaddress.ip_address(parts.hostname or "").is_loopback:
        raise SystemExit("the load goes to loopback addresses only")
    body = json.dumps(model.request).encode()
    lines = [
        f"POST /v2/models/{model.name}/infer HTTP/1.1",
        f"host: {parts.netloc}",
        f"authorization: Bearer {key}",
        "content-type: application/json",
        f"content-length: {len(body)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def drive(
    router: str,
    models: Sequence[SmallModel],
    keys: Mapping[str, str],
    sequence: Sequence[int],
    *,
    connections: int,
    seconds: float = 1e9,
) -> Found:
    """Ask the models in the order of `sequence`, each once, for at most `seconds`."""
    messages = [message(router, model, keys[model.tenant]) for model in models]
    parts = urlsplit(router)
    turns, found = iter(sequence), Found()
    began = time.perf_counter()

    async def connection() -> None:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        for at in turns:
            sent = time.perf_counter()
            if sent - began > seconds:
                break
            writer.write(messages[at])
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            body = await reader.readexactly(length)
            take(found, models[at], head, body, time.perf_counter() - sent)
        writer.close()

    await asyncio.gather(*(connection() for _ in range(connections)))
    found.seconds = time.perf_counter() - began
    return found


def take(found: Found, model: SmallModel, head: bytes, body: bytes, took_s: float) -> None:
    """Count an answer, held against the model's own."""
    if not head.startswith(b"HTTP/1.1 200"):
        found.errors += 1
        found.first_error = found.first_error or f"{model.tenant} {model.name}: {head[:40]!r} {body[:300]!r}"
        return
    found.latencies.append(took_s * 1000)
    found.models.add((model.tenant, model.name))
    found.mismatches += not model.holds(body)
