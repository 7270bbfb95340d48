"""Pools and allocators: nothing outside the range, nothing twice, also when everything is used and when several servers ask at once."""

from __future__ import annotations

import asyncio
import ipaddress
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiserver.registry import addresses, claims
from apiserver.store import sqlite

OWNERS = [claims.Owner("default", f"s{i}", f"u{i}") for i in range(40)]


@given(prefix=st.integers(12, 30), seed=st.integers(0, 9))
def test_every_value_of_a_pool_is_in_its_network_and_passes_its_own_check(prefix, seed):
    network = ipaddress.IPv4Network(f"10.64.0.0/{prefix}")
    pool = addresses.AddressPool(network)
    index = random.Random(seed).randrange(pool.size)
    value = pool.value(index)
    assert ipaddress.IPv4Address(value) in network
    assert value not in {str(network.network_address), str(network.broadcast_address)}
    assert pool.check(value) == value
    assert 0 <= pool.reserved < pool.size


@pytest.mark.parametrize("value", ["10.43.0.0", "10.43.255.255", "10.44.0.1", "nonsense", "", "::1"])
def test_addresses_outside_are_refused(value):
    with pytest.raises(addresses.OutOfRange):
        addresses.AddressPool.parse("10.43.0.0/16").check(value)


@pytest.mark.parametrize("value", ["29999", "32768", "-1", "x"])
def test_ports_outside_are_refused(value):
    with pytest.raises(addresses.OutOfRange, match="30000-32767"):
        addresses.PortPool(30000, 32767).check(value)


@given(used=st.sets(st.integers(0, 13)), seed=st.integers(0, 99))
def test_candidates_are_exactly_the_free_values(used, seed):
    pool = addresses.AddressPool.parse("10.1.0.0/28")
    allocator = addresses.Allocator(pool, None, random.Random(seed), "")  # type: ignore[arg-type]
    taken = {pool.value(index) for index in used}
    found = list(allocator.candidates(taken))
    assert len(found) == len(set(found))
    assert set(found) == {pool.value(index) for index in range(pool.size)} - taken


async def _world(tmp_path, alive=lambda owner: False, now=lambda: 1000.0):
    store = await sqlite.SqliteStore.open(tmp_path / "s.db")

    async def check(owner):
        return alive(owner)

    def server(seed):
        return addresses.Allocator(addresses.AddressPool.parse("10.1.0.0/28"), claims.Claims(store, "clusterips", now, check), random.Random(seed), "provided IP is already allocated")

    return store, server


async def test_two_servers_never_give_one_address_twice_and_use_all_of_them(tmp_path):
    store, server = await _world(tmp_path)
    one, two = server(1), server(1)
    outcomes = await asyncio.gather(*((one, two)[i % 2].allocate(owner) for i, owner in enumerate(OWNERS[:20])), return_exceptions=True)
    given = [value for value in outcomes if isinstance(value, str)]
    assert len(given) == len(set(given)) == 14
    assert all(isinstance(value, addresses.Exhausted) for value in outcomes if not isinstance(value, str))
    await store.close()


async def test_claiming_again_is_fine_for_the_owner_alone(tmp_path):
    store, server = await _world(tmp_path, alive=lambda owner: True)
    allocator = server(1)
    assert await allocator.claim("10.1.0.5", OWNERS[0]) == "10.1.0.5"
    assert await allocator.claim("10.1.0.5", OWNERS[0]) == "10.1.0.5"
    with pytest.raises(addresses.Taken):
        await allocator.claim("10.1.0.5", OWNERS[1])
    await allocator.held.release("10.1.0.5", OWNERS[1])
    assert "10.1.0.5" in await allocator.held.all()
    await allocator.held.release("10.1.0.5", OWNERS[0])
    assert await allocator.held.all() == {}
    await store.close()


async def test_a_leftover_is_given_away_once_it_is_old_and_its_owner_gone(tmp_path):
    clock, living = [1000.0], {OWNERS[2].uid}
    store, server = await _world(tmp_path, alive=lambda owner: owner.uid in living, now=lambda: clock[0])
    allocator = server(1)
    await allocator.claim("10.1.0.5", OWNERS[0])
    await allocator.claim("10.1.0.6", OWNERS[2])
    with pytest.raises(addresses.Taken):
        await allocator.claim("10.1.0.5", OWNERS[1])
    clock[0] += claims.GRACE_S + 1
    assert await allocator.claim("10.1.0.5", OWNERS[1]) == "10.1.0.5"
    assert (await allocator.held.all())["10.1.0.5"].owner == OWNERS[1]
    with pytest.raises(addresses.Taken):
        await allocator.claim("10.1.0.6", OWNERS[1])
    await store.close()


async def test_a_dry_run_takes_nothing(tmp_path):
    store, server = await _world(tmp_path)
    allocator = server(1)
    value = await allocator.allocate(OWNERS[0], dry_run=True)
    assert await allocator.claim(value, OWNERS[0], dry_run=True) == value
    assert await allocator.held.all() == {}
    await store.close()
