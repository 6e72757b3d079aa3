"""How many tokens the images, prompts and answers of a dataset take, for one model, view and order of regions."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxray.config.tree import Config
from fxray.data.dataset import Dataset
from fxray.data.frame import Frame, frame_of, sight_of
from fxray.data.statistics import Summary
from fxray.errors import DataError
from fxray.events import OnEvent, PhaseStarted, Step
from fxray.grammar.prompts import templates_of
from fxray.schema import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PHASE = "tokens"
MAX_NAMED = 5
_ANY_LENGTH = 10**9
_EVERY = 500


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Lengths in tokens.

    Attributes:
        model: The base model.
        view: What answers speak of.
        prompts: Of each of the nine templates, without the image.
        images: Per image.
        answers: Per answer, end token included; of rows that can be written.
        longest: The longest sequence of prompt, image and answer under each template.
        max_answer_tokens: Bound of the configuration.
        num_too_long: Answers beyond it.
        too_long: Ids of the first of them.
        may_drop_regions: Whether SFT shortens such answers; else it refuses them.
        unsayable: Rows whose answer cannot be written at all, the first of them with the reason.
        num_unsayable: How many there are.
    """

    model: str
    view: str
    prompts: tuple[int, ...]
    images: Summary
    answers: Summary
    longest: tuple[int, ...]
    max_answer_tokens: int
    num_too_long: int
    too_long: tuple[str, ...]
    may_drop_regions: bool
    unsayable: tuple[str, ...]
    num_unsayable: int

    @property
    def is_refused(self) -> bool:
        """True where SFT would stop at one of the rows."""
        return self.num_unsayable > 0 or (self.num_too_long > 0 and not self.may_drop_regions)

    def to_json(self) -> dict[str, Any]:
        """Everything, ready for `json.dumps`."""
        return {
            "model": self.model,
            "view": self.view,
            "templates": [
                {"index": index, "prompt_tokens": prompt, "longest_sequence_tokens": longest}
                for index, (prompt, longest) in enumerate(zip(self.prompts, self.longest, strict=True))
            ],
            "image_tokens": self.images.to_json(),
            "answer_tokens": self.answers.to_json(),
            "max_answer_tokens": self.max_answer_tokens,
            "num_too_long": self.num_too_long,
            "too_long": list(self.too_long),
            "num_unsayable": self.num_unsayable,
            "unsayable": list(self.unsayable),
        }


def count_tokens(config: Config, data: Path, on_event: OnEvent) -> TokenCounts:
    """Counts without reading an image.

    Args:
        config: For model, pixel bounds, view, order of regions and the bound on answers.
        data: Dataset file.
        on_event: Told of the progress.

    Raises:
        DataError: The dataset cannot be read.
        ModelError: The model has no tokenizer on this machine.
    """
    from fxray.model.folder import resolve_model_path
    from fxray.model.prompts import encode_prompt, load_tokenizer, render_prompt

    samples, view = Dataset.open(data).samples, config.data.view
    model_path = resolve_model_path(config.model.path)
    tokenizer, sight = load_tokenizer(model_path), sight_of(model_path)
    questions = [render_prompt(tokenizer, template) for template in templates_of(view)]
    prompts = tuple(len(encode_prompt(tokenizer, question, 0)) for question in questions)
    images, answers, together, too_long, unsayable = [], [], [0], [], []
    on_event(PhaseStarted(PHASE, len(samples)))
    for done, sample in enumerate(samples, start=1):
        frame = frame_of(sample, min_pixels=config.model.min_pixels, max_pixels=config.model.max_pixels, sight=sight)
        images.append(frame.num_tokens)
        try:
            answers.append(_answer_tokens(tokenizer, sample, frame, config))
        except DataError as error:
            unsayable.append(f"{error.where}: {error.message}")
        else:
            together.append(images[-1] + answers[-1])
            if answers[-1] > config.sft.max_answer_tokens:
                too_long.append(sample.sample_id)
        if done % _EVERY == 0 or done == len(samples):
            on_event(Step(PHASE, done, len(samples)))
    return TokenCounts(
        model=config.model.path,
        view=view,
        prompts=prompts,
        images=Summary.of(images),
        answers=Summary.of(answers),
        longest=tuple(prompt + max(together) for prompt in prompts),
        max_answer_tokens=config.sft.max_answer_tokens,
        num_too_long=len(too_long),
        too_long=tuple(too_long[:MAX_NAMED]),
        may_drop_regions=config.sft.on_long_answer == "drop-regions",
        unsayable=tuple(unsayable[:MAX_NAMED]),
        num_unsayable=len(unsayable),
    )


def _answer_tokens(tokenizer: "PreTrainedTokenizerFast", sample: Sample, frame: Frame, config: Config) -> int:
    from fxray.sft.encode import encode_answer

    view, order = config.data.view, config.data.region_order
    answer = encode_answer(tokenizer, sample, frame, max_answer_tokens=_ANY_LENGTH, view=view, region_order=order)
    return len(answer.token_ids)
