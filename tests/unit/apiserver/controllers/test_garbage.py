from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from apiserver.api import kinds, types
from apiserver.controllers.ownership import Graph, Item
from apiserver.controllers.plan_garbage import FOREGROUND, ORPHAN, Ask, Delete, DropOwners, Keep, Release, Visit, owner_key, plan_item


def owner(uid: str, kind: str = "ReplicaSet", *, block: bool = True) -> types.OwnerReference:
    return types.OwnerReference(api_version="apps/v1" if kind == "ReplicaSet" else "v1", kind=kind, name=uid, uid=uid, block_owner_deletion=block)


def rs(uid: str, **fields: Any) -> Item:
    return Item(kinds.REPLICASETS, uid, uid, fields.pop("namespace", "d"), **fields)


def pod(uid: str, *owners: types.OwnerReference, **fields: Any) -> Item:
    return Item(kinds.PODS, uid, uid, "d", tuple(owners), **fields)


def graph(*items: Item) -> Graph:
    made = Graph()
    for item in items:
        made.observe(item)
    return made


def plan(item: Item, *others: Item, absent: dict[str, bool] | None = None):
    answers = {owner_key(item, o): absent[o.uid] for o in item.owners if absent and o.uid in absent}
    return plan_item(item, graph(item, *others), answers)


def test_background() -> None:
    p = pod("p", owner("r"))
    assert plan(p, rs("r")) == Keep()
    assert plan(p) == Ask((owner("r"),))
    assert plan(p, absent={"r": False}) == Keep()
    assert plan(p, absent={"r": True}) == Delete("Background")
    assert plan(pod("p")) == Keep()
    assert plan(pod("p", owner("r"), finalizers=frozenset({ORPHAN})), absent={"r": True}) == Delete("Orphan")


def test_one_owner_left_keeps_the_object() -> None:
    p = pod("p", owner("r"), owner("s"))
    assert plan(p, rs("s"), absent={"r": True}) == DropOwners(frozenset({"r"}))
    assert plan(p, absent={"r": True, "s": True}) == Delete("Background")


def test_an_owner_is_its_kind_name_and_namespace_too() -> None:
    p = pod("p", owner("r"))
    assert plan(p, rs("r", namespace="elsewhere")) == Delete("Background")
    assert plan(p, Item(kinds.CONFIGMAPS, "r", "r", "d")) == Delete("Background")
    assert plan(pod("p", owner("n", "Node")), Item(kinds.NODES, "n", "n", "")) == Keep()


def test_foreground() -> None:
    r = rs("r", finalizers=frozenset({FOREGROUND}), deleting=True)
    free, blocking = pod("free", owner("r", block=False)), pod("p", owner("r"))
    assert plan_item(r, graph(r, free, blocking), {}) == Visit((blocking,), False)
    assert plan_item(r, graph(r, pod("p", owner("r"), deleting=True)), {}) == Keep()
    assert plan_item(r, graph(r, free), {}) == Release(FOREGROUND)
    assert plan_item(blocking, graph(r, blocking), {}) == Delete("Background")
    child = pod("c", owner("p", "Pod"))
    assert plan_item(blocking, graph(r, blocking, child), {}) == Delete("Foreground")
    assert plan_item(pod("p", owner("r"), owner("s")), graph(r, rs("s")), {}) == DropOwners(frozenset({"r"}))


def test_orphan() -> None:
    r = rs("r", finalizers=frozenset({ORPHAN}), deleting=True)
    p = pod("p", owner("r"))
    assert plan_item(r, graph(r, p), {}) == Visit((p,), True)
    assert plan_item(r, graph(r), {}) == Release(ORPHAN)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sets(st.sampled_from("abcd"), max_size=3), st.booleans()), max_size=40))
def test_edges_are_exactly_those_of_the_items(steps) -> None:
    made, state = Graph(), {}
    for uid, owners, gone in steps:
        if gone:
            made.vanish(uid)
            state.pop(uid, None)
        else:
            state[uid] = owners
            made.observe(pod(uid, *(owner(o) for o in sorted(owners))))
    expected: dict[str, set[str]] = {}
    for uid, owners in state.items():
        for o in owners:
            expected.setdefault(o, set()).add(uid)
    assert made.dependents == expected and set(made.items) == set(state)
