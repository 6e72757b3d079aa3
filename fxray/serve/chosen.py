"""Which adapters a service was told to answer with, on disk, so that a gateway that is replaced goes on with them."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from fxray.errors import ResourceError
from fxray.files import write_atomically
from fxray.serve.replica import Policy


class ChosenPolicies:
    """The policy of each model.

    Args:
        file: Where they are kept.
        service_id: Of this start of the service: what an earlier one was told counts no more.
        adapters: Folder of the adapter that each model starts with, by the model's name; "" for none.
    """

    def __init__(self, file: Path, service_id: str, adapters: Mapping[str, str]) -> None:
        self._file, self._service_id = file, service_id
        started = {name: Policy(name, folder, 0, time.time()) for name, folder in adapters.items()}
        self.by_model = started | {name: policy for name, policy in self._kept().items() if name in started}

    def choose(self, policy: Policy) -> None:
        """Lets a policy answer for its model from now on.

        Raises:
            ResourceError: That cannot be written; it holds until the gateway is replaced.
        """
        self.by_model[policy.name] = policy
        policies = [asdict(each) for each in self.by_model.values()]
        write_atomically(self._file, json.dumps({"service": self._service_id, "policies": policies}))

    def _kept(self) -> dict[str, Policy]:
        try:
            document = json.loads(self._file.read_text("utf-8"))
            if document["service"] != self._service_id:
                return {}
            return {each["name"]: Policy(**each) for each in document["policies"]}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ResourceError(
                f"cannot be read: {error}", where=str(self._file), remedy="delete it, and swap the adapters again"
            ) from error
