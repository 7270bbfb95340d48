"""Startup, liveness and readiness probes: what a probe is, when its outcomes count (pure), one try of each kind, and the tasks that repeat them per running container.

Called by workers, which hand in the running containers and get verdicts and events back. k8s.io/docs: Configure Liveness, Readiness and Startup Probes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agent.observe import ProbeVerdict
from agent.runtime import cri

log = logging.getLogger("probes")
Kind = Literal["startup", "liveness", "readiness"]
KINDS: tuple[Kind, ...] = ("startup", "liveness", "readiness")
MAX_OUTPUT_BYTES = 10 * 1024


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe with its defaults filled in; `handler` holds httpGet, tcpSocket, exec or grpc."""

    kind: Kind
    handler: Mapping[str, Any]
    initial_delay_s: float
    period_s: float
    timeout_s: float
    success_threshold: int
    failure_threshold: int


@dataclass(frozen=True, slots=True)
class Outcome:
    ok: bool
    message: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """How outcomes have run so far. `result`: None until a threshold has been reached."""

    result: bool | None = None
    run_of: bool = True
    run: int = 0


def parse(kind: Kind, said: Mapping[str, Any]) -> Probe:
    def number(field: str, default: float) -> float:
        value = said.get(field)
        return float(default if value is None or (value == 0 and field != "initialDelaySeconds") else value)

    successes = number("successThreshold", 1) if kind == "readiness" else 1
    return Probe(kind, said, number("initialDelaySeconds", 0), number("periodSeconds", 10), number("timeoutSeconds", 1), int(successes), int(number("failureThreshold", 3)))


def of_container(container: Mapping[str, Any]) -> list[Probe]:
    return [parse(kind, container[f"{kind}Probe"]) for kind in KINDS if container.get(f"{kind}Probe")]


def step(state: State, outcome: Outcome, probe: Probe) -> State:
    """The state after one more outcome: thresholds count consecutive ones only."""
    run = state.run + 1 if state.run and state.run_of == outcome.ok else 1
    needed = probe.success_threshold if outcome.ok else probe.failure_threshold
    return State(outcome.ok if run >= needed else state.result, outcome.ok, run)


def verdict(results: Mapping[Kind, bool | None], probes: Sequence[Probe]) -> ProbeVerdict:
    """What the results mean for the container: not started until startup succeeded, ready when readiness says so, unhealthy when startup or liveness failed."""
    have = {p.kind for p in probes}
    started = "startup" not in have or results.get("startup") is True
    ready = started and ("readiness" not in have or results.get("readiness") is True)
    unhealthy = next((kind for kind in ("startup", "liveness") if kind in have and results.get(kind) is False), "")  # type: ignore[call-overload]
    return ProbeVerdict(started, ready, unhealthy)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a container's probes go."""

    container_id: str
    pod_ip: str
    container: Mapping[str, Any]
    started_at: float


async def try_once(probe: Probe, target: Target, runtime: cri.RuntimeService) -> Outcome:
    """One attempt within its timeout. Never raises but on cancellation."""
    handler = probe.handler
    try:
        if handler.get("httpGet"):
            return await _http(handler["httpGet"], target, probe.timeout_s)
        if handler.get("tcpSocket"):
            return await _tcp(handler["tcpSocket"], target, probe.timeout_s)
        if handler.get("exec"):
            return await _exec(handler["exec"].get("command") or [], target.container_id, runtime, probe.timeout_s)
        if handler.get("grpc"):
            return Outcome(False, "grpc probes are not supported on this node: use httpGet, tcpSocket or exec")
        return Outcome(False, "the probe names no handler")
    except ValueError as e:
        return Outcome(False, str(e))


def resolve_port(port: Any, container: Mapping[str, Any]) -> int:
    """A port number, or the number of the container's port of that name. Raises ValueError."""
    if isinstance(port, int) or str(port).isdigit():
        return int(port)
    for known in container.get("ports") or ():
        if known.get("name") == port:
            return int(known["containerPort"])
    raise ValueError(f"couldn't find port: {port!r} in container")


