"""Training in forked processes, as in notebooks, or in new ones: what comes back can be saved, loaded and used."""

import sys
from pathlib import Path

import pytest

from processes import finish, start

SCRIPT = """
import sys
import torch
from lightning.pytorch import Trainer
from ppssl import PPSSL, SyntheticDataModule, load_encoder


def main(out, strategy):
    data = SyntheticDataModule(
        train_size=64, test_size=16, num_classes=4, image_size=32, batch_size=8, num_workers=0
    )
    model = PPSSL("resnet_small", backbone_kwargs={"width": 4}, lr=0.01)
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", devices=2, strategy=strategy, logger=False,
        enable_progress_bar=False, default_root_dir=out,
    )
    trainer.fit(model, data)
    assert any(not before[name].equal(value) for name, value in model.encoder.state_dict().items())
    trainer.save_checkpoint(f"{out}/after.ckpt")
    images = torch.rand(2, 3, 32, 32)
    expected = model.eval()(images)
    torch.testing.assert_close(load_encoder(f"{out}/after.ckpt")(images), expected)
    written = trainer.checkpoint_callback.best_model_path
    torch.testing.assert_close(load_encoder(written)(images), expected)
    assert PPSSL.load_from_checkpoint(written).contrastive.queue.is_full()


if __name__ == "__main__":
    main(*sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp_notebook", "ddp_spawn"])
def test_what_comes_back_is_saved_and_loaded(strategy: str, tmp_path: Path) -> None:
    (tmp_path / "notebook.py").write_text(SCRIPT)
    output = finish(start([sys.executable, tmp_path / "notebook.py", tmp_path, strategy]))
    assert "this checkpoint holds the encoder" in output
