"""thinkrl: a config-driven experiment runner for reinforcement learning of reasoning."""

__version__ = "0.1.0"
