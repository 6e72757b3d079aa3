"""Which baselines there are. None is imported before it is asked for."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, cast

from fxray.baselines.ports import Baseline, Settings
from fxray.errors import ConfigError

Weights = Literal["", "a .safetensors file", "a folder"]
OPTIONS = ("size", "epochs", "device")
"""Of all baselines of a command; some make no difference to some."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A baseline.

    Attributes:
        name: On the command line and in tables.
        place: Module and class below `fxray.baselines`; its docstring says what is as published, and what is not.
        source: Paper.
        sees: What of an image decides.
        has_masks: Whether it points at places.
        weights: What its fitting can start from.
        needs_weights: Whether it is nothing without them.
        takes: Which of `OPTIONS` make a difference to it.
        model: What the folder must hold, where it is nothing without one.
    """

    name: str
    place: str
    source: str
    sees: str
    has_masks: bool = False
    weights: Weights = ""
    needs_weights: bool = False
    takes: tuple[str, ...] = OPTIONS
    model: str = ""

    def heeded(self, key: Mapping[str, Any]) -> dict[str, Any]:
        """What a record is known by, None for the options that make no difference."""
        return {name: None if name in OPTIONS and name not in self.takes else key[name] for name in key}

    def build(self, settings: Settings) -> Baseline:
        """An unfitted one.

        Raises:
            ModelError: Its weights cannot be read or are of another architecture.
        """
        module, _, name = self.place.partition(":")
        return cast(Baseline, getattr(import_module(f"fxray.baselines.{module}"), name)(settings))


FLOOR = "leak-probe"
"""What every other baseline is held against."""

BASELINES = (
    Entry(FLOOR, "leak_probe:LeakProbe", "none", "the file, not its pixels", takes=()),
    Entry("frequency", "frequency:Frequency", "Durall et al. 2019", "the radial power spectrum", takes=()),
    Entry("npr", "npr:Npr", "Tan et al. 2024", "what nearest up-sampling leaves", weights="a .safetensors file"),
    Entry("dmd", "dmd:Dmd", "Corvi et al. 2023", "a crop of pixels", weights="a .safetensors file"),
    Entry(
        "segformer", "segformer:Segformer", "Xie et al. 2021", "the image resized", has_masks=True, weights="a folder"
    ),
    Entry(
        "objectformer",
        "objectformer:ObjectFormer",
        "Wang et al. 2022",
        "the image resized, and its high frequencies",
        has_masks=True,
    ),
    Entry("vit", "vit:Vit", "Park and Owens 2024", "a crop of the resized image", weights="a folder"),
    Entry(
        "linear-probe",
        "linear_probe:LinearProbe",
        "Ojha et al. 2023",
        "features of a frozen encoder",
        weights="a folder",
        takes=("device",),
    ),
    Entry(
        "aeroblade",
        "aeroblade:Aeroblade",
        "Ricker et al. 2024",
        "what a latent model's autoencoder loses",
        weights="a folder",
        needs_weights=True,
        takes=("device",),
        model="a model of diffusers",
    ),
    Entry(
        "dire",
        "dire:Dire",
        "Wang et al. 2023",
        "what a diffusion model fails to bring back",
        weights="a folder",
        needs_weights=True,
        model="a model of diffusers",
    ),
    Entry(
        "afpr",
        "afpr:AfPr",
        "Chang et al. 2023",
        "the image resized, with a question",
        weights="a folder",
        needs_weights=True,
        model="an InstructBLIP of transformers",
    ),
)


def find(names: Sequence[str], with_weights: Collection[str] = ()) -> list[Entry]:
    """Baselines by their names, in the order of the registry; all that can be fitted where no name is given.

    Args:
        names: Of baselines.
        with_weights: Names of those that weights are given for.

    Raises:
        ConfigError: A name is unknown; it says which are known.
    """
    known = {entry.name: entry for entry in BASELINES}
    for name in names:
        if name not in known:
            raise ConfigError(f"{name!r} is no baseline", where="NAME", remedy=f"name some of {', '.join(known)}")
    fit = {entry.name for entry in BASELINES if not entry.needs_weights or entry.name in with_weights}
    return [entry for entry in BASELINES if entry.name in (names or fit)]
