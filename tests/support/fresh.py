"""Fresh processes forked from a server that has imported torch and DeepSpeed already."""

import multiprocessing

FRESH = multiprocessing.get_context("forkserver")
FRESH.set_forkserver_preload(["coop_rl.learner.build", "coop_rl.learner.deepspeed_engine"])
