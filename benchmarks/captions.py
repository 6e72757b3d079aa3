"""How many captions of a finished demo run are captions at all, and how many name the right family of flaws.

python benchmarks/captions.py runs/demo
"""

import argparse
import json
from pathlib import Path

from fxray.data.dataset import Dataset
from fxray.data.synth.families import FAMILIES
from fxray.evaluate.predictions import Prediction, read_predictions
from fxray.schema import Sample, Verdict

FAMILY_OF = {family.caption: family.name for family in FAMILIES}


def measure(predictions: list[Prediction], samples: dict[str, Sample]) -> tuple[int, float, float, float]:
    """Captions in all; shares that are a family's, and the right family's; share of images with all tags right.

    The last two are of images that are generated and were called so.
    """
    captions = [(samples[p.sample_id], region.caption) for p in predictions for region in p.regions]
    known = [caption in FAMILY_OF for _, caption in captions]
    found = [p for p in predictions if p.verdict is samples[p.sample_id].annotation.verdict is Verdict.GENERATED]
    named = [FAMILY_OF.get(r.caption) == samples[p.sample_id].generator for p in found for r in p.regions]
    tagged = [set(p.tags) == set(samples[p.sample_id].annotation.tags) for p in found]
    return len(captions), mean(known), mean(named), mean(tagged)


def mean(values: list[bool]) -> float:
    return sum(values) / len(values) if values else 0.0


def main(run_dir: Path) -> None:
    test = run_dir / json.loads((run_dir / "data.json").read_text())["test"]
    samples = {sample.sample_id: sample for sample in Dataset.open(test).samples}
    print("| policy | captions | a family's | the right family's | tags right |\n|---|---|---|---|---|")
    files = sorted((run_dir / "evaluation").glob("*/predictions.parquet"), key=lambda file: file.stat().st_mtime)
    for file in files:
        count, *shares = measure(list(read_predictions(file)), samples)
        print(f"| {file.parent.name} | {count} | " + " | ".join(f"{share:.2f}" for share in shares) + " |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    main(parser.parse_args().run_dir)
