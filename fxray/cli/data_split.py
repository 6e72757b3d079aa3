"""`fxray data split` and `fxray data take`: a split as a small file, and its parts as datasets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fxray.cli.all_cores import on_all_cores
from fxray.data.split.settings import Scheme, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fxray.data.split.split import Split

_SCHEMES_OF = {
    "folds": (Scheme.K_FOLD,),
    "fractions": (Scheme.FIXED,),
    "validation-frac": (Scheme.K_FOLD, Scheme.GENERATOR, Scheme.GROUP),
    "test-frac": (Scheme.GENERATOR, Scheme.GROUP),
    "groups": (Scheme.GROUP,),
}
"""Which schemes an option says something about."""


def split(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Parquet files that together are one set.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", dir_okay=False, help="By default split.json beside the first data file."),
    ] = None,
    scheme: Annotated[Scheme, typer.Option(help="How to split.")] = Scheme.K_FOLD,
    num_folds: Annotated[
        int | None, typer.Option("--folds", min=2, max=100, help="Of k-fold. [default: 4, as in the paper]")
    ] = None,
    fractions: Annotated[
        str | None,
        typer.Option(metavar="TRAIN,VALIDATION,TEST", help="Shares of the parts, for fixed. [default: 0.8,0.1,0.1]"),
    ] = None,
    validation_frac: Annotated[
        float | None,
        typer.Option(min=0, max=0.5, help="Share of the training rows set aside; not for fixed. [default: 0.05]"),
    ] = None,
    test_frac: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=0.99, help="When holding out: test share of sources with several generators. [default: 0.25]"
        ),
    ] = None,
    groups: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="For leave-one-group-out: YAML or JSON, generator: group; else the paper's."),
    ] = None,
    keep_all: Annotated[bool, typer.Option("--keep-all", help="Do not leave the surplus of one class out.")] = False,
    ignore_source: Annotated[
        bool, typer.Option("--ignore-source", help="`source` names collections: keep only look-alikes together.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same split.")] = 0,
) -> None:
    """Split a dataset so that no image, look-alike or source is on two sides.

    Parts are stratified by generator and have as many real as generated images. The result is a small JSON file that
    names the part of each row in each fold, with a checksum of the data; `fxray data take` writes a fold's datasets.
    Every image is looked at, as by `fxray data check`; what that has seen is not decoded again.

    \b
    Examples:
      fxray data split dataset.parquet                                      four folds, as in the paper
      fxray data split dataset.parquet --scheme fixed --fractions 0.7,0.1,0.2
      fxray data split real.parquet fake.parquet --scheme leave-one-generator-out --out ood.json
    """
    from fxray.cli.progress import show_progress
    from fxray.data.split.plan import counts, write_plan
    from fxray.data.split.split import split as split_files

    given = {
        "folds": num_folds,
        "fractions": fractions,
        "validation-frac": validation_frac,
        "test-frac": test_frac,
        "groups": groups,
    }
    _refuse_idle(scheme, [name for name, value in given.items() if value is not None])
    settings = Settings(
        scheme,
        num_folds or 4,
        _fractions("0.8,0.1,0.1" if fractions is None else fractions),
        test_frac or 0.25,
        0.05 if validation_frac is None else validation_frac,
        _groups(files, groups) if scheme is Scheme.GROUP else {},
        keep_all,
        ignore_source,
        seed,
    )
    with show_progress() as on_event:
        result = split_files(files, settings, on_event, all_cores=on_all_cores)
    target = out or files[0].parent / "split.json"
    write_plan(target, result.plan)
    _print(result)
    sizes = [counts(fold, result.rows.is_generated_N)["validation"] for fold in result.plan.folds]
    share = "second of --fractions" if scheme is Scheme.FIXED else "--validation-frac"
    _note_small_validation(sizes, f"a larger {share}, or more images, would do")
    typer.echo(target)


def take(
    split_file: Annotated[Path, typer.Argument(metavar="SPLIT", help="A file of fxray data split.")],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for train, validation and test.parquet.")],
    fold: Annotated[str | None, typer.Option(metavar="NAME", help="Which fold, where there are several.")] = None,
) -> None:
    """Write the datasets of one fold of a split.

    The data are compared with the split's checksum first. Images inside the dataset are copied; images beside it stay
    where they are. The parts replace those of an earlier split in DIR, all at once.

    \b
    Example:
      fxray data take split.json folds/0 --fold 0
      fxray train -c qwen2.5-vl-7b -s data.train=folds/0/train.parquet -s data.validation=folds/0/validation.parquet \\
        -s data.test=folds/0/test.parquet
    """
    from fxray.cli.progress import show_progress
    from fxray.data.dataset import Dataset
    from fxray.data.split.schemes import PART_NAMES, VALIDATION
    from fxray.data.split.take import take as take_fold
    from fxray.evaluate.fitting import verdict_counts

    with show_progress() as on_event:
        written = take_fold(split_file, out, fold, on_event)
    for path in written:
        if path.stem == PART_NAMES[VALIDATION]:
            sizes = verdict_counts(Dataset.open(path).samples)
            remedy = "a split with a larger share for validation, or of more images, would do"
            _note_small_validation([sizes], remedy)
        typer.echo(path)


def _refuse_idle(scheme: Scheme, given: Sequence[str]) -> None:
    """Sees to it that every option that was given says something about the scheme."""
    for name in given:
        if scheme not in _SCHEMES_OF[name]:
            schemes = " or ".join(_SCHEMES_OF[name])
            raise typer.BadParameter(f"--{name} goes with --scheme {schemes}, not with {scheme}")


def _fractions(text: str) -> tuple[float, float, float]:
    try:
        train, validation, test = map(float, text.split(","))
    except ValueError:
        raise typer.BadParameter(f"--fractions {text!r}, expected three numbers: 0.8,0.1,0.1") from None
    if not (train > 0 and validation >= 0 and test > 0 and abs(train + validation + test - 1) < 1e-6):
        raise typer.BadParameter(f"--fractions {text!r}: they must add up to 1, and train and test be above 0")
    return train, validation, test


def _groups(files: list[Path], path: Path | None) -> Mapping[str, str]:
    """Group by generator: of the file, or the paper's.

    Raises:
        ConfigError: The file cannot be read, or is no mapping of text to text.
    """
    import yaml

    from fxray.errors import ConfigError

    if path is None:
        from fxray.data.dataset import Dataset
        from fxray.evaluate.groups import group_of, has_planted_defects

        names = {sample.generator for file in files for sample in Dataset.open(file).samples}
        is_synthetic = has_planted_defects(names)
        return {name: group_of(name, is_generated=True, is_synthetic=is_synthetic) for name in names}
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot be read: {error}", where=str(path), remedy="check the path and the YAML") from error
    if not isinstance(content, dict) or not all(isinstance(x, str) for pair in content.items() for x in pair):
        raise ConfigError("no mapping of generators to groups", where=str(path), remedy="write lines: BigGAN: GAN")
    return content


def _print(result: Split) -> None:
    from rich.table import Table

    from fxray.cli.tables import print_table
    from fxray.data.split.plan import counts

    plan = result.plan
    title = f"{plan.scheme}, seed {plan.seed}: real + generated images"
    table = Table("fold", "train", "validation", "test", "left out", title=title, title_justify="left")
    for fold in plan.folds:
        numbers = counts(fold, result.rows.is_generated_N).values()
        table.add_row(fold.name, *(f"{real} + {generated}" for real, generated in numbers))
    print_table(table)


def _note_small_validation(sizes: Sequence[tuple[int, int]], remedy: str) -> None:
    """Says on stderr where the smallest validation part of some, real + generated images, is too small to calibrate."""
    from fxray.evaluate.fitting import note_of_few

    smallest = min((size for size in sizes if any(size)), key=min, default=None)
    if smallest and (note := note_of_few(*smallest, remedy)):
        typer.echo(f"note: {note}", err=True)
