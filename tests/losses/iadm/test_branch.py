import pytest
import torch

from ppssl.losses.iadm.branch import SaliencyBranch


@pytest.mark.parametrize("upscale", [1, 2])
def test_a_distribution_over_the_cells(upscale: int) -> None:
    branch = SaliencyBranch(6, hidden=4, upscale=upscale)
    feature_map = torch.randn(3, 6, 4, 5, requires_grad=True)
    log_map = branch(feature_map)
    assert log_map.shape == (3, 4 * upscale, 5 * upscale)
    torch.testing.assert_close(log_map.exp().sum(dim=(1, 2)), torch.ones(3))
    log_map.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in branch.parameters())
    assert feature_map.grad.abs().max() > 0
    torch.testing.assert_close(branch(feature_map[1:2]), log_map[1:2])  # of each image alone


def test_a_cell_belongs_to_its_place() -> None:
    torch.manual_seed(0)
    branch = SaliencyBranch(2, hidden=4, upscale=2)
    feature_map = torch.zeros(1, 2, 3, 3)
    feature_map[0, :, 1, 2] = 5.0
    blocks = branch(feature_map)[0].unflatten(0, (3, 2)).unflatten(2, (3, 2)).transpose(1, 2)
    others = [blocks[i, j] for i in range(3) for j in range(3) if (i, j) != (1, 2)]
    assert all(torch.equal(other, others[0]) for other in others)
    assert (blocks[1, 2] - others[0]).abs().max() > 0.1


def test_it_can_learn_a_map() -> None:
    torch.manual_seed(0)
    branch, feature_map = SaliencyBranch(8), torch.randn(4, 8, 5, 5)
    wanted = (3 * feature_map[:, 0]).flatten(1).log_softmax(dim=1).unflatten(1, (5, 5)).exp()
    optimizer = torch.optim.Adam(branch.parameters(), lr=0.03)
    losses = []
    for _ in range(150):
        loss = (wanted * (wanted.log() - branch(feature_map))).sum(dim=(1, 2)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_errors() -> None:
    with pytest.raises(ValueError, match="`upscale` must be >= 1"):
        SaliencyBranch(4, upscale=0)
