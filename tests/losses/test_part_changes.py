import torch
from experiments.bench.part_changes import Changed, follows

from ppssl import SyntheticDataModule


def test_changed_birds_differ_from_the_usual_ones_in_one_part_alone() -> None:
    usual, changed = (
        kind(train_size=4, test_size=12, num_workers=0).load_sources()["test"]
        for kind in (SyntheticDataModule, Changed)
    )
    for i in range(12):
        part = usual.distinguishing_part(usual.labels[i])
        mask = usual.annotations(i)["parts"][part] | changed.annotations(i)["parts"][part]
        before, after = (torch.tensor(list(birds.load(i).getdata())) for birds in (usual, changed))
        differs = (before != after).any(dim=1).view(mask.shape)
        grown = torch.nn.functional.max_pool2d(mask[None].float(), 5, 1, 2)[0] > 0
        assert differs.any() or not mask.any()
        assert not (differs & ~grown).any()


def test_an_embedding_that_follows_the_part_counts_and_one_that_does_not_does_not() -> None:
    own, other = torch.eye(2).unbind(0)
    right, wrong = torch.tensor([0.9, 0.1]), torch.tensor([0.2, 0.8])
    usual, edited = (
        torch.stack([right, right, wrong, wrong]),
        torch.stack([wrong, right, wrong, right]),
    )
    found = follows(usual, edited, own.expand(4, 2), other.expand(4, 2))
    assert found.tolist() == [True, False, False, False]
