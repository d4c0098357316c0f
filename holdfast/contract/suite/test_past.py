"""The past of a key, as stores show it: pages of its events, either way, and what there was at a time."""

import pytest

from holdfast.contract.records import TIME, deleted, saved
from holdfast.stores import EventStore


async def _fill(store: EventStore, versions: int = 12) -> None:
    await store.append([saved("a", version, time=TIME + 10 * version) for version in range(1, versions + 1)])
    await store.append([saved("b", 1, time=TIME), saved("aa", 1, time=TIME)])


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(
    ("after", "before"), [(0, None), (3, None), (0, 7), (3, 7), (3, 4), (7, 3), (11, 100), (12, None)]
)
async def test_histories_between_versions(store: EventStore, backward: bool, after: int, before: int | None) -> None:
    """Exactly the versions between the two, in the order that was asked for, and no more than the limit."""
    await _fill(store)
    expected = [version for version in range(1, 13) if version > after and (before is None or version < before)]
    if backward:
        expected.reverse()
    for limit in (1, 2, 100):
        page = await store.history("a", after_version=after, before_version=before, backward=backward, limit=limit)
        assert [event.version for event in page] == expected[:limit]


async def test_a_history_behind_a_fence(store: EventStore) -> None:
    """What was acknowledged before the fence is there."""
    for version in range(1, 6):
        fence = (await store.append([saved("a", version)])).fence
        (newest,) = await store.history("a", backward=True, limit=1, after=fence)
        assert newest.version == version
    with pytest.raises(TypeError):
        await store.history("a", after="no fence")


@pytest.mark.parametrize("versions", [1, 2, 31, 32, 33, 34, 200])
async def test_the_version_at_a_time(store: EventStore, versions: int) -> None:
    """The newest event that is not later; of several with one time the last; 0 before the first."""
    await _fill(store, versions)
    for version in {1, 2, 30, 31, 32, 33, 34, versions - 1, versions}:
        if 1 <= version <= versions:
            assert await store.version_at("a", TIME + 10 * version) == version
            assert await store.version_at("a", TIME + 10 * version + 9) == version
            assert await store.version_at("a", TIME + 10 * version - 1) == version - 1
    assert await store.version_at("a", 0) == 0
    assert await store.version_at("a", 2**53 - 1) == versions
    assert await store.version_at("nothing", TIME) == 0


async def test_versions_of_one_time(store: EventStore) -> None:
    """A key's events may share a time: then the state at that time is the last one's."""
    times = [5, 5, 5, 7, 7, 9]
    await store.append([saved("a", number, time=TIME + time) for number, time in enumerate(times, start=1)])
    await store.append([deleted("a", 7).model_copy(update={"time": TIME + 9})])
    assert [await store.version_at("a", TIME + time) for time in range(4, 11)] == [0, 3, 3, 5, 5, 7, 7]
