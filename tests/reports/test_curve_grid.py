"""A grid of curves: one SVG that stands alone, with every label in the key and a place for every panel."""

import xml.etree.ElementTree as ET

import numpy as np

from thinkrl.reports.page.curve_grid import CurvePanel, curve_grid

NAMESPACE = "{http://www.w3.org/2000/svg}"


def drawn(*panels: CurvePanel) -> ET.Element:
    return ET.fromstring(curve_grid("Title <b>", panels, columns=2, axis="layer"))


def test_panels_curves_and_key() -> None:
    table = np.asarray([[1.0, 2.0, 4.0], [3.0, 2.0, 0.0], [np.nan, 1.0, 1.0]])
    root = drawn(
        CurvePanel("one", {"fast": table, "slow": np.asarray([1.0, 1.0, 2.0])}), CurvePanel("two", {"slow": table})
    )
    texts = [node.text for node in root.iter(f"{NAMESPACE}text")]
    assert {"Title <b>", "one", "two", "fast", "slow"} <= set(texts)
    assert texts.count("layer") == 2
    assert len([node for node in root.iter(f"{NAMESPACE}path") if node.get("class") == "band c0"]) == 1
    # The response with a NaN is in no mean: 2, 2, 2 is a level line.
    mean = [node.get("d") or "" for node in root.iter(f"{NAMESPACE}path") if node.get("class") == "mean c0"][1]
    assert len({point.split()[1] for point in mean.replace("M", "L").split("L") if point}) == 1
    assert not list(root.iter(f"{NAMESPACE}script"))
    assert not [node for node in root.iter() for name in node.attrib if name in ("href", "src")]


def test_a_panel_without_a_value_stays_empty() -> None:
    root = drawn(CurvePanel("none", {"fast": np.full(3, np.nan)}), CurvePanel("one", {"fast": np.ones(3)}))
    frames = [node for node in root.iter(f"{NAMESPACE}svg") if node.get("class") != "chart"]
    assert len(list(root.iter(f"{NAMESPACE}svg"))) == 3
    assert [(node.get("width"), node.get("height")) for node in frames[1:]] == [("340", "180")]
