"""`fxray prefer`: the study of whose annotations people prefer."""

import math
from pathlib import Path
from typing import Annotated, Literal

import typer

from fxray.cli.arguments import BootstrapOption, JsonOption, ThresholdOption
from fxray.counts import counted

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
_PORT = 8100

StudyArgument = Annotated[Path, typer.Argument(metavar="STUDY", help="A study file.")]


@app.callback()
def prefer() -> None:
    """Let people, or a model, choose between annotations of an image: the paper's preference study.

    \b
    Examples:
      fxray prefer create study.db --data test.parquet --source human=truth --source gamma=gamma.parquet
      fxray prefer invite study.db ana ben cleo
      fxray prefer serve study.db
      fxray prefer judge study.db --url http://127.0.0.1:8000/v1 --model NAME
      fxray prefer analyse study.db --out results
    """


@app.command()
def create(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="The study file to write.")],
    data: Annotated[Path, typer.Option(metavar="FILE", help="Dataset file with the images and the truth.")],
    sources: Annotated[
        list[str],
        typer.Option(
            "--source",
            metavar="NAME=FILE",
            help="Whose annotations: a name, and predictions as `fxray evaluate` reads them, or the word truth for the "
            "dataset's own. Two or more.",
        ),
    ],
    num_images: Annotated[
        int | None, typer.Option("--images", min=1, help="Images to draw from the dataset; by default all.")
    ] = None,
    with_real: Annotated[bool, typer.Option("--with-real", help="Real images too, not only generated ones.")] = False,
    pairs: Annotated[int | None, typer.Option(min=1, help="Pairs for each rater; by default all.")] = None,
    checks: Annotated[int, typer.Option(min=0, help="Attention checks for each rater, among the pairs.")] = 4,
    max_side_px: Annotated[int, typer.Option(min=56, help="Larger images are reduced.")] = 2048,
    threshold: ThresholdOption = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="Of the images, and of each rater's order and sides.")] = 0,
) -> None:
    """Make a study file: images, every two annotations of each as a pair, attention checks.

    Pairs whose annotations are equal are left out and counted. The file holds all that is needed, and later the votes.

    \b
    Examples:
      fxray prefer create study.db --data test.parquet --source human=truth --source gamma=gamma.parquet
      fxray prefer create study.db --data test.parquet --source sft=sft.jsonl --source gamma=gamma.jsonl --pairs 40
    """
    from fxray.cli.progress import show_progress
    from fxray.events import Step
    from fxray.prefer.sources import TRUTH, Source
    from fxray.prefer.study import Plan, create_study

    if not math.isfinite(threshold):
        raise typer.BadParameter(f"--threshold {threshold}: expected a finite number")
    given = []
    for text in sources:
        name, equals, file = text.partition("=")
        if not (name and equals and file):
            raise typer.BadParameter(f"--source {text}: expected NAME=FILE or NAME={TRUTH}")
        given.append(Source(name, None if file == TRUTH else Path(file)))
    plan = Plan(num_images, with_real, pairs, checks, max_side_px, threshold, seed)
    with show_progress() as on_event:
        made = create_study(study, data, given, plan, lambda done, total: on_event(Step("images", done, total)))
    typer.echo(
        f"{study}: {counted(made.num_pairs, 'pair')} on {counted(made.num_images, 'image')}, "
        f"{counted(made.num_checks, 'attention check')}; "
        f"{counted(made.num_identical, 'pair')} of equal annotations left out"
    )


@app.command()
def invite(
    study: StudyArgument,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Raters, as the results shall call them.")],
    url: Annotated[str, typer.Option(help="Where raters reach `fxray prefer serve`.")] = f"http://127.0.0.1:{_PORT}/",
    renew: Annotated[
        bool, typer.Option("--renew", help="New links for raters who are there; the old ones end, votes stay.")
    ] = False,
) -> None:
    """Add raters, and print a link for each: it is shown once, the study file holds only its SHA-256.

    Everybody with the link is that rater. Each has an order and sides of its own; raters share the pairs evenly.

    \b
    Examples:
      fxray prefer invite study.db ana ben cleo
      fxray prefer invite study.db ana --renew --url https://study.example.org/
    """
    from fxray.prefer.raters import invite_all
    from fxray.prefer.run import host_of
    from fxray.prefer.store import open_study

    host_of(url)
    with open_study(study) as store:
        tokens = invite_all(store, names, renew=renew)
    for name, token in zip(names, tokens, strict=True):
        typer.echo(f"{name}\t{url.rstrip('/')}/#{token}")


@app.command()
def serve(
    study: StudyArgument,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = _PORT,
    url: Annotated[
        str | None, typer.Option(help="Where raters reach it, if that is another address, such as a proxy's.")
    ] = None,
) -> None:
    """Serve the page of a study to raters who have a link.

    It listens on this machine alone, unless --host says otherwise. Every vote is on the disk before it is answered; the
    command may be ended and started again at any time.

    \b
    Examples:
      fxray prefer serve study.db
      fxray prefer serve study.db --url https://study.example.org/
    """
    from fxray.prefer.run import serve_study
    from fxray.prefer.store import open_study

    with open_study(study) as store:
        serve_study(store, host, port, url, lambda at: typer.echo(f"{at} answers; Ctrl-C ends it", err=True))


