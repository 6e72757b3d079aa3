"""What a gateway that is replaced answers with."""

import json
from pathlib import Path

import pytest

from fxray.errors import ResourceError
from fxray.serve.chosen import ChosenPolicies
from fxray.serve.replica import Policy

ADAPTERS = {"default": "/runs/a", "strict": "/runs/s"}
SWAPPED = Policy("default", "/runs/b", 3, 99.5)


def test_a_gateway_that_is_replaced_goes_on_and_a_new_service_begins_anew(tmp_path: Path) -> None:
    file = tmp_path / "data" / "models.json"
    first = ChosenPolicies(file, "one", ADAPTERS)
    assert [(each.folder, each.version) for each in first.by_model.values()] == [("/runs/a", 0), ("/runs/s", 0)]
    first.choose(SWAPPED)
    # The very policy, so that no replica takes it for a newer one and loads it again.
    assert ChosenPolicies(file, "one", ADAPTERS).by_model["default"] == SWAPPED
    assert ChosenPolicies(file, "one", {"strict": "/runs/s"}).by_model.keys() == {"strict"}
    assert ChosenPolicies(file, "two", ADAPTERS).by_model["default"].folder == "/runs/a"


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"service": "one", "policies": [{"name": "x"}]})])
def test_a_damaged_file_is_one_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "models.json").write_text(content)
    with pytest.raises(ResourceError, match=r"models\.json: cannot be read"):
        ChosenPolicies(tmp_path / "models.json", "one", ADAPTERS)
