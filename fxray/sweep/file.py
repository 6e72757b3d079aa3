"""A sweep as data: which fields take which values, under which seeds, and what is looked at.

    title: Batch and rate
    fields:
      grpo.prompts_per_step: {grid: [16, 32]}
      grpo.learning_rate: {loguniform: [1.0e-4, 1.0e-3]}
    num_samples: 4
    seeds: [0, 1, 2]
    metric: iou

Every value is drawn here, before anything is trained, so that each setting can be checked first.
"""

import itertools
import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from fxray.config.document import Document, Entry, read_document
from fxray.config.load import anchor
from fxray.config.section import Count, Section
from fxray.config.tree import Config
from fxray.config.validate import validate
from fxray.errors import ConfigError
from fxray.evaluate.scores import METRICS
from fxray.experiments.trainings import name_of_values

FieldName = Annotated[str, Field(pattern=r"^[a-z_]+(\.[a-z_]+)*$")]
SIGNIFICANT_DIGITS = 4
"""Of a number that is drawn: enough for a rate, and short enough for a name."""
UNSUITABLE = {
    "seed": "write the seeds under `seeds`",
    "data.validation": "settings are compared on one validation split",
    "data.test": "settings are compared on the validation split, and the test split stays unasked",
    "data.synth": "the synthetic data are made once, for all trials; sweep over `data.train` with files",
    "evaluate": "settings are measured alike: on the same images, with answers of the same length",
    "ray": "all trials run on one cluster",
    "serve": "training does not depend on it",
}
"""Fields and sections that a sweep cannot go over, and why."""
LESS_IS_BETTER = ("hallucination", "boxes_per_real_image")
NO_PBT = (
    "population-based training copies one trial's weights into another and changes fields on the way, so no run would "
    "have one configuration to be continued, reported or trained again with; use asha or none"
)
NO_TEST = (
    "the best of many settings is flattered by the images that it was chosen on, so a sweep looks at the validation "
    "split alone; `fxray train` on the best trial's run directory answers the test split, once"
)


