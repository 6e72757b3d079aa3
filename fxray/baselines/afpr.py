"""AntifakePrompt: a frozen InstructBLIP is asked whether a photo is real, and a prompt is tuned (Chang et al. 2023).

As in the public code (github.com/nctu-eva-lab/AntifakePrompt): the question is "Is this photo real?", the answer "yes"
or "no"; all weights are frozen but one learnt pseudo-word, by the answer's cross-entropy over the whole vocabulary;
"published" is 10 epochs of AdamW along a cosine from a rate of 1e-5, 6 images a step. `--weights afpr=FOLDER` gives the
model, as transformers writes an `InstructBlipForConditionalGeneration` and its `InstructBlipProcessor`; theirs is that
of Vicuna-7B.

Deviations: the pseudo-word stands before all that the language model reads (peft's prompt tuning), theirs before the
question mark and, as a second vector, in the Q-Former's copy of the question, which has none here: of Vicuna-7B 4,096
numbers are learnt, theirs are 4,864. It starts as a word that the seed draws. The answer is a probability, "no" against
"yes", theirs the word that is generated; the end of the answer is not learnt. The rate is warmed up. Frozen weights are
in bfloat16 on CUDA. "small" is the same model at a larger rate, for few images. None of their augmentations.

Crops and resizing: those of the folder's own image processor, for fitting too, and its normalisation; theirs normalise
by their training images.

Legend: B images of a batch, Q query tokens of an image, V words.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PromptTuningConfig, PromptTuningInit, TaskType, get_peft_model
from PIL import Image
from transformers import AutoConfig, InstructBlipForConditionalGeneration, InstructBlipProcessor

from fxray.baselines.pictures import Masks, Pictures
from fxray.baselines.ports import Answer, OnStep, Settings, Size
from fxray.baselines.training import Recipe, open_device, run_training
from fxray.baselines.weights import REFUSALS, load_pretrained
from fxray.errors import ModelError

QUESTION = "Is this photo real?"
REAL, GENERATED = "yes", "no"
_MODEL_TYPE = "instructblip"
_TOGETHER = 16
_RECIPES: dict[Size, Recipe] = {"small": Recipe(2, 16, 1e-2, 0.0), "published": Recipe(10, 6, 1e-5, 0.05)}
_REMEDY = "give the folder of an InstructBLIP of transformers: config.json, safetensors, and its processor's files"


class AfPr:
    """A frozen model, and the one word of its prompt that is learnt."""

    def __init__(self, settings: Settings) -> None:
        self._device = open_device(settings.device)
        self._model, processor = _open(settings.weights, self._device)
        self._see = processor.image_processor
        self._real, self._generated = _answers(processor.tokenizer, settings.weights)
        self._asked, self._asked_qformer = (
            tokenizer(QUESTION, return_tensors="pt")["input_ids"].to(self._device)
            for tokenizer in (processor.tokenizer, processor.qformer_tokenizer)
        )
        torch.manual_seed(settings.seed)
        self._prompted = _with_prompt(self._model.language_model)
        self._recipe = _RECIPES[settings.size].with_epochs(settings.epochs)
        self._seed = settings.seed

    @property
    def num_parameters(self) -> int:
        """Those of the model and of the prompt."""
        modules = (self._model, self._prompted.prompt_encoder)
        return sum(parameter.numel() for module in modules for parameter in module.parameters())

    def fit(self, images: Pictures, is_generated_N: NDArray[np.bool_], masks: Masks, on_step: OnStep) -> None:  # noqa: ARG002
        """Tunes the prompt; masks are not looked at."""
        order = np.random.default_rng((self._seed, 0))
        answer_N = torch.tensor(np.where(is_generated_N, self._generated, self._real), device=self._device)

        def loss_of(places: NDArray[np.int64]) -> torch.Tensor:
            logits_BV = self._logits([images.pixels(place) for place in places.tolist()])
            return torch.nn.functional.cross_entropy(logits_BV, answer_N[places])

        run_training(self._prompted.prompt_encoder, len(images), loss_of, self._recipe, order, on_step)

    def predict(self, images: Pictures) -> Iterator[Answer]:
        """The probability of "no", where only "yes" and "no" can be said."""
        for start in range(0, len(images), _TOGETHER):
            places = range(start, min(start + _TOGETHER, len(images)))
            with torch.inference_mode():
                logits_BV = self._logits([images.pixels(place) for place in places])
            yield from map(Answer, (logits_BV[:, self._generated] - logits_BV[:, self._real]).sigmoid().tolist())

    def _logits(self, images: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
        """Of the answer's first token, float32 [B, V]; differentiable in the prompt alone."""
        with torch.no_grad():
            pixels = self._see(images=[Image.fromarray(image) for image in images], return_tensors="pt")["pixel_values"]
            asked_qformer = self._asked_qformer.expand(len(images), -1)
            seen = self._model.get_image_features(
                pixels.to(self._device, self._model.dtype), asked_qformer, torch.ones_like(asked_qformer)
            ).pooler_output
            asked = self._model.get_input_embeddings()(self._asked.expand(len(images), -1))
            read = torch.cat([seen.to(asked.dtype), asked], 1)
        if self._model.config.use_decoder_only_language_model:
            logits = self._prompted(inputs_embeds=read).logits
        else:
            start = self._model.language_model.config.pad_token_id  # where T5's decoder begins
            begun = torch.full((len(images), 1), start, device=self._device)
            logits = self._prompted(inputs_embeds=read, decoder_input_ids=begun).logits
        return torch.as_tensor(logits[:, -1]).float()


