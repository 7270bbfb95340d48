import copy
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.services import ruleset, skeleton
from agent.services.ruleset import Chain, Changes, Node, Ruleset, diff, merge, plan_slots, render_service
from tests.fakes.services import service, slices

NODE = Node(frozenset({"192.0.2.1"}), ipaddress.IPv4Network("10.42.0.0/22"), ipaddress.IPv4Network("10.42.0.0/16"))
VIP = "10.43.0.20"


def render(svc, *pieces, previous=None):
    return render_service(svc, pieces, NODE, previous or {})


def apply(elements, changes: Changes):
    """What the kernel does: deleting what is absent, or adding what is there with another value, is an error."""
    state = dict(elements)
    for where in changes.delete:
        del state[where]
    for name, key, value in changes.add:
        assert (name, key) not in state
        state[name, key] = value
    return state


def test_cluster_ip() -> None:
    assert render(service("web", VIP), slices("web", ["10.42.0.5", "10.42.4.6"])) == {
        ("services", (VIP, "tcp", 80)): Chain("cluster", 2),
        ("slots", (VIP, "tcp", 80, 0)): ("10.42.0.5", 8080),
        ("slots", (VIP, "tcp", 80, 1)): ("10.42.4.6", 8080),
        ("hairpin", ("10.42.0.5", "10.42.0.5")): None,
    }


def test_no_endpoints_is_unserved() -> None:
    assert render(service("web", VIP, node_ports=[30080])) == {("unserved", (VIP, "tcp", 80)): None}


def test_node_port_shares_nothing_with_the_cluster_ip_but_its_endpoints() -> None:
    found = render(service("web", VIP, node_ports=[30080]), slices("web", ["10.42.0.5"]))
    assert found["node_ports", ("tcp", 30080)] == Chain("node", 1) and found["slots", ("0.0.0.0", "tcp", 30080, 0)] == ("10.42.0.5", 8080)
    assert not any(name == "node_ports_inner" for name, _ in found)


def test_external_policy_local_divides_outside_from_inside() -> None:
    found = render(service("web", VIP, node_ports=[30080], externalTrafficPolicy="Local"), slices("web", ["10.42.0.5", "10.42.4.6"]))
    assert found["node_ports", ("tcp", 30080)] == Chain("node", 1)
    assert found["node_ports_inner", ("tcp", 30080)] == Chain("inner", 2)
    assert found["services", (VIP, "tcp", 80)] == Chain("cluster", 2)


def test_internal_policy_local() -> None:
    found = render(service("web", VIP, internalTrafficPolicy="Local"), slices("web", ["10.42.4.6"]))
    assert found == {("unserved", (VIP, "tcp", 80)): None}


def test_ready_then_serving_while_terminating_then_none() -> None:
    def endpoint(address, **conditions):
        return {"addresses": [address], "conditions": conditions}

    leaving = endpoint("10.42.0.6", ready=False, serving=True, terminating=True)
    dead = endpoint("10.42.0.7", ready=False, serving=False, terminating=True)
    unknown = {"addresses": ["10.42.0.8"]}

    def chosen(*endpoints):
        return {value[0] for (name, _), value in render(service("web", VIP), slices("web", list(endpoints))).items() if name == "slots"}

    assert chosen(leaving, dead, unknown) == {"10.42.0.8"}
    assert chosen(leaving, dead) == {"10.42.0.6"}
    assert chosen(dead) == set()


def test_ports_meet_by_name_and_protocol() -> None:
    svc = service("dns", VIP, [(53, "UDP"), (53, "TCP"), (9153, "TCP")])
    piece = slices("dns", ["10.42.0.5"], [(5353, "UDP"), (5354, "TCP")])
    found = render(svc, piece)
    assert found["slots", (VIP, "udp", 53, 0)] == ("10.42.0.5", 5353) and found["slots", (VIP, "tcp", 53, 0)] == ("10.42.0.5", 5354)
    assert ("unserved", (VIP, "tcp", 9153)) in found


def test_several_slices_are_one_and_duplicates_count_once() -> None:
    found = render(service("web", VIP), slices("web", ["10.42.0.5", "10.42.0.6"]), slices("web", ["10.42.0.6"], suffix="y"))
    assert found["services", (VIP, "tcp", 80)] == Chain("cluster", 2)


@pytest.mark.parametrize("svc", [service("h", "None"), service("x", "", type="ExternalName"), service("six", "fd00::1"), service("p", VIP, [(5, "SCTP")])])
def test_what_needs_no_rules(svc) -> None:
    assert render(svc, slices("h", ["10.42.0.5"])) == {}


def test_another_proxy_is_left_alone() -> None:
    svc = service("web", VIP)
    svc["metadata"]["labels"] = {ruleset.FOREIGN_PROXY_LABEL: "mine"}
    assert render(svc, slices("web", ["10.42.0.5"])) == {}


