"""Files on their way to the detector."""

import io
from pathlib import Path

import pytest
from PIL import Image

from fxray.detect.reading import NUM_THREADS, THUMBNAIL_BYTES, ReadAhead, Wanted, make_thumbnail, open_file, read_file


def test_few_decoded_images_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fxray.detect.reading._MAX_WAITING_BYTES", 3 * 3 * 112 * 112)
    files = [str(tmp_path / f"{k:03d}.png") for k in range(30)]
    for file in files:
        Image.new("RGB", (112, 112)).save(file)
    ahead = ReadAhead(files, lambda file: open_file(read_file(file), Wanted(), lambda picture: None))
    most, names = 0, set()
    while opened := ahead.take(wait=True):
        names.add(opened.file)
        most = max(most, len(ahead._ready))
    assert names == set(files)
    assert most <= 3 + NUM_THREADS


def test_a_thumbnail_is_small_and_bare() -> None:
    noise = Image.effect_noise((3000, 900), 100).convert("RGB")
    noise.info["exif"] = b"secret"
    encoded = make_thumbnail(noise)
    with Image.open(io.BytesIO(encoded)) as small:
        assert small.size == (480, 144)
        assert dict(small.getexif()) == {}
    assert len(encoded) <= THUMBNAIL_BYTES
    assert b"secret" not in encoded
    with Image.open(io.BytesIO(make_thumbnail(Image.new("RGB", (30000, 200))))) as long:
        assert long.size == (480, 3)
