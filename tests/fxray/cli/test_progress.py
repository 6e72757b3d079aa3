from io import StringIO

import pytest
from rich.console import Console

from fxray.cli.progress import LiveView, Meter, PlainView
from fxray.events import Note, PhaseDone, PhaseStarted, Step


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


def steps(view, clock, phase, numbers, num_steps, seconds, metrics=None):
    for number in numbers:
        clock.now_s += seconds
        view(Step(phase, number, num_steps, metrics or {}))


def test_time_left_comes_from_the_middle_step_not_from_the_slow_first(clock):
    meter = Meter(clock)
    meter.start(PhaseStarted("alpha", 10))
    assert meter.left_s is None
    steps(meter.advance, clock, "alpha", [1], 10, 60)
    steps(meter.advance, clock, "alpha", [2, 3, 4], 10, 2)
    assert meter.left_s == 12
    clock.now_s += 1
    assert meter.left_s == 11
    assert meter.position() == "4/10"


def test_a_resumed_phase_counts_only_its_own_steps(clock):
    meter = Meter(clock)
    meter.start(PhaseStarted("alpha", 10, first_step=6))
    steps(meter.advance, clock, "alpha", [7, 8], 10, 3)
    assert (meter.elapsed_s, meter.left_s) == (6, 6)


def test_steps_without_an_announced_phase_begin_one(clock):
    meter = Meter(clock)
    steps(meter.advance, clock, "train", [100], 200, 1)
    steps(meter.advance, clock, "test", [50], 60, 1)
    assert (meter.phase, meter.position(), meter.left_s) == ("test", "50/60", None)
    steps(meter.advance, clock, "test", [52], 60, 1)
    assert meter.left_s == 4


def test_facts_name_the_reward_and_its_parts(clock):
    meter = Meter(clock)
    metrics = {
        "reward": 1.5,
        "reward/label": 0.5,
        "reward/iou": 0.25,
        "reward/format": -1,
        "parse_rate": 0.5,
        "tokens_per_s": 4800.2,
        "seconds": 4.0,
        "seconds/wait": 3.0,
        "seconds/idle": 0.5,
        "seconds/generate": 3.5,
        "other": 1,
    }
    meter.advance(Step("alpha", 1, 2, metrics))
    assert meter.facts() == [
        "reward +1.500",
        "label +0.50",
        "iou 0.250",
        "format -1.00",
        "parsed 50.0%",
        "tokens/s 4,800",
        "learning waits 75%",
        "sampling waits 12%",
    ]


def test_without_a_terminal_lines_are_few_and_plain(clock):
    lines = []
    view = PlainView(lines.append, clock).on_event
    view(PhaseStarted("alpha", 40))
    steps(view, clock, "alpha", range(1, 41), 40, 1.0, {"reward": 0.5})
    view(PhaseDone("alpha", 40.0, "adapter saved"))
    view(Note("3 images skipped", is_warning=True))
    assert lines == [
        "alpha: 40 steps",
        "alpha  20/40  reward +0.500  left 20 s",
        "alpha  40/40  reward +0.500",
        "alpha done in 40 s  adapter saved  reward +0.500",
        "warning: 3 images skipped",
    ]


def test_a_resumed_phase_says_so(clock):
    lines = []
    PlainView(lines.append, clock).on_event(PhaseStarted("beta", 40, first_step=12))
    assert lines == ["beta: 40 steps, going on after 12"]


def test_a_terminal_shows_the_block_and_keeps_what_is_done():
    console = Console(file=StringIO(), force_terminal=True, width=120, color_system=None)
    view = LiveView(console)
    view.on_event(PhaseStarted("alpha", 4))
    view.on_event(Step("alpha", 1, 4, {"reward": 1.0, "reward/iou": 0.125}))
    console.print(view)
    view.on_event(PhaseDone("alpha", 65.0))
    shown = console.file.getvalue()
    for words in ("alpha", "1/4", "reward +1.000", "iou 0.125", "✓ alpha done in 1 min 05 s"):
        assert words in shown
