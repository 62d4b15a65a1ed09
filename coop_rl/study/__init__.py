"""A declared grid of runs, and what is concluded from it; `coop-rl study` calls it.

    GRID.yaml --grid--> Grid --planned--> PlannedRun  (a config and a folder each)
                                              |  commands.study_runs trains what is missing
                                              v
    run folders --runs--> StudyRun --findings--> Findings --tables--> Table
                              ^
    parquet  <--archive-------+

The grid is the declaration: arms, seeds, contrasts and figures are fixed before the first run, and
the tables hold what it names, whatever comes out. Nothing here starts a process.
"""
