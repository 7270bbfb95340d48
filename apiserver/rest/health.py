"""For people and probes: /version, /healthz, /livez, /readyz with their single checks and ?verbose, /metrics, the page at /. FastAPI routes; nothing here is hot."""

from __future__ import annotations

import asyncio
import html
import platform
from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse

from apiserver.api import kinds
from apiserver.rest.components import Components
from apiserver.rest.metrics import render_process
from apiserver.store import base

VERSION = {
    "major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36", "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
    "gitVersion": "v1.36.0+minik", "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "", "compiler": platform.python_implementation() + " " + platform.python_version(), "platform": f"linux/{platform.machine()}",
}  # fmt: skip
_CHECK_TIMEOUT_S = 5.0
Check = Callable[[Components], Awaitable[str]]


async def _ping(app: Components) -> str:
    return ""


async def _store(app: Components) -> str:
    """ "" if the store answers, else why not."""
    try:
        async with asyncio.timeout(_CHECK_TIMEOUT_S):
            await app.cache.fresh()
    except TimeoutError:
        return f"no answer within {_CHECK_TIMEOUT_S:g} s"
    except base.StoreError as err:
        return str(err)
    return ""


async def _started(app: Components) -> str:
    return "" if app.ready else "the server is starting or stopping"


CHECKS: dict[str, dict[str, Check]] = {
    "livez": {"ping": _ping},
    "healthz": {"ping": _ping, "store": _store},
    "readyz": {"ping": _ping, "store": _store, "started": _started},
}


async def run_checks(app: Components, checks: dict[str, Check], exclude: list[str]) -> list[tuple[str, str]]:
    """(name, failure or "") in order; the excluded are left out."""
    return [(name, await check(app)) for name, check in checks.items() if name not in exclude]


def render(endpoint: str, results: list[tuple[str, str]], *, verbose: bool) -> tuple[int, str]:
    """(status, text) as Kubernetes words it; reasons are for the log only where nobody is logged in, so they are withheld as there."""
    failed = [name for name, failure in results if failure]
    if not failed and not verbose:
        return 200, "ok"
    lines = [f"[-]{name} failed: {failure}" if failure else f"[+]{name} ok" for name, failure in results]
    return (500 if failed else 200), "\n".join([*lines, f"{endpoint} check {'failed' if failed else 'passed'}", ""])


def router(app: Components) -> APIRouter:
    """The routes, over the given components."""
    routes = APIRouter()

    @routes.get("/version", response_class=JSONResponse)
    @routes.get("/version/", include_in_schema=False, response_class=JSONResponse)
    async def version() -> dict[str, str]:
        return VERSION

    def add(endpoint: str) -> None:
        checks = CHECKS[endpoint]

        @routes.get(f"/{endpoint}", response_class=PlainTextResponse, name=endpoint)
        async def all_checks(request: Request) -> PlainTextResponse:
            results = await run_checks(app, checks, request.query_params.getlist("exclude"))
            status, text = render(endpoint, results, verbose="verbose" in request.query_params)
            return PlainTextResponse(text, status)

        @routes.get(f"/{endpoint}/{{check}}", response_class=PlainTextResponse, name=f"{endpoint}-check")
        async def one_check(check: str) -> PlainTextResponse:
            if check not in checks:
                return PlainTextResponse(f"there is no check {check!r}; there are: {', '.join(checks)}\n", 404)
            failure = await checks[check](app)
            return PlainTextResponse(f"{check} failed: {failure}\n" if failure else "ok", 500 if failure else 200)

    for endpoint in CHECKS:
        add(endpoint)

    @routes.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        lines = [*app.metrics.render(), "# TYPE apiserver_cache_revision gauge", f"apiserver_cache_revision {app.cache.revision}", *render_process(), ""]
        return Response("\n".join(lines), media_type="text/plain; version=0.0.4")

    @routes.get("/", response_class=HTMLResponse)
    async def page(request: Request) -> Response:
        if "text/html" not in request.headers.get("accept", ""):
            return JSONResponse({"paths": paths()})
        rows = "".join(f'<li><a href="{html.escape(path)}">{html.escape(path)}</a></li>' for path in paths())
        head = "<!doctype html><meta charset=utf-8><title>minik</title><style>body{font:16px system-ui;margin:2em}li{margin:.2em}</style>"
        return HTMLResponse(f"{head}<h1>minik {VERSION['gitVersion']}</h1><p>A Kubernetes API server. Its paths:<ul>{rows}</ul>")

    return routes


def paths() -> list[str]:
    """Every path worth showing, as Kubernetes lists them at /."""
    versions = [f"/apis/{group}/{version}" for group, version in kinds.group_versions() if group]
    groups = {path.rpartition("/")[0] for path in versions}
    fixed = {"/api", "/api/v1", "/apis", "/docs", "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"}
    fixed |= {f"/{endpoint}/{name}" for endpoint, checks in CHECKS.items() for name in checks}
    return sorted(fixed | groups | set(versions))
