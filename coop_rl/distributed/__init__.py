"""The only folder that imports ray: actors, the roles on top of them, build, shutdown."""
