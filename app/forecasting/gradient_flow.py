"""Training under the frozen kernel as a differential equation: the full batch, infinitely small steps.

Legend: C classes, N images.

df/dt = -K grad L(f) with time = the sum of learning rate / (1 - momentum) over steps, the effective learning rate of
arXiv:2008.12478, section 3. For the squared loss the paper's Eq. 4 and 5 give the solution in closed form; its learning
rate is that of a summed loss, ours of a mean over images, so eigenvalues are divided by N. Weight decay pulls f towards
f0 - J w0 and leaves that equation linear. Cross-entropy is integrated numerically: a stable learning rate keeps the
equation from being stiff, so an explicit Runge-Kutta method does.
"""

import numpy as np
import scipy.integrate
from numpy.typing import NDArray

from app.domain.errors import EvaluationFailed
from app.forecasting.curve import Curve, recorded
from app.forecasting.frozen_kernel import FrozenKernel, look
from app.forecasting.linearisation import Linearisation
from app.forecasting.losses import residuals_and_losses
from app.forecasting.training import Training

_Array = NDArray[np.float64]
_RELATIVE, _ABSOLUTE = 1e-6, 1e-8


def solve(linearisation: Linearisation, training: Training) -> Curve:
    """Return loss and accuracy at the times of all steps; batches, and so seeds, play no part.

    Raises:
        EvaluationFailed: ``forecast_too_large`` (squared loss), ``forecast_not_solved`` (cross-entropy).
    """
    kernel = FrozenKernel(linearisation)
    time_T = np.concatenate([[0.0], np.cumsum(training.effective_rates)])
    path = _closed_form if training.loss == "squared" else _integrated
    losses, shares = [], []
    for outputs_CN in path(kernel, training, time_T):
        _, loss_S, share_S = look(kernel, training, outputs_CN[None])
        losses.append(loss_S)
        shares.append(share_S)
    return recorded(losses, shares)


def _closed_form(kernel: FrozenKernel, training: Training, time_T: _Array) -> list[_Array]:
    modes = kernel.modes()
    rate_CN = modes.values_CN.clip(min=0) / kernel.target_CN.shape[1]
    pull_CN = rate_CN * modes.project(kernel.outputs_CN - kernel.target_CN)
    pull_CN += training.weight_decay * modes.project(kernel.decay_CN)
    speed_CN = rate_CN + training.weight_decay
    still = speed_CN == 0
    divisor_CN = np.where(still, 1.0, speed_CN)
    path = []
    for time in time_T:
        elapsed_CN = np.where(still, time, -np.expm1(-divisor_CN * time) / divisor_CN)
        path.append(kernel.outputs_CN - modes.outputs(pull_CN * elapsed_CN))
    return path


def _integrated(kernel: FrozenKernel, training: Training, time_T: _Array) -> list[_Array]:
    shape = kernel.target_CN.shape

    def slope(_: float, outputs_P: _Array) -> _Array:
        outputs_CN = outputs_P.reshape(shape)
        residual_CN, _losses = residuals_and_losses(training.loss, outputs_CN, kernel.target_CN)
        gradient_CN = kernel.times(residual_CN) / shape[1]
        if training.weight_decay:
            gradient_CN += training.weight_decay * (kernel.decay_CN + outputs_CN - kernel.outputs_CN)
        return np.asarray(-gradient_CN.ravel())

    solution = scipy.integrate.solve_ivp(
        slope,
        (0.0, float(time_T[-1])),
        kernel.outputs_CN.ravel(),
        method="DOP853",
        t_eval=time_T,
        rtol=_RELATIVE,
        atol=_ABSOLUTE,
    )
    if not solution.success:
        raise EvaluationFailed(
            "forecast_not_solved",
            f"The training's differential equation was not solved: {solution.message}",
            param="method",
            hint="Use the bilinear method, or a smaller learning rate.",
        )
    return [column.reshape(shape) for column in solution.y.T]
