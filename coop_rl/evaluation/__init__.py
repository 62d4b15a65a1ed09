"""Held-out accuracy with intervals.

benchmarks, sets (what is asked) -> measure (greedy and sampled) -> responses (every one on disk)
                                       +-> result (figures by estimators, with their intervals)
"""
