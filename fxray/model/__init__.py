"""The model as a learner sees it: loading, prompts, adapters, the packed forward pass, DeepSpeed."""

import os

import torch

# DeepSpeed picks its accelerator when it is first imported, which PEFT does as a side effect.
if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
