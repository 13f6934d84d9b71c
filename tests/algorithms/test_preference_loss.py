"""Losses on pairs: golden values, values worked out by hand, and slopes against automatic differentiation."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from thinkrl.algorithms.preference import PreferenceLoss

SIGMOID = PreferenceLoss(beta=0.3)


def loss_at(loss: PreferenceLoss, difference: float) -> float:
    return float(loss.losses(np.asarray([difference]))[0][0])


def test_the_golden_values_of_dpo() -> None:
    """arXiv 2510.13501's beta: log-probabilities -10 and -12, reference -11 and -11.5."""
    difference = (-10 - -11) - (-12 - -11.5)
    assert 0.3 * difference == pytest.approx(0.45)
    assert loss_at(SIGMOID, difference) == pytest.approx(0.493248946, rel=1e-8)
    assert loss_at(SIGMOID, 0.0) == pytest.approx(0.693147181, rel=1e-8)


@pytest.mark.parametrize(
    ("loss", "difference", "value"),
    [
        (PreferenceLoss(kind="hinge", beta=0.5), 1.0, 0.5),
        (PreferenceLoss(kind="hinge", beta=0.5), 3.0, 0.0),
        (PreferenceLoss(kind="hinge", beta=0.5, target_margin=1.0), 3.0, 0.5),
        (PreferenceLoss(kind="ipo", beta=0.25), 2.0, 0.0),
        (PreferenceLoss(kind="ipo", beta=0.25), -1.0, 9.0),
        (PreferenceLoss(beta=1.0, label_smoothing=0.25), np.log(3.0), 0.75 * np.log(4 / 3) + 0.25 * np.log(4.0)),
        (PreferenceLoss(beta=2.0, target_margin=1.0), 0.5, np.log(2.0)),
    ],
)
def test_values_by_hand(loss: PreferenceLoss, difference: float, value: float) -> None:
    assert loss_at(loss, difference) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(
    "fields",
    [{}, {"label_smoothing": 0.1}, {"target_margin": 0.7}, {"kind": "ipo"}, {"kind": "hinge"}],
    ids=str,
)
def test_slopes_are_derivatives(fields: dict[str, Any]) -> None:
    """Against torch's own functions, far out too, where an exponential would overflow."""
    loss = PreferenceLoss(beta=0.4, **fields)
    d = torch.tensor([-3000.0, -2.0, -0.1, 0.0, 0.3, 2.2, 5.0, 3000.0], dtype=torch.float64, requires_grad=True)
    h = loss.beta * d - loss.target_margin
    e = loss.label_smoothing
    torch_losses = {
        "sigmoid": -(1 - e) * F.logsigmoid(h) - e * F.logsigmoid(-h),
        "ipo": (d - 1 / (2 * loss.beta)) ** 2,
        "hinge": F.relu(1 - h),
    }[loss.kind]
    torch_losses.sum().backward()
    values, slopes = loss.losses(d.detach().numpy())
    assert values == pytest.approx(torch_losses.detach().numpy(), rel=1e-12, abs=1e-300)
    assert slopes == pytest.approx(d.grad.numpy(), rel=1e-12, abs=1e-300)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"beta": 0.0}, "beta must be above 0"),
        ({"label_smoothing": 0.5}, "label_smoothing must be at least 0 and below"),
        ({"label_smoothing": 0.1, "kind": "hinge"}, "label_smoothing must be 0 where"),
        ({"target_margin": 0.1, "kind": "ipo"}, "target_margin must be 0 where"),
        ({"nll": -1.0}, "nll must be 0 or more"),
    ],
)
def test_what_has_no_meaning_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PreferenceLoss(**fields)
