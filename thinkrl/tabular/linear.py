"""Linear programmes, solved exactly by HiGHS through scipy."""

import importlib.util
from typing import Any

import numpy as np

from thinkrl.config.component import UserError
from thinkrl.tabular.mdp import Floats


def check_solver() -> None:
    """Raises UserError where scipy is missing."""
    if importlib.util.find_spec("scipy") is None:
        raise UserError("designing a reward by a linear programme needs scipy: pip install 'thinkrl[tabular]'")


def maximise(gain: Floats, most: Any, limits: Floats, bound: float, above_zero: int = 0) -> tuple[float, Floats] | None:
    """Maximises gain @ x subject to most @ x <= limits (a matrix, dense or sparse), or None where no x satisfies that.

    The last `above_zero` entries of x are at least 0; the others are within `bound` of 0 (infinity: free).
    Returns the greatest value and the x that has it.
    """
    check_solver()
    from scipy.optimize import linprog
    from scipy.sparse import csr_matrix

    bounds = [(-bound, bound)] * (len(gain) - above_zero) + [(0.0, np.inf)] * above_zero
    found = linprog(-gain, A_ub=csr_matrix(most), b_ub=limits, bounds=bounds, method="highs")
    if found.status == 2:
        return None
    if found.status != 0:
        raise RuntimeError(f"the linear programme was not solved: {found.message}")
    return -float(found.fun), np.asarray(found.x)
