"""The product with one adapter, for CPUs.

vLLM's own CPU code serves many adapters at once: it copies the adapter's weights once per token and multiplies token
by token, which takes two thirds of the time of a small model. Here every token of a batch uses the same adapter, so two
matrix products do. A batch that does mix adapters falls back to vLLM's code.

Legend: T tokens, I inputs, O outputs, R rank, S slots.
"""

from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU


class SingleAdapterWrapper(PunicaWrapperCPU):
    """Takes the place of a `PunicaWrapperCPU` whose batches use one adapter or none."""

    slot: int | None = None
    """The slot that every token uses, -1 for the base model; None where tokens differ."""

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Notes which adapter the tokens of the coming forward pass use."""
        super().update_metadata(*args, **kwargs)
        is_uniform = self.is_prefill and self.batch_size == 1
        self.slot = int(self._lora_indices_per_batch[0]) if is_uniform else None

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **kwargs: Any,
    ) -> None:
        """Adds x A^T B^T to y in place.

        Args:
            y: [T, O], the base layer's output.
            x: [T, I].
            lora_a_stacked: Per slice of the output, [S, 1, R, I].
            lora_b_stacked: Per slice of the output, [S, 1, its outputs, R].
            scale: Factor of the product.
            output_slices: Outputs of each slice; together they are O.
            kwargs: Only vLLM's own code knows what to do with them.
        """
        if self.slot is None or kwargs:
            super().add_lora_linear(y, x, lora_a_stacked, lora_b_stacked, scale, output_slices, **kwargs)
        elif self.slot >= 0:
            start = 0
            for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
                y[:, start : start + width].addmm_(x @ a[self.slot, 0].T, b[self.slot, 0].T, alpha=scale)
                start += width
