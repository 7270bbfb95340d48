from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from apiserver.client.workqueue import WorkQueue


class Clock:
    def __init__(self) -> None:
        self.t = 0.0

    def __call__(self) -> float:
        return self.t


async def take(q: WorkQueue[str]) -> str | None:
    try:
        async with asyncio.timeout(0.01):
            return await q.get()
    except TimeoutError:
        return None


async def test_a_key_waits_once_and_has_one_worker() -> None:
    q: WorkQueue[str] = WorkQueue()
    q.add("a")
    q.add("a")
    assert await q.get() == "a"
    q.add("a")
    assert await take(q) is None
    q.done("a")
    assert await take(q) == "a"
    q.done("a")
    assert await take(q) is None


async def test_delays_and_back_off_follow_the_injected_clock() -> None:
    clock = Clock()
    q: WorkQueue[str] = WorkQueue(initial_s=1, max_s=5, now=clock)
    assert [q.retry("a") for _ in range(5)] == [1, 2, 4, 5, 5]
    assert await take(q) is None
    clock.t = 1.0
    assert await take(q) == "a"
    q.done("a")
    q.forget("a")
    assert q.retry("a") == 1
    q.add("a")
    assert await take(q) == "a"
    q.done("a")
    clock.t = 100
    assert await take(q) is None


async def test_a_cancelled_getter_does_not_swallow_a_key() -> None:
    q: WorkQueue[str] = WorkQueue()
    first, second = asyncio.ensure_future(q.get()), asyncio.ensure_future(q.get())
    await asyncio.sleep(0)
    q.add("a")
    first.cancel()
    assert await asyncio.wait_for(second, 1) == "a"


@given(st.lists(st.tuples(st.sampled_from(["add", "later", "get", "done", "tick"]), st.sampled_from("abc")), max_size=60))
def test_every_added_key_is_worked_on_after_its_last_add(steps: list[tuple[str, str]]) -> None:
    async def run() -> None:
        clock = Clock()
        q: WorkQueue[str] = WorkQueue(now=clock)
        owed: set[str] = set()
        active: list[str] = []
        for step, key in steps:
            if step == "add":
                q.add(key)
                owed.add(key)
            elif step == "later":
                q.add_after(key, 2.0)
                owed.add(key)
            elif step == "tick":
                clock.t += 1.0
                q.promote()
            elif step == "get" and len(q):
                got = await q.get()
                assert got not in active
                active.append(got)
                owed.discard(got)
            elif step == "done" and active:
                q.done(active.pop(0))
        clock.t += 10
        while active:
            q.done(active.pop(0))
        q.promote()
        for _ in range(len(owed) + 3):
            if len(q):
                got = await q.get()
                owed.discard(got)
                q.done(got)
        assert not owed and len(q) == 0

    asyncio.run(run())
