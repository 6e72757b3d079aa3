"""How many numbers a base model and its adapters hold, counted from the model's shape."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from fxray.config.model_shape import ModelShape

_NUM_REMEMBERED = 16
"""Shapes whose counts are kept: the search for a change that fits asks for the same ones thousands of times."""


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer that an adapter sits on: [inputs] to [outputs]."""

    inputs: int
    outputs: int
    has_bias: bool = False

    @property
    def num_weights(self) -> int:
        return self.inputs * self.outputs + (self.outputs if self.has_bias else 0)


@dataclass(frozen=True, slots=True)
class Weights:
    """Numbers of the base model by part.

    Attributes:
        embedding: Of the tokens.
        language: All layers of the language model and its last norm.
        head: Of the output; 0 where it is the embedding.
        vision: Vision tower and projector.
    """

    embedding: int
    language: int
    head: int
    vision: int

    @property
    def total(self) -> int:
        return self.embedding + self.language + self.head + self.vision


@lru_cache(maxsize=_NUM_REMEMBERED)
def count_weights(shape: ModelShape) -> Weights:
    """The base model's numbers."""
    text, vision = shape, shape.vision
    patch_inputs = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    of_layer = sum(linear.num_weights for linear in language_linears(shape)) + 2 * text.hidden_size
    of_layer += 2 * text.head_size if text.family.has_key_norms else 0
    of_norm = 1 if text.family.has_gated_vision else 2  # factors, and biases
    of_block = sum(linear.num_weights for linear in vision_linears(shape)) + 2 * of_norm * vision.hidden_size
    joined = vision.hidden_size * vision.spatial_merge_size**2
    of_mergers = sum(linear.num_weights for linear in merger_linears(shape))
    of_mergers += of_norm * (joined if text.family.sees_tiles else vision.hidden_size)
    of_mergers += len(vision.deepstack_visual_indexes) * of_norm * joined
    of_patches = patch_inputs + vision.num_position_embeddings + (0 if text.family.has_gated_vision else 1)
    if text.family.sees_tiles:  # a factor on what attention and product give; a vector for the tile as a whole
        of_block += 2 * vision.hidden_size
        of_patches += 1
    return Weights(
        embedding=text.vocab_size * text.hidden_size,
        language=text.num_hidden_layers * of_layer + text.hidden_size,
        head=0 if text.tie_word_embeddings else text.vocab_size * text.hidden_size,
        vision=of_patches * vision.hidden_size + vision.depth * of_block + of_mergers,
    )


@lru_cache(maxsize=_NUM_REMEMBERED)
def count_adapter(shape: ModelShape, rank: int) -> int:
    """Numbers of one adapter of this rank, on every linear layer that its family lets it sit on."""
    return sum(rank * (linear.inputs + linear.outputs) for linear in _adapted(shape))


@lru_cache(maxsize=_NUM_REMEMBERED)
def count_modules(shape: ModelShape) -> int:
    """Layers that an adapter sits on."""
    return sum(1 for _ in _adapted(shape))


def language_linears(shape: ModelShape) -> list[Linear]:
    """The linear layers of one layer of the language model."""
    width, keys = shape.hidden_size, shape.key_size
    queries, has_bias = shape.num_attention_heads * shape.head_size, not shape.family.has_key_norms
    return [
        Linear(width, queries, has_bias),
        Linear(width, keys, has_bias),
        Linear(width, keys, has_bias),
        Linear(queries, width),
        Linear(width, shape.intermediate_size),
        Linear(width, shape.intermediate_size),
        Linear(shape.intermediate_size, width),
    ]


def vision_linears(shape: ModelShape) -> list[Linear]:
    """The linear layers of one block of the vision tower."""
    width, inner = shape.vision.hidden_size, shape.vision.intermediate_size
    num_ins = 2 if shape.family.has_gated_vision else 1
    return [
        Linear(width, 3 * width, has_bias=True),
        Linear(width, width, has_bias=True),
        *num_ins * [Linear(width, inner, has_bias=True)],
        Linear(inner, width, has_bias=True),
    ]


def merger_linears(shape: ModelShape) -> list[Linear]:
    """The linear layers of the projectors, each of which joins a square of patches into one token."""
    joined, width = shape.vision.hidden_size * shape.vision.spatial_merge_size**2, shape.vision.out_hidden_size
    inner = width if shape.family.sees_tiles else joined
    one = [Linear(joined, inner, has_bias=True), Linear(inner, width, has_bias=True)]
    return one * (1 + len(shape.vision.deepstack_visual_indexes))


def _adapted(shape: ModelShape) -> Iterator[Linear]:
    for _ in range(shape.num_hidden_layers):
        yield from language_linears(shape)
    if not shape.family.adapts_vision:
        return
    for _ in range(shape.vision.depth):
        yield from vision_linears(shape)
    yield from merger_linears(shape)
