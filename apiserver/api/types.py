"""Typed views (msgspec Structs) of the kinds that our own components read: snake_case attributes of the JSON names, absent list/dict/str/int = empty, absent object = None.

Read-only views: unknown fields are ignored, so never write one back in place of the document. Called by the scheduler, the agent and the controllers.
"""

# One name for all: `types.Pod`. The parts are split by subject only to keep files short.
from apiserver.api.types_base import *  # noqa: F403
from apiserver.api.types_cluster import *  # noqa: F403
from apiserver.api.types_containers import *  # noqa: F403
from apiserver.api.types_pods import *  # noqa: F403
from apiserver.api.types_scheduling import *  # noqa: F403
from apiserver.api.types_volumes import *  # noqa: F403
