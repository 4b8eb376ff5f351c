"""A classifier's report: one self-contained page."""
