"""Does the faster chain of views cost accuracy? MoCo v2 on synthetic birds with our views and with torchvision's.

    python experiments/bench/views.py --out experiments/results/views.json [--seeds 0 1 2] [--epochs 12]

Both chains have the settings of the recipe ``ppssl:synthetic/pretrain``; torchvision's random numbers are drawn anew
for each (seed, epoch, image, view), so a run is reproducible. Runs that the file has already are not repeated.
"""

import argparse
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision import transforms
from torchvision.transforms.v2 import functional as tv

import ppssl.data.datamodule as datamodule
from ppssl import PPSSL, MoCo, MoCoV2Augmentation, SyntheticDataModule, evaluate
from ppssl.data.dataset import ViewDataset, load_readable
from ppssl.utils.randomness import torch_seed
from ppssl.utils.results import show_table, write_json

SIZE = 64


class Blur:
    """Pillow's Gaussian blur with MoCo v2's standard deviations, 0.1 to 2 pixels of 224, for a view of ``SIZE``."""

    def __call__(self, image: Image.Image) -> Image.Image:
        """Blur an image."""
        return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0) * SIZE / 224))


CHAIN = transforms.Compose(
    [
        transforms.RandomResizedCrop(SIZE, scale=(0.6, 1.0)),
        transforms.RandomApply([transforms.ColorJitter(0.2, 0.2, 0.2, 0.05)], p=0.8),
        transforms.RandomApply([Blur()], p=0.5),
        transforms.RandomHorizontalFlip(),
    ]
)


class TorchvisionViews(ViewDataset):
    """The data set of two views, with torchvision's in place of ours."""

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        item, (epoch, i) = super().__getitem__(key), key
        image, _, _ = load_readable(self.source, range(len(self.source)), i)
        return item | {"views": [self._by_torchvision(image, epoch, i, v) for v in (0, 1)]}

    def _by_torchvision(self, image: Image.Image, epoch: int, i: int, view: int) -> Tensor:
        seed = torch_seed(self.seed, "torchvision view", epoch, i, view)
        random.seed(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return tv.pil_to_tensor(CHAIN(image))


def run(chain: str, seed: int, epochs: int) -> dict[str, float]:
    """Train with a chain of views, and evaluate."""
    datamodule.ViewDataset = TorchvisionViews if chain == "torchvision" else ViewDataset  # type: ignore[misc]
    seed_everything(seed, verbose=False)
    augmentation = MoCoV2Augmentation((0.6, 1.0), jitter=(0.2, 0.2, 0.2, 0.05), grey_probability=0)
    data = SyntheticDataModule(
        train_size=4000,
        test_size=2000,
        image_size=SIZE,
        batch_size=32,
        augmentation=augmentation,
        num_workers=0,
        seed=seed,
    )
    model = PPSSL(
        "resnet_small",
        pretrained=False,
        backbone_kwargs={"width": 16},
        init_seed=0,
        contrastive=MoCo(dim=128, momentum=0.997, temperature=0.03),
        optimizer="adamw",
        lr=1e-3,
        weight_decay=0.05,
        warmup_fraction=0.1,
        seed=seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            default_root_dir=folder,
            max_epochs=epochs,
            gradient_clip_val=1.0,
            limit_val_batches=0,
            accelerator="cpu",
            enable_checkpointing=False,
            logger=False,
        )
        trainer.fit(model, data)
    metrics = evaluate(model.encoder.model, data).metrics
    return {name: metrics[name] for name in ("knn-5", "linear", "mAP", "rank-1")}


def main() -> None:
    """Run what is missing, and write the results after each run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=12)
    arguments = parser.parse_args()
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for seed in arguments.seeds:
        for chain in ("ppssl", "torchvision"):
            key = f"{chain}, seed {seed}, {arguments.epochs} epochs"
            if key not in results:
                results[key] = run(chain, seed, arguments.epochs)
                write_json(arguments.out, results)
            show_table(key, list(results[key]), [[f"{v:.3f}" for v in results[key].values()]])


if __name__ == "__main__":
    main()