def test_affinity_remembers_endpoints() -> None:
    found = render(service("web", VIP, sessionAffinity="ClientIP"), slices("web", ["10.42.0.5"]))
    assert found["services", (VIP, "tcp", 80)] == Chain("cluster", 1, 10_800)
    assert ("endpoints", (VIP, "tcp", 80, "10.42.0.5", 8080)) in found


def test_foreign_endpoints_are_those_that_are_no_pods() -> None:
    found = render(service("api", VIP), slices("api", ["198.51.100.7", "192.0.2.1", "10.42.0.5"]))
    assert {key for name, key in found if name == "foreign"} == {("198.51.100.7",)}
    assert {key[0] for name, key in found if name == "hairpin"} == {"10.42.0.5"}


@pytest.mark.parametrize("port", [0, 70_000, "80", None])
def test_bad_ports_are_errors(port) -> None:
    svc = service("web", VIP)
    svc["spec"]["ports"][0]["port"] = port
    with pytest.raises(ValueError, match="is not a port number"):
        render(svc)


ENDPOINTS = st.sets(st.tuples(st.sampled_from([f"10.42.0.{i}" for i in range(2, 9)]), st.just(80)))


@given(ENDPOINTS, ENDPOINTS)
def test_slots_move_as_little_as_possible(before, after) -> None:
    old = plan_slots([], before)
    new = plan_slots(old, after)
    assert sorted(new) == sorted(after)
    moved = [endpoint for index, endpoint in enumerate(new) if index < len(old) and old[index] != endpoint]
    holes = sum(1 for index, endpoint in enumerate(old) if endpoint not in after and index < len(new))
    assert len(moved) <= holes
    assert plan_slots(new, after) == new


NAMES = ["a", "b", "c"]
SERVICES = st.fixed_dictionaries({name: st.none() | st.tuples(st.sampled_from([VIP, "10.43.0.21"]), st.lists(st.sampled_from(range(2, 7)), unique=True), st.booleans()) for name in NAMES})


@given(st.lists(SERVICES, max_size=6))
def test_incremental_changes_always_fit_and_end_like_a_fresh_start(history) -> None:
    """Also while two Services claim one address."""
    rules, kernel = Ruleset(), {}
    for wanted in history:
        parts = []
        for name, content in wanted.items():
            elements = {}
            if content:
                address, endpoints, sticky = content
                svc = service(name, address, node_ports=[30000], **({"sessionAffinity": "ClientIP"} if sticky else {}))
                elements = render_service(svc, [slices(name, [f"10.42.0.{i}" for i in endpoints])], NODE, rules.owned(name))
            parts.append(rules.replace(name, elements))
        kernel = apply(kernel, merge(parts))
        assert kernel == rules.elements()
        assert not diff(kernel, rules.elements())
        assert {name for name, _ in kernel} <= set(skeleton.SETS)
    for name in NAMES:
        kernel = apply(kernel, rules.replace(name, {}))
    assert kernel == {} and not rules.owners()


def test_one_endpoint_more_is_four_operations() -> None:
    rules = Ruleset()
    rules.replace("web", render(service("web", VIP), slices("web", ["10.42.4.5", "10.42.4.6"])))
    changes = rules.replace("web", render(service("web", VIP), slices("web", ["10.42.4.5", "10.42.4.6", "10.42.4.7"]), previous=rules.owned("web")))
    assert changes.delete == [("services", (VIP, "tcp", 80))]
    assert changes.add == [("services", (VIP, "tcp", 80), Chain("cluster", 3)), ("slots", (VIP, "tcp", 80, 2), ("10.42.4.7", 8080))]


def test_stale_udp_names_only_what_is_gone() -> None:
    svc = service("dns", VIP, [(53, "UDP"), (53, "TCP")])
    ports = [(53, "UDP"), (53, "TCP")]
    before, after = (render(svc, slices("dns", addresses, ports)) for addresses in (["10.42.0.5", "10.42.0.6"], ["10.42.0.6"]))
    assert ruleset.stale_udp(before, after) == {(VIP, 53, "10.42.0.5", 53)}
    assert ruleset.stale_udp(after, before) == set()


def test_rendering_changes_nothing_it_was_given() -> None:
    svc, piece = service("web", VIP, node_ports=[30080]), slices("web", ["10.42.0.5"])
    copies = copy.deepcopy((svc, piece))
    render(svc, piece)
    assert (svc, piece) == copies


def test_the_marker_names_the_text() -> None:
    one, marker = skeleton.render("minik-a", ["192.0.2.1"], "10.42.0.0/22", "10.42.0.0/16", "10.43.0.0/16")
    assert f"chain {marker} " in one
    assert skeleton.render("minik-a", ["192.0.2.1"], "10.42.0.0/22", "10.42.0.0/16", "10.43.0.0/16") == (one, marker)
    assert skeleton.render("minik-a", ["192.0.2.2"], "10.42.0.0/22", "10.42.0.0/16", "10.43.0.0/16")[1] != marker
