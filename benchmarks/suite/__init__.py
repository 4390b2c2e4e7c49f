"""Whole jobs on whole clusters, each on clusterd and on the plain reference in the same run (docs/benchmarks.md).

    python -m benchmarks.suite run [--quick] [--jobs NAME,...] [--dir DIR]      # results/latest.json
    python -m benchmarks.suite render                                           # tables and plots in docs/
    python -m benchmarks.suite compare [--baseline FILE] [--tolerance 0.3]      # exit 1 when a ratio got worse

`cluster.py` starts any implementation as a master and workers below one directory; `job_*.py` measure; `results.py`
keeps rows and makes ratios of them; `compare.py`, `tables.py` and `plots.py` read nothing but a result file. Nothing
here imports clusterd but for what a clusterd worker would compute (`trees.content_digest_of`).
"""
