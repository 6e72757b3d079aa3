"""The words of the answer grammar: block and region markers, tag names, line breaks.

Both directions, `render` and `parse`, take them from here and from nowhere else.
"""

import re

from fxray.schema import Tag

THINK, TAG, VERDICT = "think", "tag", "verdict"
BLOCKS = (THINK, TAG, VERDICT)

CAPTION_START, CAPTION_END = "<|object_ref_start|>", "<|object_ref_end|>"
BOX_START, BOX_END = "<|box_start|>", "<|box_end|>"
END_TOKENS = ("<|im_end|>", "<|endoftext|>")

NO_TAG = "none"
TAGS = {tag.value: tag for tag in Tag}

COORDINATE_LIMIT = 10**9
"""Coordinates beyond +-this many pixels are read as +-this many: outside every image, and cheap to compare."""

BLOCK_OPENING = re.compile("<(think|tag|verdict)>")
BLOCK_MARKER = re.compile("</?(?:think|tag|verdict)>")
REGION_MARKER = re.compile(r"(<\|(?:object_ref|box)_(?:start|end)\|>)")
SPECIAL_MARKER = re.compile(r"<\|\w+\|>|</?(?:think|tag|verdict)>")
LINE_BREAK = re.compile("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
