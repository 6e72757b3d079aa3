"""Samples on disk and in frames: datasets, images, the order of prompts, synthetic photographs with planted defects."""
