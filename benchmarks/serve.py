"""The service beside plain vLLM: images/s, and latency at several numbers of clients.

    python benchmarks/serve.py --config tiny --adapter runs/demo/sft/adapter

The same images, prompt, adapter and greedy sampling: first `vllm.LLM.generate` over all images at once and over as many
at once as there are clients, then `fxray serve` with one image per request. Each engine has the machine to itself, and
no answer comes from a cache. Rates are medians of as many rounds for both, after one to warm up.
"""

import argparse
import http.client
import io
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
from PIL import Image

from fxray.data.synth.write import draw_split
from fxray.detect.load import open_adapter
from fxray.serve.application import Arguments, replica_spec, resolve

PORT = 8793
START_DEADLINE_S = 900.0
NUM_ROUNDS = 3


def make_images(number: int) -> list[bytes]:
    """Encoded images of the synthetic data."""
    rows = draw_split("test", number, size_px=168, seed=0, progress=lambda *_: None)
    return [row.image for row in rows if isinstance(row.image, bytes)]


def plain(arguments: argparse.Namespace, contents: Sequence[bytes], num_at_once: int) -> float:
    """Images/s of `LLM.generate`, the median of some rounds after one to warm up; decoding counts."""
    from fxray.engine.engine import Engine, Question
    from fxray.grpo.types import AdapterBlob, SamplingSettings

    config, adapter = resolve(
        Arguments(config=arguments.config, adapter=arguments.adapter, overrides=tuple(arguments.set))
    )
    spec = replica_spec(config)
    assert adapter is not None, "the benchmark serves a base model with an adapter"
    blob = open_adapter(adapter)
    assert isinstance(blob, AdapterBlob)
    rank = int(str(blob.peft_config["r"]))
    engine = Engine(replace(spec.engine, lora_rank=rank, max_num_seqs=num_at_once))
    engine.load_policy(blob)
    sampling = SamplingSettings(1, 0.0, spec.max_new_tokens)
    rates = []
    for _ in range(NUM_ROUNDS + 1):
        start_s = time.monotonic()
        images = [Image.open(io.BytesIO(content)).convert("RGB") for content in contents]
        engine.generate([Question(spec.prompt, image, 0, "image") for image in images], sampling)
        rates.append(len(contents) / (time.monotonic() - start_s))
    return statistics.median(rates[1:])


@contextmanager
def service(arguments: argparse.Namespace, folder: str) -> Iterator[None]:
    """`fxray serve` on a port of its own."""
    command = [
        sys.executable, "-m", "fxray", "serve", "--config", arguments.config, "--adapter", str(arguments.adapter),
        "--port", str(PORT), "--data-dir", folder, *(f"--set={change}" for change in arguments.set),
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | {"RAY_worker_niceness": "0"})
    try:
        end_s = time.monotonic() + START_DEADLINE_S
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{PORT}/readyz", timeout=30).status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.5)
            if process.poll() is not None or time.monotonic() > end_s:
                raise SystemExit("the service did not come up")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(120)


def load(contents: Sequence[bytes], num_clients: int) -> tuple[float, list[float]]:
    """Images/s and the seconds of each request, with so many clients that send one image after the other."""
    waiting = iter(contents)
    lock, seconds = threading.Lock(), []
    head = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'

    def run() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=300)
        while True:
            with lock:
                content = next(waiting, None)
            if content is None:
                return
            start_s = time.monotonic()
            body = head + content + b"\r\n--x--\r\n"
            connection.request("POST", "/v1/detect", body, {"Content-Type": "multipart/form-data; boundary=x"})
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise RuntimeError(text)
            seconds.append(time.monotonic() - start_s)

    clients = [threading.Thread(target=run) for _ in range(num_clients)]
    start_s = time.monotonic()
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    if len(seconds) != len(contents):
        raise SystemExit(f"{len(seconds)} of {len(contents)} requests were answered")
    return len(contents) / (time.monotonic() - start_s), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="tiny")
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--set", action="append", default=[], help="override a field, for plain vLLM too")
    parser.add_argument("--only-plain", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    contents = make_images(arguments.images)
    if arguments.only_plain:
        print(json.dumps(plain(arguments, contents, arguments.only_plain)))
        return
    rates = {}
    for num_at_once in (128, *(n for n in arguments.clients if n > 1)):
        command = [sys.executable, __file__, *sys.argv[1:], "--only-plain", str(num_at_once)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        rates[num_at_once] = json.loads(done.stdout.splitlines()[-1])
        print(f"LLM.generate, at most {num_at_once:3} at once: {rates[num_at_once]:6.1f} images/s", flush=True)
    with tempfile.TemporaryDirectory() as folder, service(arguments, folder):
        load(contents[:32], 16)
        for num_clients in arguments.clients:
            rounds = [load(contents, num_clients) for _ in range(NUM_ROUNDS)]
            rate = statistics.median(rate for rate, _ in rounds)
            seconds = [second for _, seconds in rounds for second in seconds]
            cuts = statistics.quantiles(seconds, n=100)
            print(
                f"fxray serve, {num_clients:3} clients: {rate:6.1f} images/s ({rate / rates[128]:.2f} of plain at 128"
                + (f", {rate / rates[num_clients]:.2f} at {num_clients}" if num_clients in rates else "")
                + f"), p50 {cuts[49]:.3f} s, p95 {cuts[94]:.3f} s, p99 {cuts[98]:.3f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
