"""What is read from finished or growing runs: the report, its live page, comparisons, summaries.

    run folders --stored_run--> StoredRun --arms--> Arm --comparison--> Difference  (terminal)
                                    |-- content --> page (one HTML file) --> live (loopback)
                                    +-- summary --> summary.json, summary.md

Nothing here starts an engine, and nothing writes but `page` and `summary`, at a run's end.
"""
