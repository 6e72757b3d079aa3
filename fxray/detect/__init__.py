"""A trained detector at work on images: datasets, files on disk. A verdict is evidence, never proof."""
