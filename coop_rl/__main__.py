"""`python -m coop_rl` is `coop-rl`."""

from coop_rl.cli import main

main()
