"""fsspec's own tests of what a file system that is read must do, over files and over S3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.tests.abstract import AbstractFixtures, AbstractGetTests, AbstractOpenTests, AbstractPipeTests
from support.filesystems import ReadsThroughCache, close_file_systems

from ioaccel.testing.seaweed import SeaweedS3


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("cache")
    close_file_systems()


class Fixtures(AbstractFixtures):
    """Every answer is to be fresh (``max_age=0``): the tests change files under our feet."""

    protocol = "file"

    @pytest.fixture
    def options(self) -> dict[str, Any]:
        return {}

    @pytest.fixture
    def fs(self, options: dict[str, Any], cache_dir: Path) -> ReadsThroughCache:
        reading = fsspec.filesystem(
            "ioaccel",
            target_protocol=self.protocol,
            target_options=options,
            cache_dir=cache_dir,
            cache_size="64MiB",
            max_age=0,
        )
        return ReadsThroughCache(fsspec.filesystem(self.protocol, **options), reading)

    @pytest.fixture
    def fs_path(self, tmp_path: Path) -> str:
        return str(tmp_path / "data")


class OverFiles(Fixtures):
    @pytest.fixture
    def options(self) -> dict[str, Any]:
        return {"auto_mkdir": True}


class OverS3(Fixtures):
    protocol = "s3"

    @pytest.fixture
    def options(self, s3: SeaweedS3) -> dict[str, Any]:
        return {**s3.storage_options, "use_listings_cache": False}

    @pytest.fixture
    def fs_path(self, bucket: str) -> str:
        return bucket

    @pytest.fixture
    def fs_join(self) -> Any:
        return lambda *parts: "/".join(parts)

    @pytest.fixture
    def supports_empty_directories(self) -> bool:
        return False


class TestGetFromFiles(OverFiles, AbstractGetTests):
    pass


class TestOpenFiles(OverFiles, AbstractOpenTests):
    pass


class TestPipeToFiles(OverFiles, AbstractPipeTests):
    pass


# The tests of open and pipe go on to write exclusively, which s3fs does in its own way.
class TestGetFromS3(OverS3, AbstractGetTests):
    pass
