"""Charts: round ticks, marks where they belong, labels that do not cover each other."""

import math
import re

import pytest

from gendiv_lightning.report.svg import Chart, linear, logarithmic


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0.03, 0.97], (0, 0.25, 0.5, 0.75, 1)),
        ([-18, 9], (-20, -10, 0, 10)),
        ([5.0, 5.0], (4.5, 4.75, 5, 5.25, 5.5)),
        ([math.nan, 0, 1], (0, 0.25, 0.5, 0.75, 1)),
        ([], (0, 0.25, 0.5, 0.75, 1)),
    ],
)
def test_an_axis_has_a_few_round_ticks_around_its_values(values, ticks):
    axis = linear("", values)
    assert axis.ticks == pytest.approx(ticks)
    assert (axis.low, axis.high) == (axis.ticks[0], axis.ticks[-1])


def test_an_axis_may_run_backwards_or_by_powers():
    back = linear("", [0, 4], backwards=True)
    assert (back.place(4), back.place(3), back.place(0)) == (0, 0.25, 1)
    log = logarithmic("", [0.05, 1], percent=True)
    assert [log.write(tick) for tick in log.ticks] == ["5 %", "10 %", "20 %", "50 %", "100 %"]
    assert log.place(math.sqrt(0.05)) == pytest.approx(0.5)
    assert logarithmic("", [1, 9000]).ticks == (1, 10, 100, 1000)


def chart():
    return Chart("t", linear("x", [0, 1]), linear("y", [0, 1]), width=300, height=200)


def test_a_mark_stands_where_its_value_is_and_what_is_no_number_is_left_out():
    drawing = chart()
    drawing.mark(0.5, 0.5, "circle", "argmax", "a <b>")
    drawing.mark(math.nan, 0.5, "circle", "argmax")
    drawing.interval((0.5, math.nan), (0.5, 1), "argmax")
    drawing.label(math.nan, 1, "nowhere")
    svg = drawing.svg()
    (place,) = re.findall(r'class="mark argmax" transform="translate\(([\d.]+),([\d.]+)\)"', svg)
    assert tuple(map(float, place)) == pytest.approx(drawing.at(0.5, 0.5), abs=0.1)
    assert "a &lt;b&gt;" in svg
    assert "nan" not in svg
    assert "nowhere" not in svg


def test_labels_of_crowded_marks_do_not_cover_each_other_and_stay_inside():
    drawing = chart()
    for number in range(6):
        at = 0.5 + 0.01 * number, 0.5 + 0.02 * number
        drawing.mark(*at, "circle", "subset")
        drawing.label(*at, f"label {number}")
    drawing.mark(1, 1, "circle", "subset")
    drawing.label(1, 1, "in the corner")
    found = re.findall(
        r'<text class="label " x="([\d.]+)" y="([\d.]+)"(?: text-anchor="(\w+)")?>([^<]+)', drawing.svg()
    )
    assert len(found) == 7
    boxes = []
    for x, y, anchor, words in found:
        width = 6.6 * len(words)
        left = float(x) - {"": 0, "middle": width / 2, "end": width}[anchor]
        boxes.append((left, float(y) - 11, left + width, float(y) + 3))
    for number, a in enumerate(boxes):
        assert a[0] >= 0
        assert a[2] <= 300
        for b in boxes[:number]:
            assert a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]
