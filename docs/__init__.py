"""The documentation: pages, and the scripts that write parts of them."""
