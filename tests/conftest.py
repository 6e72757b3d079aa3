"""What tests of several packages need: quick tests first, GPU tests only where there is one, a random model, a Ray."""

import os
import resource
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from fxray.large_imports import without_collection

# How long one example takes says more about what else the machine does than about the code.
hypothesis.settings.register_profile("fxray", deadline=None)
hypothesis.settings.load_profile("fxray")

SLOW_MARKERS = ("slow", "ray", "vllm", "gpu")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also run the tests that take minutes each")
    parser.addoption("--rehearse", action="store_true", help="run tests/gpu on a CPU, with a tiny model")
    parser.addoption("--null", action="store_true", help="of tests/gpu what holds where kernels do nothing")
    parser.addoption("--like", default="qwen2.5-vl-3b", help="the shape that tests/gpu runs, as `fxray model random`")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """The tests' files import what a training imports."""
    with without_collection():
        return (yield)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Puts the slower kinds last, and skips what needs a GPU where there is none."""
    _refuse_unwritten_marks(items)
    is_null = config.getoption("--null")
    has_gpu = Path("/dev/nvidia0").exists() or config.getoption("--rehearse") or is_null
    for item in items:
        if item.get_closest_marker("gpu") and not has_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
        if is_null and not item.get_closest_marker("null"):
            item.add_marker(pytest.mark.skip(reason="needs kernels that compute"))
        if item.get_closest_marker("long") and not config.getoption("--long"):
            item.add_marker(pytest.mark.skip(reason="takes minutes; make test-long"))

    def kind(item: pytest.Item) -> int:
        return max((SLOW_MARKERS.index(m) + 1 for m in SLOW_MARKERS if item.get_closest_marker(m)), default=0)

    # One of several processes shall not be left with a long test at the end; and who starts a Ray in this process comes
    # before those who share one, which stays up.
    sign = -1 if "PYTEST_XDIST_WORKER" in os.environ else 1
    items.sort(key=lambda item: (sign * kind(item), "cluster" in getattr(item, "fixturenames", ())))


def _refuse_unwritten_marks(items: list[pytest.Item]) -> None:
    """`scripts/test` finds the files of the slower kinds by the marks that are written in them."""
    names_of: dict[Path, set[str]] = {}
    for item in items:
        names_of.setdefault(item.path, set()).update(mark.name for mark in item.iter_markers())
    for path, names in names_of.items():
        text = path.read_text("utf-8")
        if unwritten := {name for name in names & {*SLOW_MARKERS, "alone"} if f"mark.{name}" not in text}:
            raise pytest.UsageError(f"{path}: write {', '.join(sorted(unwritten))} as pytest.mark, or it is not run")


@pytest.fixture
def no_room() -> Callable[[], AbstractContextManager[None]]:
    """Gives blocks in which no file takes a byte, as on a full disk."""

    @contextmanager
    def block() -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return block


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


@pytest.fixture(scope="session")
def random_qwen3_dir(random_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an untrained tiny Qwen3-VL, with the tokenizer of `random_model_dir`."""
    import torch
    from transformers import Qwen3VLForConditionalGeneration

    from fxray.model.prompts import load_tokenizer
    from fxray.model.random import with_token_ids
    from fxray.model.tiny.architecture import save_processor

    tokenizer = load_tokenizer(random_model_dir)
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [6, 5, 5], "mrope_interleaved": True}
    text = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4}
    text |= {"num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 4096, "rope_parameters": rope}
    text |= {"vocab_size": (len(tokenizer) + 63) // 64 * 64, "tie_word_embeddings": True}
    vision = {"depth": 3, "hidden_size": 128, "intermediate_size": 192, "num_heads": 4, "out_hidden_size": 128}
    vision |= {"patch_size": 16, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
    content = {"text_config": text, "vision_config": vision, "tie_word_embeddings": True}
    config = with_token_ids("qwen3_vl", content, tokenizer, dtype="float32")
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(config)
    for parameter in model.parameters():  # wide enough that every part of it tells
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.06)
    folder = tmp_path_factory.mktemp("model") / "random-qwen3"
    model.save_pretrained(folder)
    save_processor(folder, tokenizer, "qwen3_vl", patch_px=16)
    return folder


@pytest.fixture(scope="session")
def random_internvl_dir(random_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an untrained tiny InternVL: tiles of 56 px, each of which makes four tokens."""
    import torch
    from transformers import (
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
        PreTrainedTokenizerFast,
    )

    from fxray.model.prompts import load_tokenizer

    folder = tmp_path_factory.mktemp("model") / "random-internvl"
    tokens = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    tokens |= {"video_token": "<video>"}
    qwens = load_tokenizer(random_model_dir)
    qwens.add_tokens(list(tokens.values()), special_tokens=True)
    template = qwens.chat_template.replace("<|vision_start|><|image_pad|><|vision_end|>", "<IMG_CONTEXT>\n")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=qwens.backend_tokenizer,
        eos_token=qwens.eos_token,
        pad_token=qwens.pad_token,
        extra_special_tokens=[*qwens.extra_special_tokens, *tokens.values()],
        model_specific_special_tokens=tokens,
        chat_template=template.replace("<|vision_start|><|video_pad|><|vision_end|>", "<video>\n"),
    )
    text = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4}
    text |= {"num_key_value_heads": 2, "max_position_embeddings": 4096, "architectures": ["Qwen2ForCausalLM"]}
    text |= {"vocab_size": (len(tokenizer) + 63) // 64 * 64, "bos_token_id": None, "rope_theta": 1e4}
    text |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    vision = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4}
    vision |= {"image_size": [56, 56], "patch_size": [14, 14], "attention_bias": True}
    config = InternVLConfig(
        text_config=text | {"tie_word_embeddings": True},
        vision_config=vision,
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=True,
        dtype="float32",
        architectures=["InternVLForConditionalGeneration"],
    )
    torch.manual_seed(0)
    model = InternVLForConditionalGeneration(config)
    for parameter in model.parameters():  # wide enough that every part of it tells
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.06)
    model.save_pretrained(folder)
    side = {"height": 56, "width": 56}
    InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=side),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=side),
        image_seq_length=4,
        chat_template=tokenizer.chat_template,
    ).save_pretrained(folder)
    GotOcr2ImageProcessor(size=side).save_pretrained(folder)
    return folder


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of eight processors the process may use one."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})


@pytest.fixture
def asking_nothing(monkeypatch: pytest.MonkeyPatch) -> AbstractContextManager[Any]:
    """A block that runs as on a GPU, with made-up attention, and fails where an operation wants a number on the host.

    A GPU would have to finish all work first, and wait for the host after that.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    from fxray.model import attention

    class AskingNothing(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = function.name().removeprefix("aten::").partition(".")[0]
            is_by_mask = name == "index" and any(each is not None and each.dtype == torch.bool for each in args[1])
            assert not is_by_mask
            assert name not in {"_local_scalar_dense", "nonzero", "masked_select", "repeat_interleave"}, name
            assert "unique" not in name
            return function(*args, **(kwargs or {}))

    monkeypatch.setattr(attention, "attention_kind", lambda *_: "varlen")
    monkeypatch.setattr(attention, "flash_attention", lambda q, k, v, *_, **__: q + k.mean() + v.mean())
    return AskingNothing()


@pytest.fixture
def peak_kib() -> Callable[[], int]:
    """This process's peak of resident memory since the test began; what other tests took is forgotten."""
    Path("/proc/self/clear_refs").write_text("5")
    return lambda: int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


class Overlap:
    """How many threads were inside at the same time, at most."""

    def __init__(self) -> None:
        self._lock, self._now, self.most = threading.Lock(), 0, 0

    def stay(self, seconds: float) -> None:
        """Lets the calling thread be inside for so long."""
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(seconds)
        with self._lock:
            self._now -= 1


@pytest.fixture
def overlap() -> Overlap:
    return Overlap()


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """One small local Ray for all tests that drive actors from this process; actors end with the test's handles."""
    from fxray.config.tree import RayConfig
    from fxray.launch.cluster import ray_cluster

    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:  # what Ray's processes shall see, and later tests shall not
            patch.delenv("RAY_ADDRESS", raising=False)
            # As likely to get a processor as the tests beside them: Ray's default lets workers wait for everybody else,
            # so that on a busy machine a healthy one may not answer within the two seconds that some tests give.
            patch.setenv("RAY_worker_niceness", "0")
            # Where workers find `reward_functions`, before whatever this process was given.
            patch.setenv("PYTHONPATH", str(Path(__file__).parent / "actors"), prepend=os.pathsep)
            stack.enter_context(ray_cluster(RayConfig(num_cpus=2, object_store_mib=192), min_cpus=2))
        yield
