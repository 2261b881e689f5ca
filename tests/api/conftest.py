"""One server for the tests of the API that do not need a config of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import Server, start


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start(tmp_path_factory.mktemp("server")) as server:
        yield server
