"""What a pass of the learner keeps in memory: a count, tensor by tensor, of what the backward pass will want.

A frozen linear layer keeps nothing; its adapter keeps the input (shared by the layers that read the same one) and the
narrow product. Where inputs drop out, each adapter keeps its own, and which of its numbers are left. A norm keeps its
input, in float32 where it is not fused. Constants are counts of tensors in the sources of transformers 5.19 and of
`fxray.model.layers`; tests compare them with measured bytes.
"""

from dataclasses import dataclass

from fxray.config.model_shape import ModelShape

FLOAT32_BYTES = 4
LOGITS_COPIES = 3
"""Log-probabilities of the whole vocabulary, their gradient and that of the logits live side by side, in float32."""
CHUNK_COPIES = 2
"""Where the head is frozen and logits come in chunks: logits, and log-probabilities that become their gradient."""
COMPILED_COPIES = 2
"""Logits and their gradient, in the model's type, where what lies between them is compiled (`fxray.model.head`)."""


@dataclass(frozen=True, slots=True)
class Pass:
    """The size of one pass.

    Attributes:
        prompt_tokens: Of each group, image tokens included.
        patches: Of each group's image.
        answer_tokens: Of each answer; all are taken to be as long.
        num_answers: Of each group.
        num_groups: Packed into the pass.
    """

    prompt_tokens: int
    patches: int
    answer_tokens: int
    num_answers: int
    num_groups: int

    @property
    def tokens(self) -> int:
        """Packed tokens of the language model."""
        return self.num_groups * (self.prompt_tokens + self.num_answers * self.answer_tokens)

    @property
    def learnt_tokens(self) -> int:
        """Answer tokens: those that need logits."""
        return self.num_groups * self.num_answers * self.answer_tokens

    @property
    def gathered_keys(self) -> int:
        """Keys of one layer: each answer has its own copy of the prompt's."""
        per_answer = self.prompt_tokens + self.answer_tokens
        return self.num_groups * (self.prompt_tokens + self.num_answers * per_answer)


@dataclass(frozen=True, slots=True)
class Activations:
    """Bytes of a pass.

    Attributes:
        kept: What lives from the forward pass until the backward pass comes by.
        recomputed: What one layer makes anew in the backward pass, where activations are recomputed, beyond the logits
            that are freed by then.
        logits: What turning hidden states into log-probabilities holds at once.
    """

    kept: int
    recomputed: int
    logits: int

    @property
    def peak(self) -> int:
        """Logits and a recomputed layer are never there together."""
        return self.kept + max(self.recomputed, self.logits)


def count_activations(
    shape: ModelShape,
    size: Pass,
    *,
    rank: int,
    bytes_per_number: int,
    is_checkpointed: bool,
    is_on_gpu: bool,
    max_logits: int,
    is_dropping: bool = False,
) -> Activations:
    """Bytes of one pass with gradients.

    Args:
        shape: The model.
        size: The pass.
        rank: Of the adapters; 0 where all weights are trained.
        bytes_per_number: 2 for bfloat16, 4 for float32.
        is_checkpointed: Activations are recomputed layer by layer.
        is_on_gpu: Norms of a frozen base keep no float32 copy there, nor do logits, and the gate's own output is made
            again (`fxray.model.fused`, `fxray.model.layers`, `fxray.model.head`).
        max_logits: Most logits that are held at once; with more, they are recomputed in the backward pass.
        is_dropping: Inputs of the adapters drop out.
    """
    is_seeing_trained = rank == 0 or shape.family.adapts_vision
    patches = size.num_groups * size.patches if is_seeing_trained else 0
    has_fused_norms = is_on_gpu and rank > 0
    norm_inputs = 1 if has_fused_norms else FLOAT32_BYTES // bytes_per_number
    of_gate = 3 if is_on_gpu else 4  # both factors, their product, and the first before its activation
    layer = _layer_bytes(shape, size, rank, bytes_per_number, norm_inputs, of_gate)
    gradients = size.tokens * ((5 - of_gate) * shape.intermediate_size + 2 * shape.hidden_size) * bytes_per_number
    seen_norm_inputs = norm_inputs
    if not shape.family.has_gated_vision:  # PyTorch's own norms: autocast gives them float32 copies, unless compiled
        seen_norm_inputs = FLOAT32_BYTES // bytes_per_number if has_fused_norms else 1
    block = patches * _block_bytes(shape, rank, bytes_per_number, seen_norm_inputs, of_gate)
    ends = _ends_bytes(shape, size, patches, bytes_per_number, norm_inputs, seen_norm_inputs)
    if is_dropping:
        of_token, of_patch, of_projected = _dropped_bytes(shape, bytes_per_number, is_on_gpu)
        layer, block, ends = layer + size.tokens * of_token, block + patches * of_patch, ends + patches * of_projected
    logits = min(size.learnt_tokens * shape.vocab_size, max_logits) * (bytes_per_number if is_on_gpu else FLOAT32_BYTES)
    is_chunked = size.learnt_tokens * shape.vocab_size > max_logits
    # Embeddings that are trained are float32, and so is what the language model's layers hand on.
    handed_on = shape.hidden_size * (bytes_per_number if rank else FLOAT32_BYTES)
    inputs = shape.num_hidden_layers * size.tokens * handed_on
    inputs += shape.vision.depth * patches * shape.vision.hidden_size * bytes_per_number
    saved_logits = 0 if is_chunked else logits
    copies = COMPILED_COPIES if is_on_gpu else CHUNK_COPIES if is_chunked and rank else LOGITS_COPIES
    if is_checkpointed:
        kept, recomputed = inputs, max(0, max(layer + gradients, block) - saved_logits)
    else:
        kept, recomputed = shape.num_hidden_layers * layer + shape.vision.depth * block, 0
    return Activations(kept + ends + saved_logits, recomputed, copies * logits - saved_logits)


