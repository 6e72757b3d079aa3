"""What an XMP packet says: marks of programs, apart from what people write about a picture."""

import io
import time

import pytest
from PIL import Image

from fxray.data.images import open_image
from fxray.detect.provenance import Mark, _generators, read_provenance
from fxray.detect.xmp import PROPERTIES, properties_of

CAPTIONS = (
    "OpenAI CEO Sam Altman arrives at a Senate hearing on Tuesday. (Photo: J. Doe)",
    "Vista della valle dalle colline di Firenze",
    "Une dalle de béton devant la mairie",
    "A firefly over a meadow in Tennessee",
    "Protest against Midjourney outside the court",
    "A user types a prompt into ChatGPT on a laptop",
    "Chinese ideogram on a temple gate",
    "Made with Google AI: visitors of an exhibition",
    "The founders of Leonardo.Ai and Microsoft Designer",
)
TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def packet(content: str, attributes: str = "") -> str:
    return f"<x:xmpmeta><rdf:RDF><rdf:Description {attributes}>{content}</rdf:Description></rdf:RDF></x:xmpmeta>"


def marks_of(xmp: str = "", exif: dict[int, object] | None = None) -> tuple[Mark, ...]:
    tags, encoded = Image.Exif(), io.BytesIO()
    tags.update(exif or {})
    Image.new("RGB", (8, 8)).save(encoded, "JPEG", exif=tags, **({"xmp": xmp.encode()} if xmp else {}))
    return read_provenance(encoded.getvalue(), open_image(encoded.getvalue(), "")).marks


@pytest.mark.parametrize("caption", CAPTIONS)
def test_a_photograph_whose_caption_or_keywords_name_a_generator_bears_no_mark(caption: str) -> None:
    listed = f'<rdf:li xml:lang="x-default">{caption}</rdf:li>'
    content = (
        f"<xmp:CreatorTool>Photo Mechanic</xmp:CreatorTool><dc:description><rdf:Alt>{listed}</rdf:Alt></dc:description>"
        f"<dc:subject><rdf:Bag>{listed}</rdf:Bag></dc:subject><photoshop:Headline>{caption}</photoshop:Headline>"
        f"<dc:title><![CDATA[<xmp:CreatorTool>{caption}</xmp:CreatorTool>]]></dc:title>"
    )
    assert marks_of(packet(content, f'''photoshop:Instructions="CreatorTool='{caption}'"''')) == ()
    of_windows = dict.fromkeys((0x9C9B, 0x9C9E), caption.encode("utf-16-le"))
    assert marks_of(exif={0x010E: caption} | of_windows) == ()


@pytest.mark.parametrize(
    ("xmp", "by", "place"),
    [
        (packet("", 'xmp:CreatorTool="Adobe Firefly"'), "Adobe Firefly", "xmp:CreatorTool"),
        (packet("", "xmp:CreatorTool = 'ChatGPT'"), "OpenAI", "xmp:CreatorTool"),
        (packet("<xmp:CreatorTool>Draw Things</xmp:CreatorTool>"), "Draw Things", "xmp:CreatorTool"),
        (
            packet(
                '<xmpMM:History><rdf:Seq><rdf:li stEvt:softwareAgent="Photoshop"/>'
                '<rdf:li stEvt:softwareAgent="DALL-E 3"/></rdf:Seq></xmpMM:History>'
            ),
            "DALL-E",
            "xmp:softwareAgent",
        ),
        (packet("<tiff:Software>Midjourney 6</tiff:Software>"), "Midjourney", "xmp:Software"),
        (
            packet("<Iptc4xmpExt:AISystemUsed><rdf:Alt><rdf:li>Ideogram</rdf:li></rdf:Alt></Iptc4xmpExt:AISystemUsed>"),
            "Ideogram",
            "xmp:AISystemUsed",
        ),
        (
            packet(f'<Iptc4xmpExt:DigitalSourceType rdf:resource="{TYPE}"/>'),
            "IPTC digital source type",
            "xmp:DigitalSourceType",
        ),
        (packet("", 'TC260:AIGC="{&quot;Label&quot;:&quot;1&quot;}"'), "AIGC label", "xmp:AIGC"),
        (packet('<TC260:AIGC><![CDATA[{"Label":"1"}]]></TC260:AIGC>'), "AIGC label", "xmp:AIGC"),
        (packet("<xmp:CreatorTool>Adobe Firefly</xmp:CreatorTool><a>")[:-60], "Adobe Firefly", "xmp:CreatorTool"),
    ],
)
def test_a_program_that_names_itself_is_found_also_in_a_packet_that_is_cut(xmp: str, by: str, place: str) -> None:
    assert [(mark.by, mark.place) for mark in marks_of(xmp)] == [(by, place)]


def test_rows_ask_only_for_properties_that_are_read() -> None:
    asked = {field for known in _generators() for field in known["fields"] if field.startswith("xmp")}
    assert asked <= {f"xmp:{name.lower()}" for name in PROPERTIES}


def test_entities_are_not_expanded() -> None:
    declared = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname"><!ENTITY b "&a;&a;">]>'
    assert properties_of(f"{declared}<xmp:CreatorTool>&b;</xmp:CreatorTool>") == {"CreatorTool": "&b;"}


@pytest.mark.parametrize(
    "words", ["<", "<a", "a", "<a ", '<a "', "<a b='", "<!--", "<![CDATA[", "<a>", '<a b="">', "&", " ="]
)
def test_a_hostile_packet_takes_little_time(words: str) -> None:
    for begin in ("", "<", "<a ", '<a b="'):
        begin_s = time.thread_time()
        properties_of((begin + words * 2**16)[: 2**16])
        assert time.thread_time() - begin_s < 0.5
