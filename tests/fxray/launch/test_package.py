import os
import subprocess
import sys
from pathlib import Path

from fxray.config.load import load_config
from fxray.launch.package import CONFIG_FILE, START_FILE, write_package

TOP = Path(__file__).resolve().parents[3]
STAGES = "stages:\n  - name: alpha\n    rewards: {w_iou: 1.0}\n"


def written(tmp_path: Path, *overrides: str) -> Path:
    folder = tmp_path / "package"
    folder.mkdir()
    write_package(folder, load_config("smoke", overrides), tmp_path)
    return folder


def test_the_configuration_travels_whole_without_its_address(tmp_path):
    folder = written(tmp_path, "ray.address=10.0.0.1:6379", "seed=7")
    assert load_config(folder / CONFIG_FILE) == load_config("smoke", ["seed=7"])


def test_a_schedule_file_travels(tmp_path):
    (tmp_path / "mine.yaml").write_text(STAGES)
    folder = written(tmp_path, f"grpo.schedule={tmp_path / 'mine.yaml'}")
    (tmp_path / "mine.yaml").unlink()
    schedule = Path(load_config(folder / CONFIG_FILE).grpo.schedule)
    assert (schedule.parent, schedule.read_text()) == (folder, STAGES)


def test_modules_of_reward_functions_travel_and_nothing_else_of_the_folder(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "score.py").write_text("def length(answer, annotation, frame): return 0.0\n")
    (tmp_path / "single.py").write_text("def one(answer, annotation, frame): return 1.0\n")
    (tmp_path / "secret.txt").write_text("no")
    functions = "[{path: 'mine.score:length'}, {path: 'single:one'}, {path: 'elsewhere:f'}]"
    folder = written(tmp_path, f"reward.functions={functions}")
    assert {entry.name for entry in folder.iterdir()} == {
        "fxray",
        "actors",
        "rewards",
        "mine",
        "single.py",
        CONFIG_FILE,
        START_FILE,
    }
    assert (folder / "mine" / "score.py").is_file()


def test_what_modules_of_reward_functions_import_from_the_folder_travels_too(tmp_path):
    for name in ("words", "unused", "wandb"):
        (tmp_path / name).mkdir()
    (tmp_path / "mine.py").write_text("import wandb, words.count\n\n\ndef one(a, b, c):\n    from deeper import x\n")
    (tmp_path / "words" / "count.py").write_text("from . import other\nimport mine\n")
    (tmp_path / "deeper.py").write_text("import deepest\n")
    (tmp_path / "deepest.py").write_text("a reward that imports it is told of this\n")
    (tmp_path / "unused" / "module.py").touch()
    (tmp_path / "wandb" / "run.log").touch()
    folder = written(tmp_path, "reward.functions=[{path: 'mine:one'}]")
    own = {entry.name for entry in folder.iterdir()} - {"fxray", "actors", "rewards", CONFIG_FILE, START_FILE}
    assert own == {"mine.py", "words", "deeper.py", "deepest.py"}


def test_what_only_has_the_name_of_a_library_or_lies_beside_a_module_stays_where_it_is(tmp_path):
    (tmp_path / "mine.py").write_text("import random, sys, yaml, data\n")
    for name in ("random", "sys", "yaml", "data"):  # Python takes its own and what is installed before these
        (tmp_path / f"{name}.py").touch()
    for name in ("mine", "data"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "large.bin").touch()
    folder = written(tmp_path, "reward.functions=[{path: 'mine:one'}]")
    own = {entry.name for entry in folder.iterdir()} - {"fxray", "actors", "rewards", CONFIG_FILE, START_FILE}
    assert own == {"mine.py", "data.py"}


def test_runs_and_datasets_inside_a_users_module_stay_where_they_are(tmp_path):
    for name in ("runs", "datasets"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        (tmp_path / "mine" / name / "large.bin").touch()
    (tmp_path / "mine" / "score.py").touch()
    folder = written(tmp_path, "reward.functions=[{path: 'mine.score:length'}]")
    assert [file.name for file in (folder / "mine").iterdir()] == ["score.py"]


def test_a_link_inside_a_users_module_that_leads_nowhere_stays_where_it_is(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "score.py").touch()
    (tmp_path / "mine" / "gone.py").symlink_to("nowhere")
    folder = written(tmp_path, "reward.functions=[{path: 'mine.score:length'}]")
    assert [file.name for file in (folder / "mine").iterdir()] == ["score.py"]


def test_packages_inside_a_users_module_travel_whatever_they_are_called(tmp_path):
    for name in ("runs", "datasets"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        (tmp_path / "mine" / name / "__init__.py").touch()
    folder = written(tmp_path, "reward.functions=[{path: 'mine.score:length'}]")
    assert {file.parent.name for file in (folder / "mine").rglob("*.py")} == {"runs", "datasets"}


def test_a_module_of_the_user_never_takes_the_place_of_fxrays(tmp_path):
    (tmp_path / "rewards.py").write_text("raise SystemExit\n")
    folder = written(tmp_path, "reward.functions=[{path: 'rewards.custom:load_reward'}]")
    assert not (folder / "rewards.py").exists()


def test_it_travels_small_and_whole(tmp_path):
    folder = written(tmp_path)
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 16 * 2**20
    assert not [file for file in files if file.suffix == ".pyc"]
    assert (folder / "fxray" / "configs" / "schedules" / "paper.yaml").is_file()
    assert (folder / "fxray" / "torchvision_hook.py").is_file()


def test_the_checkouts_start_file_brings_the_hook_and_settles_no_fxray():
    code = "import sys; print('fxray_torchvision_hook' in sys.modules, 'fxray' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(TOP)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
