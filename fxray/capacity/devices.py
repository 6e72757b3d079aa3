"""GPUs as a plan sees them: memory as drivers report it, arithmetic (dense bfloat16) and bandwidth from data sheets."""

from dataclasses import dataclass

from fxray.errors import ConfigError

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Gpu:
    """One kind of GPU.

    Attributes:
        memory_bytes: What the driver reports as the whole.
        flops: bfloat16 multiply-adds counted as two, per second, dense.
        bandwidth: Bytes per second of its memory.
    """

    memory_bytes: int
    flops: float
    bandwidth: float


GPUS = {
    "h200": Gpu(int(139.8 * GIB), 989e12, 4.8e12),
    "h100": Gpu(int(79.1 * GIB), 989e12, 3.35e12),
    "a100": Gpu(int(79.1 * GIB), 312e12, 2.04e12),
    "a100-40": Gpu(int(39.4 * GIB), 312e12, 1.56e12),
    "l40s": Gpu(int(44.4 * GIB), 362e12, 0.864e12),
    "rtx-4090": Gpu(int(23.5 * GIB), 165e12, 1.008e12),
}


def find_gpu(name: str) -> Gpu:
    """The GPU of this name.

    Raises:
        ConfigError: None of the known ones is called so.
    """
    if name not in GPUS:
        raise ConfigError(f"there is no GPU {name!r} here", where="--gpu", remedy=f"choose one of {', '.join(GPUS)}")
    return GPUS[name]