async def _tcp(said: Mapping[str, Any], target: Target, timeout_s: float) -> Outcome:
    host, port = said.get("host") or target.pod_ip, resolve_port(said.get("port"), target.container)
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return Outcome(False, f"dial tcp {host}:{port}: i/o timeout")
    except OSError as e:
        return Outcome(False, f"dial tcp {host}:{port}: connect: {_why(e)}")
    writer.close()
    return Outcome(True)


def _why(error: OSError) -> str:
    return os.strerror(error.errno).lower() if error.errno else str(error)


async def http_get(said: Mapping[str, Any], target: Target, timeout_s: float) -> tuple[int, str]:
    """Status and the beginning of the body of one GET as kubelet makes it: certificates are not checked, redirects not followed. Raises OSError, TimeoutError, ValueError."""
    host, port = said.get("host") or target.pod_ip, resolve_port(said.get("port"), target.container)
    headers = {h["name"]: h.get("value", "") for h in said.get("httpHeaders") or ()}
    names = {name.lower() for name in headers}
    lines = [f"GET {said.get('path') or '/'} HTTP/1.1"]
    lines += [] if "host" in names else [f"Host: {host}:{port}"]
    lines += [] if "user-agent" in names else ["User-Agent: kube-probe/1.36"]
    lines += [] if "accept" in names else ["Accept: */*"]
    lines += [f"{k}: {v}" for k, v in headers.items()] + ["Connection: close", "", ""]
    context = None
    if (said.get("scheme") or "HTTP").upper() == "HTTPS":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_connection(host, port, ssl=context)
        try:
            writer.write("\r\n".join(lines).encode())
            words = (await reader.readline()).split(None, 2)
            if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
                raise ValueError("malformed HTTP response")
            while (await reader.readline()).strip():
                pass
            body = b"" if int(words[1]) < 400 else await reader.read(MAX_OUTPUT_BYTES)
            return int(words[1]), body.decode(errors="replace")
        finally:
            writer.close()


async def _http(said: Mapping[str, Any], target: Target, timeout_s: float) -> Outcome:
    host, port = said.get("host") or target.pod_ip, resolve_port(said.get("port"), target.container)
    url = f"{(said.get('scheme') or 'HTTP').lower()}://{host}:{port}{said.get('path') or '/'}"
    try:
        status, _ = await http_get(said, target, timeout_s)
    except TimeoutError:
        return Outcome(False, f'Get "{url}": context deadline exceeded (Client.Timeout exceeded while awaiting headers)')
    except OSError as e:
        return Outcome(False, f'Get "{url}": dial tcp {host}:{port}: connect: {_why(e)}')
    except ValueError as e:
        return Outcome(False, f'Get "{url}": {e}')
    return Outcome(True) if 200 <= status < 400 else Outcome(False, f"HTTP probe failed with statuscode: {status}")


async def _exec(command: Sequence[str], container_id: str, runtime: cri.RuntimeService, timeout_s: float) -> Outcome:
    try:
        code, output = await run_command(command, container_id, runtime, timeout_s)
    except TimeoutError:
        return Outcome(False, f'command timed out: "{" ".join(command)}" timed out after {timeout_s:g}s')
    except (OSError, KeyError) as e:
        return Outcome(False, f"cannot run the command: {e}")
    return Outcome(code == 0, output)


async def run_command(command: Sequence[str], container_id: str, runtime: cri.RuntimeService, timeout_s: float) -> tuple[int, str]:
    """Exit code and the first 10 kB of output of a command in a container; killed at the timeout. Raises TimeoutError, OSError, cri.NotFoundError."""
    session = await runtime.exec(container_id, list(command))
    try:
        async with asyncio.timeout(timeout_s):
            outputs = await asyncio.gather(*(_drain(fd) for fd in (session.stdout_fd, session.stderr_fd) if fd is not None))
            result = await session.wait()
    except BaseException:
        with contextlib.suppress(OSError):
            await session.kill()
        raise
    finally:
        for fd in (session.stdin_fd, session.stdout_fd, session.stderr_fd):
            if fd is not None:
                os.close(fd)
    return result.exit_code, b"".join(outputs)[:MAX_OUTPUT_BYTES].decode(errors="replace")


