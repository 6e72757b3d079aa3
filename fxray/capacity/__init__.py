"""What a configuration needs before anything is loaded: bytes on every GPU, seconds of a step, hours of a run."""
