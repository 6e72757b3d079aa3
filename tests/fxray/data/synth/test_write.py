"""The synthetic datasets as files."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from fxray.data.check.check import check
from fxray.data.check.rules import Severity
from fxray.data.dataset import Dataset
from fxray.data.synth import write
from fxray.data.synth.families import FAMILIES
from fxray.data.synth.write import synthesise
from fxray.errors import ResourceError
from fxray.schema import Verdict

DRAWING = """
from fxray.cli.app import main
from fxray.data.synth import write
write.num_processors = lambda: 2
if __name__ == "__main__":
    main()
"""
ROOT = str(Path(__file__).parents[4])


def _write(out_dir: Path, seed: int) -> None:
    synthesise(out_dir, num_train=40, num_validation=4, num_test=20, size_px=168, seed=seed, progress=lambda *_: None)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        _write(tmp_path / name, seed)
    for split in ("train", "validation", "test"):
        content = [(tmp_path / name / f"{split}.parquet").read_bytes() for name in "abc"]
        assert content[0] == content[1] != content[2]


def test_splits_are_balanced_and_share_no_photograph(tmp_path: Path) -> None:
    _write(tmp_path, 0)
    sources = []
    for split in ("train", "validation", "test"):
        opened = Dataset.open(tmp_path / f"{split}.parquet")
        assert check([opened.path]).severities()[Severity.ERROR] == 0
        labels = Counter(sample.annotation.verdict for sample in opened.samples)
        assert labels[Verdict.REAL] == labels[Verdict.GENERATED]
        sources.append({sample.source for sample in opened.samples})
    assert len(set.union(*sources)) == sum(map(len, sources))
    train = Counter(sample.generator for sample in Dataset.open(tmp_path / "train.parquet").samples)
    assert train == {"real": 20} | {family.name: 2 for family in FAMILIES}


@pytest.mark.parametrize("seed", range(3))
def test_the_smallest_size_that_may_be_asked_for_is_made(tmp_path, seed):
    synthesise(
        tmp_path, num_train=40, num_validation=4, num_test=4, size_px=56, seed=seed, progress=lambda *_: None
    )  # fmt: skip
    assert {sample.width_px for sample in Dataset.open(tmp_path / "train.parquet").samples} == {56}


def test_processes_draw_what_one_draws(tmp_path, monkeypatch):
    _write(tmp_path / "one", 3)
    monkeypatch.setattr(write, "ROWS_WORTH_A_PROCESS", 10)
    monkeypatch.setattr(write, "num_processors", lambda: 2)
    _write(tmp_path / "two", 3)
    for split in ("train", "validation", "test"):
        one, two = ((tmp_path / name / f"{split}.parquet").read_bytes() for name in ("one", "two"))
        assert one == two


def test_a_process_that_is_ended_while_it_draws_is_told_in_words():
    with pytest.raises(ResourceError, match="was ended"), write._drawing(2) as draw_all:
        list(draw_all(os._exit, range(4)))


@pytest.mark.parametrize("when_s", [1.0, 3.0])
def test_a_signal_to_all_processes_that_draw_is_the_first_ones_alone(tmp_path, when_s):
    command = [sys.executable, "-c", DRAWING, "data", "synth", tmp_path / "out", "--num-train", "20000"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, env=os.environ | {"PYTHONPATH": ROOT}
    ) as parent:
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        deadline_s = time.monotonic() + 30
        while len(children.read_text().split()) < 3:  # two draw, one is Python's own
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        time.sleep(when_s)
        os.killpg(parent.pid, signal.SIGTERM)
        _, said = parent.communicate(timeout=60)
    assert parent.returncode == 143
    assert "Traceback" not in said


def test_processes_that_draw_end_with_the_one_that_was_killed(tmp_path):
    script = tmp_path / "draw.py"
    script.write_text(
        "import os\n"
        "from fxray.data.synth import write\n"
        "def draw(number):\n"
        "    return os.getpid()\n"
        "if __name__ == '__main__':\n"
        "    with write._drawing(2) as draw_all:\n"
        "        print(*sorted(set(draw_all(draw, range(100)))), flush=True)\n"
        "        input()\n"
    )
    with subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": ROOT}
    ) as parent:
        children = [int(pid) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert children
    assert parent.pid not in children
    deadline_s = time.monotonic() + 30
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
