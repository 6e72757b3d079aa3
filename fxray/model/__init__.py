"""The model as a learner sees it: loading, prompts, adapters, the packed forward pass, DeepSpeed."""

import os
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version


def _sees_no_gpu() -> bool:
    with suppress(PackageNotFoundError):
        if version("torch").endswith("+cpu"):  # to ask torch itself takes two seconds
            return True
    import torch

    return not torch.cuda.is_available()


# DeepSpeed picks its accelerator when it is first imported, which PEFT does as a side effect.
if "DS_ACCELERATOR" not in os.environ and _sees_no_gpu():
    os.environ["DS_ACCELERATOR"] = "cpu"
