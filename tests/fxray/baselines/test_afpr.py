"""AntifakePrompt, with tiny random models of InstructBLIP, from folders as transformers writes them."""

import io
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BlipImageProcessor,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    OPTConfig,
    PreTrainedTokenizerFast,
    T5Config,
    ViTConfig,
    ViTForImageClassification,
)

from fxray.baselines import afpr
from fxray.baselines.afpr import QUESTION, AfPr
from fxray.baselines.pictures import Pictures
from fxray.baselines.ports import Settings
from fxray.baselines.registry import find
from fxray.baselines.run import run_baselines
from fxray.baselines.split import is_generated
from fxray.baselines.training import Recipe
from fxray.data.dataset import Dataset, Row, write_dataset
from fxray.errors import ConfigError, ModelError
from fxray.schema import Annotation, Box, Region, Sample, Verdict

WORDS = ("<pad>", "<s>", "<unk>", "Is", "this", "photo", "real", "?", "yes", "no", "<image>")
NUM_QUERIES = 2
SIDE_PX = 16


def write_tokenizer(words=WORDS):
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<s>")


def write_model(folder, language="opt", words=WORDS):
    """All of its parts 16 wide; random weights large enough for an image to matter."""
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        "opt": OPTConfig(
            hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2, word_embed_proj_dim=16,
            vocab_size=len(WORDS), max_position_embeddings=32, init_std=0.4,
        ),
        "t5": T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, vocab_size=len(WORDS)),
    }[language]  # fmt: skip
    config = InstructBlipConfig(
        vision_config={**shape, "image_size": SIDE_PX, "patch_size": 8, "initializer_range": 0.4},
        qformer_config={**shape, "vocab_size": len(WORDS), "encoder_hidden_size": 16, "initializer_range": 0.4},
        text_config=text.to_dict(),
        num_query_tokens=NUM_QUERIES,
        image_token_index=WORDS.index("<image>"),
        initializer_range=0.4,
    )
    torch.manual_seed(0)
    InstructBlipForConditionalGeneration(config).save_pretrained(folder)
    see = BlipImageProcessor(size={"height": SIDE_PX, "width": SIDE_PX})
    InstructBlipProcessor(see, write_tokenizer(words), write_tokenizer(), NUM_QUERIES).save_pretrained(folder)
    return folder


