"""Quantities as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage_sdk.errors import InvalidQuantity
from moorage_sdk.quantities import (
    Gpu,
    format_gpu,
    format_memory,
    parse_cpu,
    parse_duration,
    parse_gpu,
    parse_memory,
    parse_percent,
)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (0, Gpu(0, 1)),
        (0.5, Gpu(500, 1)),
        ("0.25", Gpu(250, 1)),
        ("500m", Gpu(500, 1)),
        (1, Gpu(1000, 1)),
        (2, Gpu(1000, 2)),
    ],
)
def test_a_gpu_share_is_thousandths_and_a_whole_number_is_devices(written: str | float, read: Gpu) -> None:
    assert parse_gpu(written) == read


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        (1.5, "whole GPUs"),
        ("half", "0.5 or thousandths"),
        (-1, "not an amount"),
        (0.0001, "finer than a thousandth"),
        (17, "at most 16"),
        (True, "not an amount"),
        ("nan", "not an amount"),
    ],
)
def test_a_wrong_gpu_share_says_what_is_right(written: str | float, hint: str) -> None:
    with pytest.raises(InvalidQuantity, match=hint):
        parse_gpu(written)


@pytest.mark.parametrize(("written", "mib"), [("512Mi", 512), ("4Gi", 4096), ("0.5Gi", 512), ("1Ti", 1 << 20)])
def test_memory_is_read_in_binary_units(written: str, mib: int) -> None:
    assert parse_memory(written) == mib


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("4GB", "write 4Gi"),
        ("512", "has no unit"),
        (4, "write 4Gi"),
        ("lots", "512Mi or"),
        ("0.3Mi", "whole number"),
    ],
)
def test_wrong_memory_says_what_to_write(written: str | int, hint: str) -> None:
    with pytest.raises(InvalidQuantity, match=hint):
        parse_memory(written)


@pytest.mark.parametrize(("written", "seconds"), [("90s", 90), ("5m", 300), ("2h", 7200), ("1d", 86_400)])
def test_a_time_is_read_with_its_unit(written: str, seconds: int) -> None:
    assert parse_duration(written) == seconds


@pytest.mark.parametrize(("written", "hint"), [("5", "has no unit"), ("5min", "write 5s"), (-1, "90s, 5m or 1h")])
def test_a_wrong_time_says_what_to_write(written: str | int, hint: str) -> None:
    with pytest.raises(InvalidQuantity, match=hint):
        parse_duration(written)


def test_a_percentage_is_whole_and_bounded() -> None:
    assert (parse_percent("10%", "elastic", 50), parse_percent(0, "elastic", 50)) == (10, 0)
    for written in (51, "1.5", True, "-1"):
        with pytest.raises(InvalidQuantity, match="from 0 to 50"):
            parse_percent(written, "elastic", 50)


def test_cpu_is_read_as_a_share_or_in_thousandths() -> None:
    assert (parse_cpu("500m"), parse_cpu(0.5), parse_cpu(2)) == (500, 500, 2000)
    with pytest.raises(InvalidQuantity, match="least"):
        parse_cpu("5m")


@given(st.integers(min_value=0, max_value=1 << 22))
def test_memory_is_shown_as_it_can_be_written(mib: int) -> None:
    assert parse_memory(format_memory(mib)) == mib


@given(st.integers(min_value=0, max_value=1000))
def test_a_gpu_share_is_shown_as_it_can_be_written(milli: int) -> None:
    assert parse_gpu(format_gpu(milli)) == Gpu(milli, 1)
