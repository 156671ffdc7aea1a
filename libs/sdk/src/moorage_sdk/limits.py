"""Limits of a tenant as people write them, and as the registry takes them. Pure."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from moorage_sdk.errors import SdkError
from moorage_sdk.quantities import parse_cpu, parse_gpus, parse_memory

ANY = "any"
_RATE = "MODEL=RATE or MODEL=RATE/BURST such as digits=50/100"

Json = dict[str, Any]


def number(text: str, option: str) -> float:
    """`2.5`. Raises SdkError naming the option."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise SdkError(f"{option} {text}: this is a number, such as 2.5")
    return found


def parse_month(text: str) -> int | None:
    """`100000` -> so many requests; `any` -> None, no bound. Raises SdkError."""
    if text == ANY:
        return None
    try:
        return int(text.replace("_", ""))
    except ValueError:
        raise SdkError(f"--month {text}: a month has a whole number of requests, or {ANY}") from None


def _same(value: Any) -> Any:
    return value


_FIELDS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "plan": ("plan", _same),
    "weight": ("weight", _same),
    "rate": ("requests_per_s", _same),
    "burst": ("burst", _same),
    "concurrent": ("max_concurrent", _same),
    "body": ("max_body_bytes", lambda text: parse_memory(text, "--body") * 1024 * 1024),
    "month": ("requests_per_month", parse_month),
    "store_loss": ("on_store_loss", _same),
    "gpu": ("gpu_milli", lambda text: parse_gpus(text, "--gpu")),
    "cpu": ("cpu_milli", parse_cpu),
    "memory": ("mem_mib", lambda text: parse_memory(text, "--memory")),
    "allow_code": ("allow_code", _same),
}


def changes_of(**given: Any) -> Json:
    """Fields of `PUT /v1/tenants/{tenant}/limits` by the options of `quota set`; None: not given.

    Raises:
        SdkError: an amount of another form.
    """
    found = {}
    for option, value in given.items():
        if value is not None:
            name, read = _FIELDS[option]
            found[name] = read(value)
    return found


def parse_weights(given: Sequence[str]) -> tuple[float | None, list[str]]:
    """The tenant's own weight, which is written without a GPU model, and the others. Raises SdkError."""
    own = [text for text in given if "=" not in text]
    if len(own) > 1:
        raise SdkError(f"--weight {own[1]}: the tenant's weight stands twice")
    return (number(own[0], "--weight") if own else None), [text for text in given if "=" in text]


def changed_rates(standing: Sequence[Json], given: Sequence[str], drop: Sequence[str]) -> list[Json]:
    """The models' rates with these made, changed or dropped; a burst that is not given is a second's requests.

    Raises:
        SdkError: a rate of another form, or a model to drop that has none.
    """
    rates = {str(rate["model"]): dict(rate) for rate in standing}
    for model in drop:
        if rates.pop(model, None) is None:
            raise SdkError(f"--drop-model-rate {model}: it has no rate; see: moorage quota show")
    for pair in given:
        model, _, amount = pair.partition("=")
        rate, slash, burst = amount.partition("/")
        try:
            per_s = float(rate)
            whole = int(burst) if slash else max(1, math.ceil(per_s))
        except (ValueError, OverflowError):
            raise SdkError(f"--model-rate {pair}: write {_RATE}") from None
        rates[model] = {"model": model, "requests_per_s": per_s, "burst": whole}
    return list(rates.values())


LIMIT_COLUMNS = (
    "tenant", "status", "plan", "weight", "rate", "burst", "concurrent", "body", "month_used", "month_reserved",
    "month_limit", "resets_at", "model_rates",
)  # fmt: skip


def limit_rows(found: Sequence[Json]) -> list[dict[str, object]]:
    """A row a tenant, of what `GET /v1/limits` says."""
    return [_row(one["tenant"], one["limits"], one["month"]) for one in found]


def _row(tenant: str, limits: Json, month: Json) -> dict[str, object]:
    rates = [f"{rate['model']}={rate['requests_per_s']:g}/{rate['burst']}" for rate in limits.get("model_rates", [])]
    return {
        "tenant": tenant,
        "status": limits["status"],
        "plan": limits["plan"],
        "weight": float(limits["weight"]),
        "rate": float(limits["requests_per_s"]),
        "burst": limits["burst"],
        "concurrent": limits["max_concurrent"],
        "body": _size(limits["max_body_bytes"]),
        "month_used": month["used"],
        "month_reserved": month["reserved"],
        "month_limit": ANY if month["limit"] is None else month["limit"],
        "resets_at": str(month["resets_at"])[:10],
        "model_rates": rates,
    }


def _size(size: int) -> str:
    return f"{size // 2**20}Mi" if size % 2**20 == 0 else f"{size}B"
