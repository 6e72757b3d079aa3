"""Datasets, images and the frame in which the model sees them."""
