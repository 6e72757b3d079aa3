"""Sweeps: settings as data, a run directory per setting and seed, and what came of them on the validation split."""
