"""What a mirror takes from the copy of a run, and what it never does."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from fxray import remote
from fxray.errors import ResourceError
from fxray.events import ignore
from fxray.remote import Mirror


@pytest.mark.parametrize("is_written_on", [False, True])
def test_a_folder_that_is_emptied_while_a_driver_works_in_it_takes_nothing_from_the_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_written_on: bool
) -> None:
    monkeypatch.setattr(remote, "SETTLE_S", 0.0)
    storage, folder = tmp_path / "storage", tmp_path / "cache" / "run"
    for each in (storage, folder):
        each.mkdir(parents=True)

    def work() -> None:
        mirror = Mirror(f"file://{storage}", folder)
        with mirror.held(ignore):
            (folder / "config.yaml").write_text("seed: 0")
            (folder / "weights").write_text("of 40 hours")
            (folder / "let-go").write_text("as a checkpoint is")
            mirror.push()
            (folder / "let-go").unlink()
            mirror.push()
            shutil.rmtree(folder)  # as a cleaner of caches does
            if is_written_on:
                folder.mkdir()
                (folder / "status.json").write_text("{}")

    with pytest.raises(ResourceError, match=r"config.yaml is gone, so .* emptied .*\n.*goes on from file://"):
        work()
    assert {file.name for file in storage.iterdir()} >= {"config.yaml", "weights"}
    assert not (storage / "let-go").exists()
    with Mirror(f"file://{storage}", folder).held(ignore):
        assert (folder / "weights").read_text() == "of 40 hours"


def test_what_could_not_be_deleted_over_there_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "SETTLE_S", 0.0)
    storage, folder = tmp_path / "storage", tmp_path / "cache" / "run"
    for each in (storage, folder):
        each.mkdir(parents=True)
    mirror = Mirror(f"file://{storage}", folder)
    with mirror.held(ignore):
        for name in ("config.yaml", "step-20", "step-40"):
            (folder / name).write_text(name)
        mirror.push()
        for name in ("step-20", "step-40"):
            (folder / name).unlink()
        real, mirror._storage = mirror._storage, Failing(mirror._storage)
        with pytest.raises(ResourceError, match="no route to host"):
            mirror.push()
        mirror._storage = real
        (storage / "step-20").unlink(missing_ok=True)  # the answer was lost, not the request
        mirror.push()
        assert {file.name for file in storage.iterdir() if not file.name.startswith(".")} == {"config.yaml"}


def test_a_copy_that_is_gone_takes_nothing_from_the_folder_here(tmp_path: Path) -> None:
    storage, folder = tmp_path / "storage", tmp_path / "cache" / "run"
    for each in (storage, folder):
        each.mkdir(parents=True)
    mirror = Mirror(f"file://{storage}", folder)
    with mirror.held(ignore):
        (folder / "weights").write_text("of 40 hours")
        mirror.push()
    shutil.rmtree(storage)
    storage.mkdir()
    with (
        pytest.raises(ResourceError, match="the copy of the run is gone"),
        Mirror(f"file://{storage}", folder).held(ignore),
    ):
        pass
    assert (folder / "weights").read_text() == "of 40 hours"


class Failing:
    """A storage that lets nothing be deleted but what a lease needs."""

    def __init__(self, storage: Any) -> None:
        self._storage = storage

    def delete_file(self, path: str) -> None:
        if "step-" in path:
            raise OSError("no route to host")
        self._storage.delete_file(path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)
