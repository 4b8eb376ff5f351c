"""How to run a backbone on this machine: tried, compared with the reference, chosen and remembered."""
