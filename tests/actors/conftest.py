"""A small Ray of their own for the actors' tests."""

import tempfile
from collections.abc import Iterator

import pytest
import ray


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="fx-", dir="/tmp") as folder:
        ray.init(
            address="local", num_cpus=2, include_dashboard=False, object_store_memory=200_000_000, _temp_dir=folder
        )
        yield
        ray.shutdown()
