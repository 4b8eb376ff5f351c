"""A finished classifier as one file that runs without tle."""
