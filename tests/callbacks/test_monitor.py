from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from sklearn.neighbors import KNeighborsClassifier

from ppssl import PPSSL, FolderDataModule
from ppssl.callbacks.monitor import RepresentationMonitor
from ppssl.inference.embeddings import embed_loader
from ppssl.metrics.retrieval import retrieval_metrics


def _trainer(**kwargs: Any) -> Trainer:
    return Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, **kwargs)


def test_logs_what_scikit_learn_and_the_metrics_say(image_folder: Path) -> None:
    torch.manual_seed(0)
    model = PPSSL(backbone="resnet_small", backbone_kwargs={"width": 4})
    data = FolderDataModule(str(image_folder), image_size=32, batch_size=5, num_workers=0)
    trainer = _trainer(callbacks=[RepresentationMonitor(k=1)])
    trainer.test(model, data, verbose=False)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    gallery, queries = (
        embed_loader(model.encoder, loader, data) for loader in data.test_dataloader()
    )
    unit = [torch.nn.functional.normalize(e.features, dim=1).numpy() for e in (gallery, queries)]
    knn = KNeighborsClassifier(1, metric="cosine").fit(unit[0], gallery.labels)
    assert logged["test/knn_top1"] == pytest.approx(
        np.mean(knn.predict(unit[1]) == queries.labels.numpy())
    )
    expected = retrieval_metrics(queries.features, queries.labels)
    assert logged["test/retrieval_map"] == pytest.approx(expected["mAP"], abs=1e-6)
    assert logged["test/retrieval_rank1"] == pytest.approx(expected["rank-1"])
    assert 1 <= logged["test/rankme"] <= 32


def test_neighbours_are_never_more_than_the_gallery(image_folder: Path) -> None:
    model = PPSSL(backbone="resnet_small", backbone_kwargs={"width": 4})
    data = FolderDataModule(str(image_folder), image_size=32, batch_size=8, num_workers=0)
    trainer = _trainer(callbacks=[RepresentationMonitor(k=1000)])
    trainer.validate(model, data, verbose=False)
    assert 0 <= float(trainer.callback_metrics["val/knn_top1"]) <= 1


def test_error() -> None:
    with pytest.raises(ValueError, match="`k` must be >= 1, got 0"):
        RepresentationMonitor(k=0)
