"""`fxray data stats` and `fxray data tokens`: what a dataset holds, and how long its answers are."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fxray.cli.arguments import ConfigOption, JsonOption, SetOption
from fxray.cli.tables import number, print_table
from fxray.counts import counted

if TYPE_CHECKING:
    from fxray.launch.tokens import TokenCounts


def stats(
    data: Annotated[Path, typer.Argument(help="Dataset file.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for statistics.html, its pictures and statistics.json.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Count regions, boxes, captions, tags, generators and categories.

    \b
    Examples:
      fxray data stats train.parquet
      fxray data stats train.parquet --out statistics
      fxray data stats train.parquet --json
    """
    from fxray.data.dataset import Dataset
    from fxray.data.statistics import summarise

    samples = Dataset.open(data).samples
    statistics = summarise(samples)
    page = None
    if out is not None:
        from fxray.evaluate.groups import has_planted_defects
        from fxray.report.dataset_page import write_statistics

        is_synthetic = has_planted_defects(sample.generator for sample in samples)
        page = write_statistics(statistics, out, name=data.name, is_synthetic=is_synthetic)
    if as_json:
        typer.echo(json.dumps(statistics.to_json(), indent=1, ensure_ascii=False))
        return
    from rich.table import Table

    from fxray.report.dataset_page import facts_of

    table = Table(title=f"{data.name}", title_justify="left", show_header=False)
    for fact in facts_of(statistics):
        table.add_row(*fact)
    print_table(table)
    counts = Table(title="Tags of generated images", title_justify="left", show_header=False)
    for tag, count in statistics.tags.items():
        counts.add_row(tag.value, f"{count:,}", f"{count / max(1, statistics.num_generated):.1%}")
    print_table(counts)
    if page is not None:
        typer.echo(page)


def tokens(
    data: Annotated[Path, typer.Argument(help="Dataset file.")],
    config: ConfigOption,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Count the tokens of images, prompts and answers, as the configuration's model, view and order make them.

    Says how many answers exceed sft.max_answer_tokens before training meets them; exit code 1 when one does and
    sft.on_long_answer is error, or when an answer cannot be written.

    \b
    Examples:
      fxray data tokens train.parquet --config qwen2.5-vl-7b
      fxray data tokens train.parquet -c tiny -s data.view=no-caption -s sft.max_answer_tokens=64
    """
    from fxray.cli.progress import show_progress
    from fxray.config.load import load_config
    from fxray.launch.tokens import count_tokens

    tree = load_config(config, overrides or ())
    with show_progress() as on_event:
        counts = count_tokens(tree, data, on_event)
    if as_json:
        typer.echo(json.dumps(counts.to_json(), indent=2, ensure_ascii=False))
    else:
        _show_tokens(counts)
    raise typer.Exit(1 if counts.is_refused else 0)


def _show_tokens(counts: "TokenCounts") -> None:
    from rich.table import Table

    lengths = Table(title=f"Tokens: model {counts.model}, view {counts.view}", title_justify="left")
    lengths.add_column("")
    for label in ("count", "mean", "least", "median", "95 %", "most"):
        lengths.add_column(label, justify="right")
    for name, summary in (("image", counts.images), ("answer", counts.answers)):
        values = (summary.mean, summary.low, summary.median, summary.p95, summary.high)
        lengths.add_row(name, f"{summary.count:,}", *(number(value, 1) for value in values))
    print_table(lengths)
    prompts = Table(title="Templates", title_justify="left")
    for label in ("template", "prompt without image", "longest with image and answer"):
        prompts.add_column(label, justify="right")
    for index, (prompt, longest) in enumerate(zip(counts.prompts, counts.longest, strict=True), start=1):
        prompts.add_row(str(index), f"{prompt:,}", f"{longest:,}")
    print_table(prompts)
    for problem in counts.unsayable:
        typer.echo(f"cannot be written: {problem}")
    if counts.num_unsayable > len(counts.unsayable):
        typer.echo(f"and {counts.num_unsayable - len(counts.unsayable)} more")
    if counts.num_too_long:
        drops, length = counts.may_drop_regions, f"more than {counts.max_answer_tokens} tokens"
        one = f"answer has {length} and {'loses its last regions' if drops else 'is refused'}"
        many = f"answers have {length} and {'lose their last regions' if drops else 'are refused'}"
        such_as = ", ".join(counts.too_long)
        typer.echo(
            f"{counted(counts.num_too_long, one, many)} (sft.max_answer_tokens, sft.on_long_answer), such as {such_as}"
        )
    else:
        typer.echo(f"no answer has more than {counts.max_answer_tokens} tokens (sft.max_answer_tokens)")
