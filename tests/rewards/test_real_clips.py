"""True clips that a camera filmed score above the same clips made wrong."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from reward_physics.files.readers import read_clip
from reward_physics.observation import Instruments, Observation
from reward_physics.video import Video
from rewards.recipe.load import load_reward

CLIPS = {
    "osp_ball_toss": {"fps": 30.0, "frames": (10, 31), "px_per_m": 398.7, "height_px": 480},
    "trflorian_ball_toss": {"fps": 29.83, "frames": (20, 33), "px_per_m": None, "height_px": 360},
    "phystrack_projectile_30deg": {"fps": 240.0, "frames": (264, 335), "px_per_m": 317.5, "height_px": 240},
}
"""Free flights and their scales, as the index of the clips has them."""

METRIC = {"gravity": {}, "projectile": {"g_m_s2": 9.81}, "energy_drift": {}, "energy_variance": {}}
WORTH = {"arc_residual": -0.01, "restitution": 0.0, "galileo": -0.01, "gravity": -0.02, "projectile": -0.05}
"""The least that a true clip earns where it is measured."""

LOSES = {
    "hidden": ("arc_residual", *METRIC),
    "stopped": ("arc_residual", *METRIC),
    "slowed": tuple(METRIC),
    "fast": tuple(METRIC),
    "upside down": tuple(METRIC),
}
"""Who must lose to what; time reversed, a free flight is another free flight."""


def falsified(frames_TCHW: Tensor) -> dict[str, Tensor]:
    """The clip made wrong."""
    count = len(frames_TCHW)
    behind = frames_TCHW.median(0).values[None]
    return {
        "hidden": behind.expand_as(frames_TCHW),
        "stopped": frames_TCHW[:1].expand_as(frames_TCHW),
        "reversed": frames_TCHW.flip(0),
        "slowed": frames_TCHW.repeat_interleave(2, 0)[:count],
        "fast": frames_TCHW[::2],
        "upside down": frames_TCHW.flip(-2),
    }


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize("name", CLIPS)
def test_the_true_clip_is_the_best(testdata, name):
    about = CLIPS[name]
    clip = read_clip(str(testdata / "clips" / f"{name}.mp4"), fps=about["fps"], frames=about["frames"])
    frames, shrink = clip.frames_TCHW, about["height_px"] / clip.frames_TCHW.shape[-2]
    size = (about["height_px"], round(frames.shape[-1] * shrink / 8) * 8)
    frames = frames if shrink == 1 else F.interpolate(frames, size=size, mode="bilinear", antialias=True)
    scale = None if about["px_per_m"] is None else torch.tensor([about["px_per_m"] * shrink])

    def scores(frames_TCHW: Tensor) -> dict[str, float]:
        video = Video(frames_BTCHW=frames_TCHW[None].contiguous(), fps_B=torch.tensor([about["fps"]]), px_per_m_B=scale)
        seen = Observation(video, Instruments(mask="motion"), grad=False)
        rewards = {"arc_residual": {}, "restitution": {}, "galileo": {}} | ({} if scale is None else METRIC)
        return {reward: load_reward(reward)(seen, **settings).item() for reward, settings in rewards.items()}

    true = scores(frames)
    assert true["arc_residual"] == true["arc_residual"], "a toss is measured"
    assert true["restitution"] != true["restitution"], "nothing bounces in it"
    for reward, least in WORTH.items():
        assert not true.get(reward, 0.0) < least, (reward, true[reward])
    for wrong, wrong_frames in falsified(frames).items():
        told = scores(wrong_frames)
        for reward, score in told.items():
            if reward in LOSES.get(wrong, ()):
                assert not score >= true[reward], (wrong, reward, score, true[reward])
            assert not score > max(true[reward], WORTH.get(reward, 0.0)) + 0.01, (wrong, reward, score, true[reward])
