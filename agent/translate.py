"""Pod + image → sandbox and container configurations in the runtime's words (cri.py, OCI runtime-spec). Pure. Called by execute, which brings files, volumes and objects."""

from __future__ import annotations

import os.path
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent import downward, environment, observe, podspec, resources
from agent.environment import ConfigError
from agent.images.model import ImageConfig
from agent.runtime import cri, spec

SAFE_SYSCTL_PREFIXES = ("net.", "kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue.")


@dataclass(frozen=True, slots=True)
class BoundVolume:
    """One mount of a container: a path of this host at a path of its own."""

    source: str
    destination: str
    read_only: bool = False
    recursive: bool = True


@dataclass(frozen=True, slots=True)
class NodeFacts:
    name: str
    ips: tuple[str, ...]
    memory_bytes: int
    allocatable: Mapping[str, Any] = field(default_factory=dict)
    pids_limit: int = 0


@dataclass(frozen=True, slots=True)
class ContainerInputs:
    """Everything that decides one container besides its pod."""

    container: podspec.ContainerSpec
    attempt: int
    backoff_s: float
    id: str
    sandbox_id: str
    pod_ip: str
    image_id: str
    image: ImageConfig
    layers: Sequence[str]
    mounts: Sequence[BoundVolume]
    objects: environment.Objects
    services: Mapping[str, str]
    node: NodeFacts
    log_path: str


def sandbox_config(pod: podspec.Pod, sandbox_id: str, ip: str, node: NodeFacts) -> cri.SandboxConfig:
    said = pod["spec"]
    annotations = {observe.ANNOTATION_GRACE: f"{podspec.grace_s(pod):g}"}
    if ip:
        annotations[observe.ANNOTATION_IP] = ip
    return cri.SandboxConfig(
        id=sandbox_id, hostname=hostname(pod, node.name), cgroup=podspec.uid(pod), labels=_labels(pod), annotations=annotations,
        host_network=bool(said.get("hostNetwork")), host_ipc=bool(said.get("hostIPC")), host_pid=bool(said.get("hostPID")), shared_pid=bool(said.get("shareProcessNamespace")),
        resources=resources.pod_resources(pod, node.pids_limit),
    )  # fmt: skip


def hostname(pod: podspec.Pod, node_name: str) -> str:
    """spec.hostname, else the pod's name cut to 63 characters; the node's with hostNetwork."""
    if pod["spec"].get("hostNetwork"):
        return node_name
    return str(pod["spec"].get("hostname") or pod["metadata"]["name"])[:63].rstrip("-.")


def _labels(pod: podspec.Pod, container: str = "") -> dict[str, str]:
    meta = pod["metadata"]
    labels = {observe.LABEL_POD_NAME: meta["name"], observe.LABEL_POD_NAMESPACE: meta.get("namespace", ""), observe.LABEL_POD_UID: meta["uid"]}
    return {**labels, observe.LABEL_CONTAINER: container} if container else labels


def container_config(pod: podspec.Pod, inputs: ContainerInputs) -> cri.ContainerConfig:
    """Raises ConfigError: what the pod asks for cannot be made (kubelet's CreateContainerConfigError)."""
    container = inputs.container
    said = container.spec
    annotations = {
        observe.ANNOTATION_RESTARTS: str(inputs.attempt), observe.ANNOTATION_IMAGE: container.image, observe.ANNOTATION_IMAGE_ID: inputs.image_id,
        observe.ANNOTATION_BACKOFF: f"{inputs.backoff_s:g}", observe.ANNOTATION_LOG: inputs.log_path, observe.ANNOTATION_GRACE: f"{podspec.grace_s(pod):g}",
        observe.ANNOTATION_MESSAGE_PATH: said.get("terminationMessagePath") or "/dev/termination-log",
        observe.ANNOTATION_MESSAGE_POLICY: said.get("terminationMessagePolicy") or "File",
        observe.ANNOTATION_STOP_SIGNAL: stop_signal(said, inputs.image),
    }  # fmt: skip
    return cri.ContainerConfig(
        id=inputs.id, sandbox_id=inputs.sandbox_id, spec=oci_spec(pod, inputs), layers=inputs.layers, log_path=inputs.log_path,
        labels=_labels(pod, container.name), annotations=annotations, tty=bool(said.get("tty")), stdin=bool(said.get("stdin")),
    )  # fmt: skip


def stop_signal(container: Mapping[str, Any], image: ImageConfig) -> str:
    """lifecycle.stopSignal, else the image's, else SIGTERM."""
    return str((container.get("lifecycle") or {}).get("stopSignal") or image.stop_signal or "SIGTERM")


