"""Whether the mean over answers drawn at random ranks images better than the greedy answer's own probability.

python benchmarks/sampled.py --run-dir runs/demo --num-samples 16
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from fxray.data.dataset import Dataset
from fxray.detect.detection import Picture, open_picture
from fxray.detect.detector import Detector
from fxray.detect.offline import ASKED_AGAIN_AT_ONCE as AT_ONCE
from fxray.detect.sampling import draw_answers
from fxray.evaluate.probabilities import probability_gains, probability_metrics
from fxray.schema import Region, Verdict

SHOWN = ("auroc", "tpr_at_5_fpr", "brier")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--split", default="test", choices=("test", "validation"))
    parser.add_argument("--num-samples", type=int, default=16)
    arguments = parser.parse_args()
    files = json.loads((arguments.run_dir / "data.json").read_text())
    dataset = Dataset.open(arguments.run_dir / files[arguments.split])
    detector = Detector.load(arguments.run_dir)
    pictures = [open_picture(dataset.image_bytes(row)) for row in range(len(dataset))]
    start_s = time.monotonic()
    found = detector.detect([picture.image for picture in pictures])
    middle_s = time.monotonic()
    means: list[float | None] = []
    for start in range(0, len(pictures), AT_ONCE):
        asked: list[tuple[Picture, tuple[Region, ...]]] = [(each, ()) for each in pictures[start : start + AT_ONCE]]
        means += [sampled.probability for sampled in draw_answers(detector, asked, arguments.num_samples)]
    end_s = time.monotonic()
    truth_N = np.array([sample.annotation.verdict is Verdict.GENERATED for sample in dataset.samples])
    pairs = [(each.raw_probability, mean) for each, mean in zip(found, means, strict=True)]
    known_N = np.array([None not in pair for pair in pairs])
    greedy_N, mean_N = np.array([pair for pair in pairs if None not in pair], np.float64).T
    for name, probabilities_N in (("greedy", greedy_N), ("mean", mean_N)):
        values = probability_metrics(probabilities_N, truth_N[known_N], np.ones((1, len(probabilities_N))))
        print(f"{name:8}", *(f"{metric} {values[metric][0]:.3f}" for metric in SHOWN))
    gains = probability_gains(greedy_N, mean_N, truth_N[known_N], num_bootstrap=1000, seed=0)
    print("gain    ", *(f"{m} {gains[m].value:+.3f} [{gains[m].low:+.3f}, {gains[m].high:+.3f}]" for m in SHOWN))
    greedy_s, mean_s = middle_s - start_s, end_s - middle_s
    print(f"{len(pictures)} images: greedy {greedy_s:.0f} s, {arguments.num_samples} each {mean_s:.0f} s")


if __name__ == "__main__":
    main()
