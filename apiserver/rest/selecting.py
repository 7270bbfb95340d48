"""From the query of a LIST, WATCH or DELETE on a collection to a cache Selection: label and field selectors, one name, one node, the version asked for. Pure; owns the table
of fields each kind can be selected by, which is Kubernetes' own."""

from __future__ import annotations

from functools import cache

from apiserver.api import convert, errors, kinds, selectors
from apiserver.rest.request import Request
from apiserver.store.cache import Entry, Match, Selection, View

_EVENT_FIELDS = frozenset({
    "involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid", "involvedObject.apiVersion", "involvedObject.resourceVersion",
    "involvedObject.fieldPath", "regarding.kind", "regarding.namespace", "regarding.name", "regarding.uid", "regarding.apiVersion", "regarding.resourceVersion",
    "regarding.fieldPath", "reason", "reportingComponent", "reportingController", "source", "type",
})  # fmt: skip
_POD_FIELDS = frozenset({
    "spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork", "status.phase", "status.podIP", "status.podIPs",
    "status.nominatedNodeName",
})  # fmt: skip
FIELDS: dict[str, frozenset[str]] = {
    "pods": _POD_FIELDS,
    "events": _EVENT_FIELDS,
    "events.events.k8s.io": _EVENT_FIELDS,
    "nodes": frozenset({"spec.unschedulable"}),
    "namespaces": frozenset({"status.phase"}),
    "secrets": frozenset({"type"}),
    "services": frozenset({"spec.clusterIP", "spec.type"}),
    "replicationcontrollers": frozenset({"status.replicas"}),
    "replicasets.apps": frozenset({"status.replicas"}),
    "jobs.batch": frozenset({"status.successful"}),
    "certificatesigningrequests.certificates.k8s.io": frozenset({"spec.signerName"}),
    "resourceslices.resource.k8s.io": frozenset({"spec.nodeName", "spec.driver"}),
}
_EVERYWHERE = frozenset({"metadata.name", "metadata.namespace"})


def check_fields(resource: kinds.Resource, selector: selectors.FieldSelector) -> None:
    """Raises BadRequest for a field this kind cannot be selected by."""
    for path in selector.paths():
        if path not in _EVERYWHERE and path not in FIELDS.get(resource.group_resource, ()):
            raise errors.BadRequest(f"field label not supported: {path}")


@cache
def view(resource: kinds.Resource) -> View | None:
    """How stored objects become this version of the resource; None where it is the stored one."""
    if not resource.storage_version:
        return None
    stored = kinds.for_kind(resource.storage_version, resource.kind)
    if stored is None:
        raise LookupError(f"{resource.group_resource}: stored version {resource.storage_version} is not served")
    return View(resource.api_version, lambda obj: convert.convert(obj, stored, resource))


def selection(request: Request) -> Selection:
    """Raises BadRequest."""
    resource, namespace, name = request.resource, request.namespace, request.name
    label_text, field_text = (request.param("labelSelector"), request.param("fieldSelector")) if request.query else ("", "")
    if not label_text and not field_text:
        return Selection(namespace=namespace, name=name, view=view(resource))
    labels, fields = selectors.parse_labels(label_text), selectors.parse_fields(field_text)
    check_fields(resource, fields)
    node = fields.exact("spec.nodeName") or "" if resource == kinds.PODS else ""
    exact_name = fields.exact("metadata.name") or ""
    if name and exact_name and name != exact_name:
        raise errors.BadRequest(f"fieldSelector metadata.name doesn't match requested name: {exact_name} != {name}")
    rest = selectors.FieldSelector(tuple(
        term for term in fields.terms if not (term[1] and ((term[0] == "metadata.name" and term[2]) or (node and term[0] == "spec.nodeName")))
    ))  # fmt: skip
    if sum(term[1] and term[0] == "metadata.name" for term in fields.terms) > 1:
        rest = fields
    return Selection(namespace, name or exact_name, node, _match(labels, rest), f"{label_text}|{field_text}", view(resource))


def _match(labels: selectors.LabelSelector, fields: selectors.FieldSelector) -> Match | None:
    if labels.empty and fields.empty:
        return None

    def match(entry: Entry) -> bool:
        return (labels.empty or labels.matches(entry.labels)) and (fields.empty or fields.matches(entry.fields))

    return match
