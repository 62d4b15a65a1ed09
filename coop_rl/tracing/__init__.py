"""Spans and timers, ground floor: any folder may use them."""
