"""Typed views of pods and pod templates.

Part of types.py, which is what everyone imports.
"""

from __future__ import annotations

import msgspec

from apiserver.api.types_base import LocalObjectReference, Object, ObjectMeta, Quantities, View
from apiserver.api.types_containers import Container, ResourceRequirements, SeccompProfile
from apiserver.api.types_scheduling import Affinity, Toleration, TopologySpreadConstraint
from apiserver.api.types_volumes import Volume


class Sysctl(View):
    name: str = ""
    value: str = ""


class PodSecurityContext(View):
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    supplemental_groups: list[int] = []
    supplemental_groups_policy: str = ""
    fs_group: int | None = None
    fs_group_change_policy: str = ""
    seccomp_profile: SeccompProfile | None = None
    sysctls: list[Sysctl] = []


class HostAlias(View):
    ip: str = ""
    hostnames: list[str] = []


class PodDNSConfigOption(View):
    name: str = ""
    value: str | None = None


class PodDNSConfig(View):
    nameservers: list[str] = []
    searches: list[str] = []
    options: list[PodDNSConfigOption] = []


class PodReadinessGate(View):
    condition_type: str = ""


class PodOS(View):
    name: str = ""


class PodSpec(View):
    node_name: str = ""
    node_selector: dict[str, str] = {}
    volumes: list[Volume] = []
    init_containers: list[Container] = []
    containers: list[Container] = []
    ephemeral_containers: list[Container] = []
    restart_policy: str = "Always"
    termination_grace_period_seconds: int = 30
    active_deadline_seconds: int | None = None
    dns_policy: str = "ClusterFirst"
    dns_config: PodDNSConfig | None = None
    service_account_name: str = ""
    automount_service_account_token: bool | None = None
    host_network: bool = False
    host_pid: bool = False
    host_ipc: bool = False
    host_users: bool | None = None
    share_process_namespace: bool = False
    security_context: PodSecurityContext | None = None
    image_pull_secrets: list[LocalObjectReference] = []
    hostname: str = ""
    subdomain: str = ""
    set_hostname_as_fqdn: bool = False
    affinity: Affinity | None = None
    scheduler_name: str = "default-scheduler"
    tolerations: list[Toleration] = []
    host_aliases: list[HostAlias] = []
    priority_class_name: str = ""
    priority: int = 0
    preemption_policy: str = ""
    runtime_class_name: str = ""
    enable_service_links: bool = True
    overhead: Quantities = {}
    topology_spread_constraints: list[TopologySpreadConstraint] = []
    readiness_gates: list[PodReadinessGate] = []
    scheduling_gates: list[LocalObjectReference] = []
    os: PodOS | None = None
    resources: ResourceRequirements | None = None


class ContainerStateWaiting(View):
    reason: str = ""
    message: str = ""


class ContainerStateRunning(View):
    started_at: str = ""


class ContainerStateTerminated(View):
    exit_code: int = 0
    signal: int = 0
    reason: str = ""
    message: str = ""
    started_at: str = ""
    finished_at: str = ""
    container_id: str = ""


class ContainerState(View):
    waiting: ContainerStateWaiting | None = None
    running: ContainerStateRunning | None = None
    terminated: ContainerStateTerminated | None = None


class ContainerStatus(View):
    name: str = ""
    state: ContainerState = msgspec.field(default_factory=ContainerState)
    last_state: ContainerState = msgspec.field(default_factory=ContainerState)
    ready: bool = False
    restart_count: int = 0
    image: str = ""
    image_id: str = ""
    container_id: str = ""
    started: bool | None = None


class Condition(View):
    """PodCondition, NodeCondition, and metav1.Condition."""

    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""
    last_transition_time: str = ""
    last_probe_time: str = ""
    last_heartbeat_time: str = ""
    observed_generation: int = 0


class IPEntry(View):
    """An element of podIPs or hostIPs."""

    ip: str = ""


class PodStatus(View):
    observed_generation: int = 0
    phase: str = ""
    conditions: list[Condition] = []
    message: str = ""
    reason: str = ""
    nominated_node_name: str = ""
    host_ip: str = ""
    host_ips: list[IPEntry] = []
    pod_ip: str = ""
    pod_ips: list[IPEntry] = []
    start_time: str = ""
    init_container_statuses: list[ContainerStatus] = []
    container_statuses: list[ContainerStatus] = []
    ephemeral_container_statuses: list[ContainerStatus] = []
    qos_class: str = ""


class Pod(Object):
    spec: PodSpec = msgspec.field(default_factory=PodSpec)
    status: PodStatus = msgspec.field(default_factory=PodStatus)


class PodTemplateSpec(View):
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: PodSpec = msgspec.field(default_factory=PodSpec)
