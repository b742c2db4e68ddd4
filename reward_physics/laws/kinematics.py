"""Constant acceleration from a track: a joint, robust, differentiable weighted least-squares fit, with its error bar.

Model of a free flight about its mid time (tau = t - t_mid):

    x(t)            = x_mid + v_mid tau + a tau^2 / 2 + noise              (positions)
    x(t+s) - x(t)   = v_mid s + a (tau(t+s)^2 - tau(t)^2) / 2 + noise      (flow displacements over s)

    0               = v_mid + a tau(0) + noise                             (where it is known to start at rest)

All are linear in (x_mid, v_mid, a), so the fit is one 3 x 3 solve per clip. Weights are found detached, by iteratively
reweighted least squares; the last solve with those weights is differentiable. Everything runs in float64.

Axes: B clips, T frames, S displacements (pairs of frames), D coordinates, P parameters (position, velocity,
    acceleration).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from reward_physics.figures.intervals import student_t_quantile
from reward_physics.laws.partition import too_few_frames

MIN_FRAMES = 5
_PRIOR_DOF = 6.0

REST_SPEED_SD_M_S = 0.1
"""How exactly an object that is known to start at rest does so, m/s."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArcFit:
    """What one free flight of every clip says. Rows of clips that cannot be measured hold zeros, never NaN.

    Args:
        accel_B3: acceleration, m/s^2, world axes (z up): (0, 0, -9.81) in free fall.
        accel_cov_B33: its covariance, (m/s^2)^2, detached.
        velocity_B3: velocity at the mid time, m/s.
        position_B3: position at the mid time, m.
        mid_time_B: mid time of the flight, s.
        dof_B: degrees of freedom of the noise estimate, for Student's t.
        num_frames_B: frames that took part.
        residual_rms_B: root mean square distance of the positions from the parabola, m.
        measurable_B: True where the fit means something.
        reasons: None where measurable, otherwise why not.
    """

    accel_B3: Tensor
    accel_cov_B33: Tensor
    velocity_B3: Tensor
    position_B3: Tensor
    mid_time_B: Tensor
    dof_B: Tensor
    num_frames_B: Tensor
    residual_rms_B: Tensor
    measurable_B: Tensor
    reasons: list[str | None]

    @property
    def g_m_s2_B(self) -> Tensor:
        """Downward acceleration -a_z, m/s^2: 9.81 in free fall."""
        return -self.accel_B3[:, 2]

    @property
    def g_stderr_m_s2_B(self) -> Tensor:
        """Standard error of `g_m_s2_B`."""
        return self.accel_cov_B33[:, 2, 2].sqrt()

    def g_interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Two-sided confidence interval of g, m/s^2, by Student's t; detached; NaN where unmeasurable."""
        half = student_t_quantile(0.5 + level / 2, self.dof_B) * self.g_stderr_m_s2_B
        g = torch.where(self.measurable_B, self.g_m_s2_B.detach(), torch.nan)
        return g - half, g + half

    def position_at(self, time_BT: Tensor) -> Tensor:
        """The fitted parabola at `time_BT` (s), metres, shape (B, T, 3)."""
        tau = (time_BT - self.mid_time_B[:, None])[..., None]
        return self.position_B3[:, None] + self.velocity_B3[:, None] * tau + 0.5 * self.accel_B3[:, None] * tau.square()

    def with_scale_error(self, relative_sd_B: Tensor, approach_sd_B: Tensor | None = None) -> ArcFit:
        """The same fit whose covariance also holds what is not known of the distance D of the positions:

            + sd(D)^2 / D^2 a a^T + sd(dD/dt)^2 / D^2 (2 v) (2 v)^T,

        since positions scale with D, and (1 + s tau) x(tau) has the acceleration a + 2 s v at mid time.

        Args:
            relative_sd_B: relative standard error of D.
            approach_sd_B: standard error of the speed along the line of sight over D, 1/s; None: 0.
        """
        errors = [(relative_sd_B, self.accel_B3)]
        if approach_sd_B is not None:
            errors.append((approach_sd_B, 2 * self.velocity_B3))
        covariance = self.accel_cov_B33
        for sd_B, way_B3 in errors:
            way = way_B3.detach() * sd_B.detach().to(way_B3)[:, None]
            covariance = covariance + way[:, :, None] * way[:, None, :]
        return dataclasses.replace(self, accel_cov_B33=covariance)


