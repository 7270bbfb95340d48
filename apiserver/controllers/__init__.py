"""Control loops: a pure plan_* and a loop each (loop.py is their one shape); they see client and api only.

`await run(client, Config(…))` is the embedded entry, `python -m apiserver.controllers` the separate one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apiserver.client.client import Client
    from apiserver.controllers.config import Config

__all__ = ["run"]


async def run(client: Client, config: Config) -> None:
    """All controllers, until cancelled."""
    from apiserver.controllers import start

    await start.run(client, config)
