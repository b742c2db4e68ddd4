"""RAFT for clips: equal to torchvision's, each frame encoded once, differentiable, and loaded from several sources."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torchvision.models.optical_flow.raft import raft_small

from reward_physics.estimators.flow import (
    FlowEstimator,
    RaftShape,
    enlarged,
    forward_backward_consistency,
    load_flow,
    match,
    reduced,
    working_size,
)
from reward_physics.estimators.raft_keys import from_original

NARROW = RaftShape(
    feature_layers=(8, 8, 8, 8, 16),
    context_layers=(8, 8, 8, 8, 24),
    corr_layers=(16,),
    flow_layers=(8, 8),
    motion_channels=16,
    hidden_channels=12,
    head_channels=16,
)


@pytest.fixture(scope="module")
def narrow():
    torch.manual_seed(0)
    return FlowEstimator(NARROW.build(), updates=2)


def frames(batch=1, count=3, height=128, width=128, seed=0):
    return torch.rand(batch, count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def test_equals_torchvision_on_every_pair():
    torch.manual_seed(0)
    stock = raft_small(weights=None).eval()
    clips = frames(batch=2)
    with torch.no_grad():
        ours = FlowEstimator(stock, updates=3)(clips)
        for b in range(2):
            for t in range(2):
                pair = clips[b, t, None] * 2 - 1, clips[b, t + 1, None] * 2 - 1
                theirs = stock(*pair, num_flow_updates=3)[-1]
                torch.testing.assert_close(ours[b, t], theirs[0].permute(1, 2, 0), atol=1e-4, rtol=1e-4)


def test_equals_torchvision_to_the_bit_on_one_batch(narrow):
    a, b = frames(count=2)[0, :, None] * 2 - 1
    with torch.no_grad():
        stock = narrow.raft(a, b, num_flow_updates=3)
        features = narrow.raft.feature_encoder(torch.cat((a, b)))
        ours = match(narrow.raft, features[:1], features[1:], narrow.raft.context_encoder(a), 3, every=True)
    assert len(ours) == 3
    for one, other in zip(ours, stock, strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)


def test_every_frame_is_encoded_once(narrow):
    seen = []
    hook = narrow.raft.feature_encoder.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    narrow.both_ways(frames(batch=2, count=3))
    hook.remove()
    assert sum(seen) == 6


def test_pairs_never_mix_clips_and_order_does_not_matter(narrow):
    clips = frames(batch=2)
    with torch.no_grad():
        both, alone, swapped = narrow(clips), narrow(clips[1:]), narrow(clips.flip(0))
    torch.testing.assert_close(both[1:], alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(both.flip(0), swapped, atol=1e-4, rtol=1e-4)


def test_stride_pairs_frames_that_far_apart(narrow):
    clips = frames(count=4)
    with torch.no_grad():
        strided = narrow(clips, stride=3)
        direct = narrow(clips[:, [0, 3]])
    assert strided.shape == (1, 1, 128, 128, 2)
    torch.testing.assert_close(strided, direct, atol=1e-5, rtol=1e-5)


def test_backward_is_forward_of_the_reversed_clip(narrow):
    clips = frames()
    with torch.no_grad():
        forward, backward = narrow.both_ways(clips)
        torch.testing.assert_close(forward, narrow(clips), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(backward, narrow(clips.flip(1)).flip(1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("size", "working"),
    [((64, 64), (128, 128)), ((128, 128), (128, 128)), ((100, 130), (200, 264)), ((130, 200), (136, 200))],
)
def test_working_size(size, working):
    assert working_size(*size) == working


def test_flow_comes_back_at_the_size_and_in_the_pixels_of_the_input(narrow):
    assert narrow(frames(height=64, width=64)).shape == (1, 2, 64, 64, 2)
    flow = torch.ones(1, 2, 128, 256) * torch.tensor([4.0, 6.0]).view(1, 2, 1, 1)
    torch.testing.assert_close(reduced(flow, 64, 128), torch.tensor([2.0, 3.0]).expand(1, 64, 128, 2))


def test_enlarging_and_reducing_leave_a_linear_flow_as_it_is():
    u = torch.linspace(-3, 3, 64).expand(1, 1, 64, 64)
    there_and_back = reduced(enlarged(torch.cat((u, u, u), dim=1))[:, :2] * 2, 64, 64)
    torch.testing.assert_close(there_and_back[0, :, 1:-1, 0], u[0, 0, :, 1:-1], atol=1e-5, rtol=0)


def test_gradient_reaches_every_frame_and_no_weight(narrow):
    clips = frames().requires_grad_()
    narrow(clips).square().sum().backward()
    assert clips.grad is not None
    assert torch.isfinite(clips.grad).all()
    assert (clips.grad.flatten(2).abs().amax(dim=2) > 0).all()
    assert all(p.grad is None and not p.requires_grad for p in narrow.parameters())


def test_gradient_equals_autograd_through_torchvision_with_its_stop_gradients(narrow):
    a, b = (frame[None].requires_grad_() for frame in frames(count=2)[0])
    narrow.raft(a * 2 - 1, b * 2 - 1, num_flow_updates=2)[-1].square().sum().backward()
    clips = torch.stack((a.detach(), b.detach()), dim=1).requires_grad_()
    narrow(clips).square().sum().backward()
    for ours, theirs in ((clips.grad[:, 0], a.grad), (clips.grad[:, 1], b.grad)):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


def test_one_update_has_the_gradient_of_finite_differences():
    """With one update there is no inner stop-gradient, so autograd must match the function's own slope."""
    torch.manual_seed(1)
    estimator = FlowEstimator(NARROW.build(), updates=1).double()
    clips = F.avg_pool2d(frames(count=2).flatten(0, 1), 5, 1, 2).view(1, 2, 3, 128, 128).double().requires_grad_()
    raft = estimator.raft

    def total(x):
        images = x.flatten(0, 1) * 2 - 1
        features, context = raft.feature_encoder(images), raft.context_encoder(images)
        return match(raft, features[:1], features[1:], context[:1], 1)[0].square().sum()

    total(clips).backward()
    direction = torch.randn(clips.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    step = 1e-6
    with torch.no_grad():
        slope = (total(clips + step * direction) - total(clips - step * direction)) / (2 * step)
    torch.testing.assert_close((clips.grad * direction).sum(), slope, rtol=1e-2, atol=1e-6)


def test_stays_frozen_and_in_evaluation_mode(narrow):
    assert not narrow.train().training
    assert not narrow.raft.training


def test_autocast_is_close_to_full_precision(narrow):
    clips = frames()
    fast = FlowEstimator(narrow.raft, updates=2, autocast=True)
    with torch.no_grad():
        gap = (fast(clips) - narrow(clips)).abs().max()
    assert gap < 0.05 * narrow(clips).abs().max() + 0.05


def test_consistency_of_a_shift_and_of_nonsense():
    forward = torch.zeros(1, 1, 16, 16, 2)
    forward[..., 0] = 3.0
    good = forward_backward_consistency(forward, -forward)
    assert good[..., :12].all()
    assert not good[..., 13:].any()  # leaves the image
    assert not forward_backward_consistency(forward, forward).any()


@pytest.mark.parametrize(
    ("clips", "stride", "said"),
    [
        (torch.rand(1, 3, 64, 64), 1, "must be"),
        (torch.zeros(1, 2, 3, 64, 64, dtype=torch.uint8), 1, "floating"),
        (torch.rand(1, 3, 3, 64, 64), 3, "stride"),
    ],
)
def test_bad_frames_are_refused(narrow, clips, stride, said):
    with pytest.raises(ValueError, match=said):
        narrow(clips, stride=stride)


def test_bad_updates_are_refused():
    with pytest.raises(ValueError, match="updates must be >= 1, got 0"):
        FlowEstimator(NARROW.build(), updates=0)


@pytest.fixture
def folder(tmp_path, narrow):
    (tmp_path / "config.json").write_text(json.dumps(NARROW.to_config()))
    save_file(narrow.raft.state_dict(), tmp_path / "model.safetensors")
    return tmp_path


def test_a_folder_comes_back_as_it_was_saved(folder, narrow):
    loaded = load_flow(str(folder), updates=2)
    with torch.no_grad():
        torch.testing.assert_close(loaded(frames()), narrow(frames()), atol=0, rtol=0)


def test_a_file_in_torchvisions_names_is_known_by_its_tensors(tmp_path):
    torch.save(raft_small(weights=None).state_dict(), tmp_path / "mine.pth")
    assert sum(p.numel() for p in load_flow(str(tmp_path / "mine.pth")).parameters()) == 990_162


def test_missing_corrupt_and_wrong_weights_are_refused_in_one_line(folder):
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    cases = [(str(folder), "cannot read")]
    (folder / "broken.pth").write_bytes(b"not weights")
    cases += [
        (str(folder / "broken.pth"), "cannot read"),
        ("nowhere", "unknown estimator"),
        ("torchvision/x", "unknown"),
    ]
    torch.save(torch.nn.Linear(2, 2).state_dict(), folder / "linear.pth")
    cases += [(str(folder / "linear.pth"), "another network")]
    torch.save({"weights": [1, 2]}, folder / "list.pth")
    cases += [(str(folder / "list.pth"), "named tensors")]
    for name, said in cases:
        with pytest.raises(ValueError, match=said) as caught:
            load_flow(name)
        assert "\n" not in str(caught.value)
    weights.unlink()
    with pytest.raises(ValueError, match="does not exist"):
        load_flow(str(folder))
    (folder / "config.json").write_text('{"architecture": "raft", "widht": 3}')
    with pytest.raises(ValueError, match="widht"):
        load_flow(str(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        load_flow(str(folder))


def test_weights_that_are_not_finite_are_refused(folder, narrow):
    state = {name: tensor.clone() for name, tensor in narrow.raft.state_dict().items()}
    state["update_block.flow_head.conv2.bias"][0] = float("nan")
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ValueError, match="NaN"):
        load_flow(str(folder))


@pytest.mark.realdata
def test_the_published_file_agrees_with_torchvision_to_zero(testdata):
    path = testdata / "weights" / "raft-small.pth"
    ours = load_flow(str(path), updates=4)
    assert sum(p.numel() for p in ours.parameters()) == 990_162
    stock = raft_small(weights=None).eval()
    stock.load_state_dict(from_original(torch.load(path, weights_only=True, map_location="cpu")))
    clips = frames(count=2)
    with torch.no_grad():
        first, second = clips[:, 0] * 2 - 1, clips[:, 1] * 2 - 1
        theirs = stock(first, second, num_flow_updates=4)[-1]
        assert (ours.raft(first, second, num_flow_updates=4)[-1] - theirs).abs().max() == 0.0
        torch.testing.assert_close(ours(clips)[0, 0], theirs[0].permute(1, 2, 0), atol=1e-2, rtol=1e-3)


@pytest.mark.realdata
def test_the_published_file_finds_a_known_shift(testdata):
    path = testdata / "weights" / "raft-small.pth"
    texture = F.interpolate(torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(0)), size=(176, 176))
    shifted = torch.stack((texture[..., 24:152, 24:152], texture[..., 19:147, 16:144]), dim=1)
    with torch.no_grad():
        flow = load_flow(str(path), updates=12)(shifted)[0, 0]
    error = (flow - torch.tensor([8.0, 5.0])).norm(dim=-1)[16:-16, 16:-16]
    assert error.mean() < 0.25