def fit_arc(
    *,
    time_BT: Tensor,
    position_BTD: Tensor,
    weight_BT: Tensor,
    sigma_position_B: Tensor,
    displacement_BSD: Tensor | None = None,
    displacement_weight_BS: Tensor | None = None,
    sigma_displacement_B: Tensor | None = None,
    stride: int = 1,
    min_frames: int = MIN_FRAMES,
    irls_steps: int = 4,
    reasons: Sequence[str | None] | None = None,
    at_rest_B: Tensor | None = None,
) -> ArcFit:
    """Fit constant acceleration to positions, and to flow displacements where given.

    Args:
        time_BT: times of the frames, s.
        position_BTD: positions, m, D = 3 (or fewer: the missing coordinates of the result are zero).
        weight_BT: 0 outside the arc, up to 1 inside; used detached.
        sigma_position_B: expected noise of a position in each coordinate of the image plane, m; pooled with the
            residuals.
        displacement_BSD: displacement from frame s to frame s + stride, m, S = T - stride.
        displacement_weight_BS: weights of the displacements; pairs that leave the arc must have 0.
        sigma_displacement_B: expected noise of a displacement, m.
        stride: frames between the two ends of a displacement.
        min_frames: fewer frames with a weight above 0.1 than this are refused, at least 4.
        irls_steps: reweighting steps (Tukey's biweight, detached).
        reasons: reasons known beforehand; such clips are unmeasurable whatever their weights.
        at_rest_B: True where the velocity is known to be zero at time 0, within REST_SPEED_SD_M_S. It halves the noise
            of a short flight and more, since velocity and acceleration no longer trade.

    Returns:
        An ArcFit; differentiable in `position_BTD` and `displacement_BSD`.
    """
    if min_frames < 4:
        raise ValueError(f"min_frames must be at least 4 (a parabola has 3 parameters), got {min_frames}")
    weight = weight_BT.detach().double()
    used = weight > 0.1
    why = _with_short_flights(list(reasons or [None] * time_BT.shape[0]), used, min_frames)
    measurable = torch.tensor([reason is None for reason in why], device=weight.device)
    weight = weight * measurable[:, None]

    rows = _Rows.build(
        time_BT.double(), position_BTD.double(), weight, displacement_BSD, displacement_weight_BS, stride
    )
    if at_rest_B is not None:
        rows = rows.with_rest(at_rest_B)
    sigma_BR = rows.spread(sigma_position_B, sigma_position_B if sigma_displacement_B is None else sigma_displacement_B)
    robust_BR, sigma_BR = _reweight(rows, sigma_BR, irls_steps)
    parameters_BPD, inverse_BPP = _solve(rows, robust_BR / sigma_BR.square())
    covariance, dof, rms = _uncertainty(rows, robust_BR, sigma_BR, parameters_BPD.detach(), inverse_BPP)

    def three(x: Tensor) -> Tensor:
        x = torch.nn.functional.pad(x, (0, 3 - x.shape[-1]))
        return torch.where(measurable[:, None], x, torch.zeros_like(x)).to(position_BTD.dtype)

    position, velocity, accel = parameters_BPD.unbind(1)
    eye = torch.eye(3, dtype=torch.float64, device=weight.device)
    return ArcFit(
        accel_B3=three(accel),
        accel_cov_B33=(covariance[:, None, None] * eye).to(position_BTD.dtype),
        velocity_B3=three(velocity),
        position_B3=three(position),
        mid_time_B=rows.mid_time_B,
        dof_B=dof,
        num_frames_B=(used & measurable[:, None]).sum(1),
        residual_rms_B=rms,
        measurable_B=measurable,
        reasons=why,
    )


