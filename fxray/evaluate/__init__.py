"""Scores of a detector from the file of its predictions, whoever wrote it."""
