"""What programs write about themselves into an XMP packet, apart from captions and keywords, which people write."""

import html
import re
from collections.abc import Iterator

PROPERTIES = frozenset(
    (
        "CreatorTool", "softwareAgent", "Software", "Model", "Credit", "DigitalSourceType", "AISystemUsed",
        "AISystemVersionUsed", "AIGC", "description",
    )
)  # fmt: skip
"""Names without prefixes. The description is here for identifiers of jobs alone: a name in it may be what is shown."""
_VALUES = ("rdf:resource", "rdf:value")
_ASIDE = re.compile(r"<!(?:--.*?(?:-->|\Z)|\[CDATA\[(?P<text>.*?)(?:\]\]>|\Z))", re.DOTALL)
_ELEMENT = re.compile(r"""<([A-Za-z_][\w.:-]*+)((?:[^<>"']|"[^"<]*"|'[^'<]*')*+)>([^<]*)""")
_ATTRIBUTE = re.compile(r"""([A-Za-z_][\w.:-]*+)\s*+=\s*+(?:"([^"]*)"|'([^']*)')""")


def properties_of(packet: str) -> dict[str, str]:
    """Values of `PROPERTIES`, those of one name on lines of their own.

    Read by patterns whose time grows with the packet alone: many are cut or lack namespaces, which ends an XML parser;
    and entities are not expanded.
    """
    found: dict[str, dict[str, None]] = {}
    for name, value in _values(_ASIDE.sub(lambda aside: html.escape(aside["text"] or ""), packet)):
        local = name.rpartition(":")[2]
        if local in PROPERTIES and (text := html.unescape(value).strip()):
            found.setdefault(local, {})[text] = None
    return {name: "\n".join(texts) for name, texts in found.items()}


def _values(packet: str) -> Iterator[tuple[str, str]]:
    """Elements and attributes with their texts; items of a list belong to the element around it."""
    of = ""
    for element in _ELEMENT.finditer(packet):
        name, attributes, text = element.groups()
        if not name.startswith("rdf:"):
            of = name
        yield of, text
        for attribute in _ATTRIBUTE.finditer(attributes):
            key, double, single = attribute.groups()
            yield of if key in _VALUES else key, double if double is not None else single
