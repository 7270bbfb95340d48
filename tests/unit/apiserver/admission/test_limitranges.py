"""Limit ranges: defaults and bounds, as tables."""

from __future__ import annotations

import pytest

from apiserver.admission import limitranges
from apiserver.api import kinds


def pod(**resources) -> dict:
    return {"spec": {"containers": [{"name": "c", "resources": resources}]}}


@pytest.mark.parametrize(
    ("resources", "item", "expected"),
    [
        ({}, {"default": {"cpu": "1"}, "defaultRequest": {"cpu": "500m"}}, {"limits": {"cpu": "1"}, "requests": {"cpu": "500m"}}),
        ({"limits": {"cpu": "2"}}, {"default": {"cpu": "1"}, "defaultRequest": {"cpu": "500m"}}, {"limits": {"cpu": "2"}, "requests": {"cpu": "2"}}),
        ({"requests": {"memory": "1Gi"}}, {"default": {"cpu": "1"}}, {"limits": {"cpu": "1"}, "requests": {"memory": "1Gi"}}),
        ({}, {"max": {"cpu": "1"}}, {}),
    ],
)
def test_defaults(resources, item, expected):
    obj = pod(**resources)
    limitranges.add_defaults(obj["spec"], item)
    assert obj["spec"]["containers"][0]["resources"] == expected


@pytest.mark.parametrize(
    ("obj", "item", "expected"),
    [
        (pod(requests={"cpu": "50m"}), {"type": "Container", "min": {"cpu": "100m"}}, ["minimum cpu usage per Container is 100m, but request is 50m"]),
        (pod(), {"type": "Container", "min": {"cpu": "100m"}}, ["minimum cpu usage per Container is 100m.  No request is specified"]),
        (pod(limits={"memory": "2Gi"}), {"type": "Container", "max": {"memory": "1Gi"}}, ["maximum memory usage per Container is 1Gi, but limit is 2Gi"]),
        (pod(limits={"memory": "1Gi"}), {"type": "Container", "max": {"memory": "1Gi"}}, []),
        (pod(limits={"cpu": "3"}, requests={"cpu": "1"}), {"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}},
         ["cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000"]),
        ({"spec": {"containers": [{"resources": {"limits": {"cpu": "1"}}}] * 2}}, {"type": "Pod", "max": {"cpu": "1500m"}},
         ["maximum cpu usage per Pod is 1500m, but limit is 2"]),
        ({"spec": {"containers": [{"resources": {"limits": {"cpu": "1"}}}], "initContainers": [{"resources": {"limits": {"cpu": "2"}}}]}},
         {"type": "Pod", "max": {"cpu": "1500m"}}, ["maximum cpu usage per Pod is 1500m, but limit is 2"]),
    ],
)  # fmt: skip
def test_bounds(obj, item, expected):
    assert list(limitranges.violations(kinds.PODS, obj, item)) == expected


def test_claims_have_bounds_of_their_own():
    claim = {"spec": {"resources": {"requests": {"storage": "5Gi"}}}}
    item = {"type": "PersistentVolumeClaim", "max": {"storage": "2Gi"}}
    assert list(limitranges.violations(kinds.PERSISTENTVOLUMECLAIMS, claim, item)) == ["maximum storage usage per PersistentVolumeClaim is 2Gi, but limit is 5Gi"]
    assert list(limitranges.violations(kinds.PODS, pod(), item)) == []
