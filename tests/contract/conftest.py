"""Both stores, each real: SQLite in a temporary directory, etcd as a process on loopback."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from apiserver.store import base
from tests.contract.etcd_server import EtcdServer

_numbers = itertools.count()


@pytest.fixture(scope="session")
def etcd_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path_factory.mktemp("etcd"))
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest_asyncio.fixture(params=["sqlite", "etcd"])
async def store(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> AsyncIterator[base.Store]:
    opened: base.Store
    if request.param == "sqlite":
        from apiserver.store.sqlite import SqliteStore

        opened = await SqliteStore.open(tmp_path / "store.db", progress_interval_s=0.2)
    else:
        from apiserver.store.etcd import EtcdStore

        opened = await EtcdStore.open(request.getfixturevalue("etcd_server").endpoint, progress_interval_s=0.2)
    yield opened
    await opened.close()


@pytest.fixture
def prefix() -> str:
    """A directory of the test's own: the etcd is shared."""
    return f"/registry/t{next(_numbers)}/"
