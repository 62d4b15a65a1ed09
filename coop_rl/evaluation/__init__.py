"""Held-out accuracy with intervals: `estimators` (statistics), `evaluator` (when and on what)."""
