"""`coop-rl doctor`: what of this machine or cluster would make a run fail, and what mends it."""
