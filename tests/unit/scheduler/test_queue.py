from __future__ import annotations

from scheduler.queue import PodQueue


def drain(q: PodQueue, now: float) -> list[str]:
    out = []
    while (key := q.pop(now)) is not None:
        out.append(key)
    return out


def test_priority_then_age() -> None:
    q = PodQueue()
    for key, priority in (("a", 0), ("b", 5), ("c", 0), ("b", 5)):
        q.add(key, priority)
    q.remove("c")
    assert drain(q, 0) == ["b", "a"]


def test_what_fits_nowhere_waits_for_a_change_and_its_back_off() -> None:
    q = PodQueue()
    q.add("a", 0)
    now = 0.0
    for delay in (1, 2, 4, 8, 10, 10):
        assert drain(q, now) == ["a"]
        q.park("a", now)
        assert drain(q, now + 50) == []
        q.wake_all(now + 0.1)
        assert drain(q, now + delay - 0.01) == []
        now += delay
    assert drain(q, now) == ["a"]


def test_nothing_waits_for_ever() -> None:
    q = PodQueue(flush_s=300)
    q.add("a", 0)
    assert drain(q, 0) == ["a"]
    q.park("a", 0)
    assert drain(q, 299) == []
    assert drain(q, 300) == ["a"]


def test_a_failed_binding_comes_back_by_itself() -> None:
    q = PodQueue()
    q.add("a", 0)
    q.pop(0)
    q.add("a", 0)
    assert q.pop(0) is None
    assert q.retry("a", 0) == 1
    assert drain(q, 0.9) == []
    assert drain(q, 1.0) == ["a"]
    q.remove("a")
    q.park("a", 2)
    q.wake_all(9)
    assert len(q) == 0 and drain(q, 1000) == []