async def _drain(fd: int) -> bytes:
    """All of a pipe until its end, of which the first 10 kB are kept."""
    loop = asyncio.get_running_loop()
    os.set_blocking(fd, False)
    kept, done = bytearray(), loop.create_future()

    def readable() -> None:
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        kept.extend(data[: MAX_OUTPUT_BYTES - len(kept)])
        if not data and not done.done():
            done.set_result(None)

    loop.add_reader(fd, readable)
    try:
        await done
    finally:
        loop.remove_reader(fd)
    return bytes(kept)


OnEvent = Callable[[str, str], None]  # (container name, message of an Unhealthy event)


class Prober:
    """The probe tasks of one pod. `on_change()` is called when a verdict changes; `on_unhealthy` for each failed try."""

    def __init__(self, runtime: cri.RuntimeService, now: Callable[[], float], on_change: Callable[[], None], on_unhealthy: OnEvent, rng: random.Random | None = None) -> None:
        self._runtime, self._now, self._on_change, self._on_unhealthy = runtime, now, on_change, on_unhealthy
        self._rng = rng or random.Random()
        self._tasks: dict[str, list[asyncio.Task[None]]] = {}
        self._results: dict[str, dict[Kind, bool | None]] = {}
        self._probes: dict[str, list[Probe]] = {}
        self._started: dict[str, asyncio.Event] = {}

    @property
    def verdicts(self) -> dict[str, ProbeVerdict]:
        return {cid: verdict(self._results[cid], probes) for cid, probes in self._probes.items()}

    def sync(self, targets: Sequence[Target], adopted: Mapping[str, bool]) -> None:
        """Probe exactly these running containers. `adopted`: container id → it was ready before this agent came: it stays so until a probe says otherwise."""
        wanted = {t.container_id: t for t in targets}
        for cid in [cid for cid in self._tasks if cid not in wanted]:
            self._stop(cid)
        for cid, target in wanted.items():
            probes = of_container(target.container)
            if cid in self._tasks or not probes:
                continue
            self._probes[cid] = probes
            self._results[cid] = {p.kind: True if adopted.get(cid) and p.kind != "liveness" else None for p in probes}
            self._started[cid] = asyncio.Event()
            if verdict(self._results[cid], probes).started:
                self._started[cid].set()
            self._tasks[cid] = [asyncio.create_task(self._repeat(p, target)) for p in probes]

    def _stop(self, cid: str) -> None:
        for task in self._tasks.pop(cid, ()):
            task.cancel()
        self._results.pop(cid, None)
        self._probes.pop(cid, None)
        self._started.pop(cid, None)

    def close(self) -> None:
        for cid in list(self._tasks):
            self._stop(cid)

    async def _repeat(self, probe: Probe, target: Target) -> None:
        results, started = self._results[target.container_id], self._started[target.container_id]
        state = State(result=results[probe.kind])
        await asyncio.sleep(max(target.started_at + probe.initial_delay_s - self._now(), 0))
        if probe.kind != "startup":
            await started.wait()
        while True:
            try:
                outcome = await try_once(probe, target, self._runtime)
            except Exception:
                log.exception("container %s: %s probe", target.container_id, probe.kind)
                outcome = Outcome(False, "the probe could not be made")
            if not outcome.ok:
                self._on_unhealthy(target.container["name"], f"{probe.kind.capitalize()} probe failed: {outcome.message}")
            state = step(state, outcome, probe)
            if state.result is not results[probe.kind]:
                results[probe.kind] = state.result
                self._on_change()
            if probe.kind == "startup" and state.result is True:
                started.set()
                return
            await asyncio.sleep(self._pause(probe, state))

    def _pause(self, probe: Probe, state: State) -> float:
        """A period; a container that is not ready yet is asked sooner at first, so that it gets its traffic as soon as it can take it."""
        if probe.kind == "readiness" and state.result is None and state.run <= 10 and not state.run_of:
            return min(0.1 * 2**state.run, probe.period_s)
        return probe.period_s
