"""plan_pod: tables of situations, and properties over generated ones: a plan in flight is not planned again, and every pod comes to rest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import observe, plan
from agent.observe import Failure, Observed, ProbeVerdict
from agent.runtime import cri

NOW = 1_000_000.0
IMAGE = "localhost/busybox:1"


def pod(*, init: list[dict] = [], policy: str = "Always", deleting: bool = False, image: str = IMAGE, names: tuple[str, ...] = ("main",), **spec: Any) -> dict:
    meta: dict[str, Any] = {"name": "p", "namespace": "default", "uid": "u1"}
    if deleting:
        meta |= {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 5}
    containers = [{"name": n, "image": image} for n in names]
    return {"metadata": meta, "spec": {"restartPolicy": policy, "initContainers": init, "containers": containers, **spec}, "status": {}}


def sandbox(state: str = "ready", sandbox_id: str = "s1") -> cri.SandboxStatus:
    config = cri.SandboxConfig(sandbox_id, "p", "u1", annotations={observe.ANNOTATION_IP: "10.42.0.2"})
    return cri.SandboxStatus(config, state, NOW - 50)  # type: ignore[arg-type]


def container(name: str = "main", state: str = "running", *, attempt: int = 0, code: int = 0, finished: float = NOW - 1, started: float = NOW - 40, backoff: float = 0, image: str = IMAGE, sandbox_id: str = "s1"):
    annotations = {observe.ANNOTATION_RESTARTS: str(attempt), observe.ANNOTATION_BACKOFF: f"{backoff:g}", observe.ANNOTATION_IMAGE: image}
    ended = state == "exited"
    return cri.ContainerStatus(
        f"{name}-{attempt}", sandbox_id, state, 7 if state == "running" else 0, started, started, finished if ended else 0, code if ended else 0,  # type: ignore[arg-type]
        ("Error" if code else "Completed") if ended else "", "", {observe.LABEL_CONTAINER: name, observe.LABEL_POD_UID: "u1"}, annotations,
    )  # fmt: skip


READY = Observed(sandbox=sandbox(), networked=True, volumes_ready=True, images={IMAGE: "sha256:1"})


def actions(p: dict, observed: Observed, **kw: Any) -> list:
    return list(plan.plan_pod(plan.Desired(p, **kw), observed, NOW).actions)


def test_a_new_pod_gets_sandbox_volumes_and_image_at_once():
    got = actions(pod(), Observed())
    assert got == [plan.RunSandbox(), plan.MountVolumes(), plan.PullImage("main", IMAGE, 0)]


def test_nothing_starts_before_volumes_and_address():
    for missing in ({"volumes_ready": False}, {"networked": False}):
        assert not [a for a in actions(pod(), replace(READY, **missing)) if isinstance(a, plan.StartContainer)]


def test_starts_follow_the_order_of_the_spec_one_at_a_time():
    two = pod(names=("a", "b"))
    assert actions(two, READY) == [plan.StartContainer("a", 0, 0)]
    assert actions(two, replace(READY, in_flight=frozenset({"start/a"}))) == []
    assert actions(two, replace(READY, containers=(container("a"),))) == [plan.StartContainer("b", 0, 0)]


def test_init_containers_go_first_each_after_the_one_before_succeeded():
    p = pod(init=[{"name": "i1", "image": IMAGE}, {"name": "i2", "image": IMAGE}])
    assert actions(p, READY) == [plan.StartContainer("i1", 0, 0)]
    assert actions(p, replace(READY, containers=(container("i1"),))) == []
    done = container("i1", "exited")
    assert actions(p, replace(READY, containers=(done,))) == [plan.StartContainer("i2", 0, 0)]
    assert actions(p, replace(READY, containers=(done, container("i2", "exited")))) == [plan.StartContainer("main", 0, 0)]


def test_a_sidecar_must_have_started_and_then_runs_on():
    p = pod(init=[{"name": "side", "image": IMAGE, "restartPolicy": "Always", "startupProbe": {"tcpSocket": {"port": 1}}}])
    running = replace(READY, containers=(container("side"),))
    assert actions(p, running) == []
    assert actions(p, replace(running, probes={"side-0": ProbeVerdict(started=True)})) == [plan.StartContainer("main", 0, 0)]


def test_a_created_container_is_removed_unless_it_is_just_starting():
    created = replace(READY, containers=(container(state="created"),))
    assert actions(pod(), created) == [plan.RemoveContainer("main-0")]
    assert actions(pod(), replace(created, in_flight=frozenset({"start/main"}))) == []


def test_images_of_later_containers_are_fetched_while_an_init_container_runs():
    p = pod(init=[{"name": "i", "image": IMAGE}], image="other:1")
    assert actions(p, replace(READY, containers=(container("i"),))) == [plan.PullImage("main", "other:1", 0)]


@pytest.mark.parametrize(
    ("policy", "code", "restarts"), [("Always", 0, True), ("Always", 3, True), ("OnFailure", 0, False), ("OnFailure", 3, True), ("Never", 0, False), ("Never", 3, False)]
)
def test_restart_policy(policy: str, code: int, restarts: bool):
    got = actions(pod(policy=policy), replace(READY, containers=(container(state="exited", code=code),)))
    assert got == ([plan.StartContainer("main", 1, 10)] if restarts else [plan.StopSandbox("s1")])


@pytest.mark.parametrize(
    ("recorded", "ran_s", "wait_s", "next_s"),
    [(0, 5, 0, 10), (10, 5, 10, 20), (20, 5, 20, 40), (160, 5, 160, 300), (300, 5, 300, 300), (300, 700, 0, 10), (0, 700, 0, 10)],
)
def test_backoff_doubles_to_five_minutes_and_is_forgotten_after_ten(recorded: float, ran_s: float, wait_s: float, next_s: float):
    ended = container(state="exited", attempt=4, code=1, backoff=recorded, finished=NOW, started=NOW - ran_s)
    backoff = plan.RestartBackoff()
    assert (backoff.delay_s(ended), backoff.next_s(ended)) == (wait_s, next_s)
    got = plan.plan_pod(plan.Desired(pod()), replace(READY, containers=(ended,)), NOW)
    assert got == (plan.Plan((), NOW + wait_s) if wait_s else plan.Plan((plan.StartContainer("main", 5, next_s),)))


@pytest.mark.parametrize(
    ("policy", "present", "pulled", "expected"),
    [
        ("Always", True, {}, plan.PullImage), ("Always", True, {"main": 0}, plan.StartContainer), ("IfNotPresent", True, {}, plan.StartContainer),
        ("IfNotPresent", False, {}, plan.PullImage), ("Never", True, {}, plan.StartContainer), ("Never", False, {}, None),
    ],
)  # fmt: skip
def test_pull_policy(policy: str, present: bool, pulled: dict, expected: type | None):
    p = pod()
    p["spec"]["containers"][0]["imagePullPolicy"] = policy
    got = actions(p, replace(READY, images={IMAGE: "sha256:1"} if present else {}, pulls=pulled))
    assert [type(a) for a in got] == ([expected] if expected else [])


def test_a_failed_action_waits_for_its_time():
    failure = Failure("ErrImagePull", "no such tag", 1, NOW - 2, NOW + 8)
    got = plan.plan_pod(plan.Desired(pod()), replace(READY, images={}, failures={"pull/main": failure}), NOW)
    assert got == plan.Plan((), NOW + 8)
    later = plan.plan_pod(plan.Desired(pod()), replace(READY, images={}, failures={"pull/main": failure}), NOW + 8)
    assert later.actions == (plan.PullImage("main", IMAGE, 0),)


def test_an_unhealthy_or_changed_container_is_stopped():
    running = replace(READY, containers=(container(),))
    (stop,) = actions(pod(), replace(running, probes={"main-0": ProbeVerdict(unhealthy="liveness")}))
    assert stop == plan.StopContainer("main-0", "main", 30, "Container main failed liveness probe, will be restarted")
    (stop,) = actions(pod(image="localhost/busybox:2"), replace(running, images={"localhost/busybox:2": "x"}))
    assert stop.message == "Container main definition changed, will be restarted"
    assert actions(pod(), replace(running, probes={"main-0": ProbeVerdict(unhealthy="liveness")}, stopping={"main-0": 30})) == []


def test_deletion_stops_cleans_and_deletes():
    p = pod(deleting=True)
    running = replace(READY, containers=(container(),))
    assert actions(p, running) == [plan.StopContainer("main-0", "main", 5, "Stopping container main")]
    assert actions(p, replace(running, stopping={"main-0": 5}, in_flight=frozenset({"stop/main-0/5"}))) == []
    assert actions(p, replace(READY, containers=(container(state="exited"),))) == [plan.CleanUp()]
    assert actions(p, Observed(cleaned=True)) == [plan.DeletePod()]
    assert actions(p, Observed(cleaned=True, deleted=True)) == []


def test_a_shorter_grace_overtakes_a_stop_under_way():
    p = pod(deleting=True)
    p["metadata"]["deletionGracePeriodSeconds"] = 1
    stopping = replace(READY, containers=(container(),), stopping={"main-0": 30}, in_flight=frozenset({"stop/main-0/30"}))
    assert actions(p, stopping) == [plan.StopContainer("main-0", "main", 1, "Stopping container main")]


def test_deletion_while_starting_cancels_pulls_and_waits_for_what_cannot_be_cancelled():
    p = pod(deleting=True)
    assert actions(p, replace(READY, in_flight=frozenset({"pull/main"}))) == [plan.Cancel("pull/main"), plan.CleanUp()]
    assert actions(p, replace(READY, in_flight=frozenset({"start/main"}))) == []
    assert actions(p, Observed()) == [plan.CleanUp()]


def test_a_vanished_pod_is_cleaned_but_not_deleted_again():
    assert actions(pod(), replace(READY, containers=(container(),)), vanished=True) == [plan.StopContainer("main-0", "main", 1, "Stopping container main")]
    assert actions(pod(), Observed(cleaned=True), vanished=True) == []


def test_sidecars_stop_after_the_app_containers():
    p = pod(init=[{"name": "side", "image": IMAGE, "restartPolicy": "Always"}], deleting=True)
    both = replace(READY, containers=(container("side"), container("main")))
    assert [a.container for a in actions(p, both)] == ["main"]
    assert [a.container for a in actions(p, replace(READY, containers=(container("side"), container("main", "exited"))))] == ["side"]


def test_a_lost_sandbox_is_replaced_and_init_containers_run_again():
    p = pod(init=[{"name": "i", "image": IMAGE}])
    old = (container("i", "exited"), container("main", "exited", code=137))
    assert plan.RunSandbox() in actions(p, replace(READY, sandbox=sandbox("notready"), containers=old))
    renewed = replace(READY, sandbox=sandbox(sandbox_id="s2"), containers=old)
    assert actions(p, renewed) == [plan.StartContainer("i", 1, 10)]


def test_restart_counts_go_on_where_the_node_lost_its_records():
    p = pod()
    p["status"] = {"phase": "Running", "containerStatuses": [{"name": "main", "restartCount": 4, "containerID": "minik://gone"}]}
    assert actions(p, READY) == [plan.StartContainer("main", 5, 0)]


def test_a_deadline_that_has_passed_stops_the_pod():
    p = pod(activeDeadlineSeconds=10)
    p["status"] = {"phase": "Running", "startTime": "1970-01-12T13:46:00Z"}  # NOW - 40
    assert actions(p, replace(READY, containers=(container(),))) == [plan.StopContainer("main-0", "main", 30, "Stopping container main")]


def test_a_final_phase_is_never_left():
    p = pod()
    p["status"] = {"phase": "Failed"}
    assert actions(p, replace(READY, sandbox=None, images={})) == []


def test_older_attempts_are_dropped_but_two():
    attempts = (*(container(state="exited", attempt=i, code=1) for i in range(3)), container(attempt=3))
    assert actions(pod(), replace(READY, containers=attempts)) == [plan.RemoveContainer("main-0"), plan.RemoveContainer("main-1")]


# --- properties: a model of the world carries plans out


def image_of(p: dict, name: str) -> str:
    return next(c["image"] for c in (*p["spec"]["initContainers"], *p["spec"]["containers"]) if c["name"] == name)


def carry_out(p: dict, observed: Observed, action: plan.Action, exit_code: int | None, now: float) -> Observed:
    match action:
        case plan.MountVolumes():
            return replace(observed, volumes_ready=True)
        case plan.RunSandbox():
            return replace(observed, sandbox=sandbox(sandbox_id="s2" if observed.sandbox else "s1"), networked=True)
        case plan.StopSandbox():
            assert observed.sandbox is not None
            return replace(observed, sandbox=replace(observed.sandbox, state="notready"))
        case plan.PullImage(name, image, attempt):
            return replace(observed, images={**observed.images, image: "sha256:1"}, pulls={**observed.pulls, name: attempt})
        case plan.StartContainer(name, attempt, backoff_s):
            assert observed.sandbox is not None
            assert observed.sandbox.state == "ready"
            state = "running" if exit_code is None else "exited"
            new = container(name, state, attempt=attempt, code=exit_code or 0, backoff=backoff_s, sandbox_id=observed.sandbox.config.id, started=now, finished=now, image=image_of(p, name))
            return replace(observed, containers=(*observed.containers, new))
        case plan.StopContainer(container_id=gone):
            return replace(observed, containers=tuple(replace(c, state="exited", exit_code=137, finished_at=now) if c.id == gone else c for c in observed.containers))
        case plan.RemoveContainer(container_id=gone):
            return replace(observed, containers=tuple(c for c in observed.containers if c.id != gone))
        case plan.CleanUp():
            return Observed(cleaned=True)
        case plan.DeletePod():
            return replace(observed, deleted=True)
    return observed


pods = st.builds(
    pod,
    init=st.lists(st.sampled_from([{"image": IMAGE}, {"image": IMAGE, "restartPolicy": "Always"}]), max_size=2).map(lambda cs: [{**c, "name": f"i{n}"} for n, c in enumerate(cs)]),
    policy=st.sampled_from(["Always", "OnFailure", "Never"]),
    deleting=st.booleans(),
    names=st.sampled_from([("main",), ("a", "b"), ("a", "b", "c")]),
    image=st.sampled_from([IMAGE, "other:latest"]),
)
starts = st.builds(
    Observed,
    sandbox=st.sampled_from([None, sandbox(), sandbox("notready")]),
    networked=st.booleans(),
    volumes_ready=st.booleans(),
    images=st.sampled_from([{}, {IMAGE: "sha256:1"}]),
    containers=st.lists(st.sampled_from([container("main"), container("main", "exited", code=1), container("a", "exited"), container("a", "created"), container("i0", "exited")]), unique_by=lambda c: c.id, max_size=3).map(tuple),
)


@given(pods, starts)
@settings(max_examples=300, deadline=None)
def test_what_is_in_flight_is_never_planned_again(p: dict, observed: Observed):
    first = plan.plan_pod(plan.Desired(p), observed, NOW)
    keys = frozenset(a.key for a in first.actions)
    again = plan.plan_pod(plan.Desired(p), replace(observed, in_flight=keys), NOW)
    assert not keys & {a.key for a in again.actions}
    assert len(keys) == len(first.actions)


@given(pods, starts, st.lists(st.sampled_from([None, None, 0, 1]), min_size=60, max_size=60))
@settings(max_examples=300, deadline=None)
def test_every_pod_comes_to_rest_and_a_plan_applied_to_its_own_result_is_empty(p: dict, observed: Observed, exits: list):
    now = NOW
    for step in range(60):
        made = plan.plan_pod(plan.Desired(p), observed, now)
        if not made.actions and made.wake_at is None:
            break
        if not made.actions:
            assert made.wake_at is not None
            assert made.wake_at > now
            now = made.wake_at
        for action in made.actions:
            assert sum(isinstance(a, plan.StartContainer) for a in made.actions) <= 1
            observed = carry_out(p, observed, action, None if step > 30 else exits[step], now)
    else:
        pytest.fail(f"no rest: {made}")
    assert plan.plan_pod(plan.Desired(p), observed, now) == made
    if p["metadata"].get("deletionTimestamp"):
        assert observed.deleted
        assert not observed.containers
