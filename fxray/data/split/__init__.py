"""Splits: which rows train, validate and test, so that no image, look-alike or source is on two sides."""
