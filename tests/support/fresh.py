"""Fresh processes that have torch and DeepSpeed already: forked from a server that imported them."""

import multiprocessing

FRESH = multiprocessing.get_context("forkserver")
FRESH.set_forkserver_preload(["coop_rl.learner.build", "coop_rl.learner.deepspeed_engine"])