class Values(Section):
    """The values of one field: one of the four."""

    grid: tuple[Any, ...] | None = None
    """Each of them, with each of every other grid."""
    choice: tuple[Any, ...] | None = None
    """One of them, drawn for every sample."""
    uniform: tuple[float, float] | None = None
    """Drawn evenly between two bounds; whole numbers, both bounds among them, for a field that takes no others."""
    loguniform: tuple[float, float] | None = None
    """Drawn so that each power of ten is as likely; bounds above 0."""

    @model_validator(mode="before")
    @classmethod
    def _stands_under_a_name(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            values = json.dumps(content if isinstance(content, list) else [content], default=str)
            raise ValueError(f"values stand under grid, choice, uniform or loguniform, such as {{grid: {values}}}")
        return content

    @model_validator(mode="after")
    def _is_one_of_them(self) -> "Values":
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of grid, choice, uniform, loguniform; got {', '.join(given) or 'none'}")
        values = getattr(self, given[0])
        if not values:
            raise ValueError(f"`{given[0]}` is empty: give at least one value")
        keys = [json.dumps(value, default=str) for value in values]
        if given[0] in ("grid", "choice") and len(set(keys)) < len(keys):
            raise ValueError(f"`{given[0]}` has a value twice")
        if given[0] in ("uniform", "loguniform") and not values[0] < values[1]:
            raise ValueError(f"`{given[0]}` must be [low, high] with low < high, got {list(values)}")
        if given[0] == "loguniform" and values[0] <= 0:
            raise ValueError(f"`loguniform` must have bounds above 0, got {list(values)}")
        return self

    @property
    def is_drawn(self) -> bool:
        return self.grid is None


class Sweep(Section):
    """What a sweep file says."""

    title: str = "Sweep"
    fields: dict[FieldName, Values] = Field(default_factory=dict)
    """Fields of the configuration; without any, the seeds alone differ."""
    num_samples: Count = 1
    """Draws of the fields that are drawn, for every point of the grid."""
    draw_seed: int = 0
    """Of the draws. More samples leave those that were drawn before as they are."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Field(min_length=1)] = (0,)
    """Every setting is trained once with each: one seed differs from another about as much as one setting does."""
    metric: str = "iou"
    """What is looked at: a metric of `fxray evaluate`."""
    phase: str = ""
    """After which phase: sft or a stage; by default the last."""
    split: Literal["validation"] = "validation"
    """On which images. The test split is for the report on the one that was chosen."""
    mode: Literal["max", "min"] = "max"
    """Whether more of the metric is better, or less: by default min for hallucination and boxes_per_real_image."""
    scheduler: Literal["none", "asha"] = "none"
    """Whether settings that fall behind are stopped: asynchronous successive halving, on the mean over the seeds."""
    reduction_factor: Annotated[float, Field(gt=1)] = 2
    """ASHA: about one in so many settings goes on, and the number of phases between two decisions grows by it."""
    min_phases: Count = 1
    """ASHA: phases before the first decision; SFT is the first phase."""

    @model_validator(mode="before")
    @classmethod
    def _says_why_not(cls, content: Any) -> Any:
        if isinstance(content, dict) and content.get("scheduler") == "pbt":
            raise ValueError(f"`scheduler` cannot be pbt: {NO_PBT}")
        if isinstance(content, dict) and content.get("split") == "test":
            raise ValueError(f"`split` cannot be test: {NO_TEST}")
        return content

    @model_validator(mode="before")
    @classmethod
    def _knows_what_is_better(cls, content: Any) -> Any:
        if not isinstance(content, dict) or "mode" in content:
            return content
        if content.get("metric") == "boxes_per_image":
            raise ValueError("`mode` is missing: neither more nor fewer boxes_per_image are better, give max or min")
        return content | {"mode": "min" if content.get("metric") in LESS_IS_BETTER else "max"}

    @model_validator(mode="after")
    def _hangs_together(self) -> "Sweep":
        if self.metric not in METRICS:
            raise ValueError(f"`metric` {self.metric!r} is none; those of the validation split: {', '.join(METRICS)}")
        if self.num_samples > 1 and not any(values.is_drawn for values in self.fields.values()):
            raise ValueError("`num_samples` is above 1, and no field is drawn: give one a choice or a range")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("`seeds` has one twice: its trials would be the same")
        for name in self.fields:
            for field, reason in UNSUITABLE.items():
                if f"{name}.".startswith(f"{field}.") or field.startswith(f"{name}."):  # a section with it inside, too
                    raise ValueError(f"`fields` cannot hold {name}: {reason}")
            if self.phase == "sft" and name.partition(".")[0] == "grpo":
                raise ValueError(f"`phase` is sft, which {name} changes nothing of: name a stage, or leave `phase` out")
        return self


@dataclass(frozen=True, slots=True)
class SweepFile:
    """A sweep, and where its fields were written.

    Attributes:
        path: The file.
        sweep: What it says.
        origins: "file:line" by field.
    """

    path: Path
    sweep: Sweep
    origins: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Setting:
    """Values of the fields; it is trained once with every seed.

    Attributes:
        name: Part of a folder's name.
        values: By field.
        document: The same, as fields of a configuration with absolute paths.
    """

    name: str
    values: Mapping[str, Any]
    document: Document

    @property
    def title(self) -> str:
        """Values as `--set` takes them."""
        return ", ".join(as_override(field, value) for field, value in self.values.items()) or "as configured"


def load_sweep(path: Path) -> SweepFile:
    """Reads a sweep file.

    Raises:
        ConfigError: It cannot be read, or says something that is no sweep; with place and remedy.
    """
    document = read_document(path)
    origins = {keys[1]: entry.origin for keys, entry in document.items() if keys[0] == "fields" and len(keys) > 1}
    sweep = validate(Sweep, document, where=str(path))
    if not sweep.fields and len(sweep.seeds) == 1:
        raise ConfigError(
            "is a sweep of one trial: it names no fields, and one seed",
            where=str(path),
            remedy="give `fields`, or several `seeds`; one setting is trained by `fxray train`",
        )
    return SweepFile(path, sweep, origins)


def settings_of(file: SweepFile) -> list[Setting]:
    """The settings of a sweep, each once: every point of the grid with every sample of what is drawn.

    A sample is the same at every point of the grid, so that points differ by the grid's fields alone.
    """
    sweep = file.sweep
    grids = {field: values.grid for field, values in sweep.fields.items() if values.grid is not None}
    drawn = {field: values for field, values in sweep.fields.items() if values.is_drawn}
    found: dict[str, Setting] = {}
    for point in itertools.product(*grids.values()):
        fixed = dict(zip(grids, point, strict=True))
        for i in range(sweep.num_samples):
            rngs = {field: random.Random(f"{sweep.draw_seed}:{i}:{field}") for field in drawn}
            draws = {field: draw(values, rngs[field], field) for field, values in drawn.items()}
            setting = _setting(
                file, {field: fixed[field] if field in fixed else draws[field] for field in sweep.fields}
            )
            found.setdefault(setting.name, setting)
    return list(found.values())


def draw(values: Values, rng: random.Random, field: str) -> Any:
    """One value of what is drawn."""
    if values.choice is not None:
        return rng.choice(values.choice)
    bounds = values.uniform or values.loguniform
    assert bounds is not None, "grids are not drawn"
    low, high = bounds
    is_whole = takes_whole_numbers(field) and math.ceil(low) <= math.floor(high)
    if values.uniform is not None and is_whole:
        return rng.randint(math.ceil(low), math.floor(high))
    number = rng.uniform(low, high) if values.uniform else math.exp(rng.uniform(math.log(low), math.log(high)))
    if is_whole:
        return min(max(round(number), math.ceil(low)), math.floor(high))
    return min(max(float(f"{number:.{SIGNIFICANT_DIGITS}g}"), low), high)


def takes_whole_numbers(field: str) -> bool:
    """Whether a field of the configuration is an integer; False for one that is not there."""
    section: Any = Config
    for key in field.split("."):
        kinds = (section, *getattr(section, "__args__", ()))
        models = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not models or key not in models[0].model_fields:
            return False
        section = models[0].model_fields[key].annotation
    return section is int


def as_override(field: str, value: Any) -> str:
    """A field as `--set` takes it."""
    return f"{field}={value if isinstance(value, str) else json.dumps(value, default=str)}"


def _setting(file: SweepFile, values: Mapping[str, Any]) -> Setting:
    texts = {
        field: value if isinstance(value, str) else json.dumps(value, default=str) for field, value in values.items()
    }
    name = name_of_values(texts)
    document = {tuple(field.split(".")): Entry(value, file.origins.get(field, "")) for field, value in values.items()}
    return Setting(name, values, anchor(document, file.path.parent))
