"""Typed views (msgspec Structs) of the kinds that our own components read: snake_case attributes of the JSON names, absent list/dict/str/int = empty, absent object = None.

Read-only views: unknown fields are ignored, so never write one back in place of the document. Called by the scheduler, the agent and the controllers.
"""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

import msgspec
import orjson

_ACRONYMS = {"ip": "IP", "ips": "IPs", "id": "ID", "cidr": "CIDR", "cidrs": "CIDRs", "pid": "PID", "ipc": "IPC", "fqdn": "FQDN", "uuid": "UUID"}


def _json_name(field: str) -> str:
    first, *rest = field.split("_")
    return first + "".join(_ACRONYMS.get(word) or word.capitalize() for word in rest)


class View(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False, rename=_json_name):
    """Base: `pod_ip` ↔ `podIP`. Without gc tracking, because documents have no cycles."""


ViewT = TypeVar("ViewT", bound=View)
Quantity = str | int | float
Quantities = dict[str, Quantity]
IntOrString = int | str


@cache
def _decoder(view: type[ViewT]) -> msgspec.json.Decoder[ViewT]:
    return msgspec.json.Decoder(view)


def decode(view: type[ViewT], data: bytes) -> ViewT:
    """A document's bytes as a view; explicit nulls count as absent. Raises msgspec.ValidationError (with the path) or msgspec.DecodeError."""
    try:
        return _decoder(view).decode(data)
    except msgspec.ValidationError:
        return msgspec.convert(_without_nulls(orjson.loads(data)), view)


def from_dict(view: type[ViewT], obj: dict[str, Any]) -> ViewT:
    """A document as a view; explicit nulls count as absent. Raises msgspec.ValidationError with the path."""
    try:
        return msgspec.convert(obj, view)
    except msgspec.ValidationError:
        return msgspec.convert(_without_nulls(obj), view)


def to_dict(view: View) -> dict[str, Any]:
    """The JSON form of a view, without empty fields: for values that a component made itself (a status, an Event)."""
    return msgspec.to_builtins(view)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value if item is not None] if isinstance(value, list) else value


# ---- metadata and selectors


class OwnerReference(View):
    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool = False
    block_owner_deletion: bool = False


