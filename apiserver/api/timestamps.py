"""Kubernetes' time texts ↔ Unix seconds: Time is RFC 3339 in whole seconds, MicroTime has six digits. Pure; raises BadRequest. Called wherever a time is read or written."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from apiserver.api.errors import BadRequest


def parse(text: str) -> float:
    """Unix seconds of an RFC 3339 text with any fraction and offset. Raises BadRequest."""
    try:
        if text[-1:] in ("Z", "z"):
            text = text[:-1] + "+00:00"
        moment = datetime.fromisoformat(text)
    except (ValueError, TypeError) as err:
        raise BadRequest(f'parsing time "{text}" as "2006-01-02T15:04:05Z07:00": cannot parse') from err
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def format_time(seconds: float) -> str:
    """`2025-01-31T12:00:00Z`, as metadata.creationTimestamp; the fraction is cut off."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(seconds)))


def format_micro_time(seconds: float) -> str:
    """`2025-01-31T12:00:00.123456Z`, as Lease.spec.renewTime and Event.eventTime."""
    micros = round(seconds * 1_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(micros // 1_000_000))}.{micros % 1_000_000:06d}Z"


def human_duration(seconds: float) -> str:
    """An age as kubectl prints it: 45s, 3m20s, 25m, 5h12m, 30h, 3d4h, 12d, 2y30d (source: apimachinery's duration.HumanDuration, from its documentation)."""
    if int(seconds) < -1:
        return "<invalid>"
    whole = max(int(seconds), 0)
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    years = days // 365
    if whole < 120:
        return f"{whole}s"
    if minutes < 10:
        return f"{minutes}m{whole % 60}s" if whole % 60 else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    if days < 730:
        return f"{days}d"
    if years < 8:
        return f"{years}y{days % 365}d" if days % 365 else f"{years}y"
    return f"{years}y"
