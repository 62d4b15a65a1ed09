"""`coop-rl plan`: what a run will take, computed from its config; nothing is started.

config + model shape --memory, time--> parts --report--> table, and whether it fits
"""
