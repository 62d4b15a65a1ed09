"""Weight sync: merged theta + s*B*A of the joint learners into the rollout actors' engines."""
