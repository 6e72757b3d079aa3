import io
from pathlib import Path

from PIL import Image

from fxray.data.dataset import Dataset, Row, write_dataset
from fxray.data.subset import write_subset
from fxray.schema import Annotation, Sample, Verdict


def picture(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (6, 4), shade).save(buffer, "PNG")
    return buffer.getvalue()


def test_rows_keep_their_images_wherever_these_lie(tmp_path: Path) -> None:
    samples = [
        Sample(f"s{k}", 6, 4, Annotation(Verdict.REAL), "real", "dog", "web", "ana" if k else None) for k in range(4)
    ]
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "three.png").write_bytes(picture(3))
    rows = [Row(sample, image=picture(k)) for k, sample in enumerate(samples[:3])]
    write_dataset(tmp_path / "old" / "a.parquet", [*rows, Row(samples[3], image_path="three.png")])
    told = []
    old = Dataset.open(tmp_path / "old" / "a.parquet")
    write_subset(old, [3, 1], tmp_path / "new" / "b.parquet", lambda *done: told.append(done))
    new = Dataset.open(tmp_path / "new" / "b.parquet")
    assert new.samples == [samples[3], samples[1]]
    assert [new.image_bytes(row) for row in range(2)] == [picture(3), picture(1)]
    assert new.image_file(0) == tmp_path / "new" / "../old/three.png"
    assert new.image_file(1) is None
    assert told == [(1, 2), (2, 2)]
