"""The roles of a run over Ray: rollout, reward, learner, images, and how adapters travel between them."""
