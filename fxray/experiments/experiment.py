"""An experiment as data: the rows of one of the paper's tables, what trains each, and what the paper reports.

Those of the paper lie in configs/experiments; a file of one's own may hold any rows:

    title: Two schedules
    source: none
    kind: trainings
    columns: [accuracy, iou]
    reference: Best
    rows:
      - {title: Best, paper: {accuracy: 0.981, iou: 0.378}}
      - {title: GRPO γ throughout, set: [grpo.schedule=fixed-gamma]}
"""

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from fxray.baselines.registry import find
from fxray.config.document import read_document
from fxray.config.load import anchor_override, find_yaml, shipped_folder
from fxray.config.section import Count, Fraction, Section
from fxray.config.validate import validate
from fxray.data.changes import HARDSHIPS
from fxray.errors import ConfigError
from fxray.evaluate.scores import METRICS

OWN = "own"
"""The test split of the training itself; other tests are data sets from outside."""

Override = Annotated[str, Field(pattern=r"^[a-z_.]+=.+$")]


class SplitSettings(Section):
    """How the folds of an experiment are made: see `fxray data split`."""

    scheme: Literal["k-fold", "leave-one-generator-out", "leave-one-group-out"]
    num_folds: Count = 4
    """Of k-fold (paper: 4)."""
    validation_frac: Fraction = 0.05
    """Share of the training rows set aside."""
    test_frac: Fraction = 0.25
    """When holding out: test share of sources with several generators."""
    ignore_source: bool = False
    """`source` names collections: keep only look-alikes together."""
    keep_all: bool = False
    """Do not leave the surplus of one class out of each part."""

    @property
    def name(self) -> str:
        """The scheme; with other settings than by default, a name that no other settings have."""
        if self == SplitSettings(scheme=self.scheme):
            return self.scheme
        # Younger than folds that lie there: without it they keep their names.
        text = self.model_dump_json(exclude=None if self.keep_all else {"keep_all"})
        return f"{self.scheme}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


class Row(Section):
    """One line of a table."""

    title: str
    set: tuple[Override, ...] = ()
    """Fields of the configuration that differ from the one that is given, as `--set` of the command line.

    Relative paths are relative to the folder of the experiment's file."""
    phase: str = ""
    """Phase of the training that is measured: no-ft, sft or a stage; by default the last."""
    part: Literal["", "generator", "group", "overall"] = ""
    """Of folds, and needed there: images of the generator or group that the title names, or all."""
    change: str = ""
    """Of robustness: the change of the images, as `fxray robustness --only`; empty for the images as they are."""
    baseline: str = ""
    """Another detector, of `fxray baseline list`, fitted and asked on the same images in place of a training.

    Of robustness, its differences are from what it says itself of the images as they are."""
    absent: str = ""
    """Why the row cannot be measured; it stands in the table all the same."""
    paper: dict[str, float] = Field(default_factory=dict)
    """What the paper reports, by column."""
    _anchored: tuple[str, ...] = ()

    @property
    def overrides(self) -> tuple[str, ...]:
        """`set` as it means the same in every folder, once it is known where the row stands."""
        return self._anchored or self.set

    def stands_in(self, folder: Path) -> None:
        """Lets relative paths in `set` be relative to the folder of the experiment's file.

        Raises:
            ConfigError: One of `set` is no override.
        """
        self._anchored = tuple(each for override in self.set for each in anchor_override(override, folder))

    @property
    def is_trained(self) -> bool:
        """Whether a training stands behind it."""
        return not self.absent and not self.baseline

    @model_validator(mode="after")
    def _is_one_thing(self) -> "Row":
        if self.baseline:
            find([self.baseline])
            if self.set or self.phase or self.absent:
                raise ValueError("a `baseline` has no set, phase or absent")
        return self


