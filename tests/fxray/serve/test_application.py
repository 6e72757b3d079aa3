import hashlib
import json
import pickle
from pathlib import Path

import pytest
import yaml

from fxray.config.limits import check
from fxray.config.load import load_config
from fxray.errors import ConfigError
from fxray.serve.application import Arguments, application, build, resolve, service_settings
from fxray.serve.keys import ENVIRONMENT, KeyRing, add_key

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"


def deployed() -> list[dict]:
    service = yaml.safe_load((DEPLOY / "rayservice.yaml").read_text())
    return [yaml.safe_load((DEPLOY / "serve.yaml").read_text()), yaml.safe_load(service["spec"]["serveConfigV2"])]


@pytest.mark.parametrize("document", deployed())
def test_ray_serve_reads_the_files_and_fxray_their_arguments(document):
    from ray.serve.schema import ServeDeploySchema

    application = ServeDeploySchema.model_validate(document).applications[0]
    arguments = Arguments.model_validate(application.args)
    config = load_config("tiny", arguments.overrides)
    assert config.serve.max_replicas > 1
    assert application.import_path == f"{resolve.__module__}:application"
    assert document["http_options"]["host"] == config.serve.host
    assert config.serve.keys is not None


def test_a_worker_of_the_service_offers_what_its_replicas_ask_for():
    workers = yaml.safe_load((DEPLOY / "rayservice.yaml").read_text())["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert json.loads(json.loads(workers[0]["rayStartParams"]["resources"])) == {"rollout": 1}


def test_nothing_is_served_beyond_loopback_without_keys():
    with pytest.raises(ConfigError, match="can be reached from other machines"):
        build(load_config("tiny", ["serve.host=0.0.0.0"]), None)


def test_a_cluster_serves_nothing_without_keys_wherever_it_says_that_it_listens(monkeypatch):
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    with pytest.raises(ConfigError, match="no API keys, and whoever reaches the cluster's proxies"):
        application(Arguments(config="tiny"))
    for host in ("127.0.0.1", "0.0.0.0"):
        config = load_config("tiny", [f"serve.host={host}", "serve.allow_anonymous=true"])
        assert not service_settings(config, is_deployed=True).needs_keys
    assert not service_settings(load_config("tiny")).needs_keys
    with pytest.raises(ConfigError, match="no API keys"):
        service_settings(load_config("tiny", ["serve.allow_anonymous=false"]))


def test_keys_are_read_where_the_command_runs_and_travel_as_hashes(monkeypatch, tmp_path):
    monkeypatch.setenv(ENVIRONMENT, "fxray_secret")
    key = add_key(tmp_path / "keys.txt", "ana")
    settings = service_settings(load_config("tiny", [f"serve.keys={tmp_path / 'keys.txt'}"]), is_deployed=True)
    monkeypatch.delenv(ENVIRONMENT)
    (tmp_path / "keys.txt").unlink()
    sent = pickle.dumps(settings)
    assert b"fxray_secret" not in sent
    ring = KeyRing(pickle.loads(sent).keys)
    digest = hashlib.sha256(b"fxray_secret").hexdigest()
    assert (ring.owner("fxray_secret"), ring.owner(key), ring.owner("fxray_other")) == (
        f"environment-{digest[:8]}",
        "ana",
        None,
    )
    assert settings.needs_keys


def test_run_or_configuration_are_told_apart():
    for arguments in (Arguments(), Arguments(run_dir="runs/demo", config="tiny")):
        with pytest.raises(ConfigError, match="either"):
            resolve(arguments)
    config, adapter = resolve(Arguments(config="tiny", overrides=("serve.max_waiting=7",)))
    assert adapter is None
    settings = service_settings(config)
    assert settings.max_waiting == 7
    assert settings.max_image_bytes == 32 * 2**20
    assert "127.0.0.1" in settings.allowed_hosts


def test_a_run_in_object_storage_is_served_from_a_copy_but_not_to_a_cluster(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "config.yaml").write_text("extends: tiny\nserve: {max_waiting: 9}\n")
    monkeypatch.setattr("fxray.serve.application.local_copy", lambda run_dir: {"s3://bucket/run": tmp_path}[run_dir])
    arguments = Arguments(run_dir="s3://bucket/run", adapter=tmp_path / "adapter")
    config, adapter = resolve(arguments)
    assert (config.serve.max_waiting, adapter) == (9, tmp_path / "adapter")
    on_cluster = arguments.model_copy(update={"overrides": ("ray.address=10.0.0.1:6379",)})
    for wrong, is_deployed in ((arguments, True), (on_cluster, False)):
        with pytest.raises(ConfigError, match="do not see"):
            resolve(wrong, is_deployed=is_deployed)


def test_bodies_together_may_be_larger_than_one_and_never_smaller():
    small = ["serve.max_image_mib=5", "serve.max_request_mib=10"]
    assert service_settings(load_config("tiny", small)).max_upload_bytes == 80 * 2**20
    assert service_settings(load_config("tiny", [*small, "serve.max_upload_mib=30"])).max_upload_bytes == 30 * 2**20
    (problem,) = check(load_config("tiny", [*small, "serve.max_upload_mib=9"]))
    assert problem.field == "serve.max_upload_mib"