def _with_short_flights(reasons: list[str | None], used_BT: Tensor, min_frames: int) -> list[str | None]:
    """The reasons, with that of the clips whose flight has too few frames."""
    counts = used_BT.sum(1).tolist()
    return [
        too_few_frames(count, min_frames) if reason is None and count < min_frames else reason
        for reason, count in zip(reasons, counts, strict=True)
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Rows:
    """The stacked equations of all clips: R = T (+ S) rows, P = 3 columns."""

    design_BRP: Tensor
    target_BRD: Tensor
    weight_BR: Tensor
    mid_time_B: Tensor
    num_positions: int
    prior_BPP: Tensor
    """What is known beyond the rows, as an addition to the normal matrix: its targets are zero."""

    @classmethod
    def build(cls, time, position, weight, displacement, displacement_weight, stride) -> _Rows:
        total = weight.sum(1)
        mid = torch.where(total > 0, (weight * time).sum(1) / total.clamp(min=1e-9), time.mean(1))
        tau = time - mid[:, None]
        design = torch.stack((torch.ones_like(tau), tau, 0.5 * tau.square()), dim=-1)
        target, num = position, position.shape[1]
        if displacement is not None:
            pair_weight = torch.ones_like(time[:, stride:]) if displacement_weight is None else displacement_weight
            both = weight[:, :-stride] * weight[:, stride:] * pair_weight.detach().double()
            design = torch.cat((design, design[:, stride:] - design[:, :-stride]), dim=1)
            target = torch.cat((target, displacement.double()), dim=1)
            weight = torch.cat((weight, both), dim=1)
        target = torch.where(weight[..., None] > 0, target, torch.zeros_like(target))
        prior = torch.zeros(len(mid), 3, 3, dtype=torch.float64, device=mid.device)
        return cls(
            design_BRP=design, target_BRD=target, weight_BR=weight, mid_time_B=mid, num_positions=num, prior_BPP=prior
        )

    def with_rest(self, at_rest_B: Tensor) -> _Rows:
        """Zero velocity at time 0 for the clips that start at rest."""
        ones = torch.ones_like(self.mid_time_B)
        design_BP = torch.stack((0 * ones, ones, -self.mid_time_B), dim=-1) / REST_SPEED_SD_M_S
        rest = at_rest_B.to(self.mid_time_B)[:, None, None] * design_BP[:, :, None] * design_BP[:, None, :]
        return dataclasses.replace(self, prior_BPP=self.prior_BPP + rest)

    def spread(self, for_positions_B: Tensor, for_displacements_B: Tensor) -> Tensor:
        """(B,) and (B,) -> (B, R)."""
        extra = self.weight_BR.shape[1] - self.num_positions
        a = for_positions_B.detach().double()[:, None].expand(-1, self.num_positions)
        return torch.cat((a, for_displacements_B.detach().double()[:, None].expand(-1, extra)), dim=1)


def _solve(rows: _Rows, precision_BR: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted normal equations; clips whose system is singular get the identity instead, and zeros."""
    weighted = rows.design_BRP * precision_BR[..., None]
    normal = weighted.mT @ rows.design_BRP + rows.prior_BPP
    scale = normal.diagonal(dim1=1, dim2=2).clamp(min=1e-30).rsqrt()
    normalised = normal * scale[:, :, None] * scale[:, None, :]
    fine = (precision_BR > 0).sum(1) >= 3
    eye = torch.eye(3, dtype=torch.float64, device=normal.device)
    fine = fine & (torch.linalg.det(normalised) > 1e-10)
    normalised = torch.where(fine[:, None, None], normalised, eye)
    inverse = torch.linalg.inv(normalised) * scale[:, :, None] * scale[:, None, :] * fine[:, None, None]
    return inverse @ (weighted.mT @ rows.target_BRD), inverse


def _reweight(rows: _Rows, sigma_BR: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Detached robust weights (Tukey, c = 4.685) and noise levels pooled from prior and residuals."""
    rows = dataclasses.replace(rows, target_BRD=rows.target_BRD.detach())
    prior, robust = sigma_BR, rows.weight_BR
    is_position = torch.arange(sigma_BR.shape[1], device=sigma_BR.device) < rows.num_positions
    for _ in range(steps):
        parameters, inverse = _solve(rows, robust / sigma_BR.square())
        squared = (rows.target_BRD - rows.design_BRP @ parameters).square().sum(-1)
        # A row with leverage h leaves (1 - h) of its own noise in the residual.
        leverage = ((rows.design_BRP @ inverse) * rows.design_BRP).sum(-1) * robust / sigma_BR.square()
        freedom = 2 * (robust * (1 - leverage).clamp(min=0.05))
        pooled = torch.zeros_like(sigma_BR)
        for kind in (is_position, ~is_position):
            rss = (robust * squared * kind).sum(1)
            variance = (_PRIOR_DOF * prior.square() + rss[:, None]) / (_PRIOR_DOF + (freedom * kind).sum(1)[:, None])
            pooled = torch.where(kind, variance, pooled)
        sigma_BR = pooled.sqrt()
        distance = squared / (2 * pooled * (1 - leverage).clamp(min=0.05))
        robust = rows.weight_BR * (1 - distance / 4.685**2).clamp(min=0).square()
        # Robustness may not eat the sample: with under five rows left, the plain weights stand.
        enough = (robust > 0.1 * rows.weight_BR).logical_and(rows.weight_BR > 0).logical_and(is_position).sum(1) >= 5
        robust = torch.where(enough[:, None], robust, rows.weight_BR)
    return robust.detach(), sigma_BR.detach()


def _uncertainty(rows: _Rows, robust, sigma, parameters, inverse) -> tuple[Tensor, Tensor, Tensor]:
    """Variance of one component of a, degrees of freedom, and the positions' residual RMS."""
    residual = (rows.target_BRD.detach() - rows.design_BRP @ parameters)[:, : rows.num_positions]
    weight = robust[:, : rows.num_positions]
    count = weight.sum(1)
    squared = (weight[..., None] * residual.square()).sum((1, 2))
    pair = (weight[:, 1:] * weight[:, :-1]).sqrt()
    lagged = (pair[..., None] * residual[:, 1:] * residual[:, :-1]).sum((1, 2))
    # The parabola takes up what is smooth in the noise: in the mean r_1 = rho - (3 + 6 rho) / N, so that few residuals
    # say little of rho. What they say counts as N - 6 samples, and an autocorrelation of 0.2 as 14.
    rho = lagged / squared.clamp(min=1e-30)
    rho = ((count * rho + 3 + 14 * 0.2) / (count + 8)).clamp(0.0, 0.7)
    inflation = (1 + rho) / (1 - rho)
    variance = inverse[:, 2, 2] * inflation
    dof = (2 * count - 6).clamp(min=1) + _PRIOR_DOF / 2
    return variance, dof, (squared / count.clamp(min=1)).sqrt()


def cramer_rao_g_m_s2(*, num_frames: int, fps: float, noise_px: float, px_per_m: float) -> float:
    """Smallest standard error of g that `num_frames` positions with white noise of `noise_px` allow, m/s^2.

    se(g) = sigma fps^2 sqrt(720 / (N (N^2 - 1) (N^2 - 4))), sigma = noise_px / px_per_m. Infinite under four frames.
    """
    if num_frames < 4:
        return float("inf")
    n = num_frames
    return noise_px / px_per_m * fps**2 * (720 / (n * (n**2 - 1) * (n**2 - 4))) ** 0.5
