import subprocess
import sys

import pytest
from typer.testing import CliRunner

from fxray.cli import app
from fxray.cli.arguments import chosen_run
from fxray.errors import ConfigError, ResourceError
from fxray.launch import jobs


@pytest.fixture(autouse=True)
def settings_of_this_process_stay(monkeypatch):
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")


def submit(*words: str, config: str = "smoke"):
    result = CliRunner().invoke(app.app, ["submit", "-c", config, *words])
    return result.exit_code, result.exception


def test_a_relative_run_directory_is_refused_before_the_cluster_is_asked():
    _, error = submit("-d", "runs/a", "--address", "http://127.0.0.1:9")
    assert isinstance(error, ConfigError)
    assert "runs/a is relative, to a folder that is deleted with the job" in str(error)


def test_a_configuration_that_cannot_run_is_refused_before_the_cluster_is_asked():
    _, error = submit("-d", "/r", "--address", "http://127.0.0.1:9", "-s", "sft.batch_size=31")
    assert isinstance(error, ConfigError)
    assert "sft.batch_size is 31" in str(error)


def test_a_cluster_that_does_not_answer_is_named():
    _, error = submit("-d", "/r", "--address", "http://127.0.0.1:9")
    assert isinstance(error, ResourceError)
    assert str(error).startswith("http://127.0.0.1:9: no Ray dashboard answers")


def test_a_dot_in_the_name_of_a_jobs_configuration_begins_no_ending(monkeypatch):
    named = []
    monkeypatch.setattr(jobs, "connect", lambda address: None)
    monkeypatch.setattr(jobs, "cluster_nodes", lambda address: [])
    monkeypatch.setattr(jobs, "refuse_what_has_no_place", lambda *_: None)
    monkeypatch.setattr(jobs, "submit", lambda *_, name, **__: named.append(name))
    data = [word for split in ("train", "validation", "test") for word in ("-s", f"data.{split}=/data/{split}.parquet")]
    code, error = submit("-d", "/r", "--no-follow", *data, config="qwen2.5-vl-7b")
    assert code == 0, error
    assert named == ["qwen2.5-vl-7b"]


def test_a_job_whose_driver_has_no_node_is_not_handed_in(monkeypatch):
    """Ray lets it wait a quarter of an hour, without a word, and cannot stop it meanwhile."""
    monkeypatch.setattr(jobs, "connect", lambda address: None)
    monkeypatch.setattr(jobs, "cluster_nodes", lambda address: [{"CPU": 4}])
    code, error = submit("-d", "/r", "--no-follow", "--driver-on", "reward")
    assert code == 1
    assert isinstance(error, ResourceError)
    assert "the driver asks for a node with `reward` (--driver-on): there is none" in str(error)


def test_there_is_no_run_directory_by_default():
    assert submit()[0] == 2


def test_in_a_jobs_own_folder_a_run_directory_must_be_absolute(tmp_path, monkeypatch):
    inside = tmp_path / "working_dir_files" / "_ray_pkg_1"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    assert chosen_run("/shared/run", "tiny") == "/shared/run"
    assert chosen_run("s3://bucket/run", "tiny") == "s3://bucket/run"
    with pytest.raises(ConfigError, match="runs/tiny is relative"):
        chosen_run(None, "tiny")
    monkeypatch.chdir(tmp_path)
    assert chosen_run(None, "tiny") == "runs/tiny"
    assert chosen_run(None, "qwen2.5-vl-7b") == chosen_run(None, "configs/qwen2.5-vl-7b.yaml") == "runs/qwen2.5-vl-7b"


def test_a_cluster_without_jobs_is_told_so(monkeypatch):
    monkeypatch.setattr(jobs, "connect", lambda address: None)
    monkeypatch.setattr(jobs, "list_jobs", lambda client: [])
    shown = CliRunner().invoke(app.app, ["job", "list"])
    assert (shown.exit_code, shown.stdout) == (0, "")
    assert "none of fxray's jobs" in shown.stderr


@pytest.mark.parametrize("command", [["job", "list"], ["submit", "-c", "smoke", "-d", "/r"]], ids=" ".join)
def test_nothing_of_a_training_is_loaded_to_ask_a_cluster(command):
    """It would take four seconds of each command."""
    code = (
        "import sys\n"
        "from fxray.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    print([m for m in ('torch', 'transformers', 'scipy', 'fxray.model') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, timeout=120, check=False
    )
    assert "no Ray dashboard answers" in done.stderr
    assert done.stdout == "[]\n"
