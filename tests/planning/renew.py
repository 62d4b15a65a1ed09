"""Write the golden plans of the shipped configs anew: python -m tests.planning.renew."""

from tests.planning.test_plan import CONFIGS, golden, options_of, plan

for config in CONFIGS:
    done = plan(config, *options_of(config))
    assert done.returncode == 0, done.stderr
    golden(config).write_text(done.stdout)
