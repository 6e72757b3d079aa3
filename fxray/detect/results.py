"""What becomes of the findings in a folder: tables, report, and what is told while they come."""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fxray.counts import counted
from fxray.data.formats import coco
from fxray.detect.folder import Record, thumbnail_file
from fxray.detect.page import write_page
from fxray.detect.writers import draw_all, write_coco, write_csv
from fxray.events import OnEvent, PhaseDone, PhaseStarted, Step

TABLE, REPORT, COCO, DRAWN = "detections.csv", "report.html", "coco", "drawn"
WORDS = {
    "generated": ("looks generated", "look generated"),
    "unsure": ("is unsure", "are unsure"),
    "real": ("looks real", "look real"),
    "unread": ("has no verdict", "have no verdict"),
    "failed": ("could not be examined", "could not be examined"),
}
"""Kinds of findings, and what is said of one and of several."""
_TELL_S, _WINDOW = 1.0, 30


def write_results(
    folder: Path, records: Sequence[Record], settings: Mapping[str, Any], *, with_coco: bool, with_drawn: bool
) -> list[str]:
    """Writes what is made of all findings, each file whole or not at all.

    Args:
        folder: Of the results.
        records: All findings.
        settings: What answered, and how it was asked.
        with_coco: Write `coco/` too, as is done wherever it is there already.
        with_drawn: Write `drawn/` too, likewise.

    Returns:
        Why images were not drawn.

    Raises:
        ResourceError: The disk is full or not writable.
    """
    write_csv(records, folder / TABLE)
    if with_coco or (folder / COCO / coco.ANNOTATIONS).exists():
        write_coco(records, folder / COCO)
    write_page(folder / REPORT, records, lambda sha256: _thumbnail(folder, sha256), settings)
    return draw_all(records, folder, folder / DRAWN) if with_drawn or (folder / DRAWN).is_dir() else []


def told(found: Iterable[tuple[Record, bytes]], num_files: int, on_event: OnEvent) -> Iterator[tuple[Record, bytes]]:
    """Passes findings on, and tells once a second how many there are and how many images a second that makes."""
    start_s = told_s = time.monotonic()
    recent: deque[tuple[float, int]] = deque([(start_s, 0)], maxlen=_WINDOW)
    num_failed = done = 0
    for done, item in enumerate(found, start=1):
        yield item
        num_failed += not item[0].get("verdict")
        now = time.monotonic()
        if done == 1:  # an engine starts for long before
            on_event(PhaseStarted("detect", num_files, 0))
            start_s = told_s = now
            recent = deque([(now, done)], maxlen=_WINDOW)
        elif now - told_s >= _TELL_S or done == num_files:
            recent.append((now, done))
            (first_s, first), told_s = recent[0], now
            facts: dict[str, float] = {"num_failed": num_failed}
            if now - first_s >= _TELL_S:  # what the engine gives at once has no speed
                facts["images_per_s"] = (done - first) / (now - first_s)
            on_event(Step("detect", done, num_files, facts))
    on_event(PhaseDone("detect", time.monotonic() - start_s, counted(done, "image")))


def _thumbnail(folder: Path, sha256: str) -> bytes:
    try:
        return thumbnail_file(folder, sha256).read_bytes()
    except OSError:
        return b""
