"""What of the output is told as the cause of a failed start."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import small_engine

import fxray
from fxray.engine.root_cause import SharedOutput
from fxray.engine.start import start_of_vllm
from fxray.errors import ModelError

PREFIX = "(EngineCore pid=7) ERROR 12-01 00:59:13 [core.py:1510] "
FAILED = f"""{PREFIX}EngineCore failed to start.
{PREFIX}Traceback (most recent call last):
{PREFIX}  File "core.py", line 3, in _dummy_run
{PREFIX}    raise ValueError("no room: said")
{PREFIX}torch.OutOfMemoryError: no room: 3 GiB
{PREFIX}
{PREFIX}The above exception was the direct cause of the following exception:
{PREFIX}
{PREFIX}RuntimeError: a consequence
Process EngineCore:
Traceback (most recent call last):
RuntimeError: a consequence
"""


@contextmanager
def output_in(file: Path, number: int = 2) -> Iterator[None]:
    """Lets a file descriptor lead to a file meanwhile, for this process and its children."""
    kept = os.dup(number)
    try:
        with file.open("ab") as opened:
            os.dup2(opened.fileno(), number)
        yield
    finally:
        os.dup2(kept, number)
        os.close(kept)


@pytest.mark.parametrize("number", [1, 2])
def test_a_start_that_failed_in_another_process_is_told_with_its_first_error(tmp_path: Path, number: int) -> None:
    (tmp_path / "log").write_text(FAILED.replace("no room", "an earlier start"))
    is_told = pytest.raises(ModelError, match=r"^m: vLLM cannot start: torch.OutOfMemoryError: no room: 3 GiB\n")
    with output_in(tmp_path / "log", number), is_told, start_of_vllm(Path("m")):
        subprocess.run(["printf", "%s", FAILED], stdout=number, check=True)
        raise RuntimeError("Engine core initialization failed. See root cause above.")


REFUSED = "(Worker_TP0 pid=8) ERROR 12-01 00:59:13 [multiproc_executor.py:1063] "
REFUSED += f"WorkerProc hit an exception.\n{REFUSED}ValueError: an adapter of another rank\n"


@pytest.mark.parametrize(
    "said", ["", "ValueError: of something else\n", PREFIX + "EngineCore failed to start.\n", REFUSED]
)
def test_what_tells_no_cause_leaves_what_was_raised(tmp_path: Path, said: str) -> None:
    is_told = pytest.raises(ModelError, match="cannot start: out of range")
    with output_in(tmp_path / "log"), is_told, start_of_vllm(Path("m")):
        os.write(2, said.encode())
        raise IndexError("out of range")


def test_output_that_is_no_file_tells_nothing() -> None:
    reader, writer = os.pipe()
    kept = os.dup(2)
    try:
        os.dup2(writer, 2)
        output = SharedOutput.from_now()
        os.write(2, FAILED.encode())
        assert output.root_cause() == ""
    finally:
        os.dup2(kept, 2)
        for each in (kept, reader, writer):
            os.close(each)


START = """
import asyncio, dataclasses
from small_engine import small_engine
from fxray.engine.streaming import StreamingEngine
from fxray.model.folder import resolve_model_path

async def main():
    StreamingEngine(dataclasses.replace(small_engine(resolve_model_path("tiny")), kv_cache_bytes=1 << 50))

asyncio.run(main())
"""


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.vllm
def test_a_real_engine_whose_core_fails_says_why(tmp_path: Path) -> None:
    places = [Path(small_engine.__file__).parent, Path(fxray.__file__).parent.parent, os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, filter(None, places)))}
    with (tmp_path / "log").open("wb") as log:
        ended = subprocess.run(
            [sys.executable, "-c", START], env=environment, stdout=log, stderr=log, timeout=120, check=False
        )
    assert ended.returncode == 1
    last = [line for line in (tmp_path / "log").read_text().splitlines() if line.strip()][-2:]
    assert "vLLM cannot start: ValueError: Available memory" in last[0]
    assert "1048576.0 GiB" in last[0]
