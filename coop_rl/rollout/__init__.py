"""Rollout actors' insides: an engine that samples, and the worker that makes groups with it."""
