"""Of a report: what is needed to read it without a mouse or a view of the whole."""

import re
from collections.abc import Callable
from pathlib import Path

from fxray.data.statistics import summarise
from fxray.report.dataset_page import write_statistics
from fxray.report.page import write_report
from fxray.schema import Annotation, Sample, Verdict


def test_tables_that_scroll_can_be_reached_by_keys_and_have_names(make_run: Callable[..., Path]) -> None:
    text = write_report(make_run()).page.read_text("utf-8")
    tables = re.findall(r'<div class="scroll"[^>]*>', text)
    names = [re.search(r'tabindex="0" role="region" aria-label="(Table of [^"]+)"', table) for table in tables]
    assert all(names)
    assert len({name[1] for name in names if name}) == len(tables) >= 2


def test_everything_that_is_said_stands_in_a_landmark(make_run: Callable[..., Path], tmp_path: Path) -> None:
    """Of axe-core's rules the one named region: what stands outside is passed over by whoever jumps between them."""
    sample = Sample("a", 10, 10, Annotation(Verdict.REAL), "real", "dog", "web")
    statistics = write_statistics(summarise([sample]), tmp_path / "out", name="a.parquet", is_synthetic=True)
    for page in (write_report(make_run()).page, statistics):
        text = page.read_text("utf-8")
        assert "<strong>SYNTHETIC</strong>" in text
        outside = re.sub(r"<(header|main|footer|aside)\b.*?</\1>", "", text.partition("<body>")[2], flags=re.DOTALL)
        assert not re.sub(r"<[^>]*>", "", outside).strip()