def oci_spec(pod: podspec.Pod, inputs: ContainerInputs) -> dict[str, Any]:
    """The container's OCI runtime-spec. Raises ConfigError."""
    said = inputs.container.spec
    facts = downward.Facts(inputs.pod_ip, inputs.node.ips, inputs.node.allocatable)
    variables = environment.render(pod, said, inputs.objects, inputs.services, facts)
    args = command_line(said, inputs.image, variables)
    context, pod_context = said.get("securityContext") or {}, pod["spec"].get("securityContext") or {}
    try:
        capabilities = context.get("capabilities") or {}
        chosen = spec.adjust_capabilities(spec.DEFAULT_CAPABILITIES, capabilities.get("add") or (), capabilities.get("drop") or ())
        result = spec.default_spec(args, env=_environ(inputs.image, variables, pod, inputs.node), cwd=said.get("workingDir") or inputs.image.working_dir or "/", caps=chosen)
    except spec.SpecError as e:
        raise ConfigError(str(e)) from None
    process, linux = result["process"], result["linux"]
    process["user"] = user(pod, inputs.container, inputs.image)
    process["oomScoreAdj"] = resources.oom_score_adj(pod, inputs.container, inputs.node.memory_bytes)
    process["terminal"] = bool(said.get("tty"))
    process["noNewPrivileges"] = context.get("allowPrivilegeEscalation") is False
    if said.get("tty"):
        process["env"].append("TERM=xterm")
    result["root"]["readonly"] = bool(context.get("readOnlyRootFilesystem"))
    linux["resources"] = resources.container_resources(inputs.container)
    linux["seccomp"] = seccomp(context, pod_context)
    if context.get("procMount") == "Unmasked":
        linux["maskedPaths"], linux["readonlyPaths"] = [], []
    sysctls = _sysctls(pod, pod_context)
    if sysctls:
        linux["sysctl"] = sysctls
    if context.get("privileged"):
        spec.make_privileged(result)
    result["mounts"] = _without_shadowed(result["mounts"], inputs.mounts) + [_mount(m) for m in inputs.mounts]
    return result


def command_line(container: Mapping[str, Any], image: ImageConfig, variables: Mapping[str, str]) -> list[str]:
    """command replaces entrypoint and cmd, args replaces cmd (k8s.io/docs: Define a Command and Arguments). Raises ConfigError when nothing is left."""
    command = [environment.expand(a, variables) for a in container.get("command") or ()]
    args = [environment.expand(a, variables) for a in container.get("args") or ()]
    if not command:
        command = list(image.entrypoint)
        args = args or list(image.cmd)
    if not command + args:
        raise ConfigError("no command specified")
    return command + args


def _environ(image: ImageConfig, variables: Mapping[str, str], pod: podspec.Pod, node: NodeFacts) -> list[str]:
    merged = dict(v.split("=", 1) for v in image.env if "=" in v)
    merged = {"PATH": spec.DEFAULT_PATH.partition("=")[2], "HOSTNAME": hostname(pod, node.name)} | merged | dict(variables)
    return [f"{k}={v}" for k, v in merged.items()]


def user(pod: podspec.Pod, container: podspec.ContainerSpec, image: ImageConfig) -> dict[str, Any]:
    """OCI process.user of securityContext and the image. Raises ConfigError where runAsNonRoot is not kept."""
    context, pod_context = container.spec.get("securityContext") or {}, pod["spec"].get("securityContext") or {}

    def chosen(name: str) -> Any:
        return context[name] if context.get(name) is not None else pod_context.get(name)

    uid, gid = chosen("runAsUser"), chosen("runAsGroup")
    result: dict[str, Any] = {}
    if uid is not None:
        result["uid"] = int(uid)
    elif image.user:
        result["username"] = image.user
    else:
        result["uid"] = 0
    if gid is not None:
        result["gid"] = int(gid)
    elif "username" not in result:
        result["gid"] = 0
    extra = [int(g) for g in pod_context.get("supplementalGroups") or ()]
    if pod_context.get("fsGroup") is not None:
        extra.append(int(pod_context["fsGroup"]))
    if extra:
        result["additionalGids"] = list(dict.fromkeys(extra))
    if chosen("runAsNonRoot"):
        _check_non_root(pod, container, uid, image)
    return result


def _check_non_root(pod: podspec.Pod, container: podspec.ContainerSpec, uid: Any, image: ImageConfig) -> None:
    where = f'(pod: "{podspec.describe(pod)}", container: {container.name})'
    if uid is not None:
        if int(uid) == 0:
            raise ConfigError(f"container's runAsUser breaks non-root policy {where}")
        return
    name = image.user.partition(":")[0]
    if not name or name == "0":
        raise ConfigError(f"container has runAsNonRoot and image will run as root {where}")
    if not name.isdigit():
        raise ConfigError(f"container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {where}")


