"""What travels to a cluster with a job: fxray, the configuration in one file, the user's reward functions."""

import shutil
from functools import partial
from pathlib import Path

import yaml

import actors
import fxray
import rewards
from fxray.config.load import dump_config, shipped_folder
from fxray.config.tree import Config
from fxray.launch.user_modules import START_FILE, left_out, user_modules

CONFIG_FILE = "config.yaml"
SCHEDULE_FILE = "schedule.yaml"
START_HOOK = "import fxray.torchvision_hook\n"
"""Python reads it in every process of the job: the hook acts without being installed."""


def write_package(folder: Path, config: Config, user_folder: Path) -> None:
    """Fills a folder with all that a job needs on a cluster that has fxray's dependencies.

    The address of the configuration is left out: a job runs on the cluster that it was handed to.

    Args:
        folder: An empty one.
        config: A checked one.
        user_folder: Where modules of the user's reward functions, and what these import, are looked for; those
            elsewhere must be installed on the cluster.
    """
    for package in (fxray, actors, rewards):
        name = package.__name__
        shutil.copytree(Path(package.__path__[0]), folder / name, ignore=left_out)
    shutil.copytree(shipped_folder(), folder / "fxray" / "configs", dirs_exist_ok=True)
    (folder / START_FILE).write_text(START_HOOK)
    document = yaml.safe_load(dump_config(config))
    document["ray"]["address"] = None
    if config.grpo.schedule.endswith((".yaml", ".yml")):
        shutil.copyfile(config.grpo.schedule, folder / SCHEDULE_FILE)
        document["grpo"]["schedule"] = SCHEDULE_FILE
    (folder / CONFIG_FILE).write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
    for module in user_modules(config, user_folder):
        copy = (
            partial(shutil.copytree, ignore=left_out, ignore_dangling_symlinks=True)
            if module.is_dir()
            else shutil.copyfile
        )
        copy(module, folder / module.name)
