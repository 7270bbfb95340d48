"""Typed views: every attribute is a field of Kubernetes' schema, of a type that takes what the schema allows."""

import msgspec
import pytest

from apiserver.api import kinds, schema, types

ROOTS = {
    types.Pod: kinds.PODS, types.Node: kinds.NODES, types.Service: kinds.SERVICES, types.EndpointSlice: kinds.ENDPOINTSLICES, types.ConfigMap: kinds.CONFIGMAPS,
    types.Secret: kinds.SECRETS, types.Namespace: kinds.NAMESPACES, types.ServiceAccount: kinds.SERVICEACCOUNTS, types.Lease: kinds.LEASES, types.Event: kinds.EVENTS,
    types.ReplicaSet: kinds.REPLICASETS,
}


def pairs():
    """(view, definition) of every struct that a root reaches."""
    todo = [(view, schema.for_resource(resource)) for view, resource in ROOTS.items()]
    seen = set()
    while todo:
        view, definition = todo.pop()
        if (view, definition.name) in seen:
            continue
        seen.add((view, definition.name))
        yield view, definition
        for field in msgspec.structs.fields(view):
            kind = definition.fields.get(field.encode_name)
            inner = next((t for t in flatten(field.type) if isinstance(t, type) and issubclass(t, types.View)), None)
            while kind is not None and kind.kind in ("array", "map"):
                kind = kind.element
            if inner is not None and kind is not None and kind.kind == "struct":
                todo.append((inner, schema.by_name(kind.definition)))


def flatten(annotation):
    arguments = getattr(annotation, "__args__", ())
    return [annotation, *(t for argument in arguments for t in flatten(argument))]


def test_every_attribute_is_a_field_of_the_schema():
    """A view may stand for several definitions (Condition): each attribute belongs to at least one of them."""
    known = {}
    for view, definition in pairs():
        known.setdefault(view, set()).update(definition.fields)
    assert len(known) > 70
    unknown = {view.__name__: {field.encode_name for field in msgspec.structs.fields(view)} - names for view, names in known.items()}
    assert {name: fields for name, fields in unknown.items() if fields} == {}


def test_decode_and_nulls():
    data = b'{"metadata":{"name":"p","creationTimestamp":null,"labels":null},"spec":{"containers":[{"name":"a","args":null}],"hostPID":true,"zzz":1},"status":{"podIP":"10.0.0.1"}}'
    pod = types.decode(types.Pod, data)
    assert (pod.metadata.name, pod.metadata.labels, pod.spec.host_pid, pod.status.pod_ip) == ("p", {}, True, "10.0.0.1")
    assert pod.spec.containers[0].args == []
    assert types.from_dict(types.Pod, {"metadata": {"name": "q", "labels": None}}).metadata.key == "q"


def test_defaults_are_not_shared():
    one, two = types.Pod(), types.Pod()
    one.metadata.labels["a"] = "b"
    assert two.metadata.labels == {}


def test_to_dict_leaves_out_what_is_empty():
    assert types.to_dict(types.PodStatus(phase="Running", pod_ip="1.2.3.4", pod_ips=[types.IPEntry(ip="1.2.3.4")])) == {
        "phase": "Running", "podIP": "1.2.3.4", "podIPs": [{"ip": "1.2.3.4"}],
    }


def test_a_wrong_type_names_its_path():
    with pytest.raises(msgspec.ValidationError, match=r"\$\.spec\.containers"):
        types.decode(types.Pod, b'{"spec":{"containers":"x"}}')
