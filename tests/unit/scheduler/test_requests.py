from __future__ import annotations

import pytest

from apiserver.api import errors, types
from scheduler import requests
from scheduler.requests import Amounts
from tests.unit.scheduler.make import request

MI = 1 << 20


def container(cpu: str = "", memory: str = "", **fields) -> dict:
    asked = {**({"cpu": cpu} if cpu else {}), **({"memory": memory} if memory else {})}
    return {"name": "c", "resources": {"requests": asked}, **fields}


def amounts(**spec) -> tuple[Amounts, tuple[int, int]]:
    pod = types.from_dict(types.Pod, {"metadata": {"name": "p", "namespace": "n"}, "spec": spec})
    made = requests.from_pod(pod)
    return made.amounts, (made.weight_cpu_milli, made.weight_memory_bytes)


@pytest.mark.parametrize(
    ("spec", "cpu", "memory"),
    [
        ({"containers": [container("250m", "64Mi")]}, 250, 64),
        ({"containers": [container("250m"), container("1", "1Gi")]}, 1250, 1024),
        # an ordinary init container runs alone: only its peak counts
        ({"containers": [container("100m", "10Mi")], "initContainers": [container("2", "5Mi"), container("1", "20Mi")]}, 2000, 20),
        # a sidecar goes on beside the containers and beside later init containers
        ({"containers": [container("100m", "10Mi")], "initContainers": [container("50m", "5Mi", restartPolicy="Always"), container("120m", "1Mi")]}, 170, 15),
        ({"containers": [container("100m", "10Mi")], "overhead": {"cpu": "10m", "memory": "1Mi"}}, 110, 11),
        ({"containers": [container("100m", "10Mi")], "resources": {"requests": {"cpu": "3"}}}, 3000, 10),
    ],
)
def test_effective_requests(spec: dict, cpu: int, memory: int) -> None:
    made, _ = amounts(**spec)
    assert (made.cpu_milli, made.memory_bytes) == (cpu, memory * MI)


def test_a_container_that_asks_for_nothing_still_has_weight() -> None:
    assert amounts(containers=[container(), container("1", "1Mi")]) == (Amounts(1000, MI), (1100, 201 * MI))
    assert amounts(containers=[container()]) == (Amounts(), (100, 200 * MI))


def test_extended_resources_and_host_ports() -> None:
    made = request("p", requests_={"example.com/gpu": "2", "ephemeral-storage": "1Gi"}, ports=[{"containerPort": 80, "hostPort": 8080}, {"containerPort": 81}])
    assert made.amounts == Amounts(0, 0, 1 << 30, (("example.com/gpu", 2),))
    assert made.ports == (("0.0.0.0", "TCP", 8080),)
    host = request("q", hostNetwork=True, ports=[{"containerPort": 80, "protocol": "UDP", "hostIP": "10.0.0.1"}])
    assert host.ports == (("10.0.0.1", "UDP", 80),)


def test_a_quantity_that_is_none_is_refused() -> None:
    with pytest.raises(errors.BadRequest):
        request("p", cpu="lots")
