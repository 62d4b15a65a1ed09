"""From a response's text to a verdict, in processes that can be killed.

    final_answer -> exact, number, math_answer, choice, ... (a verifier each), user, terms
        -> registry (all verifiers) -> worker (in the pool's processes)
    pool (starts, limits and restarts them) -> scoring (RolloutGroup to ScoredGroup) -> noise

A worker imports no torch, so it is small, and quick to start again after a kill.
"""
