"""Large imports without garbage collection, and without packages that are not needed."""

import gc
import importlib
import sys
from importlib.util import find_spec

import pytest

from fxray.large_imports import without_collection, without_packages


def test_collection_rests_in_the_block_alone_and_also_where_an_import_fails():
    found = []

    def fail():
        with without_collection():
            found.append(gc.isenabled())
            raise ImportError("no such package")

    with pytest.raises(ImportError, match="no such"):
        fail()
    assert (found, gc.isenabled()) == ([False], True)


def test_what_was_frozen_in_the_block_is_collected_after_it():
    class Loop:
        def __init__(self):
            self.me = self

    with without_collection():
        for _ in range(3):
            Loop()
        gc.freeze()
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0
    assert gc.collect() >= 3


def test_who_switched_collection_off_finds_it_off():
    gc.disable()
    try:
        with without_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_package_passes_for_missing_in_the_block_alone(tmp_path, monkeypatch):
    (tmp_path / "fxray_wanted.py").write_text("")
    (tmp_path / "fxray_there.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    there = importlib.import_module("fxray_there")

    with without_packages("fxray_wanted", "fxray_there"):
        assert find_spec("fxray_wanted") is None
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("fxray_wanted")
        assert importlib.import_module("fxray_there") is there
    assert importlib.import_module("fxray_wanted")
    assert importlib.import_module("fxray_there") is there
    del sys.modules["fxray_wanted"], sys.modules["fxray_there"]
