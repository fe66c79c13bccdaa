from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from ppssl import PPSSL, FolderDataModule, load_encoder, load_transform
from ppssl.losses.contrastive import MoCo


@pytest.mark.parametrize("crop", [0.875, 1.0])
def test_an_image_is_seen_as_in_evaluation(crop: float, image_folder: Path, tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"image_size": 48, "eval_crop": crop}
    data = FolderDataModule(str(image_folder), batch_size=8, num_workers=0, **sizes)
    model = PPSSL("test_resnet", contrastive=MoCo(dim=8))
    trainer = Trainer(max_steps=1, logger=False, limit_val_batches=0, default_root_dir=tmp_path)
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")

    transform = load_transform(tmp_path / "last.ckpt")
    source = data.sources["test"]
    ours = torch.stack([transform(source.load(i)) for i in range(len(source))])
    batches = [
        data.on_after_batch_transfer(data.on_before_batch_transfer(batch, 0), 0)
        for batch in data.eval_loader("test")
    ]
    expected = torch.cat([batch["image"] for batch in batches])
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    encoder = load_encoder(tmp_path / "last.ckpt")
    with torch.inference_mode():
        torch.testing.assert_close(encoder(ours), model.eval()(expected))
    assert transform(Image.new("RGB", (300, 90))).shape == (3, 48, 48)
