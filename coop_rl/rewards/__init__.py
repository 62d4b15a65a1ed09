"""From a response's text to a verdict, in processes that can be killed.

    exact (one verifier) -> registry (all verifiers) -> worker (in the pool's processes)
    pool (starts, limits and restarts them) -> scoring (RolloutGroup to ScoredGroup)

A worker imports `verdict`, a verifier and `worker` only: no torch, so it is small, and quick to
start again after a kill.
"""
