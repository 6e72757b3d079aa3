import pickle
import sys
from pathlib import Path

import pytest

from fxray.data.frame import Frame
from fxray.errors import ConfigError
from fxray.schema import Annotation, Verdict
from rewards.custom import CustomReward, load_reward
from rewards.score import score
from rewards.stage import RightWrong, StageRewards

FRAME = Frame(100, 50, 56, 28)
TRUTH = Annotation(Verdict.REAL)
MODULE = """
import functools

def brevity(answer_text, annotation, frame):
    return -len(answer_text) / frame.width_px

def agrees(answer_text, annotation, frame):
    return annotation.verdict.value in answer_text

def not_a_number(answer_text, annotation, frame):
    return float("nan")

def half(answer_text, annotation, frame):
    import numpy

    return numpy.float32(0.5)

def is_short(answer_text, annotation, frame):
    import numpy

    return numpy.float32(0.5) > len(answer_text)

def enormous(answer_text, annotation, frame):
    return 1e308

def nothing(answer_text, annotation, frame):
    return None

def broken(answer_text, annotation, frame):
    raise KeyError("left_leg")

def two(answer_text, annotation):
    return 0.0

def with_limit(answer_text, annotation, frame, *, limit):
    return float(len(answer_text) < limit)

short = functools.partial(with_limit, limit=4)
constant = 3

async def later(answer_text, annotation, frame):
    return 0.5
"""


@pytest.fixture(autouse=True)
def users_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "users_rewards.py").write_text(MODULE)
    (tmp_path / "users_broken_module.py").write_text("import a_package_that_is_not_there")
    (tmp_path / "users_ending_module.py").write_text("raise SystemExit(0)")  # as a script ends without arguments
    (tmp_path / "users_failing_module.py").write_text("import math\nmath.nothing")
    (tmp_path / "users_torn_module.py").write_text("def brevity(:")
    monkeypatch.syspath_prepend(tmp_path)
    load_reward.cache_clear()


def stage(*custom: CustomReward) -> StageRewards:
    return StageRewards("own", 0.25, 1.0, RightWrong(1, -1), RightWrong(2, -1), custom=custom)


def test_users_rewards_enter_the_sum_with_their_weights():
    answer = "<think></think><tag>none</tag><verdict>real</verdict>"
    own = stage(CustomReward("users_rewards:brevity", 0.5), CustomReward("users_rewards:agrees", -2.0))
    scored = score(answer, TRUTH, FRAME, own)
    assert scored.custom == {"users_rewards:brevity": -len(answer) / 100, "users_rewards:agrees": 1.0}
    assert scored.total == pytest.approx(0.25 + 1 + 1 + 2 - 0.5 * len(answer) / 100 - 2.0)


@pytest.mark.parametrize(("name", "value"), [("half", 0.5), ("is_short", 1.0)])
def test_a_number_or_a_truth_value_of_numpy_is_a_number(name, value):
    own = CustomReward(f"users_rewards:{name}", 1.0)
    assert score("", TRUTH, FRAME, stage(own)).custom == {f"users_rewards:{name}": value}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("users_rewards", "no import path"),
        ("users_rewards:", "no import path"),
        (":brevity", "no import path"),
        ("users_reward:brevity", "'users_reward' cannot be imported"),
        ("users_broken_module:brevity", "a_package_that_is_not_there"),
        ("users_failing_module:brevity", "fails when it is imported: AttributeError: .*'nothing'(.|\n)*mend it"),
        ("users_ending_module:brevity", "ends Python when it is imported(.|\n)*if __name__"),
        ("users_torn_module:brevity", "fails when it is imported: SyntaxError: (.|\n)*mend it"),
        ("users_rewards:brevety", "has no 'brevety'"),
        ("users_rewards:constant", "'constant' is a int"),
        ("users_rewards:later", "'later' is an async function"),
        ("users_rewards:two", r"takes \(answer_text, annotation\): (.|\n)*function\(answer_text, annotation, frame\)"),
        ("users_rewards:with_limit", "missing a required (keyword-only )?argument: 'limit'"),
    ],
)
def test_path_that_names_no_function_is_refused(path, message):
    with pytest.raises(ConfigError, match=message):
        load_reward(path)


def test_what_is_bound_to_parameters_is_a_reward():
    scores = [CustomReward("users_rewards:short", 1.0).value(answer, TRUTH, FRAME) for answer in ("real", "no")]
    assert scores == [0.0, 1.0]


def test_a_module_in_the_current_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    (tmp_path / "users_module_beside.py").write_text("def brevity(answer_text, annotation, frame): return 0.5")
    monkeypatch.chdir(tmp_path)
    assert CustomReward("users_module_beside:brevity", 1.0).value("", TRUTH, FRAME) == 0.5


@pytest.mark.parametrize(("name", "got"), [("not_a_number", "nan"), ("nothing", "None")])
def test_a_value_that_is_no_finite_number_is_an_error_not_a_score(name, got):
    with pytest.raises(ConfigError, match=f"users_rewards:{name}: returned {got}"):
        score("", TRUTH, FRAME, stage(CustomReward(f"users_rewards:{name}", 1.0)))


@pytest.mark.parametrize("weight", [1e-100, 10.0, -1.0])
def test_a_sum_whose_square_is_no_number_is_an_error_that_names_weight_and_function(weight):
    own = stage(CustomReward("users_rewards:half", 1.0), CustomReward("users_rewards:enormous", weight))
    with pytest.raises(ConfigError, match=rf"{weight:g} x users_rewards:enormous: .* add up to -?(inf|1e\+\d+),"):
        score("", TRUTH, FRAME, own)
    small = stage(CustomReward("users_rewards:enormous", 1e-300))
    assert score("", TRUTH, FRAME, small).total == pytest.approx(1e8)


def test_what_the_function_raises_passes_through():
    with pytest.raises(KeyError, match="left_leg"):
        score("", TRUTH, FRAME, stage(CustomReward("users_rewards:broken", 1.0)))


def test_stage_with_users_rewards_travels_between_processes():
    own = stage(CustomReward("users_rewards:brevity", 0.5))
    assert pickle.loads(pickle.dumps(own)) == own
