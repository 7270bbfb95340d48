"""postStart and preStop (k8s.io/docs: Container Lifecycle Hooks): exec, httpGet, sleep. Called by execute."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from agent import probes
from agent.runtime import cri


class HookError(Exception):
    """The hook failed; the text is for its event."""


async def run(handler: Mapping[str, Any], target: probes.Target, runtime: cri.RuntimeService, timeout_s: float) -> None:
    """Raises HookError."""
    try:
        if handler.get("exec"):
            command = handler["exec"].get("command") or []
            code, output = await probes.run_command(command, target.container_id, runtime, timeout_s)
            if code != 0:
                raise HookError(f"Exec lifecycle hook ({command}) failed: command exited with {code}, message: {output!r}")
        elif handler.get("httpGet"):
            status, _ = await probes.http_get(handler["httpGet"], target, timeout_s)
            if status >= 400:
                raise HookError(f"HTTP lifecycle hook ({handler['httpGet'].get('path') or '/'}) failed: status {status}")
        elif handler.get("sleep"):
            await asyncio.sleep(min(float(handler["sleep"].get("seconds") or 0), timeout_s))
        else:
            raise HookError("the hook names no handler that is supported (exec, httpGet, sleep)")
    except TimeoutError:
        raise HookError(f"the hook did not end within {timeout_s:g} s") from None
    except (OSError, KeyError, ValueError) as e:
        raise HookError(f"the hook could not be run: {e}") from e
