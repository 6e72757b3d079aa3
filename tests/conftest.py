"""What tests of several packages need."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def random_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an untrained tiny Qwen2.5-VL with tokenizer and processor."""
    from fxray.grammar.prompts import TEMPLATES
    from fxray.model.tiny.architecture import build_model, save_model
    from fxray.model.tiny.tokenizer import train_tokenizer

    tokenizer = train_tokenizer([text for template in TEMPLATES for text in (template.system, template.query)] * 20)
    folder = tmp_path_factory.mktemp("model") / "random-tiny"
    folder.mkdir()
    save_model(folder, build_model(tokenizer, seed=0), tokenizer)
    return folder
