"""Draw the noise schedules: log-SNR, alpha and sigma over t, as one picture.

    python -m sample.plot_schedules --out schedules.png
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from imagen_mini.charts import STYLES, Axis, Chart
from imagen_mini.schedule import (alpha_sigma, cosine_log_snr, interpolated_log_snr, linear_log_snr, resolution_shift, sigmoid_log_snr,
                                  zero_terminal_snr)

SCHEDULES: dict[str, Callable[[Tensor], Tensor]] = {
    "cosine": cosine_log_snr,
    "linear": linear_log_snr,
    "sigmoid": sigmoid_log_snr,
    "cosine, shifted for 256 px": partial(cosine_log_snr, shift=resolution_shift(256)),
    "cosine, interpolated 32 to 256 px": partial(interpolated_log_snr, size=256, low=32, high=256),
    "linear, zero terminal SNR": zero_terminal_snr(linear_log_snr),
}


def plot(schedules: dict[str, Callable[[Tensor], Tensor]]) -> Image.Image:
    """Three panels side by side, and which line is which below them."""
    time = Axis("t   (0 picture, 1 noise)", 0, 1, (0, 0.25, 0.5, 0.75, 1))
    one = Axis("", 0, 1, (0, 0.25, 0.5, 0.75, 1))
    styles = dict(zip(schedules, STYLES))
    chart = Chart([("log-SNR", time, Axis("", -16, 16, range(-16, 17, 4))), ("alpha, of the picture", time, one), ("sigma, of the noise", time, one)],
                  list(styles.items()))
    t = torch.linspace(0, 1, 4001, dtype=torch.float64)
    for name, log_snr_of in schedules.items():
        log_snr = log_snr_of(t)
        for panel, values in zip(chart.panels, (log_snr, *alpha_sigma(log_snr))):
            panel.line(t.tolist(), values.tolist(), styles[name])
    return chart.picture()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("schedules.png"), help="the picture to write (default: schedules.png)")
    args = parser.parse_args(arguments)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    plot(SCHEDULES).save(args.out)
    print(args.out)


if __name__ == "__main__":
    main()
