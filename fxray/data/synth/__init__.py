"""Synthetic detection data: real photographs that packages ship, with defects planted where we know."""
