"""From JSONL files to prompts and demonstrations in seeded, resumable order.

    jsonl (rows with their line) -> rendering (tokens) -> load (RunData)
    order (which rows a step uses)

The driver reads everything before it starts an actor, so a bad row costs seconds, not a run.
"""
