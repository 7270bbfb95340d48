"""Tables: columns and cells as kubectl prints them; the STATUS word of a pod, case by case."""

import pytest

from apiserver.api import kinds, tables, timestamps
from apiserver.api.timestamps import format_micro_time, format_time, human_duration

NOW = timestamps.parse("2025-01-01T01:00:00Z")
CREATED = "2025-01-01T00:57:00Z"


def row(resource, obj):
    obj.setdefault("metadata", {}).setdefault("creationTimestamp", CREATED)
    obj["metadata"].setdefault("name", "x")
    return dict(zip([column["name"] for column in tables.columns(resource)], tables.cells(resource, obj, NOW), strict=True))


def running(ready=True, restarts=0, **last):
    return {"name": "a", "ready": ready, "restartCount": restarts, "state": {"running": {}}, **({"lastState": {"terminated": last}} if last else {})}


def waiting(reason):
    return {"name": "a", "ready": False, "restartCount": 0, "state": {"waiting": {"reason": reason}}}


def ended(code, reason="", signal=0, name="a"):
    return {"name": name, "restartCount": 0, "state": {"terminated": {"exitCode": code, **({"reason": reason} if reason else {}), **({"signal": signal} if signal else {})}}}


def pod(status, init=(), containers=1, **metadata):
    return {"metadata": metadata, "spec": {"containers": [{}] * containers, "initContainers": list(init)}, "status": status}


INIT = ({"name": "i"}, {"name": "j"})
SIDECAR = ({"name": "i", "restartPolicy": "Always"},)


