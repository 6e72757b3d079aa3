"""What came of a sweep, as files: tables, figure, and the best setting as a configuration.

DIR/sweep.md .tex .csv .json .html, fields.png .svg
DIR/best.yaml    extends the configuration of the sweep: `fxray train --config DIR/best.yaml`
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fxray.config.load import dump_differences
from fxray.config.tree import Config
from fxray.data.dataset import Dataset
from fxray.files import file_sha256, write_atomically
from fxray.launch.calibration import recorded_splits
from fxray.launch.evaluation import rows_to_answer
from fxray.report.paper_table import SYNTHETIC, PaperTable
from fxray.sweep.chart import draw_fields
from fxray.sweep.file import SweepFile, as_override
from fxray.sweep.measure import SettingResult, best_of, is_synthetic, lead_of, measure_settings
from fxray.sweep.tables import write_results
from fxray.sweep.trials import Configure, Trial
from fxray.versions import versions

FIGURE, BEST = "fields", "best.yaml"


@dataclass(frozen=True, slots=True)
class Base:
    """What all trials of a sweep share.

    Attributes:
        path_or_name: The configuration, as it was given.
        overrides: As they were given.
        configure: Makes the configuration with further overrides.
        out: Folder of the sweep.
    """

    path_or_name: str
    overrides: tuple[str, ...]
    configure: Configure
    out: Path


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a sweep.

    Attributes:
        table: Settings and trials.
        best: Name of the best setting, the first of those that tie; empty where none is done.
        undone: Why trials have no numbers, by name; those that were stopped on purpose are left out.
    """

    table: PaperTable
    best: str
    undone: Mapping[str, str]


def write_sweep(
    file: SweepFile, base: Base, trials: Sequence[Trial], stopped: Mapping[str, str], *, has_figure: bool
) -> Result:
    """Writes the results of what is there, and the figure, which takes its time, when it is asked for.

    Args:
        file: The sweep.
        base: Configuration and folder.
        trials: All of them.
        stopped: Phases after which settings were stopped, by their names.
        has_figure: Whether to draw.

    Raises:
        DataError: Answers are damaged.
        ResourceError: The disk is full or not writable.
    """
    sweep, out, config = file.sweep, base.out, base.configure([], {})
    resamples = config.evaluate.num_bootstrap
    results = measure_settings(trials, out, sweep.metric, stopped, num_bootstrap=resamples, bootstrap_seed=config.seed)
    is_planted = is_synthetic(trials[0])
    best = best_of(results, sweep.metric, sweep.mode)
    has_figure = has_figure and draw_fields(sweep, results, out, FIGURE, is_synthetic=is_planted)
    if not has_figure:
        _remove(out, f"{FIGURE}.png", f"{FIGURE}.svg")
    lead = lead_of(results, sweep.metric, sweep.mode)
    table = write_results(
        sweep,
        results,
        lead,
        out,
        _facts(file, trials, out, config),
        is_synthetic=is_planted,
        best=[each.setting for each in best],
        sources=_asked_sources(out, config),
        figure=FIGURE if has_figure else "",
    )
    if best:
        write_atomically(out / BEST, best_config(file, base, trials, best, is_synthetic=is_planted))
    else:
        _remove(out, BEST)
    lines = [trial for result in results for trial in result.trials]
    undone = {line.trial: line.state for line in lines if line.state and not line.state.startswith("stopped")}
    return Result(table, best[0].setting if best else "", undone)


def best_config(
    file: SweepFile, base: Base, trials: Sequence[Trial], tied: Sequence[SettingResult], *, is_synthetic: bool
) -> str:
    """The configuration of the best setting as YAML that `load_config` takes, with a head that says what it is.

    Args:
        file: The sweep.
        base: Configuration and folder.
        trials: All of them.
        tied: The best setting, and those that tie with it.
        is_synthetic: Whether the data are photographs with planted defects.
    """
    best = tied[0]
    setting = next(trial.setting for trial in trials if trial.setting.name == best.setting)
    number, seeds = best.metrics[file.sweep.metric], ", ".join(str(trial.seed) for trial in best.trials)
    spread = "" if number["sd"] is None else f" ± {number['sd']:.3f}"
    phase = next(trial.phase for trial in trials if trial.setting.name == best.setting)
    sets = [*base.overrides, *(as_override(field, value) for field, value in setting.values.items())]
    found = f"{file.sweep.metric} {number['value']:.3f}{spread} after {phase} on the validation split, seeds {seeds}"
    what = "Best" if len(tied) == 1 else f"First of {len(tied)} settings that tie as the best"
    lines = [
        f"{what} of {file.path.name}: {found}.",
        *([SYNTHETIC] if is_synthetic else []),
        " ".join(["fxray train --config", base.path_or_name, *(f"--set {shlex.quote(each)}" for each in sets)]),
    ]
    head = "".join(f"# {line}\n" for line in lines)
    return head + dump_differences(base.path_or_name, base.overrides, setting.document)


def _remove(out: Path, *names: str) -> None:
    """What an earlier call wrote, and what is not true of this one."""
    for name in names:
        (out / name).unlink(missing_ok=True)


def _asked_sources(out: Path, config: Config) -> list[str]:
    """Sources of the validation images that trials answer, one each."""
    dataset = Dataset.open(recorded_splits(out).validation)
    return [dataset.samples[row].source for row in rows_to_answer(len(dataset), config.evaluate.num_samples)]


def _facts(file: SweepFile, trials: Sequence[Trial], out: Path, config: Config) -> dict[str, object]:
    """What the numbers rest on."""
    records = [trial.run(out).root / "versions.json" for trial in trials]
    revisions = [json.loads(record.read_text("utf-8")).get("git_revision") for record in records if record.is_file()]
    here = versions()
    return {
        "sweep": f"{file.path.name} (sha256 {file_sha256(file.path)[:12]})",
        "config": "config.yaml",
        "base": config.model.path,
        "seeds": ", ".join(map(str, file.sweep.seeds)),
        "num_bootstrap": config.evaluate.num_bootstrap,
        "validation_sha256": file_sha256(recorded_splits(out).validation),
        "commit": ", ".join(dict.fromkeys(map(str, revisions))) or here["git_revision"],
        "machine": here["machine"],
    }
