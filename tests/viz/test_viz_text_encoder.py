"""Plots of tokens and of matrices."""

import torch
from support.scenes import tokens

from imagen_mini.viz.text_encoder import plot_matrices, plot_token_pieces


def test_plots_have_a_box_for_each_piece_and_a_number_for_each_cell():
    fig = plot_token_pieces([tokens("a cr-im-son ring"), tokens("a ring")])
    (ax,) = fig.axes
    written = [text.get_text() for text in ax.texts]
    assert len(ax.patches) == 2 * 6 and written.count("pad") == 3 and written.count("</s>") == 2
    fig = plot_matrices(
        [torch.tensor([[0.25, 1.0], [0.5, 0.0]])] * 2,
        ["one", "two"],
        ["a", "b"],
        ["c", "d"],
        marked=[(0, 1)],
        label="share",
    )
    one, two, bar = fig.axes
    assert (
        [text.get_text() for text in one.texts] == ["0.25", "1.00", "0.50", "0.00"]
        and len(two.patches) == 1
        and bar.get_ylabel() == "share"
    )
