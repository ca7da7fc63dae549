"""Sizes and rates are read as people write them, and nothing else is taken for one."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vramx import ConfigError
from vramx.units import format_size, parse_rate, parse_size

UNITS = {
    "": 1,
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
MOST = 2**50  # beyond any host; above it text loses precision to floating point

units = st.sampled_from(sorted(UNITS))
spaces = st.sampled_from(["", " ", "  "])
letters = st.sampled_from([str, str.lower, str.upper])


@given(number=st.integers(1, 2**20), unit=units, before=spaces, between=spaces, case=letters)
@settings(max_examples=200, derandomize=True)
def test_a_whole_number_of_a_unit_is_exact(
    number: int, unit: str, before: str, between: str, case: type[str]
) -> None:
    text = f"{before}{number}{between}{case(unit)} "
    assert parse_size(text, "size") == number * UNITS[unit]


@given(thousandths=st.integers(1, 10**6), unit=units)
@settings(max_examples=200, derandomize=True)
@example(thousandths=500, unit="B")
def test_a_fraction_of_a_unit_is_rounded_to_bytes(thousandths: int, unit: str) -> None:
    exact = Fraction(thousandths, 1000) * UNITS[unit]
    text = f"{thousandths / 1000:.3f}{unit}"
    if exact < 1:
        with pytest.raises(ConfigError, match="above zero"):
            parse_size(text, "size")
    else:
        assert abs(parse_size(text, "size") - exact) <= Fraction(1, 2) + exact / 2**50


@given(number=st.integers(1, MOST))
@settings(max_examples=200, derandomize=True)
def test_numbers_and_their_text_are_the_same_size(number: int) -> None:
    assert parse_size(number, "size") == parse_size(str(number), "size") == number
    assert parse_size(float(number), "size") == number


@given(value=st.integers() | st.floats() | st.text() | st.none() | st.booleans() | st.binary())
@settings(max_examples=500, derandomize=True)
@example(value=10**400)
@example(value=-(10**400))
@example(value=2**63)
@example(value=2**64)
@example(value=math.nan)
@example(value=math.inf)
@example(value="99999999TiB")
@example(value="9" * 400)
@example(value="1e9")
@example(value="٣GiB")
def test_anything_gives_bytes_that_a_card_can_count_or_a_named_error(value: object) -> None:
    for parse in (parse_size, parse_rate):
        try:
            size = parse(value, "the budget")  # type: ignore[arg-type]
        except ConfigError as error:
            assert "the budget" in str(error)
            assert repr(value) in str(error) or len(str(error)) < 500
        else:
            assert 1 <= size < 2**63
            assert math.isfinite(size)


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "8 apples",
        "GiB",
        "-1GiB",
        "+1GiB",
        "1 GiB 2",
        "1,5GiB",
        "1_000",
        "0x10",
        "1.2.3GB",
        "nan",
        "inf",
        "8GiBs",
        "8Gi",
        "8 G",
        b"8GiB",
        None,
        True,
        [],
        1j,
        0,
        0.0,
        "0",
        "0GiB",
        0.4,
    ],
)
def test_what_is_no_size_is_refused_by_name(value: object) -> None:
    with pytest.raises(ConfigError, match="block") as raised:
        parse_size(value, "block")  # type: ignore[arg-type]
    assert repr(value) in str(raised.value)
    assert "8GiB" in str(raised.value)  # an example of what is allowed
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize(
    ("value", "rate"),
    [("25GB/s", 25e9), ("25 GB / s", 25e9), ("1GiB/s", 2.0**30), ("7GB", 7e9), (5, 5.0)],
)
def test_rates_are_sizes_a_second(value: str | int, rate: float) -> None:
    assert parse_rate(value, "link") == rate


@pytest.mark.parametrize("value", ["25GB/h", "25GB/", "/s", "25GB/s/s", "fast", 0, -1, math.nan])
def test_what_is_no_rate_is_refused_by_name(value: object) -> None:
    with pytest.raises(ConfigError, match="link"):
        parse_rate(value, "link")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (1536, "1.50 KiB"),
        (6 * 2**30, "6.00 GiB"),
        (2**40, "1.00 TiB"),
        (5000 * 2**40, "5000.00 TiB"),
    ],
)
def test_sizes_are_written_in_the_largest_unit_below_them(size: int, text: str) -> None:
    assert format_size(size) == text


@given(size=st.integers(1, MOST))
@settings(max_examples=200, derandomize=True)
def test_what_is_written_is_read_back_to_a_hundredth(size: int) -> None:
    assert parse_size(format_size(size), "size") == pytest.approx(size, rel=0.005)
