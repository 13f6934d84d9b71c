"""Analyses: what a method does to the policy, as pure functions."""
