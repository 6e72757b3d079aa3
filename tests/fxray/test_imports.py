"""Large imports without garbage collection."""

import gc

import pytest

from fxray.imports import without_collection


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
