import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from shared.errors import InvalidArgument
from shared.plan.catalog import MODELS
from shared.plan.plot import pareto, write_pareto


def test_the_frontier_is_what_no_cheaper_model_beats() -> None:
    points = pareto(8192)
    assert [point.usd for point in points] == sorted(point.usd for point in points)
    for point in points:
        beaten = any(other.usd < point.usd and other.active_b >= point.active_b for other in points)
        assert point.on_frontier is not beaten
    assert points[0].name == "Step-3"


def test_the_file_is_an_image_with_every_model(tmp_path: Path) -> None:
    path = tmp_path / "pareto.svg"
    write_pareto(path, 32768)
    root = ET.parse(path).getroot()
    texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {model.name for model in MODELS} <= texts
    assert len(list(root.iter("{http://www.w3.org/2000/svg}circle"))) == len(MODELS)
    assert list(tmp_path.iterdir()) == [path]


def test_higher_cost_is_further_right_and_more_parameters_higher(tmp_path: Path) -> None:
    path = tmp_path / "pareto.svg"
    points = write_pareto(path, 8192)
    circles = list(ET.parse(path).getroot().iter("{http://www.w3.org/2000/svg}circle"))
    x, y = ([float(circle.attrib[key]) for circle in circles] for key in ("cx", "cy"))
    assert x == sorted(x)
    highest = max(range(len(points)), key=lambda i: points[i].active_b)
    assert y[highest] == min(y)
    assert all(0 < value < 760 for value in x) and all(0 < value < 480 for value in y)


@pytest.mark.parametrize(
    ("name", "context", "field"),
    [("plot.png", 8192, "pareto"), ("absent/plot.svg", 8192, "pareto"), ("p.svg", 0, "context")],
)
def test_what_cannot_be_drawn_is_named(tmp_path: Path, name: str, context: int, field: str) -> None:
    with pytest.raises(InvalidArgument, match=f"{field} = ") as caught:
        write_pareto(tmp_path / name, context)
    assert caught.value.field == field
    assert not list(tmp_path.iterdir())
