"""Gradients layer by layer (arXiv 2410.23743): unevenness, relative differences, spectra of known matrices."""

import numpy as np
import pytest
import torch
from score_file import TOLERANCE

from thinkrl.config.build import build
from thinkrl.config.compose import compose
from thinkrl.probes.gradient_spectra import spectrum
from thinkrl.probes.layer_curves import (
    mean_absolute_difference,
    mean_curve,
    mean_relative_difference,
    most_different_layers,
    relative_difference,
    segment_differences,
)
from thinkrl.stages.experiment import Experiment
from thinkrl.stages.measure_gradients import MeasureGradients


def test_unevenness_of_a_curve() -> None:
    assert mean_absolute_difference([5, 3, 3.5, 1]) == pytest.approx(1.666667, **TOLERANCE)
    assert mean_absolute_difference([2.0, 2.0, 2.0]) == 0.0
    assert np.isnan(mean_absolute_difference([4.0]))


def test_relative_differences_and_the_layers_that_differ_most() -> None:
    reference, other = (4, 2, 8), (5, 1, 8.8)
    assert mean_relative_difference(reference, other) == pytest.approx(0.283333, **TOLERANCE)
    assert most_different_layers(reference, other) == [1, 0, 2]
    assert most_different_layers(reference, other, count=1) == [1]
    assert relative_difference(reference, other) == pytest.approx([0.25, -0.5, 0.1], **TOLERANCE)


def test_a_reference_of_zero() -> None:
    reference, other = (4, 0, 2), (5, 1, 1)
    # The released code puts 1e-10 in its place, and the mean is of that layer alone.
    assert mean_relative_difference(reference, other, floor=1e-10) == pytest.approx(3.333333e9, rel=1e-6)
    assert most_different_layers(reference, other, floor=1e-10) == [1, 2, 0]
    assert mean_relative_difference(reference, other) == pytest.approx((0.25 + 0.5) / 2, rel=1e-12)
    assert most_different_layers(reference, other) == [2, 0]
    assert np.isnan(mean_relative_difference((0, 0), (1, 2)))


def test_segments() -> None:
    curve = 1 / np.arange(1, 29)
    assert segment_differences(curve) == pytest.approx((0.142857, 0.00595238, 0.00162338), **TOLERANCE)
    assert mean_absolute_difference(curve) == pytest.approx(0.0357143, **TOLERANCE)


@pytest.mark.parametrize(("layers", "edges"), [(26, (7, 20)), (28, (7, 21)), (32, (10, 20)), (42, (12, 30))])
def test_a_jump_across_the_edge_of_a_segment_is_in_none(layers: int, edges: tuple[int, int]) -> None:
    assert segment_differences(np.repeat([0.0, 5.0, 9.0], np.diff([0, *edges, layers]))) == (0.0, 0.0, 0.0)


def test_depths_that_are_not_divided_have_no_segments() -> None:
    assert segment_differences(np.arange(18)) == ()


def test_spectra_of_known_matrices() -> None:
    one = spectrum(torch.outer(torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0, 2.0])))
    assert (one.nuclear, one.ratio, one.frobenius) == pytest.approx((15.0, 1.0, 15.0), **TOLERANCE)
    assert one.effective_rank == pytest.approx(1.0, rel=1e-4)
    two = spectrum(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert (two.largest, two.smallest) == pytest.approx((5.464986, 0.365966), **TOLERANCE)
    assert (two.nuclear, two.ratio, two.frobenius) == pytest.approx((5.830952, 0.937237, 5.477226), **TOLERANCE)
    assert (two.mean, two.maximum, two.minimum) == (2.5, 4.0, 1.0)


def test_a_softmax_regression() -> None:
    weights = torch.zeros(3, 2, requires_grad=True)
    logits = weights @ torch.tensor([1.0, 2.0])
    (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, torch.tensor(0)), weights)
    found = spectrum(gradient)
    assert found.nuclear == pytest.approx(1.825742, **TOLERANCE)
    assert found.ratio == pytest.approx(1.0, **TOLERANCE)  # (p - onehot) x^T


def test_gradients_of_zeros_and_without_a_number() -> None:
    nothing = spectrum(torch.zeros(3, 4))
    assert (nothing.nuclear, nothing.ratio, nothing.effective_rank) == (0.0, 0.0, 0.0)
    broken = spectrum(torch.tensor([[1.0, float("nan")]]))
    assert np.isnan([broken.nuclear, broken.ratio, broken.frobenius, broken.mean]).all()


def test_responses_without_a_number_are_in_no_mean() -> None:
    assert mean_curve([[1.0, 3.0], [np.nan, 100.0], [3.0, 5.0]]).tolist() == [2.0, 4.0]
    assert np.isnan(mean_curve([[np.nan, 1.0]])).all()


def test_the_unevenness_is_that_of_the_mean_curve() -> None:
    rows = np.asarray([[0.0, 2.0], [2.0, 0.0]])
    assert mean_absolute_difference(mean_curve(rows)) == 0.0  # not 2, the mean of the responses' own


@pytest.mark.parametrize(("recipe", "text"), [("layer_gradient", "chat"), ("layer_gradient/paper", "plain")])
def test_both_forms_measure_answers_short_and_detailed_responses(recipe: str, text: str) -> None:
    composed = compose(recipe, [])
    stage = build(Experiment, composed.tree, composed).stages["gradients"]
    assert isinstance(stage, MeasureGradients)
    assert {"none", "short", "detailed"} <= set(stage.levels)
    assert (stage.text, stage.irrelevant, stage.end, stage.max_tokens) == (text, True, False, 1024)
    assert stage.projections == ("q", "k", "v", "o")