def _layer_bytes(shape: ModelShape, size: Pass, rank: int, number: int, norm_inputs: int, of_gate: int) -> int:
    """One layer of the language model: norms, queries, attention, and the gated product."""
    of_width = 2 * norm_inputs + 5  # 2 norms; their 2 outputs, queries, attention before and after ordering
    of_token = of_width * shape.hidden_size + of_gate * shape.intermediate_size + 7 * rank + 2 * shape.head_size
    if shape.family.has_key_norms:
        of_token += norm_inputs * (shape.num_attention_heads * shape.head_size + shape.key_size)
    return number * (size.tokens * of_token + 2 * size.gathered_keys * shape.key_size)


def _block_bytes(shape: ModelShape, rank: int, number: int, norm_inputs: int, of_gate: int) -> int:
    """One block of the vision tower, per patch."""
    of_width = 2 * norm_inputs + 9  # outputs of norms, q, k, v, and attention by window, joined, reordered
    inner = of_gate if shape.family.has_gated_vision else 2  # before the activation, and after it
    return number * (of_width * shape.vision.hidden_size + inner * shape.vision.intermediate_size + 5 * rank)


def _ends_bytes(
    shape: ModelShape, size: Pass, patches: int, number: int, norm_inputs: int, seen_norm_inputs: int
) -> int:
    """Embeddings, projectors, rotations, and the last norm with the hidden states that predict answers."""
    num_projectors = 1 + len(shape.vision.deepstack_visual_indexes)
    projectors = num_projectors * patches * shape.vision.hidden_size * (seen_norm_inputs + 3)
    language = shape.hidden_size * (size.tokens * (norm_inputs + 1) + size.learnt_tokens)
    rotations = 2 * shape.family.num_axes * size.tokens * shape.head_size  # cosine and sine on each axis
    return number * (projectors + language + rotations)


def _dropped_bytes(shape: ModelShape, number: int, is_on_gpu: bool) -> tuple[int, int, int]:
    """What dropout adds: for each token to a layer; for each patch to a block, and to the projectors.

    Adapters that read the same norm keep an input each in place of one for all, and each what it was multiplied with.
    """
    of_mask = 1 if is_on_gpu else number  # on a GPU whether a number is left, on a CPU a factor in the input's type
    hidden, seen = shape.hidden_size, shape.vision.hidden_size
    attended = shape.num_attention_heads * shape.head_size
    token = 3 * hidden * number + (5 * hidden + attended + shape.intermediate_size) * of_mask
    twice = 1 if shape.family.has_gated_vision else 0  # both factors of a gate read one norm
    patch = twice * seen * number + ((3 + twice) * seen + shape.vision.intermediate_size) * of_mask
    return token, patch, (1 + len(shape.vision.deepstack_visual_indexes)) * 2 * seen * of_mask
