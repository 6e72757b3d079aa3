"""Reward functions as a user might write them, good and bad."""

import os
import re
import sys
import time
from pathlib import Path

from fxray.data.frame import Frame
from fxray.schema import Annotation


def length(answer_text: str, annotation: Annotation, frame: Frame) -> float:
    return float(len(answer_text))


def raises_on_bad(answer_text: str, annotation: Annotation, frame: Frame) -> float:
    if "bad" in answer_text:
        raise ValueError("no such answer")
    return 1.0


def exits_on_bad(answer_text: str, annotation: Annotation, frame: Frame) -> float:
    if "bad" in answer_text:
        sys.exit("no such answer")
    return 1.0


def not_finite_on_bad(answer_text: str, annotation: Annotation, frame: Frame) -> float:
    return float("nan") if "bad" in answer_text else 1.0


def loops_on_bad(answer_text: str, annotation: Annotation, frame: Frame) -> float:
    while "bad" in answer_text:
        pass
    return 1.0


def holds_the_interpreter_on_bad(answer_text: str, annotation: Annotation, frame: Frame) -> float:
    if "bad" in answer_text:
        re.match(r"(a+)+$", "a" * 60 + "b")  # exponential, and never lets another thread run
    return 1.0


def dies_on_bad(answer_text: str, annotation: Annotation, frame: Frame) -> float:
    if "bad" in answer_text:
        os._exit(1)
    return 1.0


def dies_once_on_bad(answer_text: str, annotation: Annotation, frame: Frame) -> float:
    if answer_text.startswith("bad "):
        marker = Path(answer_text.removeprefix("bad "))
        if not marker.exists():
            marker.touch()
            os._exit(1)
    return 1.0


def hangs_once_on_bad(answer_text: str, annotation: Annotation, frame: Frame) -> float:
    """As where a machine stands still for a while."""
    if answer_text.startswith("bad "):
        marker = Path(answer_text.removeprefix("bad "))
        if not marker.exists():
            marker.touch()
            time.sleep(60)
    return 1.0


def slow_on_first(answer_text: str, annotation: Annotation, frame: Frame) -> float:
    if "first" in answer_text:
        time.sleep(0.3)
    return 1.0
