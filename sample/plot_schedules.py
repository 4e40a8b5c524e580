"""Draw the noise schedules: log-SNR, alpha and sigma over t, as one picture (.png, .svg, .pdf).

    python -m sample.plot_schedules --out schedules.png
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from imagen_mini.charts import STYLES, figure, save
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


def plot(schedules: dict[str, Callable[[Tensor], Tensor]]) -> Figure:
    """Three panels, over t from 0 (picture) to 1 (noise)."""
    sheet, panels = figure(["log-SNR", "alpha, of the picture", "sigma, of the noise"], "t   (0 picture, 1 noise)")
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    for (name, log_snr_of), style in zip(schedules.items(), STYLES):
        log_snr = log_snr_of(t)
        for panel, values in zip(panels, (log_snr, *alpha_sigma(log_snr))):
            panel.plot(t, values, label=name, **style | {"marker": ""})
    panels[0].set_ylim(-16, 16)
    return sheet


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("schedules.png"), help="the picture to write (default: schedules.png)")
    args = parser.parse_args(arguments)
    save(plot(SCHEDULES), args.out)
    print(args.out)


if __name__ == "__main__":
    main()
