"""render_status and its patch: phases, conditions, container states and the events that follow from them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent import plan, podspec, status
from agent.observe import Failure, Observed, ProbeVerdict
from tests.unit.agent.test_plan import IMAGE, NOW, READY, container, pod

NODE = status.NodeAddresses(("192.0.2.7",))


def render(p: dict, observed: Observed, **kw) -> dict:
    return status.render_status(plan.Desired(p, **kw), observed, NOW, NODE)


def conditions(rendered: dict) -> dict:
    return {c["type"]: c["status"] for c in rendered["conditions"]}


def one(rendered: dict) -> dict:
    (found,) = rendered["containerStatuses"]
    return found


def test_a_new_pod_is_pending_and_creating():
    got = render(pod(), Observed())
    assert got["phase"] == "Pending"
    assert one(got)["state"] == {"waiting": {"reason": "ContainerCreating"}}
    assert conditions(got) == {"PodReadyToStartContainers": "False", "Initialized": "True", "Ready": "False", "ContainersReady": "False", "PodScheduled": "True"}
    assert got["qosClass"] == "BestEffort"
    assert "podIP" not in got


def test_a_running_pod():
    got = render(pod(), replace(READY, containers=(container(),)))
    assert got["phase"] == "Running"
    assert (got["podIP"], got["podIPs"], got["hostIP"], got["hostIPs"]) == ("10.42.0.2", [{"ip": "10.42.0.2"}], "192.0.2.7", [{"ip": "192.0.2.7"}])
    assert one(got)["containerID"] == "minik://main-0"
    assert (one(got)["ready"], one(got)["started"], one(got)["restartCount"]) == (True, True, 0)
    assert "startedAt" in one(got)["state"]["running"]
    assert set(conditions(got).values()) == {"True"}


def test_a_running_container_is_ready_only_when_its_probe_says_so():
    p = pod()
    p["spec"]["containers"][0]["readinessProbe"] = {"tcpSocket": {"port": 1}}
    running = replace(READY, containers=(container(),))
    assert one(render(p, running))["ready"] is False
    got = render(p, replace(running, probes={"main-0": ProbeVerdict(ready=False)}))
    assert conditions(got)["Ready"] == "False"
    assert next(c for c in got["conditions"] if c["type"] == "Ready")["message"] == "containers with unready status: [main]"
    assert conditions(render(p, replace(running, probes={"main-0": ProbeVerdict()})))["Ready"] == "True"


@pytest.mark.parametrize(
    ("policy", "code", "phase"), [("Never", 0, "Succeeded"), ("Never", 3, "Failed"), ("OnFailure", 0, "Succeeded"), ("OnFailure", 3, "Running"), ("Always", 0, "Running")]
)
def test_phase_after_an_exit(policy: str, code: int, phase: str):
    assert render(pod(policy=policy), replace(READY, containers=(container(state="exited", code=code),)))["phase"] == phase


def test_an_exit_is_told_with_code_reason_and_times():
    ended = replace(container(state="exited", code=137), reason="OOMKilled")
    got = one(render(pod(policy="Never"), replace(READY, containers=(ended,), messages={"main-0": "last words"})))["state"]["terminated"]
    assert got["exitCode"] == 137
    assert got["reason"] == "OOMKilled"
    assert got["message"] == "last words"
    assert got["containerID"] == "minik://main-0"
    assert got["startedAt"] < got["finishedAt"]


def test_crash_loop():
    ended = container(state="exited", attempt=2, code=1, backoff=20, finished=NOW - 1)
    got = one(render(pod(), replace(READY, containers=(ended,))))
    assert got["state"] == {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s restarting failed container=main pod=p_default(u1)"}}
    assert got["lastState"]["terminated"]["exitCode"] == 1
    assert (got["restartCount"], got["ready"]) == (2, False)


def test_last_state_stays_while_the_next_attempt_runs():
    got = one(render(pod(), replace(READY, containers=(container(state="exited", code=3), container(attempt=1)))))
    assert "running" in got["state"]
    assert got["lastState"]["terminated"]["exitCode"] == 3
    assert got["restartCount"] == 1


def test_image_errors():
    failed = Failure("ErrImagePull", "no such tag", 1, NOW - 1, NOW + 9)
    now = one(render(pod(), replace(READY, images={}, failures={"pull/main": failed})))
    assert now["state"]["waiting"] == {"reason": "ErrImagePull", "message": "no such tag"}
    later = one(render(pod(), replace(READY, images={}, failures={"pull/main": replace(failed, failed_at=NOW - 9)})))
    assert later["state"]["waiting"]["reason"] == "ImagePullBackOff"
    p = pod()
    p["spec"]["containers"][0]["imagePullPolicy"] = "Never"
    assert one(render(p, replace(READY, images={})))["state"]["waiting"]["reason"] == "ErrImageNeverPull"


def test_init_containers_hold_back_the_others():
    p = pod(init=[{"name": "i", "image": IMAGE}])
    got = render(p, replace(READY, containers=(container("i"),)))
    assert got["phase"] == "Pending"
    assert conditions(got)["Initialized"] == "False"
    assert one(got)["state"] == {"waiting": {"reason": "PodInitializing"}}
    done = render(p, replace(READY, containers=(container("i", "exited"), container())))
    assert conditions(done)["Initialized"] == "True"
    assert done["initContainerStatuses"][0]["ready"] is True
    failed = render(pod(init=[{"name": "i", "image": IMAGE}], policy="Never"), replace(READY, containers=(container("i", "exited", code=1),)))
    assert failed["phase"] == "Failed"


def test_a_deleted_pod_ends_in_a_final_phase():
    p = pod(deleting=True)
    assert render(p, replace(READY, containers=(container(),)))["phase"] == "Running"
    assert render(p, replace(READY, containers=(container(state="exited"),)))["phase"] == "Succeeded"
    assert render(p, replace(READY, containers=(container(state="exited", code=143),)))["phase"] == "Failed"


def test_what_is_final_stays_when_the_node_has_forgotten_it():
    p = pod(policy="Never")
    p["status"] = render(p, replace(READY, containers=(container(state="exited", code=3),)))
    assert p["status"]["phase"] == "Failed"
    again = render(p, Observed())
    assert again["containerStatuses"] == p["status"]["containerStatuses"]
    assert again["phase"] == "Failed"
    assert again["podIP"] == "10.42.0.2"


def test_a_container_that_the_node_lost_is_a_restart_with_its_last_state():
    """A reboot, or down and up: what was published first must not start the count anew."""
    p = pod()
    p["status"] = render(p, replace(READY, containers=(container(attempt=4),)))
    p["status"] = render(p, Observed())
    waiting = one(p["status"])
    assert (waiting["restartCount"], waiting["state"]["waiting"]["reason"]) == (4, "ContainerCreating") and "containerID" not in waiting
    assert waiting["lastState"]["terminated"]["reason"] == "ContainerStatusUnknown" and waiting["lastState"]["terminated"]["exitCode"] == 137
    assert plan.next_attempt(p, podspec.containers(p)[0], Observed()) == 5
    assert one(render(p, Observed()))["lastState"] == waiting["lastState"]


def test_readiness_gates():
    p = pod(readinessGates=[{"conditionType": "example.org/lb"}])
    running = replace(READY, containers=(container(),))
    assert conditions(render(p, running))["Ready"] == "False"
    p["status"] = {"conditions": [{"type": "example.org/lb", "status": "True"}]}
    assert conditions(render(p, running))["Ready"] == "True"


def test_a_patch_of_what_the_api_has_already_is_none_and_transition_times_stay():
    p = pod()
    running = replace(READY, containers=(container(),))
    first = render(p, running)
    patch = status.render_patch(p, first)
    assert patch is not None
    assert patch["metadata"] == {"uid": "u1"}
    p["status"] = first
    later = status.render_status(plan.Desired(p), running, NOW + 500, NODE)
    assert later == first
    assert status.render_patch(p, later) is None


def test_only_what_differs_is_patched_and_what_is_gone_is_nulled():
    p = pod()
    p["status"] = render(p, replace(READY, containers=(container(),)))
    now = render(p, replace(READY, containers=(container(),), sandbox=None))
    patch = status.render_patch(p, now)
    assert patch is not None
    assert patch["status"]["podIP"] is None
    assert [c["type"] for c in patch["status"]["conditions"]] == ["PodReadyToStartContainers"]
    assert "containerStatuses" not in patch["status"]


def test_readiness_lost_nulls_nothing_it_should_keep_and_regained_nulls_reason():
    p = pod()
    running = replace(READY, containers=(container(),))
    p["spec"]["containers"][0]["readinessProbe"] = {"tcpSocket": {"port": 1}}
    p["status"] = render(p, running)
    patch = status.render_patch(p, render(p, replace(running, probes={"main-0": ProbeVerdict()})))
    assert patch is not None
    ready = next(c for c in patch["status"]["conditions"] if c["type"] == "Ready")
    assert ready["status"] == "True"
    assert ready["reason"] is None
    assert ready["message"] is None


def test_events_of_a_change():
    ended = container(state="exited", attempt=1, code=1, backoff=10, finished=NOW - 1)
    p = pod()
    before = render(p, replace(READY, containers=(container(attempt=1),)))
    after = render(p, replace(READY, containers=(ended,)))
    (event,) = status.events_between(p, before, after)
    assert (event.type, event.reason, event.container) == ("Warning", "BackOff", "main")
    assert event.message == "Back-off restarting failed container main in pod p_default(u1)"
    assert list(status.events_between(p, after, after)) == []


@pytest.mark.parametrize(("seconds", "text"), [(10, "10s"), (80, "1m20s"), (300, "5m0s")])
def test_durations(seconds: float, text: str):
    assert status.format_duration(seconds) == text
