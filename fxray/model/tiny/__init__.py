"""The tiny Qwen2.5-VL of the demo: tokenizer, architecture, generic grounding data and pretraining."""
