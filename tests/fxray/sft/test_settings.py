from dataclasses import replace

import pytest

from fxray.errors import ConfigError
from fxray.sft.settings import SftSettings


def test_the_rate_rises_linearly_and_falls_along_a_cosine(settings: SftSettings) -> None:
    settings = replace(settings, learning_rate=4.0, warmup_frac=0.2)

    rates = [settings.rate(step, num_steps=10) / 4.0 for step in range(10)]

    # Two steps of warm-up, then 0.5 (1 + cos(pi k / 8)) for k = 0 .. 7.
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[3] == pytest.approx(0.961940, abs=1e-6)
    assert rates[6] == pytest.approx(0.5)
    assert rates[9] == pytest.approx(0.038060, abs=1e-6)


def test_without_warm_up_the_first_rate_is_the_highest(settings: SftSettings) -> None:
    assert replace(settings, warmup_frac=0.0).rate(0, num_steps=1) == settings.learning_rate


@pytest.mark.parametrize(
    ("epochs", "max_steps", "num_steps"), [(1, 0, 6), (0.5, 0, 3), (3, 0, 18), (3, 5, 5), (1, 9, 6), (0.01, 0, 1)]
)
def test_epochs_and_a_bound_make_the_number_of_steps(
    settings: SftSettings, epochs: float, max_steps: int, num_steps: int
) -> None:
    assert replace(settings, epochs=epochs, max_steps=max_steps).num_steps(24) == num_steps


def test_a_last_batch_that_is_not_full_counts_as_a_step(settings: SftSettings) -> None:
    assert replace(settings, max_steps=0).num_steps(25) == 7


def test_a_batch_that_does_not_divide_is_refused(settings: SftSettings) -> None:
    with pytest.raises(ConfigError, match="4 samples do not divide into 3 workers"):
        replace(settings, num_workers=3)


def test_the_number_of_ranks_does_not_make_another_job(settings: SftSettings) -> None:
    assert replace(settings, num_workers=2, zero_stage=2).identity() == settings.identity()
    assert replace(settings, seed=4).identity() != settings.identity()