class ObjectMeta(View):
    name: str = ""
    generate_name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str = ""
    deletion_timestamp: str = ""
    deletion_grace_period_seconds: int | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: list[OwnerReference] = []
    finalizers: list[str] = []

    @property
    def key(self) -> str:
        """`namespace/name`, or the name of a cluster-scoped object."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name

    def controller_of(self) -> OwnerReference | None:
        return next((reference for reference in self.owner_references if reference.controller), None)


class LabelSelectorRequirement(View):
    key: str = ""
    operator: str = ""
    values: list[str] = []


class LabelSelector(View):
    match_labels: dict[str, str] = {}
    match_expressions: list[LabelSelectorRequirement] = []


class LocalObjectReference(View):
    name: str = ""


class ObjectReference(View):
    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    api_version: str = ""
    resource_version: str = ""
    field_path: str = ""


class Object(View):
    """Any kind, when only its identity matters."""

    api_version: str = ""
    kind: str = ""
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)


# ---- containers


class KeySelector(View):
    """ConfigMapKeySelector and SecretKeySelector."""

    name: str = ""
    key: str = ""
    optional: bool = False


class FieldRef(View):
    api_version: str = "v1"
    field_path: str = ""


class ResourceFieldRef(View):
    container_name: str = ""
    resource: str = ""
    divisor: Quantity = ""


class EnvVarSource(View):
    field_ref: FieldRef | None = None
    resource_field_ref: ResourceFieldRef | None = None
    config_map_key_ref: KeySelector | None = None
    secret_key_ref: KeySelector | None = None


class EnvVar(View):
    name: str = ""
    value: str = ""
    value_from: EnvVarSource | None = None


class EnvFromRef(View):
    name: str = ""
    optional: bool = False


class EnvFromSource(View):
    prefix: str = ""
    config_map_ref: EnvFromRef | None = None
    secret_ref: EnvFromRef | None = None


class ContainerPort(View):
    name: str = ""
    container_port: int = 0
    host_port: int = 0
    host_ip: str = ""
    protocol: str = "TCP"


class VolumeMount(View):
    name: str = ""
    mount_path: str = ""
    sub_path: str = ""
    sub_path_expr: str = ""
    read_only: bool = False
    recursive_read_only: str = ""
    mount_propagation: str = ""


class VolumeDevice(View):
    name: str = ""
    device_path: str = ""


class ResourceRequirements(View):
    requests: Quantities = {}
    limits: Quantities = {}


class ExecAction(View):
    command: list[str] = []


class HTTPHeader(View):
    name: str = ""
    value: str = ""


class HTTPGetAction(View):
    path: str = ""
    port: IntOrString = 0
    host: str = ""
    scheme: str = "HTTP"
    http_headers: list[HTTPHeader] = []


class TCPSocketAction(View):
    port: IntOrString = 0
    host: str = ""


class GRPCAction(View):
    port: int = 0
    service: str = ""


class SleepAction(View):
    seconds: int = 0


class Probe(View):
    exec: ExecAction | None = None
    http_get: HTTPGetAction | None = None
    tcp_socket: TCPSocketAction | None = None
    grpc: GRPCAction | None = None
    initial_delay_seconds: int = 0
    timeout_seconds: int = 1
    period_seconds: int = 10
    success_threshold: int = 1
    failure_threshold: int = 3
    termination_grace_period_seconds: int | None = None


class LifecycleHandler(View):
    exec: ExecAction | None = None
    http_get: HTTPGetAction | None = None
    tcp_socket: TCPSocketAction | None = None
    sleep: SleepAction | None = None


class Lifecycle(View):
    post_start: LifecycleHandler | None = None
    pre_stop: LifecycleHandler | None = None
    stop_signal: str = ""


class Capabilities(View):
    add: list[str] = []
    drop: list[str] = []


class SeccompProfile(View):
    type: str = ""
    localhost_profile: str = ""


class SecurityContext(View):
    privileged: bool | None = None
    capabilities: Capabilities | None = None
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    read_only_root_filesystem: bool | None = None
    allow_privilege_escalation: bool | None = None
    proc_mount: str = ""
    seccomp_profile: SeccompProfile | None = None


class ContainerResizePolicy(View):
    resource_name: str = ""
    restart_policy: str = ""


class Container(View):
    """A container, an init container (restart_policy "Always" = sidecar) or an ephemeral one (target_container_name)."""

    name: str = ""
    image: str = ""
    command: list[str] = []
    args: list[str] = []
    working_dir: str = ""
    ports: list[ContainerPort] = []
    env_from: list[EnvFromSource] = []
    env: list[EnvVar] = []
    resources: ResourceRequirements = msgspec.field(default_factory=ResourceRequirements)
    resize_policy: list[ContainerResizePolicy] = []
    restart_policy: str = ""
    volume_mounts: list[VolumeMount] = []
    volume_devices: list[VolumeDevice] = []
    liveness_probe: Probe | None = None
    readiness_probe: Probe | None = None
    startup_probe: Probe | None = None
    lifecycle: Lifecycle | None = None
    termination_message_path: str = "/dev/termination-log"
    termination_message_policy: str = "File"
    image_pull_policy: str = ""
    security_context: SecurityContext | None = None
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    target_container_name: str = ""


# ---- volumes


class KeyToPath(View):
    key: str = ""
    path: str = ""
    mode: int | None = None


class EmptyDirVolume(View):
    medium: str = ""
    size_limit: Quantity = ""


class HostPathVolume(View):
    path: str = ""
    type: str = ""


class ConfigMapVolume(View):
    """A ConfigMap volume, and a projected ConfigMap."""

    name: str = ""
    items: list[KeyToPath] = []
    default_mode: int | None = None
    optional: bool = False


class SecretVolume(View):
    secret_name: str = ""
    items: list[KeyToPath] = []
    default_mode: int | None = None
    optional: bool = False


class SecretProjection(View):
    name: str = ""
    items: list[KeyToPath] = []
    optional: bool = False


class DownwardAPIFile(View):
    path: str = ""
    field_ref: FieldRef | None = None
    resource_field_ref: ResourceFieldRef | None = None
    mode: int | None = None


class DownwardAPIVolume(View):
    items: list[DownwardAPIFile] = []
    default_mode: int | None = None


class ServiceAccountTokenProjection(View):
    audience: str = ""
    expiration_seconds: int = 3600
    path: str = ""


class VolumeProjection(View):
    config_map: ConfigMapVolume | None = None
    secret: SecretProjection | None = None
    downward_api: DownwardAPIVolume | None = msgspec.field(name="downwardAPI", default=None)
    service_account_token: ServiceAccountTokenProjection | None = None


class ProjectedVolume(View):
    sources: list[VolumeProjection] = []
    default_mode: int | None = None


class PersistentVolumeClaimVolume(View):
    claim_name: str = ""
    read_only: bool = False


class ImageVolume(View):
    reference: str = ""
    pull_policy: str = ""


class Volume(View):
    """At most one source is set; none of them set means a source that this view does not know."""

    name: str = ""
    empty_dir: EmptyDirVolume | None = None
    host_path: HostPathVolume | None = None
    config_map: ConfigMapVolume | None = None
    secret: SecretVolume | None = None
    downward_api: DownwardAPIVolume | None = msgspec.field(name="downwardAPI", default=None)
    projected: ProjectedVolume | None = None
    persistent_volume_claim: PersistentVolumeClaimVolume | None = None
    image: ImageVolume | None = None


# ---- scheduling


class NodeSelectorTerm(View):
    match_expressions: list[LabelSelectorRequirement] = []
    match_fields: list[LabelSelectorRequirement] = []


class NodeSelector(View):
    node_selector_terms: list[NodeSelectorTerm] = []


class PreferredSchedulingTerm(View):
    weight: int = 0
    preference: NodeSelectorTerm = msgspec.field(default_factory=NodeSelectorTerm)


class NodeAffinity(View):
    required: NodeSelector | None = msgspec.field(name="requiredDuringSchedulingIgnoredDuringExecution", default=None)
    preferred: list[PreferredSchedulingTerm] = msgspec.field(name="preferredDuringSchedulingIgnoredDuringExecution", default_factory=list)


class PodAffinityTerm(View):
    label_selector: LabelSelector | None = None
    namespaces: list[str] = []
    namespace_selector: LabelSelector | None = None
    topology_key: str = ""
    match_label_keys: list[str] = []
    mismatch_label_keys: list[str] = []


class WeightedPodAffinityTerm(View):
    weight: int = 0
    pod_affinity_term: PodAffinityTerm = msgspec.field(default_factory=PodAffinityTerm)


class PodAffinity(View):
    """podAffinity and podAntiAffinity."""

    required: list[PodAffinityTerm] = msgspec.field(name="requiredDuringSchedulingIgnoredDuringExecution", default_factory=list)
    preferred: list[WeightedPodAffinityTerm] = msgspec.field(name="preferredDuringSchedulingIgnoredDuringExecution", default_factory=list)


class Affinity(View):
    node_affinity: NodeAffinity | None = None
    pod_affinity: PodAffinity | None = None
    pod_anti_affinity: PodAffinity | None = None


class Toleration(View):
    key: str = ""
    operator: str = ""
    value: str = ""
    effect: str = ""
    toleration_seconds: int | None = None


class TopologySpreadConstraint(View):
    max_skew: int = 1
    topology_key: str = ""
    when_unsatisfiable: str = ""
    label_selector: LabelSelector | None = None
    min_domains: int | None = None
    node_affinity_policy: str = ""
    node_taints_policy: str = ""
    match_label_keys: list[str] = []


# ---- pods


class PodSecurityContext(View):
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    supplemental_groups: list[int] = []
    supplemental_groups_policy: str = ""
    fs_group: int | None = None
    fs_group_change_policy: str = ""
    seccomp_profile: SeccompProfile | None = None
    sysctls: list[EnvVar] = []


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


# ---- nodes


class Taint(View):
    key: str = ""
    value: str = ""
    effect: str = ""
    time_added: str = ""


class NodeSpec(View):
    pod_cidr: str = ""
    pod_cidrs: list[str] = []
    provider_id: str = ""
    unschedulable: bool = False
    taints: list[Taint] = []


class NodeAddress(View):
    type: str = ""
    address: str = ""


class DaemonEndpoint(View):
    port: int = msgspec.field(name="Port", default=0)


class NodeDaemonEndpoints(View):
    kubelet_endpoint: DaemonEndpoint | None = None


class ContainerImage(View):
    names: list[str] = []
    size_bytes: int = 0


class NodeSystemInfo(View):
    machine_id: str = ""
    system_uuid: str = ""
    boot_id: str = ""
    kernel_version: str = ""
    os_image: str = ""
    container_runtime_version: str = ""
    kubelet_version: str = ""
    operating_system: str = ""
    architecture: str = ""


class NodeStatus(View):
    capacity: Quantities = {}
    allocatable: Quantities = {}
    conditions: list[Condition] = []
    addresses: list[NodeAddress] = []
    daemon_endpoints: NodeDaemonEndpoints | None = None
    node_info: NodeSystemInfo | None = None
    images: list[ContainerImage] = []


class Node(Object):
    spec: NodeSpec = msgspec.field(default_factory=NodeSpec)
    status: NodeStatus = msgspec.field(default_factory=NodeStatus)

    def internal_ip(self) -> str:
        return next((address.address for address in self.status.addresses if address.type == "InternalIP"), "")


class NamespaceSpec(View):
    finalizers: list[str] = []


class NamespaceStatus(View):
    phase: str = ""


class Namespace(Object):
    spec: NamespaceSpec = msgspec.field(default_factory=NamespaceSpec)
    status: NamespaceStatus = msgspec.field(default_factory=NamespaceStatus)


# ---- services


class ServicePort(View):
    name: str = ""
    protocol: str = "TCP"
    app_protocol: str = ""
    port: int = 0
    target_port: IntOrString = 0
    node_port: int = 0


class ClientIPConfig(View):
    timeout_seconds: int = 10800


class SessionAffinityConfig(View):
    client_ip: ClientIPConfig | None = None


class ServiceSpec(View):
    type: str = "ClusterIP"
    selector: dict[str, str] = {}
    ports: list[ServicePort] = []
    cluster_ip: str = ""
    cluster_ips: list[str] = []
    external_ips: list[str] = []
    external_name: str = ""
    session_affinity: str = "None"
    session_affinity_config: SessionAffinityConfig | None = None
    external_traffic_policy: str = ""
    internal_traffic_policy: str = ""
    publish_not_ready_addresses: bool = False
    ip_families: list[str] = []
    ip_family_policy: str = ""
    load_balancer_ip: str = ""
    load_balancer_source_ranges: list[str] = []
    health_check_node_port: int = 0
    traffic_distribution: str = ""


class LoadBalancerIngress(View):
    ip: str = ""
    hostname: str = ""


class LoadBalancerStatus(View):
    ingress: list[LoadBalancerIngress] = []


class ServiceStatus(View):
    load_balancer: LoadBalancerStatus = msgspec.field(default_factory=LoadBalancerStatus)


class Service(Object):
    spec: ServiceSpec = msgspec.field(default_factory=ServiceSpec)
    status: ServiceStatus = msgspec.field(default_factory=ServiceStatus)


class EndpointConditions(View):
    """None means unknown; consumers read an unknown `ready` as true."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Endpoint(View):
    addresses: list[str] = []
    conditions: EndpointConditions = msgspec.field(default_factory=EndpointConditions)
    hostname: str = ""
    target_ref: ObjectReference | None = None
    node_name: str = ""
    zone: str = ""


