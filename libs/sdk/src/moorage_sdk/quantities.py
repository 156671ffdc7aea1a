"""Quantities as people write them (`0.5`, `500m`, `4Gi`) and as the platform counts them (thousandths, MiB, s)."""

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from moorage_sdk.errors import InvalidQuantity

Quantity = str | int | float

_MIB_PER_UNIT = {"Mi": 1, "Gi": 1024, "Ti": 1024 * 1024}
_S_PER_UNIT = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"^([0-9]+)([a-z]*)$")
_MEMORY = re.compile(r"^([0-9]+(?:\.[0-9]+)?)([A-Za-z]*)$")


@dataclass(frozen=True, slots=True)
class Gpu:
    """A replica's GPU: thousandths of each device, and how many devices."""

    milli: int
    devices: int


def _milli(value: Quantity, what: str) -> Decimal:
    text = str(value).strip()
    scale = Decimal(1000)
    if text.endswith("m"):
        text, scale = text[:-1], Decimal(1)
    try:
        amount = Decimal(text)
    except InvalidOperation:
        amount = Decimal("NaN")
    if isinstance(value, bool) or not amount.is_finite() or amount < 0:
        raise InvalidQuantity(f"{what}: {value!r} is not an amount; write a number such as 0.5 or thousandths, 500m")
    milli = amount * scale
    if milli != milli.to_integral_value():
        raise InvalidQuantity(f"{what}: {value!r} is finer than a thousandth (1m)")
    return milli


def parse_gpu(value: Quantity, what: str = "gpu") -> Gpu:
    """`0.5`, `500m` -> a share of one device; `2` -> two whole devices of one node.

    Raises:
        InvalidQuantity: not a number, negative, or more than one device and not whole.
    """
    milli = int(_milli(value, what))
    if milli <= 1000:
        return Gpu(milli=milli, devices=1)
    if milli % 1000:
        raise InvalidQuantity(
            f"{what}: {value!r}: a replica takes a share of a GPU (0.001 to 1) or whole GPUs (2, 3, ...)"
        )
    if milli > 16_000:
        raise InvalidQuantity(f"{what}: {value!r}: a replica takes at most 16 GPUs of one node")
    return Gpu(milli=1000, devices=milli // 1000)


def parse_gpus(value: Quantity, what: str) -> int:
    """`4`, `0.5`, `500m` -> thousandths of a device, any number of them.

    Raises:
        InvalidQuantity: not a number, or negative.
    """
    return int(_milli(value, what))


def parse_cpu(value: Quantity) -> int:
    """`500m`, `0.5` -> 500 thousandths of a core; at least 10.

    Raises:
        InvalidQuantity: not a number, or less than 10m.
    """
    milli = int(_milli(value, "cpu"))
    if milli < 10:
        raise InvalidQuantity(f"cpu: {value!r} is less than the least, 10m")
    return milli


def parse_memory(value: Quantity, what: str = "memory") -> int:
    """`512Mi`, `4Gi`, `0.5Gi` -> whole MiB.

    Raises:
        InvalidQuantity: no unit, a decimal unit (`4GB`), or not a whole number of MiB.
    """
    text = str(value).strip()
    match = _MEMORY.match(text)
    if isinstance(value, bool) or match is None:
        raise InvalidQuantity(f"{what}: {value!r} is not an amount of memory; write 512Mi or 4Gi")
    number, unit = match.groups()
    if unit not in _MIB_PER_UNIT:
        near = {"M": "Mi", "G": "Gi", "T": "Ti"}.get(unit[:1].upper(), "Gi")
        given = f"has the unit {unit!r}" if unit else "has no unit"
        raise InvalidQuantity(f"{what}: {value!r} {given}; units are Mi, Gi and Ti: write {number}{near}")
    mib = Decimal(number) * _MIB_PER_UNIT[unit]
    if mib != mib.to_integral_value():
        raise InvalidQuantity(f"{what}: {value!r} is not a whole number of Mi")
    return int(mib)


def parse_duration(value: Quantity, what: str = "idle") -> int:
    """`90s`, `5m`, `1h` -> seconds.

    Raises:
        InvalidQuantity: no unit, or not a whole number of it.
    """
    match = _DURATION.match(str(value).strip())
    if isinstance(value, bool) or match is None:
        raise InvalidQuantity(f"{what}: {value!r} is not a time; write 90s, 5m or 1h")
    number, unit = match.groups()
    if unit not in _S_PER_UNIT:
        given = f"has the unit {unit!r}" if unit else "has no unit"
        raise InvalidQuantity(f"{what}: {value!r} {given}; units are s, m, h and d: write {number}s")
    return int(number) * _S_PER_UNIT[unit]


def parse_percent(value: Quantity, what: str, most: int) -> int:
    """`10`, `10%` -> 10.

    Raises:
        InvalidQuantity: not a whole number from 0 to `most`.
    """
    text = str(value).strip().removesuffix("%").strip()
    if isinstance(value, bool) or not text.isdecimal() or int(text[:6]) > most:
        raise InvalidQuantity(
            f"{what}: {value!r} is not a whole percentage from 0 to {most}; write {most // 5} for instance"
        )
    return int(text)


def format_milli(milli: int) -> str:
    """500 -> `0.5`, 1000 -> `1`."""
    return f"{Decimal(milli) / 1000:f}"


def format_gpu(milli: int, devices: int = 1) -> str:
    """The inverse of `parse_gpu`."""
    return format_milli(milli * devices)


def format_memory(mib: int) -> str:
    """4096 -> `4Gi`, 1536 -> `1536Mi`."""
    for unit in ("Ti", "Gi"):
        if mib and mib % _MIB_PER_UNIT[unit] == 0:
            return f"{mib // _MIB_PER_UNIT[unit]}{unit}"
    return f"{mib}Mi"