def seccomp(context: Mapping[str, Any], pod_context: Mapping[str, Any]) -> str | None:
    """The runtime's default profile unless Unconfined is asked for by name. Raises ConfigError for a profile file: there is no place for those yet."""
    profile = context.get("seccompProfile") or pod_context.get("seccompProfile") or {}
    kind = profile.get("type") or "RuntimeDefault"
    if kind == "Unconfined":
        return None
    if kind == "RuntimeDefault":
        return "default"
    raise ConfigError(f"seccompProfile.type: {kind} is not supported: use RuntimeDefault or Unconfined")


def _sysctls(pod: podspec.Pod, pod_context: Mapping[str, Any]) -> dict[str, str]:
    result = {}
    for sysctl in pod_context.get("sysctls") or ():
        name = sysctl["name"].replace("/", ".")
        if not name.startswith(SAFE_SYSCTL_PREFIXES):
            raise ConfigError(f"sysctl {name!r} is not namespaced")
        if name.startswith("net.") and pod["spec"].get("hostNetwork"):
            raise ConfigError(f"sysctl {name!r} is not allowed with hostNetwork")
        result[name] = str(sysctl.get("value", ""))
    return result


def _mount(volume: BoundVolume) -> dict[str, Any]:
    options = ["rbind" if volume.recursive else "bind", "ro" if volume.read_only else "rw", "rprivate"]
    return {"destination": volume.destination, "type": "bind", "source": volume.source, "options": options}


def _without_shadowed(defaults: Sequence[dict[str, Any]], volumes: Sequence[BoundVolume]) -> list[dict[str, Any]]:
    """A volume at the very place of a default mount (/dev/shm) takes it over."""
    taken = {os.path.normpath(v.destination) for v in volumes}
    return [m for m in defaults if m["destination"] not in taken]


def etc_hosts(pod: podspec.Pod, ip: str, node_name: str) -> str:
    """/etc/hosts of the pod (k8s.io/docs: Adding entries to Pod /etc/hosts)."""
    lines = ["# Kubernetes-managed hosts file.", "127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback", "fe00::0\tip6-localnet", "fe00::0\tip6-mcastprefix",
             "fe00::1\tip6-allnodes", "fe00::2\tip6-allrouters"]  # fmt: skip
    name = hostname(pod, node_name)
    if ip:
        subdomain, namespace = pod["spec"].get("subdomain"), pod["metadata"].get("namespace", "")
        full = f"{name}.{subdomain}.{namespace}.svc.cluster.local\t" if subdomain else ""
        lines.append(f"{ip}\t{full}{name}")
    aliases = pod["spec"].get("hostAliases") or ()
    if aliases:
        lines += ["", "# Entries added by HostAliases."]
        lines += [f"{a['ip']}\t" + "\t".join(a.get("hostnames") or ()) for a in aliases]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class Dns:
    """`servers`: the cluster's DNS, empty while none is served; `host`: the text of the host's resolv.conf."""

    servers: Sequence[str] = ()
    domain: str = "cluster.local"
    host: str = ""


def resolv_conf(pod: podspec.Pod, dns: Dns) -> str:
    """/etc/resolv.conf by dnsPolicy and dnsConfig. Without a cluster DNS, ClusterFirst falls back to the host's servers (k8s.io/docs: DNS for Services and Pods)."""
    policy = pod["spec"].get("dnsPolicy") or "ClusterFirst"
    if policy == "ClusterFirst" and pod["spec"].get("hostNetwork"):
        policy = "Default"
    servers, search, options = _host_dns(dns.host)
    if policy == "None":
        servers, search, options = [], [], []
    elif policy in ("ClusterFirst", "ClusterFirstWithHostNet") and dns.servers:
        namespace = pod["metadata"].get("namespace", "")
        servers = list(dns.servers)
        search = [f"{namespace}.svc.{dns.domain}", f"svc.{dns.domain}", dns.domain, *search]
        options = ["ndots:5"]
    config = pod["spec"].get("dnsConfig") or {}
    servers += [s for s in config.get("nameservers") or () if s not in servers]
    search += [s for s in config.get("searches") or () if s not in search]
    for option in config.get("options") or ():
        options = [o for o in options if o.partition(":")[0] != option["name"]]
        options.append(option["name"] + (f":{option['value']}" if option.get("value") else ""))
    lines = [f"search {' '.join(search)}"] if search else []
    lines += [f"nameserver {s}" for s in servers]
    lines += [f"options {' '.join(options)}"] if options else []
    return "\n".join(lines) + "\n"


def _host_dns(text: str) -> tuple[list[str], list[str], list[str]]:
    """resolv.conf(5) → nameservers, search, options. A resolver on the host's loopback is of no use in a pod."""
    servers: list[str] = []
    search: list[str] = []
    options: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2:
            continue
        if words[0] == "nameserver" and not words[1].startswith("127.") and words[1] != "::1":
            servers.append(words[1])
        elif words[0] in ("search", "domain"):
            search = words[1:]
        elif words[0] == "options":
            options = words[1:]
    return servers, search, options
