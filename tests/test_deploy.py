"""Files that make clusters: Ray's own reading of them, and what fxray asks of the nodes that they describe.

KubeRay's schema is not among the packages of this project. The fields that it requires and knows are listed here by
hand, from KubeRay's published types; the rest is read by the code with which Ray's autoscaler reads a RayCluster.
"""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from actors.placement import NODE_TYPES
from fxray import __version__
from fxray.config.load import load_config
from fxray.launch.demand import missing

TOP = Path(__file__).resolve().parents[1]
DEPLOY = TOP / "deploy"
ON_NODE_TYPES = "ray.use_node_types=true"

REQUIRED = {
    "RayCluster": {"headGroupSpec"},
    "RayJob": {"entrypoint"},
    "RayService": {"serveConfigV2", "rayClusterConfig"},
    "headGroupSpec": {"rayStartParams", "template"},
    "workerGroupSpecs": {"groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"},
}
KNOWN = {
    "RayCluster": REQUIRED["RayCluster"]
    | {"workerGroupSpecs", "rayVersion", "enableInTreeAutoscaling", "autoscalerOptions"},
    "RayJob": REQUIRED["RayJob"]
    | {"clusterSelector", "metadata", "submissionMode", "runtimeEnvYAML", "rayClusterSpec", "backoffLimit"},
    "RayService": REQUIRED["RayService"] | {"upgradeStrategy", "serveService", "excludeHeadPodFromServeSvc"},
    "headGroupSpec": REQUIRED["headGroupSpec"] | {"serviceType"},
    "workerGroupSpecs": REQUIRED["workerGroupSpecs"] | {"replicas", "numOfHosts", "scaleStrategy"},
}

HEADS = {"RayCluster", "RayService"}


def documents(name: str) -> dict[str, dict]:
    return {document["kind"]: document for document in yaml.safe_load_all((DEPLOY / name).read_text())}


def autoscaling_config() -> dict:
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    return _derive_autoscaling_config_from_ray_cr(documents("raycluster.yaml")["RayCluster"])


def cloud_config() -> dict:
    """cluster.yaml as its last comment says to change it."""
    text = (TOP / "cluster.yaml").read_text()
    config = yaml.safe_load(text) | yaml.safe_load("\n".join(re.findall(r"^#\| (.*)$", text, re.MULTILINE)))
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        config[commands] = [re.sub(r" --resources='.*'", "", command) for command in config[commands]]
    return config


def nodes_of(types: dict[str, dict], head: str) -> list[dict[str, float]]:
    """Every node that may ever be there."""
    return [
        node["resources"]
        for name, node in types.items()
        for _ in range(1 if name == head else node.get("max_workers", 0))
    ]


def check(what: str, spec: dict) -> None:
    assert REQUIRED[what] <= set(spec), what
    assert set(spec) <= KNOWN[what], what


def test_kuberay_objects_have_the_fields_that_they_need():
    for name in ("raycluster.yaml", "rayjob.yaml"):
        for kind, document in documents(name).items():
            assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", document["metadata"]["name"])
            if kind in ("RayCluster", "RayJob"):
                assert document["apiVersion"] == "ray.io/v1"
                check(kind, document["spec"])
    spec = documents("raycluster.yaml")["RayCluster"]["spec"]
    check("headGroupSpec", spec["headGroupSpec"])
    for group in spec["workerGroupSpecs"]:
        check("workerGroupSpecs", group)
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_the_service_and_the_training_cluster_have_names_of_their_own_and_so_services_of_their_own():
    """KubeRay calls the service of a head `NAME-head-svc`, a RayCluster's and a RayService's alike."""
    objects = [document for path in DEPLOY.glob("*.yaml") for document in yaml.safe_load_all(path.read_text())]
    names = {each["kind"]: each["metadata"]["name"] for each in objects if each.get("kind") in HEADS}
    assert set(names) == HEADS
    assert len(set(names.values())) == len(HEADS)
    for kind, file, service in (
        ("RayCluster", "raycluster.yaml", "head-svc"),
        ("RayService", "rayservice.yaml", "serve-svc"),
    ):
        assert f"port-forward service/{names[kind]}-{service} " in (DEPLOY / file).read_text()


def test_no_second_service_is_started_beside_one_that_holds_their_folder():
    """KubeRay knows the field from 1.3 on; an older one would drop it, and start the second service."""
    spec = documents("rayservice.yaml")["RayService"]["spec"]
    check("RayService", spec)
    assert spec["upgradeStrategy"] == {"type": "None"}
    assert "(1.3 or newer)" in (DEPLOY / "rayservice.yaml").read_text()


def pods() -> list[dict]:
    """The pods of every group of nodes, training's and the service's."""
    service = documents("rayservice.yaml")["RayService"]["spec"]["rayClusterConfig"]
    clusters = (documents("raycluster.yaml")["RayCluster"]["spec"], service)
    groups = [group for each in clusters for group in (each["headGroupSpec"], *each["workerGroupSpecs"])]
    return [group["template"]["spec"] for group in groups]


