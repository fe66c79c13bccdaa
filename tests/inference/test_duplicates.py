"""Duplicates and doubtful labels that were planted are found, and others are not."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from ppssl import FolderDataModule
from ppssl.inference.duplicates import doubtful_labels, find_duplicates, nearest_others
from ppssl.inference.embeddings import Embeddings


def test_neighbours_are_scikit_learns() -> None:
    features = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    similarity, rows = nearest_others(features, k=4)
    distance, expected = NearestNeighbors(n_neighbors=5, metric="cosine").fit(features).kneighbors()
    assert rows.tolist() == expected[:, :4].tolist()
    assert np.allclose(1 - distance[:, :4], similarity, atol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_images_have_few_neighbours(count: int) -> None:
    similarity, rows = nearest_others(torch.ones(count, 3), k=4)
    assert rows.numel() == similarity.numel() == (2 if count == 2 else 0)


def _data(folder: Path) -> FolderDataModule:
    """Noise in ``train`` and ``test``; 0 and 8 are equal, 1 and 9 nearly, 2 and 3 are the same but mirrored."""
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (30, 40, 3), dtype=np.uint8) for _ in range(12)]
    pixels = [np.asarray(Image.fromarray(p).resize((80, 60))) for p in pixels]
    pixels[8] = pixels[0]
    pixels[9] = np.clip(pixels[1].astype(int) + 12, 0, 255).astype(np.uint8)
    pixels[3] = pixels[2][:, ::-1]
    for i, image in enumerate(pixels):
        place = folder / ("train" if i < 8 else "test") / "abc"[i % 3]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{i:02d}.png")
    data = FolderDataModule(str(folder), image_size=32, batch_size=4, num_workers=0)
    data.setup()
    return data


def test_equal_and_nearly_equal_images_are_found_across_splits(tmp_path: Path) -> None:
    data = _data(tmp_path)
    names = [
        int(Path(source.name(i)).stem)
        for source in data.sources.values()
        for i in range(len(source))
    ]
    features = torch.eye(12)
    for first, second in ((0, 8), (1, 9), (2, 3), (4, 5)):  # what the encoder finds similar
        features[names.index(second)] = features[names.index(first)] + 1e-3 * torch.arange(12)
    labels = torch.zeros(12, dtype=torch.int64)
    found = find_duplicates(Embeddings(features, labels, torch.arange(12)), data)
    pairs = [(sorted((names[pair.first], names[pair.second])), pair.exact) for pair in found]
    assert pairs == [([0, 8], True), ([1, 9], False)]
    assert all(pair.first < pair.second and pair.similarity > 0.99 for pair in found)


def test_images_of_one_colour_are_duplicates_if_they_are_equal(tmp_path: Path) -> None:
    for i, colour in enumerate([(90, 90, 90), (90, 90, 90), (90, 90, 91), (200, 0, 0)]):
        Image.new("RGB", (40, 30), colour).save(tmp_path / f"{i}.png", compress_level=i)
    data = FolderDataModule(str(tmp_path), image_size=32, batch_size=4, num_workers=0)
    data.setup()
    images = Embeddings(torch.ones(4, 8), torch.full((4,), -1), torch.arange(4))
    pairs = [(pair.first, pair.second, pair.exact) for pair in find_duplicates(images, data)]
    assert pairs == [(0, 1, True)]


def test_a_wrong_label_among_its_true_class_is_found() -> None:
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    features = 5 * torch.nn.functional.one_hot(labels).float() + torch.randn(60, 3, generator=rng)
    wrong = labels.clone()
    wrong[7] = (labels[7] + 1) % 3
    wrong[9] = -1
    index = torch.arange(100, 160)
    (found,) = doubtful_labels(Embeddings(features, wrong, index))
    assert (found.index, found.label, found.proposed) == (107, int(wrong[7]), int(labels[7]))
    assert found.share >= 0.6
    assert len(found.neighbours) == 10
    assert not {107, 109} & set(found.neighbours)


def test_without_labels_no_label_is_doubtful() -> None:
    unknown = torch.full((5,), -1)
    assert doubtful_labels(Embeddings(torch.randn(5, 3), unknown, torch.arange(5))) == []
