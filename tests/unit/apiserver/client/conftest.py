"""The client over a real HTTP server (uvicorn), behind which stands the small API of tests/fakes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from apiserver.client.client import Client
from apiserver.client.config import ClientConfig
from tests.fakes.api import FakeApi
from tests.fakes.http import serve


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture
async def client(api: FakeApi) -> AsyncIterator[Client]:
    async with serve(api) as url, Client(ClientConfig(url)) as c:
        yield c
        api.cut_watches()
