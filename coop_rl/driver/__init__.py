"""What stands behind the loop's roles in the driver; knows the team of actors, not Ray."""
