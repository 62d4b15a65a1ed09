"""From files, data sets and tasks to prompts and demonstrations in seeded, resumable order.

    opening (files), chats (messages) -> jsonl, tables
    jsonl, tables, task (rows by position) -> rendering (tokens) -> collection (sequences, mixtures)
    golds (can the verifier call them right) -> load (RunData)
    order (which rows a step uses)      overlap (training against evaluation questions)

The driver checks everything before it starts an actor, so a bad row costs seconds, not a run. Of a
source with more than 20,000 rows every row's form is checked, and 2,000 rows are rendered.
"""