@pytest.mark.parametrize(
    ("obj", "ready", "status"),
    [
        (pod({"phase": "Pending"}), "0/1", "Pending"),
        (pod({"phase": "Running", "containerStatuses": [running()]}), "1/1", "Running"),
        (pod({"phase": "Running", "containerStatuses": [running(ready=False)]}), "0/1", "Running"),
        (pod({"phase": "Pending", "containerStatuses": [waiting("ContainerCreating")]}), "0/1", "ContainerCreating"),
        (pod({"phase": "Running", "containerStatuses": [waiting("CrashLoopBackOff")]}), "0/1", "CrashLoopBackOff"),
        (pod({"phase": "Pending", "containerStatuses": [waiting("ImagePullBackOff"), running()]}, containers=2), "1/2", "ImagePullBackOff"),
        (pod({"phase": "Succeeded", "containerStatuses": [ended(0, "Completed")]}), "0/1", "Completed"),
        (pod({"phase": "Failed", "containerStatuses": [ended(3, "Error")]}), "0/1", "Error"),
        (pod({"phase": "Failed", "containerStatuses": [ended(3)]}), "0/1", "ExitCode:3"),
        (pod({"phase": "Failed", "containerStatuses": [ended(137, signal=9)]}), "0/1", "Signal:9"),
        (pod({"phase": "Running", "containerStatuses": [ended(137, "OOMKilled")]}), "0/1", "OOMKilled"),
        (pod({"phase": "Running", "containerStatuses": [ended(0, "Completed"), running()]}, containers=2), "1/2", "NotReady"),
        (pod({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": [ended(0, "Completed"), running()]}, containers=2), "1/2", "Running"),
        (pod({"phase": "Failed", "reason": "Evicted"}), "0/1", "Evicted"),
        (pod({"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]}), "0/1", "SchedulingGated"),
        (pod({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]}, INIT), "0/1", "Init:0/2"),
        (pod({"phase": "Pending", "initContainerStatuses": [ended(0, name="i"), {"name": "j", "state": {"waiting": {"reason": "PodInitializing"}}}]}, INIT), "0/1", "Init:1/2"),
        (pod({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}, INIT), "0/1", "Init:CrashLoopBackOff"),
        (pod({"phase": "Pending", "initContainerStatuses": [ended(1, "Error", name="i")]}, INIT), "0/1", "Init:Error"),
        (pod({"phase": "Pending", "initContainerStatuses": [ended(2, name="i")]}, INIT), "0/1", "Init:ExitCode:2"),
        (
            pod({"phase": "Running", "initContainerStatuses": [{"name": "i", "started": True, "ready": True, "state": {"running": {}}}], "containerStatuses": [running()]}, SIDECAR),
            "2/2", "Running",
        ),
        (pod({"phase": "Running", "containerStatuses": [running()]}, deletionTimestamp=CREATED), "1/1", "Terminating"),
        (pod({"phase": "Succeeded", "containerStatuses": [ended(0, "Completed")]}, deletionTimestamp=CREATED), "0/1", "Completed"),
        (pod({"phase": "Running", "reason": "NodeLost"}, deletionTimestamp=CREATED), "0/1", "Unknown"),
    ],
)
def test_the_status_of_a_pod(obj, ready, status):
    found = row(kinds.PODS, obj)
    assert (found["Ready"], found["Status"]) == (ready, status)


def test_restarts_and_wide_cells_of_a_pod():
    status = {"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [running(restarts=2, finishedAt="2025-01-01T00:55:00Z")], "conditions": [{"type": "g", "status": "True"}]}
    obj = pod(status)
    obj["spec"] |= {"nodeName": "n", "readinessGates": [{"conditionType": "g"}, {"conditionType": "h"}]}
    assert row(kinds.PODS, obj) == {
        "Name": "x", "Ready": "1/1", "Status": "Running", "Restarts": "2 (5m ago)", "Age": "3m", "IP": "10.0.0.1", "Node": "n", "Nominated Node": "<none>", "Readiness Gates": "1/2",
    }


def test_nodes():
    obj = {
        "metadata": {"labels": {"node-role.kubernetes.io/control-plane": "", "node-role.kubernetes.io/worker": ""}}, "spec": {"unschedulable": True},
        "status": {"conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": "1.2.3.4"}], "nodeInfo": {"kubeletVersion": "v1.36.0"}},
    }
    found = row(kinds.NODES, obj)
    assert (found["Status"], found["Roles"], found["Version"], found["Internal-IP"], found["External-IP"]) == (
        "Ready,SchedulingDisabled", "control-plane,worker", "v1.36.0", "1.2.3.4", "<none>",
    )
    assert row(kinds.NODES, {})["Status"] == "Unknown"
    assert row(kinds.NODES, {"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}})["Status"] == "NotReady"


def test_services():
    ports = [{"port": 80, "protocol": "TCP", "nodePort": 30080}, {"port": 53, "protocol": "UDP"}]
    found = row(kinds.SERVICES, {"spec": {"type": "NodePort", "clusterIP": "10.43.0.9", "ports": ports, "selector": {"b": "c", "a": "b"}}})
    assert (found["Cluster-IP"], found["External-IP"], found["Port(s)"], found["Selector"]) == ("10.43.0.9", "<none>", "80:30080/TCP,53/UDP", "a=b,b=c")
    assert row(kinds.SERVICES, {"spec": {"type": "LoadBalancer", "ports": []}})["External-IP"] == "<pending>"
    external = row(kinds.SERVICES, {"spec": {"type": "ExternalName", "externalName": "a.b"}})
    assert (external["Cluster-IP"], external["External-IP"], external["Port(s)"]) == ("<none>", "a.b", "<none>")


def test_events():
    obj = {
        "type": "Warning", "reason": "Failed", "message": " text\n", "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec"}, "source": {"component": "kubelet", "host": "n"},
        "firstTimestamp": "2025-01-01T00:50:00Z", "lastTimestamp": "2025-01-01T00:59:00Z", "count": 3,
    }
    assert row(kinds.EVENTS, obj) == {
        "Last Seen": "60s", "Type": "Warning", "Reason": "Failed", "Object": "pod/p", "Subobject": "spec", "Source": "kubelet, n", "Message": "text", "First Seen": "10m",
        "Count": 3, "Name": "x",
    }
    modern = {"eventTime": "2025-01-01T00:59:30.000000Z", "series": {"count": 7, "lastObservedTime": "2025-01-01T00:59:50.000000Z"}, "reportingComponent": "c"}
    found = row(kinds.EVENTS, modern)
    assert (found["Last Seen"], found["First Seen"], found["Count"], found["Source"]) == ("10s", "30s", 7, "c")
    assert row(kinds.EVENTS_V1, {"note": "hello", "regarding": {"kind": "Node", "name": "n"}})["Object"] == "node/n"


def test_endpoint_slices_and_workloads():
    obj = {"addressType": "IPv4", "ports": [{"port": 80}, {"name": "x"}], "endpoints": [{"addresses": [f"10.0.0.{n}"]} for n in range(5)]}
    found = row(kinds.ENDPOINTSLICES, obj)
    assert (found["Ports"], found["Endpoints"]) == ("80,*", "10.0.0.0,10.0.0.1,10.0.0.2 + 2 more...")
    assert row(kinds.ENDPOINTSLICES, {})["Endpoints"] == "<unset>"
    template = {"spec": {"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "j"}]}}
    deployment = {"spec": {"replicas": 3, "template": template, "selector": {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "In", "values": ["e", "d"]}]}}}
    found = row(kinds.DEPLOYMENTS, {**deployment, "status": {"readyReplicas": 2, "updatedReplicas": 3}})
    assert (found["Ready"], found["Up-to-date"], found["Available"], found["Containers"], found["Images"]) == ("2/3", 3, 0, "a,b", "i,j")
    assert found["Selector"] == "a=b,c in (d,e)"
    job = {"spec": {"completions": 2}, "status": {"succeeded": 1, "startTime": "2025-01-01T00:58:00Z"}}
    found = row(kinds.JOBS, job)
    assert (found["Status"], found["Completions"], found["Duration"]) == ("Running", "1/2", "2m")


@pytest.mark.parametrize("resource", kinds.RESOURCES, ids=lambda r: r.group_resource)
@pytest.mark.parametrize("obj", [{"metadata": {"name": "x"}}, {"metadata": {"name": "x"}, "spec": {}, "status": {}}])
def test_every_kind_has_a_cell_for_every_column(resource, obj):
    columns = tables.columns(resource)
    cells = tables.cells(resource, dict(obj), NOW)
    assert len(columns) == len(cells)
    assert {column["priority"] for column in columns} <= {0, 1}
    assert all(isinstance(cell, str | int | bool) for cell in cells)
    for column, cell in zip(columns, cells, strict=True):
        assert column["type"] != "integer" or isinstance(cell, int), column


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "<invalid>"), (-0.5, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (185, "3m5s"), (600, "10m"), (10799, "179m"), (10800, "3h"), (3 * 3600 + 300, "3h5m"),
        (8 * 3600 + 300, "8h"), (47 * 3600, "47h"), (48 * 3600, "2d"), (53 * 3600, "2d5h"), (8 * 86400, "8d"), (729 * 86400, "729d"), (730 * 86400, "2y"),
        (800 * 86400, "2y70d"), (3000 * 86400, "8y"),
    ],
)
def test_ages(seconds, text):
    assert human_duration(seconds) == text


def test_times():
    assert format_time(0.9) == "1970-01-01T00:00:00Z"
    assert format_micro_time(1.5) == "1970-01-01T00:00:01.500000Z"
    assert timestamps.parse("1970-01-01T01:00:00.25+01:00") == 0.25
    assert format_micro_time(timestamps.parse("2025-06-07T08:09:10.123456Z")) == "2025-06-07T08:09:10.123456Z"
