import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.network.addresses import AddressesExhausted, AddressPool


def test_network_gateway_and_broadcast_are_never_given_out() -> None:
    pool = AddressPool("10.42.0.0/29")
    assert [pool.allocate() for _ in range(5)] == [f"10.42.0.{i}" for i in range(2, 7)]
    with pytest.raises(AddressesExhausted, match=r"no free address in 10\.42\.0\.0/29: 5 are taken"):
        pool.allocate()
    assert pool.gateway == "10.42.0.1"


def test_freed_addresses_come_back_last_and_oldest_first() -> None:
    pool = AddressPool("10.42.0.0/29")
    first, second = pool.allocate(), pool.allocate()
    pool.release(second)
    pool.release(first)
    pool.release(first)
    assert [pool.allocate() for _ in range(5)] == ["10.42.0.4", "10.42.0.5", "10.42.0.6", second, first]


def test_restore_takes_what_runs() -> None:
    pool = AddressPool("10.42.0.0/29")
    pool.restore(["10.42.0.4", "10.99.0.1"])
    assert "10.42.0.4" in pool and len(pool) == 1
    assert [pool.allocate() for _ in range(4)] == ["10.42.0.5", "10.42.0.6", "10.42.0.2", "10.42.0.3"]


@pytest.mark.parametrize("cidr", ["10.42.0.0/31", "10.42.0.1/24", "fd00::/64", "x"])
def test_refuses_bad_cidrs(cidr: str) -> None:
    with pytest.raises(ValueError):
        AddressPool(cidr)


@given(st.lists(st.integers(0, 9)))
def test_never_gives_one_address_to_two(steps: list[int]) -> None:
    pool = AddressPool("10.42.0.0/28")
    held: list[str] = []
    for step in steps:
        if step < 6:
            try:
                address = pool.allocate()
            except AddressesExhausted:
                assert len(held) == 13
                continue
            assert address not in held and ipaddress.IPv4Address(address) in pool.network
            held.append(address)
        elif held:
            pool.release(held.pop(step % len(held)))
        assert len(pool) == len(held)
