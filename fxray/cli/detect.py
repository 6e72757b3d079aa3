"""`fxray detect`."""

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fxray.cli.arguments import AdapterOption, ModelConfigOption, SetOption, checked_config
from fxray.counts import counted

if TYPE_CHECKING:
    from fxray.config.tree import Config
    from fxray.detect.detector import Detector
    from fxray.detect.folder import Record
    from fxray.detect.reading import Wanted
    from fxray.events import Note


class Extra(StrEnum):
    COCO = "coco"
    DRAWN = "drawn"


INTERRUPTED = 128 + signal.SIGINT


def detect(
    paths: Annotated[
        list[str], typer.Argument(help="Images, folders, quoted globs, lists (.csv, .jsonl, .parquet); - reads paths.")
    ],
    run_dir: Annotated[
        str | None, typer.Option("--run-dir", "-d", metavar="DIR", help="A run; its last finished phase answers.")
    ] = None,
    config: ModelConfigOption = None,
    adapter: AdapterOption = None,
    overrides: SetOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Keep detections.jsonl, .csv and report.html here."),
    ] = None,
    extras: Annotated[
        list[Extra] | None, typer.Option("--with", help="Also write COCO files, or drawings. May be repeated.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Engines, over Ray; needs --out.")] = 1,
    keep_personal: Annotated[
        bool, typer.Option("--keep-personal", help="Keep positions, names and serial numbers of the files' metadata.")
    ] = False,
    stability: Annotated[
        bool, typer.Option("--stability", help="Also try each image saved again, resized, cropped, off a screen.")
    ] = False,
    samples: Annotated[
        int, typer.Option("--samples", min=0, max=256, help="Also draw so many answers at random; say how they differ.")
    ] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: a line per image, or with --out a summary.")
    ] = False,
) -> None:
    """Judge images with a trained detector.

    A verdict is evidence, not proof. A file that cannot be read never stops the rest. With --out, the same command goes
    on where an interrupted one stopped: it examines what is new or changed, and says how much it skipped.

    Exit codes: 0 all have a verdict, 1 some have none, 2 wrong usage, 130 interrupted. What ends the command itself,
    such as a run directory that is none, has code 1 or 2 and a line "error: ..." on stderr, which images never have.

    \b
    Examples:
      fxray detect photo.jpg --run-dir runs/demo
      fxray detect photo.jpg --run-dir runs/demo --stability
      fxray detect photos/ --run-dir runs/demo --out found/ --with drawn
      find . -name '*.jpg' -size +10k | fxray detect - --run-dir runs/demo --json
      fxray detect photo.jpg --config tiny --adapter runs/demo/sft/adapter
    """
    if (run_dir is None) == (config is None):
        raise typer.BadParameter("give either --run-dir or --config")
    if out is None and (extras or workers > 1):
        raise typer.BadParameter("--with and --workers need --out")
    from fxray.detect.files import files_of
    from fxray.detect.load import latest_adapter
    from fxray.detect.reading import Wanted
    from fxray.remote import local_copy

    if run_dir is not None:
        folder = local_copy(run_dir)
        adapter = adapter or latest_adapter(folder)
        config = str(folder / "config.yaml")
    assert config is not None
    checked = checked_config(config, overrides)
    files = files_of(paths, sys.stdin.buffer if sys.stdin else None, leave_out=out)
    if not files:
        typer.echo("error: no file is named, so nothing was examined", err=True)
        raise typer.Exit(1)
    wanted = Wanted(thumbnail=out is not None, personal=keep_personal, stability=stability, num_samples=samples)
    if out is None:
        _print_findings(checked, adapter, files, wanted, as_json=as_json)
    else:
        _fill_folder(checked, adapter, files, wanted, out, workers=workers, extras=extras or [], as_json=as_json)


def _print_findings(
    config: "Config", adapter: Path | None, files: Sequence[str], wanted: "Wanted", *, as_json: bool
) -> None:
    from fxray.detect.finding import as_line
    from fxray.detect.offline import detect_files, in_order

    detector = _detector(config, adapter, files, lambda event: typer.echo(event.text, err=True))
    num_unanswered = 0
    for finding in in_order(detect_files(detector, files, wanted), files):
        typer.echo(as_line(finding.as_record()) if as_json else finding.as_text())
        num_unanswered += not finding.is_answered
    _leave(num_unanswered)


