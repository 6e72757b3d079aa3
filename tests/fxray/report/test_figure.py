"""A figure is two files, drawn once, with the same bytes whenever it is drawn."""

from fxray.report.figure import write_figure


def test_the_same_numbers_give_the_same_bytes_and_are_drawn_once(tmp_path):
    drawn = []

    def draw(figure):
        drawn.append(figure)
        figure.subplots().plot([0, 1], label="a line")
        figure.axes[0].legend()

    found = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        write_figure(folder, "curve", (4, 3), draw)
        found.append({file.name: file.read_bytes() for file in folder.iterdir()})
    assert found[0] == found[1]
    assert found[0].keys() == {"curve.png", "curve.svg"}
    assert found[0]["curve.png"].startswith(b"\x89PNG")
    assert b">a line</text>" in found[0]["curve.svg"]
    assert len(drawn) == 2
