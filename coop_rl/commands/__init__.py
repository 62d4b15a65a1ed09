"""One file per verb of the command line, from input checks to summary."""
