"""The service whole: Ray Serve, a real engine with the tiny model, HTTP."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import torch
from fake_service import png

from fxray.checkpoints import ADAPTER_CONFIG_FILE
from fxray.engine.environment import is_cpu_build

pytestmark = [pytest.mark.long, pytest.mark.slow, pytest.mark.ray, pytest.mark.vllm]
PORT = 8791
START_DEADLINE_S = 280


def write_adapter(folder: Path, seed: int) -> Path:
    """An adapter of the tiny model with random weights."""
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2_5_VLForConditionalGeneration

    from fxray.model.folder import resolve_model_path

    torch.manual_seed(seed)
    base = Qwen2_5_VLForConditionalGeneration.from_pretrained(resolve_model_path("tiny"))
    model = get_peft_model(base, LoraConfig(r=8, lora_alpha=8, target_modules="all-linear", init_lora_weights=False))
    model.save_pretrained(folder)
    assert (folder / ADAPTER_CONFIG_FILE).is_file()
    return folder


def wait_until_ready(url: str, process: subprocess.Popen) -> None:
    end_s = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < end_s:
        if process.poll() is not None:
            raise AssertionError(f"the service ended with {process.returncode}")
        try:
            if httpx.get(f"{url}/readyz", timeout=30).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"the service was not ready within {START_DEADLINE_S} s")


def ask(client: httpx.Client, part: tuple, model: str | None) -> dict:
    """What is found in one image."""
    return client.post("/v1/detect", files=[part], params={"model": model} if model else None).json()["detections"][0]


@pytest.mark.timeout(500)
def test_the_service_answers_streams_multiplexes_swaps_and_ends_what_has_begun(tmp_path):
    adapter = write_adapter(tmp_path / "adapter", seed=0)
    other = write_adapter(tmp_path / "other", seed=2)
    command = [
        sys.executable, "-m", "fxray", "serve", "--config", "tiny", "--adapter", str(adapter), "--port", str(PORT),
        "--also", f"other={other}", "--data-dir", str(tmp_path / "data"),
        "-s", "evaluate.max_new_tokens=24", "-s", "rollout.max_num_seqs=8",
    ]  # fmt: skip
    vllms_cache = tmp_path / "cache"
    environment = os.environ | {"RAY_worker_niceness": "0", "VLLM_CACHE_ROOT": str(vllms_cache)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    url = f"http://127.0.0.1:{PORT}"
    try:
        wait_until_ready(url, process)
        with httpx.Client(base_url=url, timeout=120) as client:
            parts = [("images", (f"{n}.png", png(64 + n, 48, seed=n), "image/png")) for n in range(6)]
            first = client.post("/v1/detect", files=parts).json()["detections"]
            assert [found["width_px"] for found in first] == list(range(64, 70))
            assert {found["model"]["policy_version"] for found in first} == {0}
            assert not is_cpu_build() or not list(vllms_cache.rglob("*.json"))  # no process looked at the class alone

            accept = {"accept": "text/event-stream"}
            events = client.post("/v1/detect", files=parts[:1], headers=accept).text.strip().split("\n\n")
            told = json.loads(events[-2].partition("data: ")[2])["detection"]
            assert told["answer"] == first[0]["answer"]  # greedy, alone or beside others

            names = {"default": None, "other": "other"}
            alone = {name: [ask(client, part, model) for part in parts] for name, model in names.items()}
            assert [found["answer"] for found in alone["default"]] == [found["answer"] for found in first]
            assert all(a["answer"] != b["answer"] for a, b in zip(*alone.values(), strict=True))
            with ThreadPoolExecutor(2 * len(parts)) as pool:  # both in one batch of the engine, over the same images
                asked = {
                    name: [pool.submit(ask, client, part, model) for part in parts] for name, model in names.items()
                }
                beside = {name: [each.result() for each in answers] for name, answers in asked.items()}
            for name, answers in beside.items():
                assert {found["model"]["name"] for found in answers} == {name}
                assert [found["answer"] for found in answers] == [found["answer"] for found in alone[name]]
                weights = [[found["raw_probability"] for found in each[name]] for each in (alone, beside)]
                assert weights[1] == pytest.approx(weights[0], abs=1e-4, nan_ok=True)

            write_adapter(adapter, seed=1)
            process.send_signal(signal.SIGHUP)
            while (model := client.get("/v1/models").json()["models"][0])["policy_version"] == 0:
                time.sleep(0.2)
            assert ask(client, parts[0], "other")["answer"] == alone["other"][0]["answer"]
            second = client.post("/v1/detect", files=parts).json()["detections"]
            assert {found["model"]["adapter_sha256"] for found in second} == {model["adapter_sha256"]}
            assert model["adapter_sha256"] != first[0]["model"]["adapter_sha256"]
            assert [a["answer"] for a in first] != [b["answer"] for b in second]

            family = psutil.Process(process.pid).children(recursive=True)
            sockets = [each for part in family for each in part.net_connections("tcp") if each.status == "LISTEN"]
            assert {each.laddr.ip for each in sockets} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
            assert PORT in {each.laddr.port for each in sockets}
            (gateway,) = [each for each in family if "ServeReplica:fxray:gateway" in " ".join(each.cmdline()[:1])]
            gateway.kill()
            gateway.wait(30)
            wait_until_ready(url, process)
            assert client.get("/v1/models").json()["models"][0] == model  # the adapter that was swapped in

            batch = client.post("/v1/batches", files=parts).json()["id"]
            while client.get(f"/v1/batches/{batch}").json()["state"] != "done":
                time.sleep(0.2)
            lines = client.get(f"/v1/batches/{batch}/results").text.splitlines()
            assert [json.loads(line)["answer"] for line in lines] == [found["answer"] for found in second]

            family = psutil.Process(process.pid).children(recursive=True)
            (core,) = [part for part in family if part.is_running() and part.name().startswith("VLLM::EngineCor")]
            core.kill()
            died_s = time.monotonic()
            while (code := client.post("/v1/detect", files=parts[:1]).status_code) != 200:
                assert code == 503
                time.sleep(0.5)
            print(f"answers again {time.monotonic() - died_s:.0f} s after its engine died")
            assert ask(client, parts[0], None)["answer"] == second[0]["answer"]
        os.killpg(process.pid, signal.SIGTERM)  # as `timeout` does
        assert process.wait(60) == 0
        assert np.isfinite([found["seconds"] for found in first]).all()
    finally:
        process.kill()