class Experiment(Section):
    """One table."""

    title: str
    source: str
    """Where it stands in the paper, "Table 4"; or what it is, where the paper has none."""
    kind: Literal["trainings", "folds", "robustness"]
    """Rows are phases of trainings; or one training per fold, and rows are parts of the images; or changes of the
    images that one training answers."""
    columns: tuple[str, ...] = ("accuracy", "iou")
    """Metrics of `fxray evaluate`; "4o.accuracy" is on the outside data set 4o."""
    rows: tuple[Row, ...] = ()
    reference: str = ""
    """Title of the row that the others are compared with, image by image.

    Of robustness: the row of the unchanged images, which changes are compared with; all rows are of its training."""
    equal_steps: bool = False
    """Refuse to start where two trainings differ in their number of GRPO steps."""
    split: SplitSettings | None = None
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _hangs_together(self) -> "Experiment":
        titles = [row.title for row in self.rows]
        if twice := sorted({f"{row.title}" for row in self.rows if not row.part and titles.count(row.title) > 1}):
            raise ValueError(f"titles of rows must differ, got {twice[0]!r} twice")
        if self.reference and self.reference not in titles:
            raise ValueError(f"`reference` {self.reference!r} is no title of a row")
        if (self.kind == "folds") != (self.split is not None):
            raise ValueError("`split` goes with kind folds, and with no other")
        if self.kind == "trainings" and not any(row.is_trained for row in self.rows):
            raise ValueError("no row can be trained")
        if self.kind == "folds" and any(row.baseline and row.part != "overall" for row in self.rows):
            raise ValueError("a `baseline` in folds has part: overall")
        metrics = [split_column(column)[1] if self.kind == "trainings" else column for column in self.columns]
        if unknown := [metric for metric in metrics if metric not in METRICS]:
            raise ValueError(f"`columns` has {unknown[0]!r}, expected of {', '.join(METRICS)}")
        changes = [change.name for change in HARDSHIPS]
        if unknown := [row.change for row in self.rows if row.change and row.change not in changes]:
            raise ValueError(f"`change` is {unknown[0]!r}, expected one of {', '.join(changes)}")
        if self.kind != "robustness" and any(row.change for row in self.rows):
            raise ValueError("`change` goes with kind robustness, and with no other")
        if unknown := sorted({key for row in self.rows for key in row.paper if key not in self.columns}):
            raise ValueError(f"`paper` has {unknown[0]!r}, which is no column")
        return self

    @model_validator(mode="after")
    def _heeds_what_it_holds(self) -> "Experiment":
        unheeded = {"trainings": ("part",), "folds": ("set", "phase"), "robustness": ("phase", "part")}[self.kind]
        for row in self.rows:
            for name in unheeded:
                if not row.absent and getattr(row, name):
                    raise ValueError(f"row {row.title!r} has `{name}`, which does nothing in kind {self.kind}")
            if self.kind == "folds" and not row.absent and not row.part:
                raise ValueError(f"row {row.title!r} has no `part`: generator, group or overall")
        if self.kind == "folds" and self.reference:
            raise ValueError("`reference` goes with kinds trainings and robustness: rows of folds are not compared")
        if self.kind == "robustness" and self.reference:
            unchanged = next(row for row in self.rows if row.title == self.reference)
            trained = {row.set for row in self.rows if row.is_trained}
            if not unchanged.is_trained or unchanged.change or len(trained) > 1:
                raise ValueError(
                    "`reference` of robustness names a row without `change`, of the training that all rows are about: "
                    "every row is compared with what its training answers to the images as they are"
                )
        return self

    @property
    def baselines(self) -> tuple[str, ...]:
        """Names of the baselines that rows are about."""
        return tuple(dict.fromkeys(row.baseline for row in self.rows if row.baseline))

    @property
    def changes_of_baselines(self) -> tuple[str, ...]:
        """Changes of the images that baselines are asked about."""
        return tuple(dict.fromkeys(row.change for row in self.rows if row.baseline and row.change))

    @property
    def outside(self) -> tuple[str, ...]:
        """Names of the outside data sets that a column is about."""
        return tuple(dict.fromkeys(test for test, _ in map(split_column, self.columns) if test != OWN))


def split_column(column: str) -> tuple[str, str]:
    """Test set and metric of a column."""
    test, dot, metric = column.rpartition(".")
    return (test, metric) if dot else (OWN, metric)


def shipped_experiments() -> list[str]:
    """Names that `load_experiment` accepts in place of a path."""
    return sorted(path.stem for path in (shipped_folder() / "experiments").glob("*.yaml"))


_ELSEWHERE = {
    "figure2": "votes of people: `fxray prefer create` makes the study, `fxray prefer analyse` the matrix",
    "figure4": "two answers beside their images: a report.html shows such, `fxray detect --with drawn` draws them",
}
"""What of the paper is no table of trainings, and where it is made."""


def load_experiment(path_or_name: str) -> Experiment:
    """An experiment that ships with fxray, or of a YAML file.

    Raises:
        ConfigError: There is no such experiment, or a field is unknown or out of bounds.
    """
    if path_or_name in _ELSEWHERE and not Path(path_or_name).exists():
        raise ConfigError(f"is no experiment, but {_ELSEWHERE[path_or_name]}", where=path_or_name)
    path = find_yaml(path_or_name, shipped_folder() / "experiments", kind="experiment")
    experiment = validate(Experiment, read_document(path), where=str(path))
    for row in experiment.rows:
        row.stands_in(path.parent)
    return experiment
