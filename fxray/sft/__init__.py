"""Supervised fine-tuning as a Ray Train job: the base model learns to answer in the grammar."""
