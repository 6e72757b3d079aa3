"""DeepSpeed: one engine for ZeRO 0 to 3, on CPU and CUDA. No other file imports it."""

import logging
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import deepspeed
import deepspeed.ops
import torch
from deepspeed.utils import logger as deepspeed_logger
from deepspeed.utils import safe_get_full_optimizer_state, safe_set_full_optimizer_state, set_z3_leaf_module
from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config
from transformers.modeling_layers import GradientCheckpointingLayer

from fxray.counts import counted
from fxray.errors import CheckpointError, ModelError
from fxray.model.ranks import meet
from fxray.model.tensors import check_match

# Otherwise DeepSpeed compiles operators for minutes on first use; none of them is needed here.
deepspeed.ops.__compatible_ops__ = {}
deepspeed_logger.setLevel(logging.WARNING)

_MOMENTS = ("exp_avg", "exp_avg_sq")
_STEP = "step"
_NUMBERS_AT_ONCE = 2**26
"""Numbers of spread parameters that are whole at a time, while they are read or written."""


def join_ranks(
    *, rank: int, world_size: int, address: str, port: int, listener: socket.socket | None, timeout_s: float
) -> None:
    """Makes this process one of the ranks of a job, as `meet` does, for DeepSpeed too.

    Each rank sees its own GPU as the first, if it has any.

    Args:
        rank: Of this process.
        world_size: Ranks in all.
        address: Where rank 0 runs.
        port: Where rank 0 listens.
        listener: The socket that listens there, on rank 0.
        timeout_s: For any exchange between ranks.
    """
    os.environ["LOCAL_RANK"] = "0"
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if not torch.distributed.is_initialized():
        meet(
            backend=backend,
            rank=rank,
            world_size=world_size,
            address=address,
            port=port,
            listener=listener,
            timeout_s=timeout_s,
        )
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False, timeout=timedelta(seconds=timeout_s))