def _fill_folder(
    config: "Config",
    adapter: Path | None,
    files: Sequence[str],
    wanted: "Wanted",
    out: Path,
    *,
    workers: int,
    extras: Sequence[Extra],
    as_json: bool,
) -> None:
    from fxray.cli.progress import show_progress
    from fxray.detect.folder import opened_folder
    from fxray.detect.load import describe_detector
    from fxray.detect.results import told, write_results
    from fxray.events import Note

    asked = {
        "keeps_personal_metadata": wanted.personal,
        "tries_stability": wanted.stability,
        "num_samples": wanted.num_samples,
    }
    settings = describe_detector(config, adapter).summary() | asked
    with opened_folder(out, settings) as results, show_progress() as on_event:
        todo = results.missing(files)
        if len(todo) < len(files):
            on_event(Note(f"{len(files) - len(todo)} of {len(files)} are examined already and have not changed"))
        num_away = 0
        try:
            if todo:
                found = _found(config, adapter, todo, wanted, workers, on_event)
                for record, thumbnail in told(found, len(todo), on_event):
                    num_away += not results.add(record, thumbnail)
        except KeyboardInterrupt:
            results.flush()
            on_event(Note("interrupted; the same command goes on from here", is_warning=True))
            raise typer.Exit(INTERRUPTED) from None
        if num_away:
            text = f"{num_away} examined before cannot be read now: what was found in them stays"
            on_event(Note(text, is_warning=True))
        records = results.finish(files)
        problems = write_results(
            out, records, settings, with_coco=Extra.COCO in extras, with_drawn=Extra.DRAWN in extras
        )
        for problem in problems:
            on_event(Note(f"not drawn: {problem}", is_warning=True))
        ours = results.records(files)
    _summarise(out, ours, len(files) - len(todo), as_json=as_json)
    _leave(sum(not record.get("verdict") for record in ours))


def _found(
    config: "Config",
    adapter: Path | None,
    files: Sequence[str],
    wanted: "Wanted",
    workers: int,
    on_event: Callable[["Note"], None],
) -> Iterator[tuple["Record", bytes]]:
    """Records and thumbnails from an engine in this process, or from several over Ray."""
    from fxray.detect.files import is_any_there

    if workers > 1 and is_any_there(files):
        from fxray.detect.workers import detect_on_workers
        from fxray.events import Note

        on_event(Note("starting the engines"))
        yield from detect_on_workers(config, adapter, files, wanted, workers)
        return
    from fxray.detect.offline import detect_files

    for finding in detect_files(_detector(config, adapter, files, on_event), files, wanted):
        yield finding.as_record(), finding.thumbnail


def _detector(
    config: "Config", adapter: Path | None, files: Sequence[str], on_event: Callable[["Note"], None]
) -> "Detector":
    """A detector, with an engine where there is anything to ask it about."""
    from fxray.detect.files import is_any_there
    from fxray.detect.load import describe_detector, open_detector
    from fxray.events import Note

    if not is_any_there(files):
        return describe_detector(config, adapter)
    on_event(Note("starting the engine"))
    return open_detector(config, adapter)


def _summarise(out: Path, records: "Sequence[Record]", num_skipped: int, *, as_json: bool) -> None:
    import json
    from collections import Counter

    from fxray.detect.page import kind_of
    from fxray.detect.results import REPORT, WORDS

    counts = Counter(kind_of(record) for record in records)
    if as_json:
        numbers = {kind: counts[kind] for kind in WORDS}
        summary = {"images": len(records), "skipped": num_skipped, **numbers, "report": str(out / REPORT)}
        typer.echo(json.dumps(summary))
        return
    words = ", ".join(counted(counts[kind], *texts) for kind, texts in WORDS.items() if counts[kind])
    skipped = f" ({num_skipped} skipped: examined before)" if num_skipped else ""
    typer.echo(
        f"{counted(len(records), 'image')}{skipped}: {words or 'nothing to examine'}. Evidence, not "
        f"proof.\n{out / REPORT}"
    )


def _leave(num_unanswered: int) -> None:
    if num_unanswered:
        typer.echo(f"{num_unanswered} without a verdict", err=True)
        raise typer.Exit(1)