def _open(folder: Path | None, device: torch.device) -> tuple[Any, Any]:
    """The frozen model, and its processor.

    Raises:
        ModelError: There is no folder, or it holds no InstructBLIP, or not all of it.
    """
    if folder is None:
        raise ModelError("no InstructBLIP is given", where="--weights", remedy="give a folder; nothing is downloaded")
    try:
        found = AutoConfig.from_pretrained(folder, local_files_only=True).model_type
        if found != _MODEL_TYPE:  # said before a model of the default size, billions of weights, is made
            raise ModelError(f"holds no {_MODEL_TYPE}, but {found}", where=str(folder), remedy=_REMEDY)
        processor = InstructBlipProcessor.from_pretrained(folder, local_files_only=True)
    except REFUSALS as error:
        if isinstance(error, ModelError):
            raise
        reason = str(error).splitlines()[0]
        raise ModelError(f"holds no {_MODEL_TYPE}: {reason}", where=str(folder), remedy=_REMEDY) from error
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model, _ = load_pretrained(InstructBlipForConditionalGeneration, folder, new=(), dtype=dtype)
    return model.to(device).eval().requires_grad_(False), processor


def _answers(tokenizer: Any, folder: Path | None) -> tuple[int, int]:
    """The tokens that "yes" and "no" begin with after the question.

    Raises:
        ModelError: The tokenizer does not tell them apart.
    """
    asked = tokenizer(QUESTION, add_special_tokens=False)["input_ids"]
    answers = (REAL, GENERATED)
    told = [tokenizer(f"{QUESTION} {answer}", add_special_tokens=False)["input_ids"] for answer in answers]
    real, generated = (tokens[len(asked) : len(asked) + 1] for tokens in told)
    if not real or not generated or real == generated:
        raise ModelError(f"its tokenizer cannot tell {answers} apart", where=str(folder), remedy=_REMEDY)
    return real[0], generated[0]


def _with_prompt(language_model: Any) -> Any:
    """The language model behind one learnt vector, which starts as a word drawn at random."""
    kind = TaskType.SEQ_2_SEQ_LM if language_model.config.is_encoder_decoder else TaskType.CAUSAL_LM
    config = PromptTuningConfig(
        task_type=kind,
        num_virtual_tokens=1,
        num_transformer_submodules=1,  # an encoder-decoder reads it in its encoder
        prompt_tuning_init=PromptTuningInit.SAMPLE_VOCAB,
    )
    return get_peft_model(language_model, config).eval()
