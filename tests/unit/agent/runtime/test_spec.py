import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.runtime import spec


def test_the_default_is_valid_and_fresh_every_time():
    a, b = spec.default_spec(["sh"]), spec.default_spec(["sh"])
    spec.validate_spec(a)
    a["mounts"][0]["options"].append("ro")
    a["process"]["capabilities"]["bounding"].clear()
    assert b == spec.default_spec(["sh"]) != a


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda s: s.pop("process"), "process: required"),
        (lambda s: s["process"].pop("args"), "process.args: required"),
        (lambda s: s["process"].update(args=["a", 1]), "process.args[1]: must be a string"),
        (lambda s: s["process"].update(args=["a\0b"]), "process.args[0]: must not contain a NUL byte"),
        (lambda s: s["process"].update(env=["A=1", "B"]), "process.env[1]: must be NAME=value"),
        (lambda s: s["process"].update(env=["=x"]), "process.env[0]: must be NAME=value"),
        (lambda s: s["process"].update(cwd="a"), "process.cwd: must be an absolute path, is 'a'"),
        (lambda s: s["process"].update(user={"uid": -1}), "process.user.uid: must be between 0 and 4294967294"),
        (lambda s: s["process"].update(user={"uid": True}), "process.user.uid: wrong type bool"),
        (lambda s: s["process"].update(noNewPrivileges=1), "process.noNewPrivileges: wrong type int"),
        (lambda s: s["process"]["capabilities"].update(extra=[]), "process.capabilities.extra: unknown set"),
        (lambda s: s["process"].update(rlimits=[{"type": "RLIMIT_X", "soft": 1, "hard": 1}]), "process.rlimits[0].type: unknown limit 'RLIMIT_X'"),
        (lambda s: s["process"].update(rlimits=[{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}]), "process.rlimits[0].soft: must not exceed hard"),
        (lambda s: s["process"].update(oomScoreAdj=1001), "process.oomScoreAdj: must be between -1000 and 1000"),
        (lambda s: s.update(hooks={}), "hooks: not supported by this runtime"),
        (lambda s: s["mounts"].append({"type": "tmpfs"}), "mounts[7].destination: must be an absolute path, is None"),
        (lambda s: s["mounts"].append({"destination": "/x", "type": "bind", "source": "rel"}), "mounts[7].source: must be an absolute path, is 'rel'"),
        (lambda s: s["mounts"].append({"destination": "/x"}), "mounts[7].type: required"),
        (lambda s: s["linux"]["namespaces"].append({"type": "time"}), "linux.namespaces[6].type: must be one of mount, pid, network, ipc, uts, cgroup"),
        (lambda s: s["linux"]["maskedPaths"].append("x"), "linux.maskedPaths[11]: must be an absolute path, is 'x'"),
        (lambda s: s["linux"].update(seccomp="other"), 'linux.seccomp: must be a profile or "default"'),
        (lambda s: s["linux"].update(sysctl={"a.b": 1}), "linux.sysctl[a.b]: must be a name with a string value"),
        (lambda s: s["linux"].update(resources={"blockIO": {}}), "linux.resources.blockIO: not supported by this runtime"),
        (lambda s: s["linux"].update(resources={"cpu": {"shares": "1"}}), "linux.resources.cpu.shares: wrong type str"),
        (lambda s: s["linux"].update(resources={"cpu": {"period": 10}}), "linux.resources.cpu.period: must be between 1000 and 1000000 µs"),
    ],
)
def test_what_is_wrong_is_named(change, text):
    wanted = spec.default_spec(["sh"])
    change(wanted)
    with pytest.raises(spec.SpecError) as e:
        spec.validate_spec(wanted)
    assert str(e.value) == text


@pytest.mark.parametrize(
    ("add", "drop", "gained", "lost"),
    [
        (["net_admin"], [], {"CAP_NET_ADMIN"}, set()),
        (["CAP_SYS_TIME"], ["MKNOD"], {"CAP_SYS_TIME"}, {"CAP_MKNOD"}),
        (["NET_BIND_SERVICE"], ["ALL"], set(), set(spec.DEFAULT_CAPABILITIES) - {"CAP_NET_BIND_SERVICE"}),
        (["ALL"], ["SYS_ADMIN"], set(spec.ALL_CAPABILITIES) - set(spec.DEFAULT_CAPABILITIES) - {"CAP_SYS_ADMIN"}, set()),
        (["ALL"], ["ALL"], set(), set(spec.DEFAULT_CAPABILITIES)),
    ],
)
def test_adjusting_capabilities(add, drop, gained, lost):
    result = set(spec.adjust_capabilities(spec.DEFAULT_CAPABILITIES, add, drop))
    assert result == set(spec.DEFAULT_CAPABILITIES) - lost | gained


def test_an_unknown_capability_is_named():
    with pytest.raises(spec.SpecError, match='unknown capability "FLY"'):
        spec.adjust_capabilities((), ["FLY"], [])


def test_privileged_keeps_the_spec_valid():
    wanted = spec.default_spec(["sh"])
    spec.make_privileged(wanted)
    spec.validate_spec(wanted)
    assert not any("ro" in m["options"] for m in wanted["mounts"])


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=5), x, max_size=3), max_leaves=8)


@given(st.data())
def test_whatever_is_put_anywhere_the_answer_is_a_spec_error_or_none(data):
    wanted = copy.deepcopy(spec.default_spec(["sh"]))
    where = data.draw(st.sampled_from([wanted, wanted["process"], wanted["linux"], wanted["process"]["user"], wanted["mounts"][0], wanted["process"]["capabilities"]]))
    where[data.draw(st.sampled_from(sorted(where)))] = data.draw(JSON)
    try:
        spec.validate_spec(wanted)
    except spec.SpecError as e:
        assert ":" in str(e)
