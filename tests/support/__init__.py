"""Engines without a cluster or a model, for tests and benches only."""
