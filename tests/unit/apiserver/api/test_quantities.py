"""Quantities: values, rounding, canonical forms, and that the canonical form is the same value."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiserver.api import quantities
from apiserver.api.errors import BadRequest


@pytest.mark.parametrize(
    ("text", "value", "canonical"),
    [
        ("0", "0", "0"), ("500m", "0.5", "500m"), ("0.5", "0.5", "500m"), ("1Gi", str(2**30), "1Gi"), ("1.5Gi", str(3 * 2**29), "1536Mi"), ("1024Ki", str(2**20), "1Mi"),
        ("1e3", "1000", "1e3"), ("2000", "2000", "2k"), (".5", "0.5", "500m"), (1, "1", "1"), (1.5, "1.5", "1500m"), ("1E", str(10**18), "1E"), ("1n", "1e-9", "1n"),
        ("1e-3", "0.001", "1e-3"), ("-1", "-1", "-1"), ("+1", "1", "1"), ("100M", "100000000", "100M"), ("0.1Ki", "102.4", "102400m"),
    ],
)
def test_parse_and_canonical(text, value, canonical):
    assert quantities.parse(text) == Decimal(value)
    assert quantities.canonical(text) == canonical


@pytest.mark.parametrize("text", ["", "m", "1.2.3", "1 Gi", "1GiB", "1ki", "one", "1e", "--1", "1e1000", "NaN", "Infinity", None, True, [], "１"])
def test_what_is_no_quantity(text):
    with pytest.raises(BadRequest):
        quantities.parse(text)


def test_rounding_is_up():
    assert quantities.milli("1n") == 1
    assert quantities.milli("1500m") == 1500
    assert quantities.bytes_("1.1") == 2
    assert quantities.parse("0.1n") == Decimal("1e-9")


@given(st.integers(0, 10**15), st.sampled_from(["", "m", "k", "M", "Ki", "Mi", "Gi", "e2", "u"]))
def test_the_canonical_form_is_the_same_value_and_stays(number, suffix):
    canonical = quantities.canonical(f"{number}{suffix}")
    assert quantities.parse(canonical) == quantities.parse(f"{number}{suffix}")
    assert quantities.canonical(canonical) == canonical


def test_formats():
    assert quantities.format_milli(1500) == "1500m"
    assert quantities.format_milli(2000) == "2"
    assert quantities.format_bytes(2**20) == "1Mi"
    assert quantities.format_bytes(1500) == "1500"
