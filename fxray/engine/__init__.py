"""Sampling with vLLM; nothing outside this package imports it. An engine lives in a process of its own."""
