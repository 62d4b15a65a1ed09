"""What a run writes and shows: metrics, samples, events, logs, run directory, terminal.

stages (timers) --+
StepRecord -------+-> metrics -> observer -> sinks (metrics.jsonl, samples.jsonl, events/)
                                    +------> console (terminal)
"""
