import errno
import os
import re
import resource
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from fxray.cli import app
from fxray.errors import CheckpointError, ConfigError, FxrayError

COMMANDS = [
    [],
    ["train"],
    ["sft"],
    ["grpo"],
    ["submit"],
    ["job", "logs"],
    ["job", "stop"],
    ["job", "list"],
    ["evaluate"],
    ["report"],
    ["robustness"],
    ["sweep"],
    ["baseline", "list"],
    ["baseline", "run"],
    ["calibrate"],
    ["serve"],
    ["prefer"],
    ["prefer", "create"],
    ["detect"],
    ["doctor"],
    ["data", "synth"],
    ["tiny", "build"],
    ["model", "random"],
    ["config", "show"],
    ["config", "check"],
]
HEAVY = ("torch", "ray", "vllm", "transformers", "deepspeed", "pyarrow", "numpy", "matplotlib", "fxray.launch")


def fxray(*arguments, code="from fxray.cli import main; main()", **options):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, check=False, **options
    )


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.alone
def test_help_has_an_example_answers_within_a_second_and_loads_nothing_heavy(command):
    code = (
        "import sys\n"
        "from fxray.cli import main\n"
        "try:\n    main()\n"
        f"finally:\n    print('loaded', [name for name in {HEAVY} if name in sys.modules], file=sys.stderr)\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = fxray(*command, "--help", code=code)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert f"fxray {' '.join(command)}" in done.stdout.split("Example")[1]
    assert "loaded []" in done.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


def test_a_check_of_templates_by_class_warns():
    done = fxray("config", "check", "--config", "tiny", "--set", "data.templates=by-class")
    assert done.returncode == 0
    assert done.stderr.startswith("warning: data.templates by-class")


def test_a_user_error_is_one_message_with_its_exit_code():
    done = fxray("config", "check", "--config", "tiny", "--set", "grpo.group_size=1")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "grpo.group_size is 1; must be greater than or equal to 2" in done.stderr
    assert "remedy:" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("how", [["--debug"], []])
def test_a_traceback_is_shown_on_request(how):
    environment = os.environ | ({} if how else {"FXRAY_DEBUG": "1"})
    done = fxray(*how, "config", "check", "--config", "nowhere", env=environment)
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_cross_field_problems_are_refused_before_anything_starts(tmp_path):
    done = fxray("train", "-c", "tiny", "-s", "sft.batch_size=31", "-d", str(tmp_path / "run"))
    assert done.returncode == 2
    assert "sft.batch_size is 31; must be a multiple of" in done.stderr
    assert not (tmp_path / "run").exists()


def test_wrong_usage_is_exit_code_2():
    assert fxray("train").returncode == 2
    assert fxray("evaluate").returncode == 2
    assert fxray("nonsense").returncode == 2


def test_a_file_name_of_any_bytes_comes_in_and_goes_out_whatever_the_locale():
    echo = (
        "import sys, fxray.cli.config as c\n"
        "c.app.command('say')(lambda: print(sys.stdin.read(), end=''))\n"
        "from fxray.cli import main; main()"
    )
    environment = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    command = [sys.executable, "-c", echo, "config", "say"]
    done = subprocess.run(command, input=b"caf\xe9.jpg\n", capture_output=True, env=environment, check=False)
    assert (done.stdout, done.stderr) == (b"caf\xe9.jpg\n", b"")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_command_leaves_with_the_signals_code_and_cleans_up(number, code, tmp_path):
    waiting = (
        "import signal, time, sys, fxray.cli.config as c\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # jobs in a script's background ignore it
        "def wait():\n"
        "    try:\n        print('ready', flush=True); time.sleep(30)\n"
        "    finally:\n        print('cleaned', flush=True)\n"
        "c.app.command('wait')(wait)\n"
        "from fxray.cli import main; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", waiting, "config", "wait"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.05)
    process.send_signal(number)
    output, errors = process.communicate(timeout=20)
    assert (process.returncode, output) == (code, "cleaned\n")
    assert "Traceback" not in errors


def test_the_version_is_told():
    assert fxray("--version").stdout.startswith("fxray 0.")


@pytest.mark.skipif(not version("torch").endswith("+cpu"), reason="torch itself is asked whether it sees a GPU")
def test_a_configuration_is_checked_without_torch_which_takes_twice_as_long():
    code = "import os, sys\nfrom fxray.cli import main\ntry:\n    main()\n"
    code += "finally:\n    print('torch' in sys.modules, os.environ['DS_ACCELERATOR'])"
    done = fxray("config", "check", "-c", "tiny", code=code)
    assert done.stdout.splitlines()[-1] == "False cpu"


def test_the_resolved_configuration_is_yaml_that_loads(tmp_path):
    shown = tmp_path / "shown.yaml"
    shown.write_text(fxray("config", "show", "-c", "tiny", "-s", "seed=3").stdout)
    assert fxray("config", "check", "-c", str(shown)).returncode == 0
    assert "seed: 3" in shown.read_text()


def test_an_error_from_a_worker_is_told_as_itself(capsys):
    class FromWorker(FxrayError):
        cause = CheckpointError("is damaged", where="step-3", remedy="start from step-2")

    assert app.report_error(FromWorker("long text of a remote traceback")) == 1
    assert capsys.readouterr().err == "error: step-3: is damaged\n  remedy: start from step-2\n"


def test_exit_codes_come_from_the_error(capsys):
    assert app.report_error(ConfigError("x")) == 2
    assert app.report_error(FxrayError("x")) == 1


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_names_that_the_locale_has_no_letters_for_are_written_as_escapes(encoding: str) -> None:
    written = "nope-\N{CJK UNIFIED IDEOGRAPH-6F22} \udcff \u00b1".encode("utf-8", "surrogatepass")
    program = f"""
import sys
from fxray.cli import app
app.app = lambda: print({written!r}.decode("utf-8", "surrogatepass"))
app.main()
"""
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    letters = {"latin-1": b"nope-\\u6f22 \xff \xb1", "ascii": b"nope-\\u6f22 \xff \\xb1"}
    assert ran.stdout.strip() == letters.get(encoding, b"nope-\xe6\xbc\xa2 \xff \xc2\xb1")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["status", "n" * 300], "n: cannot be read or written: File name too long\n  remedy: choose a shorter name\n"),
        (["--version"], "error: output: cannot be read or written: No space left on device\n  remedy: free some space"),
    ],
)
def test_what_a_disk_refuses_where_no_writer_looks_is_one_error(arguments, said):
    command = [sys.executable, "-c", "from fxray.cli import main; main()", *arguments]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_machine_without_room_for_temporary_files_is_said(monkeypatch, capsys):
    def ask_for_folder():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp', '/work']")

    monkeypatch.setattr(app, "app", ask_for_folder)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as left:
        app.main()
    assert left.value.code == 1
    assert re.match(r"error: No usable temporary directory found in .*\n  remedy: .*TMPDIR", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("error", "is_told"), [("KeyboardInterrupt", False), ("SystemExit(1)", False), ("OSError", True)]
)
def test_who_is_stopped_again_while_it_ends_prints_no_traceback(error, is_told):
    at_exit = f"import atexit, sys\n@atexit.register\ndef shut_down():\n    raise {error}\n"
    program = f"{at_exit}from fxray.cli.app import main\nsys.argv[1:] = ['--version']\nmain()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ("Traceback" in done.stderr) is is_told


def test_a_folder_that_was_deleted_under_the_command_is_one_error(tmp_path):
    (tmp_path / "gone").mkdir()
    command = ["sh", "-c", f"rmdir ../gone; {sys.executable} -m fxray config check -c tiny"]
    done = subprocess.run(command, cwd=tmp_path / "gone", capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the folder in which the command runs was deleted\n  remedy: ")