@pytest.mark.parametrize("pod", pods())
def test_rays_object_store_lies_in_the_shared_memory_of_every_pod(pod, monkeypatch, tmp_path):
    from ray._private.services import determine_plasma_store_config
    from ray._private.utils import resolve_object_store_memory

    (container,) = pod["containers"]
    (volume,) = [volume["emptyDir"] for volume in pod["volumes"] if volume["name"] == "shm"]
    assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
    memory, shared = (
        int(text.removesuffix("Gi")) << 30 for text in (container["resources"]["limits"]["memory"], volume["sizeLimit"])
    )
    monkeypatch.setattr("ray._private.utils.get_shared_memory_bytes", lambda: min(memory, shared))
    monkeypatch.setattr("ray._common.utils.get_system_memory", lambda: memory)
    store = determine_plasma_store_config(resolve_object_store_memory(memory), str(tmp_path))
    assert (store[0], store[2]) == ("/dev/shm", int(memory * 0.3))


@pytest.mark.parametrize("pod", pods())
def test_every_pod_may_write_on_the_claim_as_the_user_of_the_image(pod):
    (user,) = re.findall(r"useradd .*--uid (\d+)", (DEPLOY / "Dockerfile").read_text())
    assert pod["securityContext"] == {"fsGroup": int(user), "fsGroupChangePolicy": "OnRootMismatch"}


def test_rays_autoscaler_reads_a_pool_of_rollout_nodes_that_starts_at_none():
    types = autoscaling_config()["available_node_types"]
    assert (types["rollout"]["min_workers"], types["rollout"]["max_workers"]) == (0, 8)
    assert types["rollout"]["resources"]["GPU"] == 1
    assert types["headgroup"]["resources"]["CPU"] == 0


def test_the_job_runs_on_the_cluster_beside_it_with_options_that_exist():
    cluster, job = documents("raycluster.yaml")["RayCluster"], documents("rayjob.yaml")["RayJob"]["spec"]
    assert job["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}
    words = job["entrypoint"].split()
    assert words[:4] == ["python", "-m", "fxray", "train"]
    overrides = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    assert load_config(words[words.index("--config") + 1], overrides).ray.use_node_types
    assert job["metadata"]["run_dir"] == words[words.index("--run-dir") + 1]


def test_images_and_versions_are_those_of_this_checkout():
    text = (DEPLOY / "raycluster.yaml").read_text()
    assert set(re.findall(r"fxray:([\d.]+)$", text, re.MULTILINE)) == {__version__}
    (ray_version,) = re.findall(r"^ray==([\d.]+)$", (TOP / "constraints" / "cpu.txt").read_text(), re.MULTILINE)
    assert documents("raycluster.yaml")["RayCluster"]["spec"]["rayVersion"] == ray_version
    for file in (TOP / "cluster.yaml", DEPLOY / "Dockerfile"):
        (command,) = re.findall(r"\$\((grep .*)\)", file.read_text().replace('"$HOME/fxray/', str(TOP) + '/"'))
        found = subprocess.run(["sh", "-c", command], cwd=TOP, capture_output=True, text=True, check=True).stdout
        assert found == f"ray=={ray_version}\n"


def test_the_cloud_part_of_the_cluster_file_is_one_that_ray_accepts():
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(cloud_config())
    validate_config(config)
    types = config["available_node_types"]
    assert config["max_workers"] == sum(node["max_workers"] for name, node in types.items() if name != "head")
    assert types["rollout"]["min_workers"] == 0
    assert types["rollout"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


@pytest.mark.parametrize("source", [cloud_config, autoscaling_config])
def test_each_placed_role_has_a_node_type_that_offers_its_resource(source):
    config = source()
    types = config["available_node_types"]
    for role in NODE_TYPES:
        assert types[role]["resources"][role] == 1
        assert [name for name, node in types.items() if role in node["resources"]] == [role]
    nodes = nodes_of(types, config["head_node_type"])
    for name in ("qwen2.5-vl-3b", "qwen2.5-vl-7b"):
        overrides = [ON_NODE_TYPES, "data.train=t", "data.validation=v", "data.test=e"]
        separate = ["rollout.gpus_per_worker=1", "learner.gpus_per_rank=1", "rollout.sleep=false"]
        assert missing(load_config(name, overrides + separate), nodes) == []


@pytest.mark.parametrize("kind", ["head", "worker"])
def test_machines_of_ones_own_offer_every_role(kind):
    start = yaml.safe_load((TOP / "cluster.yaml").read_text())[f"{kind}_start_ray_commands"][-1]
    (offered,) = re.findall(r"--resources='(.*?)'", start)
    assert json.loads(offered) == dict.fromkeys(NODE_TYPES, 1)


def test_no_cluster_tells_rays_makers_how_it_is_used(monkeypatch):
    from ray._common.usage.usage_lib import usage_stats_enabled
    from ray.scripts.scripts import start

    for name, value in re.findall(r"(RAY_\w+)=(\S+)", (DEPLOY / "Dockerfile").read_text()):
        monkeypatch.setenv(name, value)
    assert not usage_stats_enabled()
    for config in (yaml.safe_load((TOP / "cluster.yaml").read_text()), cloud_config()):
        words = shlex.split(config["head_start_ray_commands"][-1].partition("&& ray start ")[2])
        assert start.make_context("start", words, resilient_parsing=True).params["disable_usage_stats"]


def test_the_image_takes_what_the_package_is_built_from():
    left_out = set((DEPLOY / "Dockerfile.dockerignore").read_text().split())
    assert not left_out & {"fxray", "actors", "rewards", "configs", "constraints", "README.md", "LICENSE"}
    assert "--constraint constraints/cpu.txt uv" in (DEPLOY / "Dockerfile").read_text()


def test_the_image_brings_the_library_that_vllms_cpu_kernels_load():
    (packages,) = re.findall(r"apt-get install (.*?) \\\n", (DEPLOY / "Dockerfile").read_text())
    assert "libnuma1" in packages.split()
