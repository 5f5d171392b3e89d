"""What the benchmark of the instance step is made of; `benchmarks/instances.py` runs it.

`oracle` and `spineps_side` also run in SPINEPS' environment, so they import nothing of the project.
"""
