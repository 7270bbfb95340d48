"""Kubernetes quantities ("500m", "1Gi", "2e3"): parse, compare, format in the canonical form. Pure and tiny; raises BadRequest on text that is none.

Grammar and canonical form: apimachinery's resource.Quantity (a number, then a binary, decimal or exponent suffix). Called by defaults, validation, scheduler and agent.
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache

from apiserver.api.errors import BadRequest

FORMAT_ERROR = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"

_PATTERN = re.compile(r"([+-]?)(\d+\.?\d*|\.\d+)(Ki|Mi|Gi|Ti|Pi|Ei|n|u|m|k|M|G|T|P|E|[eE][+-]?\d{1,3})?", re.ASCII)
_BINARY = {suffix: Decimal(1024) ** power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)}
_DECIMAL = {"n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1)} | {
    suffix: Decimal(1000) ** power for power, suffix in enumerate(("k", "M", "G", "T", "P", "E"), start=1)
}
_NANO = Decimal("1e-9")


def _split(text: str) -> tuple[Decimal, str]:
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise BadRequest(FORMAT_ERROR)
    sign, digits, suffix = match.group(1), match.group(2), match.group(3) or ""
    number = Decimal(digits)
    return (-number if sign == "-" else number), suffix


@lru_cache(maxsize=4096)
def _parse_text(text: str) -> Decimal:
    number, suffix = _split(text)
    scale = _BINARY.get(suffix) or _DECIMAL.get(suffix)
    value = number * scale if scale is not None else number * Decimal(10) ** int(suffix[1:])
    return value.quantize(_NANO, ROUND_CEILING) if value.as_tuple().exponent < -9 else value  # type: ignore[operator]


def parse(quantity: str | float) -> Decimal:
    """The exact value; finer than nano is rounded up, as Kubernetes does. Raises BadRequest."""
    if isinstance(quantity, bool) or not isinstance(quantity, str | int | float):
        raise BadRequest(FORMAT_ERROR)
    return _parse_text(quantity if isinstance(quantity, str) else repr(quantity))


@lru_cache(maxsize=4096)
def milli(quantity: str | float) -> int:
    """Thousandths, rounded up: "0.5" is 500 (millicores of CPU)."""
    return int((parse(quantity) * 1000).to_integral_value(ROUND_CEILING))


@lru_cache(maxsize=4096)
def bytes_(quantity: str | float) -> int:
    """Whole units, rounded up: "1Ki" is 1024 (bytes of memory, numbers of pods)."""
    return int(parse(quantity).to_integral_value(ROUND_CEILING))


def canonical(quantity: str | float) -> str:
    """The form Kubernetes stores: "0.5" → "500m", "1024Ki" → "1Mi", "1e3" → "1e3". The suffix family (binary, decimal, exponent) stays."""
    text = quantity if isinstance(quantity, str) else repr(quantity)
    value, suffix = parse(text), _split(text)[1]
    if suffix in _BINARY:
        return _format_binary(value)
    if suffix[:1] in ("e", "E") and len(suffix) > 1:
        return _format_exponent(value)
    return format_decimal(value)


def format_decimal(value: Decimal | int) -> str:
    """The shortest whole number with a decimal suffix: 1500 → "1500", 0.5 → "500m", 2000 → "2k"."""
    value = Decimal(value)
    if value == 0:
        return "0"
    for suffix in ("E", "P", "T", "G", "M", "k", "", "m", "u", "n"):
        scaled = value / _DECIMAL[suffix]
        if scaled == scaled.to_integral_value():
            return f"{int(scaled)}{suffix}"
    return f"{int((value / _NANO).to_integral_value(ROUND_CEILING))}n"


def format_milli(value: int) -> str:
    """Thousandths as a quantity: 1500 → "1500m", 2000 → "2"."""
    return str(value // 1000) if value % 1000 == 0 else f"{value}m"


def format_bytes(value: int) -> str:
    """Bytes as a quantity: 1048576 → "1Mi", 1000 → "1k" never, but "1000"."""
    return _format_binary(Decimal(value))


def _format_binary(value: Decimal) -> str:
    if value != value.to_integral_value():
        return format_decimal(value)
    number = int(value)
    if -1024 < number < 1024:
        return format_decimal(number)
    for suffix in ("Ei", "Pi", "Ti", "Gi", "Mi", "Ki"):
        scale = int(_BINARY[suffix])
        if number % scale == 0:
            return f"{number // scale}{suffix}"
    return str(number)


def _format_exponent(value: Decimal) -> str:
    if value == 0:
        return "0"
    for exponent in range(18, -10, -3):
        scaled = value / Decimal(10) ** exponent
        if scaled == scaled.to_integral_value():
            return f"{int(scaled)}e{exponent}" if exponent else str(int(scaled))
    return format_decimal(value)
