import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, top_k_accuracy_score

from ppssl.metrics import classification
from ppssl.metrics.classification import ClassificationMetrics, confused_pairs


def _rows(images: int, classes: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(images, classes, generator=generator)
    label = torch.randint(0, classes, (images,), generator=generator)
    return logits, label, torch.randperm(images, generator=generator)


def test_accuracies_are_scikit_learns_each_image_once() -> None:
    logits, label, index = _rows(200, 12)
    label[label == 4] = 5  # a class without images, which is predicted all the same
    metrics = ClassificationMetrics(12)
    for rows in torch.arange(200).split(64):
        metrics.update(logits[rows], label[rows], index[rows])
    metrics.update(logits[:30], label[:30], index[:30])  # as a sampler of several processes repeats
    metrics.update(logits[:5], torch.full((5,), -1), torch.arange(200, 205))  # unknown classes
    found = metrics.compute()
    predicted = logits.argmax(dim=1)
    assert float(found["top1"]) == pytest.approx(float((predicted == label).float().mean()))
    top5 = top_k_accuracy_score(label, logits.numpy(), k=5, labels=range(12))
    assert float(found["top5"]) == pytest.approx(top5)
    with np.testing.suppress_warnings() as quiet:
        quiet.filter(UserWarning)
        macro = balanced_accuracy_score(label, predicted)
    assert float(found["macro"]) == pytest.approx(macro)
    assert 4 in found["predicted"]
    ours = classification.confusion_matrix(found["label"], found["predicted"], 12)
    assert np.array_equal(ours, confusion_matrix(label, predicted, labels=range(12)))
    assert found["index"].sort().values.tolist() == list(range(200))


def test_two_classes_have_no_top_five() -> None:
    metrics = ClassificationMetrics(2)
    metrics.update(torch.eye(2), torch.tensor([0, 0]), torch.arange(2))
    found = metrics.compute()
    assert [float(found[name]) for name in ("top1", "top5", "macro")] == [0.5, 1.0, 0.5]


def test_no_image_is_nan() -> None:
    assert ClassificationMetrics(3).compute()["top1"].isnan()


def test_worst_pairs_in_both_directions_and_no_others() -> None:
    confusion = torch.tensor([[9, 3, 0], [3, 5, 4], [0, 1, 8]])
    assert confused_pairs(confusion, 5) == [(0, 1), (1, 2)]
    assert confused_pairs(confusion, 1) == [(0, 1)]
    assert confused_pairs(torch.eye(3, dtype=torch.long), 5) == []
