"""The folder of this machine that a run in object storage is copied to: where it cannot be, that is one error."""

from pathlib import Path

import pytest

from fxray.errors import ResourceError
from fxray.remote import Mirror, cache_folder


def test_a_user_without_a_home_folder_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    with pytest.raises(ResourceError, match=r"no home folder(.|\n)*XDG_CACHE_HOME"):
        cache_folder("s3://bucket/run")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path.as_uri(), Path("/dev/null/fxray"))
    for copy in (mirror.pull, mirror.read):
        with pytest.raises(ResourceError, match="/dev/null/fxray: cannot be made"):
            copy()
