"""How many tokens an image can make, whatever its shape."""

import math

TOKEN_PX = 28
"""Side of the square that becomes one token, in a model of which nothing is known here."""
MAX_ASPECT_RATIO = 200
"""Images that are longer are refused."""


def most_tiles(max_pixels: int, tile_px: int) -> int:
    """Into how many tiles an image is cut at most, without the one that shows it whole."""
    return max(1, max_pixels // tile_px**2)


def most_tokens(min_pixels: int, max_pixels: int, token_px: int = TOKEN_PX, tile_px: int = 0) -> int:
    """The most tokens of any image in the frame that `fxray.data.frame.smart_frame` gives it.

    It can be more than `max_pixels` hold: reducing leaves a long image at least one token of breadth, and enlarging
    rounds both sides up.

    Args:
        min_pixels: Images with fewer pixels are enlarged to so many.
        max_pixels: Images with more are reduced to so many.
        token_px: Side of the square that becomes one token.
        tile_px: Side of the squares that an image is cut into; 0 where it is seen in one piece.
    """
    if tile_px:
        num_tiles = most_tiles(max_pixels, tile_px)
        return (num_tiles + (num_tiles > 1)) * tile_px**2 // token_px**2
    least, most = min_pixels / token_px**2, max_pixels / token_px**2
    reduced = math.floor(most if most >= MAX_ASPECT_RATIO else math.sqrt(most * MAX_ASPECT_RATIO))
    longest = math.ceil(math.sqrt(least * MAX_ASPECT_RATIO))
    # A breadth that rounds up to b tokens is above b - 1, which leaves less than least / (b - 1) for the length.
    breadths = range(2, math.ceil(math.sqrt(least)) + 1)
    enlarged = max([longest, *(b * min(longest, math.ceil(least / (b - 1))) for b in breadths)])
    return max(reduced, enlarged)