@app.command()
def judge(
    study: StudyArgument,
    url: Annotated[str, typer.Option(help="OpenAI-compatible interface, such as vLLM's: http://HOST:PORT/v1.")],
    model: Annotated[str, typer.Option(metavar="NAME", help="As that interface calls it.")],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="How results call it; by default as the interface does.")
    ] = None,
    deadline_s: Annotated[float, typer.Option(min=0.1, help="For each answer.")] = 120.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of each answer, thinking included.")] = 16,
    num_parallel: Annotated[int, typer.Option("--parallel", min=1, help="Questions at a time.")] = 4,
) -> None:
    """Let a model that sees images vote on every pair of a study, as a rater of kind judge.

    A key comes from the environment variable FXRAY_JUDGE_KEY. An answer that is not one of the words left, right,
    neutral is counted and leaves its pair open; the same command again asks what is open. A name is one model's:
    another model needs another --name.

    \b
    Examples:
      fxray prefer judge study.db --url http://127.0.0.1:8000/v1 --model Qwen/Qwen2.5-VL-7B-Instruct
    """
    import os

    from fxray.cli.progress import show_progress
    from fxray.events import Step
    from fxray.prefer.judge import KEY_VARIABLE, QUESTION, Endpoint, judge_study
    from fxray.prefer.raters import join_judge
    from fxray.prefer.store import open_study

    endpoint = Endpoint(url, model, os.environ.get(KEY_VARIABLE, "").strip(), deadline_s, max_tokens)
    with open_study(study) as store, show_progress() as on_event:
        rater = join_judge(store, name or model, model=model, question=QUESTION)
        judged = judge_study(
            store,
            rater,
            endpoint,
            num_parallel=num_parallel,
            told=lambda done, total: on_event(Step("pairs", done, total)),
        )
    typer.echo(
        f"{rater.name}: {counted(judged.num_votes, 'vote')}, "
        f"{counted(judged.num_bad_answers, 'answer that is', 'answers that are')} none"
    )


@app.command()
def analyse(
    study: StudyArgument,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write preference.md, .csv, .json, .png and .svg there.")
    ] = None,
    raters: Annotated[
        Literal["human", "judge", "all"], typer.Option(help="Whose votes; all is people and models together.")
    ] = "human",
    max_failed_checks: Annotated[
        int, typer.Option(min=0, help="Raters who failed more attention checks than this are left out.")
    ] = 1,
    num_bootstrap: BootstrapOption = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the resamples.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Count the votes: the matrix of the paper's Figure 2, Bradley-Terry scores, agreement, checks.

    \b
    Examples:
      fxray prefer analyse study.db
      fxray prefer analyse study.db --out results --max-failed-checks 0
      fxray prefer analyse study.db --raters judge --json
    """
    from fxray.prefer.analysis import analyse as count
    from fxray.prefer.ballots import read_ballots, read_raters
    from fxray.prefer.report import matrix_rows, notes, score_rows, write_analysis
    from fxray.prefer.store import open_study

    with open_study(study, only_read=True) as store:
        ballots, facts = read_ballots(store), store.facts
        records = read_raters(store, ballots)
    names = [source["name"] for source in facts["sources"]]
    options = {"max_failed_checks": max_failed_checks, "num_bootstrap": num_bootstrap, "seed": seed}
    analysis = count(ballots, records, names, group=raters, **options)
    if out is not None:
        write_analysis(out, analysis, facts)
    if as_json:
        import json

        typer.echo(json.dumps(analysis.to_json() | {"study": facts}, indent=2, ensure_ascii=False))
        return
    _show("Share of the votes, row over column", matrix_rows(analysis))
    _show("Bradley-Terry scores, log-odds", score_rows(analysis))
    for note in notes(analysis, facts):
        typer.echo(note)
    if out is not None:
        typer.echo(out)


def _show(title: str, rows: list[list[str]]) -> None:
    from rich.table import Table

    from fxray.cli.tables import print_table

    table = Table(title=title, title_justify="left")
    for name in rows[0]:
        table.add_column(name)
    for row in rows[1:]:
        table.add_row(*row)
    print_table(table)


@app.command()
def export(
    study: StudyArgument,
    out: Annotated[Path, typer.Argument(metavar="FILE", help="Where the votes go: .csv or .jsonl.")],
) -> None:
    """Write every vote that was not undone, with its rater, image and the two sources.

    \b
    Examples:
      fxray prefer export study.db votes.csv
      fxray prefer export study.db votes.jsonl
    """
    if out.suffix not in (".csv", ".jsonl"):
        raise typer.BadParameter(f"{out}: expected a name that ends in .csv or .jsonl")
    from fxray.files import write_atomically
    from fxray.prefer.ballots import ballots_as_csv, ballots_as_jsonl, read_ballots
    from fxray.prefer.store import open_study

    with open_study(study, only_read=True) as store:
        ballots = read_ballots(store)
    write_atomically(out, ballots_as_csv(ballots) if out.suffix == ".csv" else ballots_as_jsonl(ballots))
    typer.echo(f"{out}: {counted(len(ballots), 'vote')}")