class EndpointPort(View):
    name: str = ""
    protocol: str = "TCP"
    port: int | None = None
    app_protocol: str = ""


class EndpointSlice(Object):
    address_type: str = ""
    endpoints: list[Endpoint] = []
    ports: list[EndpointPort] = []


# ---- the rest


class ConfigMap(Object):
    data: dict[str, str] = {}
    binary_data: dict[str, str] = {}
    immutable: bool = False


class Secret(Object):
    """`data` stays base64, as on the wire."""

    data: dict[str, str] = {}
    type: str = ""
    immutable: bool = False


class ServiceAccount(Object):
    secrets: list[ObjectReference] = []
    image_pull_secrets: list[LocalObjectReference] = []
    automount_service_account_token: bool | None = None


class LeaseSpec(View):
    holder_identity: str = ""
    lease_duration_seconds: int = 0
    acquire_time: str = ""
    renew_time: str = ""
    lease_transitions: int = 0


class Lease(Object):
    spec: LeaseSpec = msgspec.field(default_factory=LeaseSpec)


class EventSource(View):
    component: str = ""
    host: str = ""


class EventSeries(View):
    count: int = 0
    last_observed_time: str = ""


class Event(Object):
    involved_object: ObjectReference = msgspec.field(default_factory=ObjectReference)
    reason: str = ""
    message: str = ""
    source: EventSource = msgspec.field(default_factory=EventSource)
    first_timestamp: str = ""
    last_timestamp: str = ""
    count: int = 0
    type: str = ""
    event_time: str = ""
    series: EventSeries | None = None
    action: str = ""
    reporting_component: str = ""
    reporting_instance: str = ""


class ReplicaSetSpec(View):
    replicas: int = 1
    min_ready_seconds: int = 0
    selector: LabelSelector = msgspec.field(default_factory=LabelSelector)
    template: PodTemplateSpec = msgspec.field(default_factory=PodTemplateSpec)


class ReplicaSetStatus(View):
    replicas: int = 0
    fully_labeled_replicas: int = 0
    ready_replicas: int = 0
    available_replicas: int = 0
    observed_generation: int = 0
    conditions: list[Condition] = []


class ReplicaSet(Object):
    spec: ReplicaSetSpec = msgspec.field(default_factory=ReplicaSetSpec)
    status: ReplicaSetStatus = msgspec.field(default_factory=ReplicaSetStatus)
