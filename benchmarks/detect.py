"""How fast `fxray detect` is: `python benchmarks/detect.py --run-dir runs/demo` (500 images).

Four ways to ask the same adapter about the same images, with the same prompt, greedy, at most as many tokens:
    plain    vLLM's LLM.generate on images that are decoded already, all of them in one call
    read     the same, and before it the files are read and decoded one after the other, as a script of one's own would
    detect   what the command does: files are read, hashed, decoded and searched for their origin by threads, streamed
             through the engine, and turned into findings; `--thumbnails` makes those too, as `--out` does
    hf       transformers' generate with PEFT on some of the images, one at a time, in a process of its own

Plain, read and detect take turns in one process, each with the engine's caches emptied; ratios within a run count, not
its seconds.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fxray.data.dataset import Dataset
from fxray.data.images import decode_image
from fxray.detect.detector import Detector
from fxray.detect.finding import Finding
from fxray.detect.offline import detect_files
from fxray.detect.reading import Wanted
from fxray.engine.engine import Question


def main() -> None:
    arguments = parse_arguments()
    if arguments.only_hf:
        time_hf(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(arguments, Path(folder))
        detector = Detector.load(arguments.run_dir)
        questions = read_questions(detector, files)
        wanted = Wanted(thumbnail=arguments.thumbnails)
        list(detect_files(detector, files[:64], wanted))
        time_plain(detector, questions[:64])
        seconds: dict[str, list[float]] = {"plain": [], "read": [], "detect": []}
        for _ in range(arguments.rounds):
            plain_s, plain = time_plain(detector, questions)
            start_s = time.monotonic()
            time_plain(detector, read_questions(detector, files))
            read_s = time.monotonic() - start_s
            forget(detector)
            start_s = time.monotonic()
            found = {finding.file: finding for finding in detect_files(detector, files, wanted)}
            detect_s = time.monotonic() - start_s
            same = sum(answer_of(found[file]) == text for file, text in zip(files, plain, strict=True))
            for name, value in (("plain", plain_s), ("read", read_s), ("detect", detect_s)):
                seconds[name].append(value)
            print(f"plain {plain_s:.2f} s, read {read_s:.2f} s, detect {detect_s:.2f} s, {same} answers equal")
    for name, values in seconds.items():
        print(f"{name:7} median {len(files) / statistics.median(values):6.2f} images/s")
    for name in ("plain", "read"):
        ratios = [other / ours for other, ours in zip(seconds[name], seconds["detect"], strict=True)]
        print(f"detect / {name}: median {statistics.median(ratios):.3f} of {len(ratios)} rounds")
    given = [*sys.argv[1:], "--only-hf"]
    subprocess.run([sys.executable, __file__, *given], check=True)


def read_questions(detector: Detector, files: list[str]) -> list[Question]:
    return [Question(detector.prompt, decode_image(Path(f).read_bytes(), f), 0, f) for f in files]


def forget(detector: Detector) -> None:
    """Else an image that was asked about before costs vLLM less."""
    engine: Any = detector.source
    engine._empty_caches()


def answer_of(finding: Finding) -> str | None:
    return finding.detection.answer if finding.detection else None


def time_plain(detector: Detector, questions: list[Question]) -> tuple[float, list[str]]:
    """Seconds of vLLM alone, and the answers."""
    engine: Any = detector.source
    forget(detector)
    prompts = [{"prompt": q.prompt, "multi_modal_data": {"image": q.image}} for q in questions]
    params = [engine._sampling_params(question, detector._sampling) for question in questions]
    start_s = time.monotonic()
    outputs = engine._llm.generate(prompts, params, use_tqdm=False, lora_request=engine._lora_request)
    seconds = time.monotonic() - start_s
    decode = engine._tokenizer.decode
    return seconds, [
        decode(o.outputs[0].token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) for o in outputs
    ]


def time_hf(arguments: argparse.Namespace) -> None:
    """Prints the rate of transformers' generate."""
    import peft
    import torch

    from fxray.config.load import load_config
    from fxray.detect.load import describe_detector, latest_adapter
    from fxray.model.folder import resolve_model_path
    from fxray.model.images import count_image_tokens, load_image_processor, preprocess
    from fxray.model.load import load_model
    from fxray.model.prompts import encode_prompt, load_tokenizer

    run = Path(arguments.run_dir)
    config, adapter = load_config(run / "config.yaml"), latest_adapter(run)
    path, detector = resolve_model_path(config.model.path), describe_detector(config, adapter)
    tokenizer = load_tokenizer(path)
    processor = load_image_processor(path, min_pixels=detector.min_pixels, max_pixels=detector.max_pixels)
    model = peft.PeftModel.from_pretrained(load_model(path, dtype=config.model.dtype), adapter).eval()
    seconds = []
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for file in write_files(arguments, Path(folder))[: arguments.hf_images]:
            start_s = time.monotonic()
            image = decode_image(Path(file).read_bytes(), file)
            pixels, grid = preprocess(processor, [image])
            (num_tokens,) = count_image_tokens(grid, processor.merge_size)
            ids = torch.tensor([encode_prompt(tokenizer, detector.prompt, num_tokens)])
            is_image = (ids == model.config.image_token_id).int()
            model.generate(
                input_ids=ids, pixel_values=pixels, image_grid_thw=grid, mm_token_type_ids=is_image,
                max_new_tokens=detector.max_new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )  # fmt: skip
            seconds.append(time.monotonic() - start_s)
    print(f"hf      median {1 / statistics.median(seconds[2:]):6.2f} images/s, one at a time ({len(seconds)} images)")


def write_files(arguments: argparse.Namespace, folder: Path) -> list[str]:
    """The images of a dataset as files."""
    dataset = Dataset.open(Path(arguments.data))
    files = []
    for row in range(min(arguments.images, len(dataset))):
        files.append(str(folder / f"{row:06d}.jpg"))
        Path(files[-1]).write_bytes(dataset.image_bytes(row))
    return files


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", default="runs/demo")
    parser.add_argument("--data", default="runs/demo/data/test.parquet")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hf-images", type=int, default=40)
    parser.add_argument("--thumbnails", action="store_true")
    parser.add_argument("--only-hf", action="store_true", help="what this program asks itself for")
    return parser.parse_args()


if __name__ == "__main__":
    main()