@contextmanager
def sharded_loading(stage: int) -> Iterator[None]:
    """Under ZeRO-3, models that are loaded inside the block are spread over the ranks weight by weight.

    No rank ever holds the whole model, so one that fits on no GPU can be loaded. Other stages load as usual. The ranks
    must have joined.

    Args:
        stage: ZeRO stage.
    """
    if stage < 3 or torch.distributed.get_world_size() == 1:
        yield
        return
    deepspeed.init_distributed(torch.distributed.get_backend(), auto_mpi_discovery=False, verbose=False)
    spread = HfDeepSpeedConfig({"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}})
    try:
        yield
    finally:
        del spread  # transformers looks whether it is alive
        unset_hf_deepspeed_config()


def _gather_by_layer(module: torch.nn.Module) -> None:
    """Lets ZeRO-3 gather the weights of a whole layer at once.

    Left to itself it gathers those of each linear layer and of each half of an adapter: seventy exchanges a layer, for
    which the host needs longer than a GPU for the layer. The first layer of a tower stays so: its input has no
    gradient, and DeepSpeed would drop its weights before its backward pass.
    """
    for layers in module.modules():
        if isinstance(layers, torch.nn.ModuleList):
            for layer in layers[1:]:
                if isinstance(layer, GradientCheckpointingLayer):
                    set_z3_leaf_module(layer, True)


class ZeroEngine:
    """A module, its AdamW and the exchange between ranks. The gradient is the SUM of what the ranks pass to `backward`.

    All ranks must call every method together, with equally many passes between two steps.

    Args:
        module: Of which `parameters` are trained.
        parameters: Trainable parameters by name.
        stage: ZeRO stage: 0 shares nothing, 1 the optimizer, 2 also gradients, 3 also parameters.
        weight_decay: Of AdamW.
        max_grad_norm: The whole gradient is clipped to this norm.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        parameters: Mapping[str, torch.nn.Parameter],
        *,
        stage: int,
        weight_decay: float,
        max_grad_norm: float,
    ) -> None:
        self._parameters = dict(parameters)
        self._stage = stage
        self._max_grad_norm = max_grad_norm
        num_trainable = sum(parameter.numel() for parameter in parameters.values())
        if stage == 3:
            _gather_by_layer(module)
        optimizer = torch.optim.AdamW(list(parameters.values()), lr=0.0, weight_decay=weight_decay)
        self._engine, *_ = deepspeed.initialize(
            model=module,
            optimizer=optimizer,
            config={
                "train_micro_batch_size_per_gpu": 1,
                # Stage 0 is clipped in `step`, where the norm can be had.
                "gradient_clipping": max_grad_norm if stage else 0.0,
                # DeepSpeed's own default would be a buffer of 2 GB.
                "zero_optimization": {"stage": stage, "reduce_bucket_size": max(2**16, min(num_trainable, 2**26))},
            },
        )
        self._num_ranks = self._engine.world_size
        self.reset_optimizer()

    def __call__(self, *args: object) -> torch.Tensor:
        """The module's forward pass."""
        return self._engine(*args)

    def backward(self, loss: torch.Tensor, *, is_last: bool) -> None:
        """Adds to the gradient; ranks exchange it in the last pass before a step."""
        self._engine.set_gradient_accumulation_boundary(is_last)
        self._engine.backward(loss * self._num_ranks)

    def step(self, learning_rate: float) -> float:
        """Updates the parameters and returns the norm of the gradient before clipping.

        Raises:
            ModelError: The gradient is not finite.
        """
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        norm = 0.0
        if self._stage == 0:
            norm = float(torch.nn.utils.clip_grad_norm_(self._parameters.values(), self._max_grad_norm))
        self._engine.step()
        if self._stage:
            norm = float(self._engine.get_global_grad_norm())
        if not norm < float("inf"):
            raise ModelError(
                f"the norm of the gradient is {norm}, so the update is lost",
                remedy="the same command goes on from the last checkpoint; if it ends here again, train in another run "
                "directory with a lower rate (sft.learning_rate, grpo.learning_rate) or model.dtype=float32",
            )
        return norm

    def read(self, parameters: Mapping[str, torch.nn.Parameter]) -> dict[str, torch.Tensor]:
        """Copies of parameters on the CPU, by name; only rank 0 gets them.

        Spread parameters are made whole a few at a time, so that they need not fit on one device together.
        """
        tensors: dict[str, torch.Tensor] = {}
        for batch in _batches(parameters):
            with self._whole(batch.values()):
                if self._engine.global_rank == 0:
                    tensors |= {
                        name: parameter.detach().to("cpu", copy=True).contiguous() for name, parameter in batch.items()
                    }
        return tensors

    def write(
        self, parameters: Mapping[str, torch.nn.Parameter], tensors: Mapping[str, torch.Tensor], *, where: str
    ) -> None:
        """Overwrites parameters on all ranks.

        Args:
            parameters: By name.
            tensors: Their values, on every rank.
            where: Named in errors.

        Raises:
            CheckpointError: Names or shapes differ.
        """
        check_match(parameters, tensors, where=where)
        for batch in _batches(parameters):
            with self._whole(batch.values(), is_written=True), torch.no_grad():
                for name, parameter in batch.items():
                    if self._stage < 3 or self._engine.global_rank == 0:
                        parameter.copy_(tensors[name])
        if self._stage:
            self._engine.optimizer.refresh_fp32_params()

    def copy(self, source: Mapping[str, torch.nn.Parameter], target: Mapping[str, torch.nn.Parameter]) -> None:
        """Overwrites parameters that are not trained with others of the same names."""
        for batch in _batches(source):
            into = [target[name] for name in batch]
            with self._whole(batch.values()), self._whole(into, is_written=True), torch.no_grad():
                if self._stage < 3 or self._engine.global_rank == 0:
                    for name, parameter in batch.items():
                        target[name].copy_(parameter)

    def lerp(
        self, trained: Mapping[str, torch.nn.Parameter], end: Mapping[str, torch.nn.Parameter], weight: float
    ) -> None:
        """Moves trained parameters that share of the way to others of the same names: 1 makes them equal."""
        for batch in _batches(trained):
            ends = [end[name] for name in batch]
            with self._whole(batch.values(), is_written=True), self._whole(ends), torch.no_grad():
                if self._stage < 3 or self._engine.global_rank == 0:
                    for name, parameter in batch.items():
                        parameter.lerp_(end[name].to(parameter.dtype), weight)
        if self._stage:
            self._engine.optimizer.refresh_fp32_params()

    @contextmanager
    def _whole(self, parameters: Iterable[torch.nn.Parameter], *, is_written: bool = False) -> Iterator[None]:
        """Makes spread parameters whole inside the block, and afterwards spreads what rank 0 wrote into them."""
        if self._stage < 3:
            yield
        else:
            with deepspeed.zero.GatheredParameters(list(parameters), modifier_rank=0 if is_written else None):
                yield

    def reset_optimizer(self) -> None:
        """Sets moments and step count to what they are before the first step."""
        state = self._engine.basic_optimizer.state
        for flat in self._flat_parameters():
            if flat not in state:
                state[flat] = {name: torch.zeros_like(flat.data) for name in _MOMENTS} | {_STEP: torch.tensor(0.0)}
            for tensor in state[flat].values():
                tensor.zero_()
        if self._stage in {1, 2}:
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()

    def optimizer_state(self) -> dict[str, torch.Tensor]:
        """Moments of every parameter, whole and on the CPU, and the step count; the same whatever stage and ranks.

        Only rank 0 gets them: those of all weights are twice as large as the model, and ranks share a node's memory.
        """
        tensors = {_STEP: self._engine.basic_optimizer.state[self._flat_parameters()[0]][_STEP].clone()}
        for name, parameter in self._parameters.items():
            for moment in _MOMENTS:
                whole = (
                    safe_get_full_optimizer_state(parameter, moment) if self._stage else self._raw(parameter, moment)
                )
                if self._engine.global_rank == 0:
                    tensors[f"{moment}.{name}"] = whole.detach().to("cpu", copy=True).contiguous()
        return tensors if self._engine.global_rank == 0 else {}

    def load_optimizer_state(self, tensors: Mapping[str, torch.Tensor], *, where: str) -> None:
        """Restores what `optimizer_state` gave, also under another stage or number of ranks.

        Raises:
            CheckpointError: It belongs to other parameters.
        """
        expected = {_STEP, *(f"{moment}.{name}" for moment in _MOMENTS for name in self._parameters)}
        if odd := sorted(expected ^ tensors.keys()):
            raise CheckpointError(
                f"{counted(len(odd), 'optimizer tensor does', 'optimizer tensors do')} not match, {odd[0]} for one",
                where=where,
            )
        for flat in self._flat_parameters():
            self._engine.basic_optimizer.state[flat][_STEP].copy_(tensors[_STEP])
        for name, parameter in self._parameters.items():
            for moment in _MOMENTS:
                value = tensors[f"{moment}.{name}"].to(parameter.device)
                if self._stage:
                    safe_set_full_optimizer_state(parameter, value, moment)
                else:
                    self._raw(parameter, moment).copy_(value)

    def _raw(self, parameter: torch.nn.Parameter, moment: str) -> torch.Tensor:
        return self._engine.basic_optimizer.state[parameter][moment]

    def _flat_parameters(self) -> list[Any]:
        """What the optimizer itself updates on this rank."""
        if self._stage == 0:
            return list(self._parameters.values())
        if self._stage == 3:
            return self._engine.optimizer.fp32_partitioned_groups_flat
        return self._engine.optimizer.single_partition_of_fp32_groups


def _batches(parameters: Mapping[str, torch.nn.Parameter]) -> Iterator[dict[str, torch.nn.Parameter]]:
    """Parameters a few at a time: at most `_NUMBERS_AT_ONCE` numbers, or one of them."""
    batch: dict[str, torch.nn.Parameter] = {}
    num_numbers = 0
    for name, parameter in parameters.items():
        number = getattr(parameter, "ds_numel", parameter.numel())
        if batch and num_numbers + number > _NUMBERS_AT_ONCE:
            yield batch
            batch, num_numbers = {}, 0
        batch[name] = parameter
        num_numbers += number
    if batch:
        yield batch
