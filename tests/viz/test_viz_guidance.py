"""Plots of guidance and thresholds."""

from imagen_mini.scenes.scene import Scene, SceneObject
from imagen_mini.viz.guidance import plot_positions, plot_scales


def obj(x, y, shape="circle", size="large"):
    return SceneObject(x=x, y=y, shape=shape, color="red", size=size, texture=None)


def test_charts_show_every_line_and_every_object():
    rows = [
        {
            "w": w,
            "n": 4,
            "accuracy": 0.5,
            "low": 0.2,
            "high": 0.8,
            "saturated": 0.1,
            "mean_abs": 0.5,
        }
        for w in (1, 2, 4)
    ]
    fig = plot_scales({"none": rows, "static": rows}, {"saturated": 0.3, "mean_abs": 0.6})
    assert [len(ax.get_lines()) for ax in fig.axes] == [
        3,
        3,
        3,
    ] and "correct of 4" in fig.axes[0].get_title()
    assert [
        len(ax.get_lines()) for ax in plot_scales({"none": rows}, measures=["mean_abs"]).axes
    ] == [1, 1]
    scenes = {
        "w = 1": [Scene((obj(10, 20), obj(50, 50, "square")), "gray")],
        "w = 2": [Scene((obj(30, 20, size="small"),), "gray")],
    }
    first, second = plot_positions(scenes, ["circle", "square"]).axes
    assert first.get_title() == "w = 1" and [len(c.get_offsets()) for c in first.collections] == [
        1,
        1,
    ]
    assert [len(c.get_offsets()) for c in second.collections] == [1, 0] and first.yaxis_inverted()
    assert first.collections[0].get_sizes()[0] > second.collections[0].get_sizes()[0]
