"""Manifests of odd shapes: whatever a signer wrote, the file gets credentials and never an error."""

import json
import sys
from types import SimpleNamespace
from typing import Any, Self

import pytest

from fxray.detect.credentials import Credentials, CredentialState, read_credentials

CREATED = {"softwareAgent": "Painter", "digitalSourceType": "http://iptc/trainedAlgorithmicMedia"}


class Reader:
    """Stands for c2pa-python's; what it reads is JSON itself."""

    def __init__(self, mime: str, file: Any, context: object) -> None:
        self._store = file.read().removesuffix(b" jumb c2pa")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def json(self) -> str:
        return self._store.decode()

    def get_validation_state(self) -> str:
        return "Valid"


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = SimpleNamespace(C2paError=RuntimeError, Context=SimpleNamespace(from_dict=dict), Reader=Reader)
    monkeypatch.setitem(sys.modules, "c2pa", stub)


def read(store: object) -> Credentials:
    return read_credentials(json.dumps(store).encode() + b" jumb c2pa", "JPEG")


def manifest(**parts: object) -> dict[str, object]:
    return {"active_manifest": "a", "manifests": {"a": parts}}


def actions(data: object, label: str = "c2pa.actions.v2") -> dict[str, object]:
    return manifest(assertions=[{"label": label, "data": data}])


@pytest.mark.parametrize(
    "store",
    [
        actions([1]),
        actions({"actions": None}),
        actions({"actions": ["x digitalSourceType"]}),
        actions({"actions": [1]}),
        actions({"actions": 1}),
        manifest(assertions=[1], signature_info=[1], claim_generator_info=1),
        manifest(assertions=1, claim_generator_info=[None, 1, [2]]),
        {"active_manifest": ["a"], "manifests": [1], "validation_status": [1]},
        {"validation_status": {"code": 1}},
        [],
        None,
    ],
)
def test_a_manifest_of_any_shape_gives_credentials(store: object) -> None:
    found = read(store)
    assert found.state is CredentialState.VALID
    assert found.source_types == found.agents == ()


@pytest.mark.parametrize("label", ["c2pa.actions", "c2pa.actions.v2", "c2pa.actions__1", "c2pa.actions.v2__3"])
def test_actions_of_the_standard_are_read(label: str) -> None:
    found = read(actions({"actions": [CREATED, 1]}, label))
    assert (found.source_types, found.agents) == (("trainedAlgorithmicMedia",), ("Painter",))


@pytest.mark.parametrize("label", ["c2pa.actionsfoo", "c2pa.actions.mine", None])
def test_a_signers_own_assertion_is_none_of_the_standards_actions(label: str) -> None:
    assert read(actions({"actions": [CREATED]}, label)).source_types == ()
