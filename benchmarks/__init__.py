"""What is measured, on which real data, against whom: `python -m tle.benchmarks.NAME`."""
