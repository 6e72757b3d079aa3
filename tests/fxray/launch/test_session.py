"""What is found out before a run has made anything."""

import pytest

from fxray.config.load import load_config
from fxray.errors import ConfigError
from fxray.events import ignore
from fxray.launch.session import open_session


def test_a_reward_function_that_cannot_be_loaded_ends_a_run_before_it_begins(tmp_path):
    config = load_config("tiny", ["reward.functions=[{path: 'no_such_module:f'}]"])
    with pytest.raises(ConfigError, match="no_such_module"), open_session(config, tmp_path / "run", ignore):
        pass
    assert not (tmp_path / "run").exists()
