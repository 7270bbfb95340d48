"""The runtime boundary, shaped like CRI (k8s.io/cri-api v1): the words in which the agent asks for sandboxes and containers. Values and one Protocol, no effects.

`agent.runtime.client.Runtime` is the real implementation (it talks to the zygote); nothing here or below knows what a Pod is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

SandboxState = Literal["ready", "notready"]
ContainerState = Literal["created", "running", "exited"]


@dataclass(frozen=True, slots=True)
class SandboxConfig:
    """A pod's shared namespaces (net, ipc, uts). `labels` and `annotations` are kept for the caller and given back by list. `cgroup` is a path relative to the
    node's `pods/` cgroup: the pod uid. `host_network`, `host_ipc`: the host's namespaces are used instead. `shared_pid`: one pid namespace for all containers."""

    id: str
    hostname: str
    cgroup: str
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    host_network: bool = False
    host_ipc: bool = False
    host_pid: bool = False
    shared_pid: bool = False
    resources: Mapping[str, Any] = field(default_factory=dict)  # OCI linux.resources for the pod's own cgroup


@dataclass(frozen=True, slots=True)
class SandboxStatus:
    config: SandboxConfig
    state: SandboxState
    created_at: float  # Unix seconds


@dataclass(frozen=True, slots=True)
class ContainerConfig:
    """`spec`: a subset of the OCI runtime-spec config.json (process, mounts, hostname, linux.{resources, maskedPaths, readonlyPaths, seccomp, namespaces}, root.readonly).
    `layers`: unpacked layer directories, bottom first, become an overlay under a fresh upper. `log_path`: the CRI-format log file, "" for none. With `tty` or `stdin`
    the container's stdio is a pty or keeps an open stdin (see open_stdin). spec.validate_spec says which spec fields there are, spec.default_spec builds a safe one."""

    id: str
    sandbox_id: str
    spec: Mapping[str, Any]
    layers: Sequence[str]
    log_path: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    tty: bool = False
    stdin: bool = False


@dataclass(frozen=True, slots=True)
class ContainerStatus:
    """`exit_code` is 128 + N for death by signal N. `reason`: "" | Completed | Error | OOMKilled | StartError (then `message` says why). Times: Unix seconds, 0 = not yet."""

    id: str
    sandbox_id: str
    state: ContainerState
    pid: int
    created_at: float
    started_at: float
    finished_at: float
    exit_code: int
    reason: str
    message: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ContainerStats:
    """`cpu_ns`: CPU time since the start. `working_set_bytes`: memory use without inactive file pages, as kubelet counts it. `memory_limit_bytes`: 0 = none."""

    id: str
    cpu_ns: int
    memory_bytes: int
    working_set_bytes: int
    memory_limit_bytes: int
    pids: int


@dataclass(frozen=True, slots=True)
class ExecResult:
    exit_code: int


class ExecSession(Protocol):
    """A process joined to a running container. With tty one pty fd serves stdin, stdout and stderr; else three pipe ends (None where not asked for). The caller owns the fds."""

    pid: int
    stdin_fd: int | None
    stdout_fd: int | None
    stderr_fd: int | None
    pty_fd: int | None

    async def wait(self) -> ExecResult: ...
    def resize(self, rows: int, columns: int) -> None: ...
    async def kill(self, signal: int = 9) -> None: ...


class RuntimeServiceError(OSError):
    """A syscall of the runtime failed: errno, the syscall's name and the path in the text ("cannot X: cause"), which needs no "[Errno N]" before it."""

    def __str__(self) -> str:
        return self.strerror or super().__str__()


class NotFoundError(KeyError):
    """No sandbox or container of that id."""


class StartError(RuntimeServiceError):
    """start_container could not exec the command: errno says why (ENOENT: not found in the image, EACCES: not executable, ENOEXEC …)."""


class RuntimeService(Protocol):
    """Every call is idempotent where CRI's is: stopping what is stopped and removing what is gone succeed."""

    async def run_sandbox(self, config: SandboxConfig) -> SandboxStatus: ...
    async def sandbox_netns(self, sandbox_id: str) -> int:
        """A new fd of the sandbox's network namespace (nsfs); the caller closes it. Survives restarts of agent and zygote."""

    async def stop_sandbox(self, sandbox_id: str) -> None:
        """Kills whatever runs in it; its namespaces go."""

    async def remove_sandbox(self, sandbox_id: str) -> None: ...
    async def list_sandboxes(self) -> list[SandboxStatus]: ...

    async def create_container(self, config: ContainerConfig) -> ContainerStatus:
        """Root file system, cgroup, log FIFOs; nothing runs yet."""

    async def start_container(self, container_id: str) -> ContainerStatus:
        """Returns when execve has succeeded. Raises StartError."""

    async def stop_container(self, container_id: str, timeout_s: float, signal: int = 15) -> ContainerStatus:
        """`signal` to the container's init, KILL to all of its cgroup after timeout_s; returns when it is dead and its log drained."""

    async def kill_container(self, container_id: str, signal: int) -> None: ...
    async def remove_container(self, container_id: str) -> None: ...
    async def container_status(self, container_id: str) -> ContainerStatus: ...
    async def list_containers(self) -> list[ContainerStatus]: ...

    async def open_stdin(self, container_id: str) -> int:
        """A new fd that writes to the container's stdin (or, with tty, its terminal's master: reading it would steal from the log); the caller closes it."""

    async def close_stdin(self, container_id: str) -> None:
        """End of file for the container's stdin once every fd of open_stdin is closed (`stdinOnce`)."""

    async def resize_terminal(self, container_id: str, rows: int, columns: int) -> None: ...
    async def container_stats(self, container_id: str) -> ContainerStats: ...

    async def update_resources(self, container_id: str, resources: Mapping[str, Any]) -> None: ...

    async def exec(self, container_id: str, args: Sequence[str], *, tty: bool = False, stdin: bool = False, stdout: bool = True, stderr: bool = True,
                   env: Sequence[str] = (), cwd: str = "") -> ExecSession: ...

    def events(self) -> AsyncIterator[ContainerStatus]:
        """A status each time a container starts or exits (after its log is drained), also of exits that happened while nobody listened."""
