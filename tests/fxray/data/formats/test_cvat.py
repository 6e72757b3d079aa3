"""Files as CVAT's "CVAT for images 1.1" page shows them."""

import pytest

from fxray.schema import Annotation, Box, Region, Tag, Verdict

BOX = '<box label="face" source="manual" occluded="0" xtl="10.5" ytl="20" xbr="60" ybr="80.25" z_order="0">{}</box>'


def document(*images):
    meta = "<meta><task><id>4</id><size>3</size></task><dumped>2024</dumped></meta>"
    head = '<?xml version="1.0" encoding="utf-8"?>\n'
    return f"{head}<annotations><version>1.1</version>{meta}{''.join(images)}</annotations>"


def image(inside, name="a.png", size=(200, 100)):
    return f'<image id="0" name="{name}" width="{size[0]}" height="{size[1]}">{inside}</image>'


def test_shapes_and_tags_are_read(picture, written, imported):
    picture("a.png")
    shapes = [
        BOX.format('<attribute name="Caption">face smeared — 脸 &amp; hair</attribute>'),
        '<polygon label="ear" occluded="0" points="1.5,2;30,4;9,40" z_order="0"/>',
        '<ellipse label="eye" cx="100" cy="50" rx="10" ry="5" z_order="0"/>',
        '<mask label="nose" rle="3, 5" left="20" top="30" width="7" height="9" z_order="0"/>',
        '<tag label="generated" source="manual"/><tag label="Other Anomalies" source="manual"/>',
    ]
    found = imported("cvat", written("annotations.xml", document(image("".join(shapes)))), label=None)
    annotation = found.samples["a.png"].annotation
    assert annotation.regions == (
        Region(Box(10.5, 20, 60, 80.25), "face smeared — 脸 & hair"),
        Region(Box(1.5, 2, 30, 40), "ear"),
        Region(Box(90, 45, 110, 55), "eye"),
        Region(Box(20, 30, 27, 39), "nose"),
    )
    assert (annotation.verdict, annotation.tags) == (Verdict.GENERATED, (Tag.OTHER,))


def test_blanks_around_a_tag_do_not_matter(picture, written, imported):
    picture("a.png")
    tags = '<tag label=" Fake " source="manual"/><tag label="Texture errors " source="manual"/>'
    found = imported("cvat", written("annotations.xml", document(image(tags))), label=None)
    assert found.samples["a.png"].annotation == Annotation(Verdict.GENERATED, (), (Tag.TEXTURE,))


def test_a_tag_that_is_no_verdict_and_none_of_ours_is_told(picture, written, imported):
    picture("a.png")
    tags = '<tag label="genrated" source="manual"/><tag label="Texture errors" source="manual"/>'
    found = imported("cvat", written("annotations.xml", document(image(tags))))
    assert found.samples["a.png"].annotation.tags == (Tag.TEXTURE,)
    (told,) = found.findings
    assert (told["field"], told["value"], told["is_warning"]) == ("tag", "genrated", True)


def test_boxes_are_of_the_displayed_image(picture, written, imported):
    picture("a.jpg", orientation=7)
    found = imported("cvat", written("annotations.xml", document(image(BOX.format(""), "a.jpg", (100, 200)))))
    assert found.samples["a.jpg"].annotation.regions == (Region(Box(10.5, 20, 60, 80.25), "face"),)
    assert found.findings == []


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (image(BOX.format("").replace("z_order", 'rotation="30" z_order')), "box[0].rotation"),
        (image('<points label="eye" points="1,2"/>'), "points[0]"),
        (image('<polygon label="eye"/>'), "polygon[0].points"),
        (image('<polygon label="eye" points="1,2;3"/>'), "polygon[0].points"),
        (image('<box xtl="1" ytl="2" xbr="3" ybr="4"/>'), "box[0]"),  # nothing says what is wrong there
        (image('<box label="face" xtl="1" ytl="2" xbr="nan" ybr="4"/>'), "box[0].xbr"),
        (image('<box label="face" xtl="1" ytl="2" xbr="1" ybr="4"/>'), "box[0]"),
        (image("", "gone.png"), "name"),
        (image("", size=(20, 10)), "width, height"),
        ('<track id="0" label="face"><box frame="0"/></track>', "track"),
        ("<image", "file"),
        ("</annotations>", "file"),
    ],
)
def test_what_cannot_be_read_is_named(picture, written, imported, bad, field):
    picture("a.png")
    found = imported("cvat", written("annotations.xml", document(image(BOX.format("")), bad)))
    assert [finding["field"] for finding in found.findings] == [field]
    assert list(found.samples) == ["a.png"]


def test_a_file_with_entities_is_refused_unexpanded(picture, written, imported):
    picture("a.png")
    laughs = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>'
    written("evil.xml", document(image("<tag label='&b;'/>")).replace("<annotations>", f"{laughs}<annotations>"))
    found = imported("cvat", written("fine.xml", document(image(BOX.format("")))).parent)
    (finding,) = found.findings
    assert "DTDForbidden" in finding["value"]
    assert len(found.samples) == 1
