"""Training, and what goes with it: every file is a script, run as `python -m train.NAME`."""

from imagen_mini.utils.renamed import keep_old_names
from imagen_mini.utils.threads import wait_passively

wait_passively()  # before a script loads torch

keep_old_names(
    __name__,
    {
        "assemble": "export_pipeline",
        "benchmark": "benchmark_throughput",
        "breakdown": "profile_step",
        "card": "model_card",
        "check_data": "check_dataset",
        "emoji": "make_emoji_dataset",
        "features": "scene_classifier",
        "from_hub": "download_dataset",
        "peers": "baselines",
        "progress": "sample_timeline",
        "regret": "excess_error",
        "scale": "estimate_cost",
        "verify": "verify_checkpoints",
    },
)
