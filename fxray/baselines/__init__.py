"""Detectors to compare with, each fitted and scored in the same way: see `registry` for what there is."""
