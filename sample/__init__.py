"""Sampling, editing and measuring: every file is a script, run as `python -m sample.NAME`."""

from imagen_mini.utils.renamed import keep_old_names
from imagen_mini.utils.threads import wait_passively

wait_passively()  # before a script loads torch

keep_old_names(
    __name__,
    {
        "benchmark": "benchmark_latency",
        "distances": "distribution_metrics",
        "parser_check": "parser_robustness",
        "paths": "activation_patching",
    },
)
