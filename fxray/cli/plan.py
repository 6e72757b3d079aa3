"""`fxray plan`: what a configuration needs, before anything is loaded."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fxray.cli.arguments import ConfigOption, JsonOption, SetOption, checked_config
from fxray.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pyarrow.parquet import FileMetaData
    from rich.table import Table

    from fxray.capacity.duration import Rows
    from fxray.capacity.plan import Plan
    from fxray.config.tree import DataConfig

MAX_GIB = 2**20
PAPER_SAMPLES = 13_158
"""Three quarters of the paper's 8,772 generated images and as many real ones."""


def plan(
    config: ConfigOption,
    overrides: SetOption = None,
    gpu: Annotated[str, typer.Option(help="h200, h100, a100, a100-40, l40s or rtx-4090.")] = "h100",
    memory_gib: Annotated[
        float | None, typer.Option(min=1, max=MAX_GIB, metavar="GIB", help="Another amount of memory on each GPU.")
    ] = None,
    num_samples: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Rows of the training split; by default those of data.train, else the paper's 13,158. Of the "
            "others an eighth of it each, where their files are not here.",
        ),
    ] = None,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Also what moves between nodes, who waits, what a worker gains or costs.")
    ] = False,
    link_gbit: Annotated[
        float | None,
        typer.Option(min=0.1, metavar="GBIT", help="Of the network between nodes, a second; with --cluster or --json."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a configuration needs: memory of each role, whether it fits, seconds of a step, hours of a run.

    Parameters are counted exactly, activations from the shapes of every tensor; times rest on the coefficients that are
    printed with them. Exit code 1 where it does not fit, with the smallest change that does.

    With --cluster also: bytes over the network in a step and boundary, what one more rollout worker gains, with how
    many the learner is what is waited for, what the death of a worker costs, and how long one takes to join.

    \b
    Examples:
      fxray plan --config qwen2.5-vl-7b
      fxray plan --config qwen2.5-vl-32b --gpu h200 --set rollout.gpus_per_worker=1
      fxray plan --config qwen2.5-vl-3b --memory-gib 24
      fxray plan --config qwen2.5-vl-32b --cluster --link-gbit 100 --set grpo.max_staleness=1
    """
    from fxray.capacity.cluster import ClusterCoefficients
    from fxray.capacity.devices import GIB, find_gpu
    from fxray.capacity.plan import draw_plan
    from fxray.cli.plan_cluster import print_cluster

    if link_gbit and not (cluster or as_json):
        raise ConfigError("says nothing without the cluster", where="--link-gbit", remedy="add --cluster or --json")
    tree = checked_config(config, overrides)
    device = find_gpu(gpu)
    memory_bytes = int(memory_gib * GIB) if memory_gib else device.memory_bytes
    network = ClusterCoefficients(link_bytes_per_s=link_gbit * 1e9 / 8) if link_gbit else ClusterCoefficients()
    footer = _footer(tree.data.train)
    rows = _rows(tree.data, footer, num_samples)
    result = draw_plan(tree, device, memory_bytes, rows, image_bytes=_image_bytes(footer), network=network)
    if as_json:
        typer.echo(json.dumps(result.as_json(), indent=2))
    else:
        _print(result)
        if cluster:
            print_cluster(result.cluster, tree, given=["link_bytes_per_s"] if link_gbit else [])
    if not result.memory.fits:
        raise typer.Exit(1)


def _footer(file: Path | None) -> "FileMetaData | None":
    """What the end of a Parquet file says of it; None where it is not there.

    Raises:
        DataError: It is no Parquet file, or damaged.
    """
    if file is None or not file.is_file():
        return None
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_metadata(file)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"is no readable Parquet file: {str(error).splitlines()[0]}",
            where=str(file),
            remedy="make one with `fxray data import`",
        ) from error


def _rows(data: "DataConfig", footer: "FileMetaData | None", num_samples: int | None) -> "Rows":
    """Rows of the splits: as given, of their files, or assumed; held-out ones as `fxray data split` makes them."""
    from fxray.capacity.duration import Rows

    if data.train and footer is None and not num_samples:
        note = f"note: data.train {data.train} is not on this machine: {PAPER_SAMPLES:,} rows are assumed"
        typer.echo(note, err=True)
    num_train = num_samples or (footer.num_rows if footer is not None else 0) or PAPER_SAMPLES
    held_out = [_footer(file) for file in (data.validation, data.test)]
    return Rows(num_train, *(num_train // 8 if found is None else found.num_rows for found in held_out))


def _image_bytes(metadata: "FileMetaData | None") -> int | None:
    """Bytes of a mean encoded image in a dataset, from its file's footer alone; None without one."""
    if metadata is None:
        return None
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    columns = [group.column(i) for group in groups for i in range(group.num_columns)]
    num_bytes = sum(column.total_uncompressed_size for column in columns if column.path_in_schema.startswith("image"))
    return num_bytes // metadata.num_rows or None if metadata.num_rows else None


def _print(plan: "Plan") -> None:
    from fxray.cli.tables import print_table

    print_table(_memory_table(plan))
    for line in (*_fits(plan), *_times(plan)):
        typer.echo(line)


def _memory_table(plan: "Plan") -> "Table":
    from rich.table import Table

    from fxray.capacity.devices import GIB

    table = Table(title="Memory of each process at its largest pass", title_justify="left")
    table.add_column("what")
    for role in plan.memory.roles:
        table.add_column(f"{role.name}, GiB", justify="right")
    names = dict.fromkeys(part.name for role in plan.memory.roles for part in role.parts)
    for name in names:
        of_roles = [
            next((f"{part.num_bytes / GIB:.2f}" for part in role.parts if part.name == name), "")
            for role in plan.memory.roles
        ]
        table.add_row(name, *of_roles)
    table.add_section()
    table.add_row("together", *(f"{role.num_bytes / GIB:.2f}" for role in plan.memory.roles))
    return table


def _fits(plan: "Plan") -> list[str]:
    from fxray.capacity.advice import as_options
    from fxray.capacity.devices import GIB

    lines = []
    for card in plan.memory.cards:
        verdict = "fits" if card.fits else "does not fit"
        amounts = f"{card.num_bytes / GIB:.1f} of {card.available_bytes / GIB:.1f} GiB"
        place = "in its part of a GPU" if card.roles == ("engine",) else "on one GPU"
        lines.append(f"{' and '.join(card.roles)} {place}: {amounts}, {verdict}")
    if not plan.memory.cards:
        lines.append("no GPU is asked for: these bytes are of the host's memory, and times are not modelled")
    if plan.change is None:
        lines.append("no small change makes it fit: use GPUs with more memory, more of them, or a smaller model")
    elif plan.change:
        lines.append(f"the smallest change that fits: {as_options(plan.change)}")
    lines.append(f"cache of one engine: {plan.memory.cached_tokens:,} tokens")
    trained = plan.trained
    lines.append(
        f"{'all weights are' if trained.is_whole else 'an adapter is'} trained: {trained.num_trained:,} numbers, "
        f"{trained.published_bytes / GIB:.3g} GiB to each engine after a step, "
        f"{trained.checkpoint_bytes / GIB:.3g} GiB of disk for a checkpoint, "
        f"{trained.store_bytes / GIB:.3g} GiB of the object store"
    )
    return lines


def _times(plan: "Plan") -> list[str]:
    time = plan.duration
    if time is None:
        return []
    step = (
        f"a GRPO step: {time.step_s:.0f} s (reading prompts {time.prefill_s:.1f}, writing answers {time.decode_s:.1f}, "
        f"learning {time.learn_s:.1f}, the rest {time.overhead_s:.1f}"
        f"{'; learning overlaps the others' if time.overlaps else ''}); the bottleneck is {time.bottleneck}"
    )
    rows = plan.rows
    run = (
        f"a run on {rows.train:,} samples: {time.hours:.1f} h of training ({time.num_sft_steps:,} SFT steps of "
        f"{time.sft_step_s:.1f} s, {time.num_grpo_steps:,} GRPO steps)"
    )
    evaluation = (
        f"and {time.evaluation_hours:.1f} h of evaluation: {time.num_answers:,} answers of {time.answer_s:.2f} s, with "
        f"{rows.test:,} images in the test split and {rows.validation:,} in that of validation; all without starts"
    )
    return [step, run, evaluation, f"times are modelled, not measured, with {plan.coefficients.shown()}"]
