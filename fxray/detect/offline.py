"""Many image files at once: read ahead by threads, answered as the engine has room, so that neither waits for long."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from fxray.detect.detection import Detection, Picture, open_picture
from fxray.detect.detector import Detector
from fxray.detect.finding import Finding
from fxray.detect.reading import EARLY_BYTES, Opened, Read, ReadAhead, Wanted, open_file, read_file
from fxray.detect.sampling import draw_answers
from fxray.detect.stability import try_changes
from fxray.errors import DataError, FxrayError

ASKED_AGAIN_AT_ONCE = 8
"""Images of one batch where each is asked about more than once: an engine that draws few answers is hardly busy, and
those that answers are drawn of are all held decoded."""


def detect_files(detector: Detector, files: Sequence[str], wanted: Wanted = Wanted()) -> Iterator[Finding]:  # noqa: B008
    """What the detector finds in image files; a file that cannot be read is a finding too and never stops the rest.

    Args:
        detector: The model.
        files: Paths, each once.
        wanted: What is wanted of each file beside its pixels.

    Yields:
        One finding per file, as they come.

    Raises:
        DeadlineError: The disk does not answer.
    """
    if wanted.stability or wanted.num_samples:
        for start in range(0, len(files), ASKED_AGAIN_AT_ONCE):
            few = files[start : start + ASKED_AGAIN_AT_ONCE]
            findings = list(in_order(_streamed(detector, few, wanted), few))
            if wanted.num_samples:
                findings = _with_samples(detector, findings, wanted.num_samples)
            for finding in findings:
                yield _with_stability(detector, finding) if wanted.stability else finding
        return
    yield from _streamed(detector, files, wanted)


def _streamed(detector: Detector, files: Sequence[str], wanted: Wanted) -> Iterator[Finding]:
    def opened(item: Read | Opened) -> Opened:
        return item if isinstance(item, Opened) else open_file(item, wanted, detector.frame_of)

    def read(file: str) -> Read | Opened:
        item = read_file(file)
        return opened(item) if len(item.encoded) >= EARLY_BYTES else item

    ahead = ReadAhead(files, read)
    feed = _Feed(ahead, opened)
    try:
        for name, found in detector.stream(feed):
            yield from feed.failures()
            yield _finding(feed.opened.pop(name), found)
        yield from feed.failures()
    finally:
        ahead.close()


def _with_samples(detector: Detector, findings: Sequence[Finding], num_samples: int) -> list[Finding]:
    """Findings with answers drawn at random, of all images in one batch; those without an image stay as they are."""
    asked = {
        finding.file: (picture, finding.detection.regions)
        for finding in findings
        if finding.detection and (picture := _still_there(finding))
    }
    drawn = draw_answers(detector, list(asked.values()), num_samples) if asked else []
    sampled = dict(zip(asked, drawn, strict=True))
    return [replace(finding, sampled=sampled.get(finding.file)) for finding in findings]


def _with_stability(detector: Detector, finding: Finding) -> Finding:
    """A finding with the answers to changed copies of its image; one without an image stays as it is."""
    picture = _still_there(finding)
    if picture is None or finding.detection is None:
        return finding
    return replace(finding, stability=try_changes(detector, picture, finding.detection))


def _still_there(finding: Finding) -> Picture | None:
    """The image of a finding; None without an answer, or if the file is gone or changed since."""
    if finding.detection is None:
        return None
    try:
        picture = open_picture(finding.file)
    except DataError:
        return None
    return picture if picture.sha256 == finding.sha256 else None


def in_order(findings: Iterator[Finding], files: Sequence[str]) -> Iterator[Finding]:
    """Findings in the order of their files, each given as soon as those before it are there."""
    early: dict[str, Finding] = {}
    expected = deque(files)
    for finding in findings:
        early[finding.file] = finding
        while expected and expected[0] in early:
            yield early.pop(expected.popleft())


class _Feed:
    """Hands pictures to a detector, and keeps the rest of each file, and the files that have none."""

    def __init__(self, ahead: ReadAhead, opened: Callable[[Read | Opened], Opened]) -> None:
        self._ahead, self._open = ahead, opened
        self.opened: dict[str, Opened] = {}
        self._failed: list[Opened] = []

    def take(self, *, wait: bool) -> Picture | None:
        while (item := self._ahead.take(wait=wait)) is not None:
            opened = self._open(item)
            if opened.picture is None:
                self._failed.append(opened)
                continue
            self.opened[opened.file] = opened.without_picture()
            return opened.picture
        return None

    def failures(self) -> Iterator[Finding]:
        """Findings of the files that could not be opened since the last call."""
        failed, self._failed = self._failed, []
        yield from (_finding(opened, opened.problem or FxrayError("no picture")) for opened in failed)


def _finding(opened: Opened, found: Detection | FxrayError) -> Finding:
    detection, problem = (found, None) if isinstance(found, Detection) else (None, found)
    return Finding(
        opened.file,
        detection,
        problem=problem.message if problem else "",
        remedy=problem.remedy if problem else "",
        is_lasting=isinstance(problem, DataError) and bool(opened.sha256),
        sha256=opened.sha256,
        size_bytes=opened.size_bytes,
        modified_ns=opened.modified_ns,
        provenance=opened.provenance,
        thumbnail=opened.thumbnail,
    )