def write_brightness_set(path, num_images, seed, *, is_bright_generated):
    """Noise, dark and bright in turn."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(num_images):
        is_bright = number % 2 == 1
        encoded = io.BytesIO()
        pixels = rng.normal(190 if is_bright else 60, 20, (SIDE_PX, SIDE_PX, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(encoded, "PNG")
        is_flawed = is_bright is is_bright_generated
        regions = (Region(Box(0.0, 0.0, 8.0, 8.0), "light odd"),) if is_flawed else ()
        annotation = Annotation(Verdict.GENERATED if is_flawed else Verdict.REAL, regions)
        source = f"{seed}-{number // 2 % 8}"
        sample = Sample(f"{seed}-{number}", SIDE_PX, SIDE_PX, annotation, "toy", "toy", source)
        rows.append(Row(sample, image=encoded.getvalue()))
    write_dataset(path, rows)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("instructblip"))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path = write_brightness_set(tmp_path_factory.mktemp("seen") / "a.parquet", 12, 0, is_bright_generated=True)
    return Pictures(Dataset.open(path), range(12))


IS_GENERATED = np.arange(12) % 2 == 1


def scores(baseline, images):
    return np.array([answer.score for answer in baseline.predict(images)])


@pytest.mark.parametrize("is_bright_generated", [True, False])
def test_a_prompt_is_tuned_that_tells_bright_from_dark_whichever_is_generated(
    model, tmp_path, monkeypatch, is_bright_generated
):
    monkeypatch.setitem(afpr._RECIPES, "small", Recipe(20, 16, 1.0, 0.0))
    fitted = write_brightness_set(tmp_path / "train.parquet", 80, 1, is_bright_generated=is_bright_generated)
    unseen = write_brightness_set(tmp_path / "test.parquet", 40, 2, is_bright_generated=is_bright_generated)
    train, test = (Dataset.open(path) for path in (fitted, unseen))
    baseline = AfPr(Settings(0, weights=model))
    baseline.fit(Pictures(train, range(80)), is_generated(train.samples), None, lambda *_: None)
    assert roc_auc_score(is_generated(test.samples), scores(baseline, Pictures(test, range(40)))) >= 0.85


def test_only_the_prompt_changes_and_the_same_seed_gives_the_same_scores(model, images):
    found = []
    for seed in (0, 0, 1):
        baseline = AfPr(Settings(seed, weights=model, epochs=3))
        frozen = {name: tensor.clone() for name, tensor in baseline._model.state_dict().items()}
        prompt = baseline._prompted.prompt_encoder.default.embedding.weight
        assert prompt.shape == (1, 16)
        assert baseline.num_parameters == sum(tensor.numel() for tensor in baseline._model.parameters()) + 16
        first, unfitted, steps = prompt.detach().clone(), scores(baseline, images), []
        baseline.fit(images, IS_GENERATED, None, lambda *told, steps=steps: steps.append(told))
        assert [told[:2] for told in steps] == [(1, 3), (2, 3), (3, 3)]
        assert not torch.equal(first, prompt)
        assert all(torch.equal(frozen[name], tensor) for name, tensor in baseline._model.state_dict().items())
        found.append(scores(baseline, images))
        assert not np.array_equal(found[-1], unfitted)
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


@pytest.mark.parametrize("language", ["opt", "t5"])
def test_a_score_is_the_share_of_no_in_what_the_model_says_after_the_prompt(tmp_path, images, language):
    folder = write_model(tmp_path, language)
    baseline = AfPr(Settings(0, weights=folder))
    whole = InstructBlipForConditionalGeneration.from_pretrained(folder).eval()
    processor = InstructBlipProcessor.from_pretrained(folder)
    prompt = baseline._prompted.prompt_encoder.default.embedding.weight
    word = WORDS.index("photo")
    with torch.no_grad():
        prompt[0] = whole.get_input_embeddings().weight[word]
    expected = []
    for pixels in images.each():
        inputs = dict(processor(images=Image.fromarray(pixels), text=QUESTION, return_tensors="pt"))
        inputs["input_ids"] = torch.cat([torch.tensor([[word]]), inputs["input_ids"]], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        begun = {} if language == "opt" else {"decoder_input_ids": torch.tensor([[WORDS.index("<pad>")]])}
        with torch.no_grad():
            probabilities = whole(**inputs, **begun).logits[0, -1].softmax(-1)
        yes, no = (probabilities[WORDS.index(answer)].item() for answer in ("yes", "no"))
        expected.append(no / (yes + no))
    np.testing.assert_allclose(scores(baseline, images), expected, rtol=1e-4)


def test_afpr_without_a_model_is_left_out_of_all_and_refused_by_name(tmp_path, toy_sets):
    train, test = toy_sets
    assert "afpr" not in {entry.name for entry in find([])}
    with pytest.raises(ConfigError, match="afpr is nothing without an InstructBLIP of transformers"):
        run_baselines(find(["afpr"]), Settings(0), {}, train=train, test=test, out=tmp_path / "out", versions={})
    assert not (tmp_path / "out").exists()
    with pytest.raises(ModelError, match="no InstructBLIP is given"):
        AfPr(Settings(0))


def test_a_folder_of_another_architecture_or_not_whole_is_refused(tmp_path, model):
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ViTForImageClassification(ViTConfig(**shape, image_size=16, patch_size=8)).save_pretrained(tmp_path / "vit")
    with pytest.raises(ModelError, match="holds no instructblip, but vit"):
        AfPr(Settings(0, weights=tmp_path / "vit"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="holds no instructblip: "):
        AfPr(Settings(0, weights=tmp_path / "empty"))
    shutil.copytree(model, tmp_path / "thin")
    kept = load_file(tmp_path / "thin" / "model.safetensors")
    del kept["language_projection.weight"]
    save_file(kept, tmp_path / "thin" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weight of .* missing or misshapen, language_projection\.weight"):
        AfPr(Settings(0, weights=tmp_path / "thin"))


def test_a_tokenizer_that_does_not_know_the_answers_is_refused(tmp_path):
    words = tuple("other" + word if word in ("yes", "no") else word for word in WORDS)
    with pytest.raises(ModelError, match=r"its tokenizer cannot tell .* apart"):
        AfPr(Settings(0, weights=write_model(tmp_path, words=words)))
