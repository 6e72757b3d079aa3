"""The paper's experiments: tables as data, and the trainings, folds and measurements behind their rows."""
