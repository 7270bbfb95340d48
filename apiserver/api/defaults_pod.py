"""The defaults of pods and pod templates: containers, probes, volumes, security contexts. Pure, in place; defaults.py calls it for every kind that holds a pod spec."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from apiserver.api import quantities
from apiserver.api.errors import BadRequest

JSON = dict[str, Any]


def pod_template(template: JSON) -> None:
    """A PodTemplateSpec; Kubernetes writes an explicit null creationTimestamp here, we leave it out."""
    spec = template.get("spec")
    if isinstance(spec, dict):
        pod_spec(spec)


def pod_spec(spec: JSON) -> None:
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("schedulerName", "default-scheduler")
    spec.setdefault("securityContext", {})
    _service_account(spec)
    host_network = spec.get("hostNetwork") is True
    for field in ("initContainers", "containers", "ephemeralContainers"):
        for container in _objects(spec.get(field)):
            _container(container, host_network)
    for volume in _objects(spec.get("volumes")):
        _volume(volume)
    _canonical(spec.get("overhead"))
    _resources(spec.get("resources"))
    for constraint in _objects(spec.get("topologySpreadConstraints")):
        if "nodeAffinityPolicy" in constraint or "nodeTaintsPolicy" in constraint:
            constraint.setdefault("nodeAffinityPolicy", "Honor")
            constraint.setdefault("nodeTaintsPolicy", "Ignore")


def pod_only(spec: JSON) -> None:
    """What is filled in for pods and not for templates: enableServiceLinks, and requests from limits."""
    spec.setdefault("enableServiceLinks", True)
    for field in ("initContainers", "containers"):
        for container in _objects(spec.get(field)):
            resources = container["resources"]
            if isinstance(resources, dict) and isinstance(resources.get("limits"), dict):
                requests = resources.get("requests") or {}
                if isinstance(requests, dict):
                    resources["requests"] = {**{k: v for k, v in resources["limits"].items() if k not in requests}, **requests}


def _service_account(spec: JSON) -> None:
    """serviceAccount is the old name of serviceAccountName; both always agree."""
    name = spec.get("serviceAccountName") or spec.get("serviceAccount")
    if name:
        spec["serviceAccountName"] = spec["serviceAccount"] = name


def _container(container: JSON, host_network: bool) -> None:
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    image = container.get("image")
    if not container.get("imagePullPolicy") and isinstance(image, str):
        container["imagePullPolicy"] = pull_policy(image)
    for port in _objects(container.get("ports")):
        port.setdefault("protocol", "TCP")
        if host_network and not port.get("hostPort") and "containerPort" in port:
            port["hostPort"] = port["containerPort"]
    _resources(container.setdefault("resources", {}))
    for entry in _objects(container.get("env")):
        source = entry.get("valueFrom")
        if isinstance(source, dict):
            _field_sources(source)
    for field in ("livenessProbe", "readinessProbe", "startupProbe"):
        probe = container.get(field)
        if isinstance(probe, dict):
            _probe(probe)
    lifecycle = container.get("lifecycle")
    if isinstance(lifecycle, dict):
        for handler in lifecycle.values():
            if isinstance(handler, dict):
                _http_get(handler)
    context = container.get("securityContext")
    if isinstance(context, dict) and context.get("procMount") == "":
        del context["procMount"]


def pull_policy(image: str) -> str:
    """Always for :latest and for no tag (and no digest), else IfNotPresent."""
    if "@" in image:
        return "IfNotPresent"
    _, colon, tag = image.rpartition("/")[2].partition(":")
    return "IfNotPresent" if colon and tag not in ("", "latest") else "Always"


def _resources(resources: Any) -> None:
    if isinstance(resources, dict):
        _canonical(resources.get("requests"))
        _canonical(resources.get("limits"))


def _canonical(values: Any) -> None:
    for name, quantity in (values if isinstance(values, dict) else {}).items():
        try:
            values[name] = quantities.canonical(quantity)
        except (BadRequest, TypeError):
            continue


def _probe(probe: JSON) -> None:
    probe.setdefault("timeoutSeconds", 1)
    probe.setdefault("periodSeconds", 10)
    probe.setdefault("successThreshold", 1)
    probe.setdefault("failureThreshold", 3)
    for field, value in (("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)):
        if probe[field] == 0:
            probe[field] = value
    _http_get(probe)
    grpc = probe.get("grpc")
    if isinstance(grpc, dict):
        grpc.setdefault("service", "")


def _http_get(handler: JSON) -> None:
    http_get = handler.get("httpGet")
    if isinstance(http_get, dict):
        http_get.setdefault("path", "/")
        http_get.setdefault("scheme", "HTTP")


def _field_sources(source: JSON) -> None:
    field_ref = source.get("fieldRef")
    if isinstance(field_ref, dict):
        field_ref.setdefault("apiVersion", "v1")
    resource = source.get("resourceFieldRef")
    if isinstance(resource, dict):
        resource.setdefault("divisor", "0")


VOLUME_SOURCES = frozenset(
    ("hostPath", "emptyDir", "gcePersistentDisk", "awsElasticBlockStore", "gitRepo", "secret", "nfs", "iscsi", "glusterfs", "persistentVolumeClaim", "rbd",
     "flexVolume", "cinder", "cephfs", "flocker", "downwardAPI", "fc", "azureFile", "configMap", "vsphereVolume", "quobyte", "azureDisk", "photonPersistentDisk",
     "projected", "portworxVolume", "scaleIO", "storageos", "csi", "ephemeral", "image")
)


def _volume(volume: JSON) -> None:
    if VOLUME_SOURCES.isdisjoint(volume):
        volume["emptyDir"] = {}
    empty_dir = volume.get("emptyDir")
    if isinstance(empty_dir, dict) and "sizeLimit" in empty_dir:
        limit = {"sizeLimit": empty_dir["sizeLimit"]}
        _canonical(limit)
        empty_dir |= limit
    for field in ("secret", "configMap", "downwardAPI", "projected"):
        source = volume.get(field)
        if isinstance(source, dict):
            source.setdefault("defaultMode", 0o644)
    host_path = volume.get("hostPath")
    if isinstance(host_path, dict):
        host_path.setdefault("type", "")
    for source in _projections(volume):
        for item in _objects(source.get("items")):
            _field_sources(item)
    image = volume.get("image")
    if isinstance(image, dict) and isinstance(image.get("reference"), str) and not image.get("pullPolicy"):
        image["pullPolicy"] = pull_policy(image["reference"])


def _projections(volume: JSON) -> Iterator[JSON]:
    """The downwardAPI sources of a volume, its own and the projected ones; sets the defaults of projected tokens on the way."""
    if isinstance(volume.get("downwardAPI"), dict):
        yield volume["downwardAPI"]
    projected = volume.get("projected")
    for source in _objects(projected.get("sources")) if isinstance(projected, dict) else ():
        token = source.get("serviceAccountToken")
        if isinstance(token, dict):
            token.setdefault("expirationSeconds", 3600)
        if isinstance(source.get("downwardAPI"), dict):
            yield source["downwardAPI"]


def _objects(value: Any) -> Iterator[JSON]:
    return (item for item in value if isinstance(item, dict)) if isinstance(value, list) else iter(())
