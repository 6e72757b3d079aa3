"""Group relative policy optimisation: pure maths, plans, the loop and its ports."""
