import copy

import pytest
import torch
from lightly.models.modules import BYOLPredictionHead, MoCoProjectionHead, SimCLRProjectionHead
from torch import nn

from ppssl import UserError
from ppssl.losses.contrastive.heads import Head


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Head([6, 5, 4], "batch"), BYOLPredictionHead(6, 5, 4)),
        (Head([6, 5, 4], "batch", norm_output=True), SimCLRProjectionHead(6, 5, 4)),
        (
            Head([6, 5, 5, 4], "batch", norm_output=True),
            MoCoProjectionHead(6, 5, 4, num_layers=3, batch_norm=True),
        ),
    ],
)
def test_heads_are_lightlys(ours: Head, theirs: nn.Module) -> None:
    """Theirs have affine parameters in the last norm as well, 1 and 0 at first."""
    extra = theirs.layers.load_state_dict(ours.state_dict(), strict=False)
    assert not extra.unexpected_keys
    assert len(extra.missing_keys) in (0, 2)
    x = torch.randn(7, 6)
    torch.testing.assert_close(ours(x), theirs(x))


def test_layer_norm_makes_each_image_independent() -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 6)
    for norm, independent in (("layer", True), ("batch", False)):
        head = Head([6, 5, 4], norm, norm_output=True)  # type: ignore[arg-type]
        assert torch.allclose(head(x)[:3], head(x[:3]), atol=1e-6) == independent
    assert Head([6, 5, 4], "layer")(x[:1]).shape == (1, 4)


def test_batch_norm_of_one_image_is_one_line() -> None:
    head = Head([6, 5, 4], "batch")
    with pytest.raises(
        UserError, match=r"at least 2 images .* `model.contrastive.head_norm: layer`"
    ):
        head(torch.randn(1, 6))
    assert head.eval()(torch.randn(1, 6)).shape == (1, 4)
    Head([6, 4], "batch")(torch.randn(1, 6))  # has no norm


def test_unit_vectors_are_float32_under_autocast() -> None:
    head = Head([6, 5, 4], "batch", norm_output=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = head.unit(torch.randn(7, 6))
    assert z.dtype == torch.float32
    torch.testing.assert_close(z.norm(dim=1), torch.ones(7))


def test_statistics_are_kept_inside_the_context_alone() -> None:
    head, x = Head([6, 5, 4], "batch", norm_output=True), torch.randn(7, 6)
    before = copy.deepcopy(head.state_dict())
    with head.keep_statistics():
        inside = head(x)
    assert all(value.equal(before[name]) for name, value in head.state_dict().items())
    torch.testing.assert_close(head(x), inside)
    assert not all(value.equal(before[name]) for name, value in head.state_dict().items())
