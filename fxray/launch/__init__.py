"""The joint of configuration, actors and phases: what the command line calls."""

from fxray.launch.phases import calibrate, evaluate_adapter, run_grpo_stage, run_sft_phase, train, train_until

__all__ = ["calibrate", "evaluate_adapter", "run_grpo_stage", "run_sft_phase", "train", "train_until"]
