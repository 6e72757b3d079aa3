"""Files as the VOC2012 development kit describes them and LabelImg writes them."""

import pytest

from fxray.schema import Box, Region

OBJECT = """<object><name>{name}</name><pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>
<bndbox><xmin>10</xmin><ymin>20.5</ymin><xmax>60</xmax><ymax>80</ymax></bndbox>{more}</object>"""


def document(image, *objects, size=(200, 100)):
    shape = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<annotation><folder>x</folder><filename>{image}</filename>{shape}{''.join(objects)}</annotation>"


def test_the_classic_layout_is_read(picture, written, imported):
    picture("VOC/JPEGImages/2007_1.jpg"), picture("VOC/JPEGImages/2007_2.jpg")
    told = OBJECT.format(name="hand", more="<description>thumb doubled — 指</description>")
    src = written("VOC/Annotations/1.xml", document("2007_1.jpg", OBJECT.format(name="dog", more=""), told)).parent
    written("VOC/Annotations/2.xml", document("2007_2.jpg", size=(0, 0)))
    found = imported("voc", src)
    assert found.samples["2007_1.jpg"].annotation.regions == (
        Region(Box(10, 20.5, 60, 80), "dog"),
        Region(Box(10, 20.5, 60, 80), "thumb doubled — 指"),
    )
    assert found.samples["2007_2.jpg"].annotation.regions == ()
    assert imported("voc", src.parent).samples.keys() == found.samples.keys()


def test_images_of_one_name_in_two_folders_are_told_apart_by_their_folders(picture, written, imported):
    for part in ("train", "val"):
        picture(f"VOC/{part}/JPEGImages/1.jpg")
        src = written(f"VOC/{part}/Annotations/1.xml", document("1.jpg")).parents[2]
    assert sorted(imported("voc", src).samples) == ["train/JPEGImages/1.jpg", "val/JPEGImages/1.jpg"]


def test_boxes_are_of_the_displayed_image(picture, written, imported):
    picture("a.jpg", orientation=6)
    found = imported("voc", written("a.xml", document("a.jpg", OBJECT.format(name="dog", more=""), size=(100, 200))))
    assert found.samples["a.jpg"].annotation.regions == (Region(Box(10, 20.5, 60, 80), "dog"),)


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (document("gone.png"), "filename"),
        (document("a.png", "<object><name>dog</name></object>"), "object[0].bndbox.xmin"),
        (document("a.png", OBJECT.format(name="", more="")), "object[0].bndbox"),
        (document("a.png", OBJECT.format(name="dog", more="<robndbox><cx>1</cx></robndbox>")), "object[0].robndbox"),
        (document("a.png", OBJECT.format(name="dog", more="").replace(">60<", ">9<")), "object[0].bndbox"),
        (document("a.png", OBJECT.format(name="dog", more="").replace(">60<", ">1e999<")), "object[0].bndbox.xmax"),
        (
            '<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]><annotation><filename>&e;</filename></annotation>',
            "file",
        ),
        ("<annotation>", "file"),
        ("", "file"),
    ],
)
def test_what_cannot_be_read_is_named(picture, written, imported, bad, field):
    picture("a.png")
    written("z.xml", bad)
    found = imported("voc", written("good.xml", document("a.png")).parent)
    assert [(finding["field"], finding["file"].endswith("z.xml")) for finding in found.findings] == [(field, True)]
    assert list(found.samples) == ["a.png"]
