"""Settings that the tests of splits start from."""

from fxray.data.split.settings import Scheme, Settings

USUAL = Settings(
    scheme=Scheme.K_FOLD,
    num_folds=4,
    fractions=(0.6, 0.2, 0.2),
    test_frac=0.3,
    validation_frac=0.0,
    groups={"sdxl": "Diffusion", "flux": "Diffusion", "biggan": "GAN", "dit": "DiT"},
    keeps_all=False,
    ignores_source=False,
    seed=0,
)
