"""Trains the embedded teacher ``synthetic-clip`` from scratch, on one CPU core, and measures it.

    python experiments/teacher/train.py --config experiments/teacher/synthetic-clip.yaml --work runs/teacher \
        --out src/ppssl/text/teachers/weights/synthetic-clip.safetensors --figures experiments/teacher/figures.json

With worldly.yaml: another teacher, which is not in the package. Its captions name background and body colour as well,
so that its image embedding holds them, as a real CLIP's does.

The birds are random combinations of the attributes; the combinations that the data set uses as classes are left out,
so the teacher meets no class before its test. The loss is a sigmoid for each pair of bird and sentence (Zhai et al.,
"Sigmoid loss for language image pre-training", 2023) whose target says whether the sentence is true: a partial
caption is true of many birds of a batch, which a softmax over the batch would count as errors.

First the text tower learns to read: in place of a picture it meets a table of the attributes. Then it is locked, and
the image tower learns to see what the sentences say. (Both at once is slow: neither has anything to say to the other.)

A run that was cut off goes on after its last whole epoch.
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from captions import Captions, Sentence, bird_of
from evaluate import figures
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F

from ppssl.data.synthetic.birds import ATTRIBUTES, bird_classes
from ppssl.data.synthetic.classes import MAX_CLASSES
from ppssl.data.synthetic.scene import draw_nuisance, render_image
from ppssl.text.teachers.towers import TowerConfig, Towers, WordTokenizer, normalise, pack
from ppssl.utils.randomness import generator, torch_seed
from ppssl.utils.results import provenance, write_json

PHRASES = Path(__file__).with_name("captions.yaml")
NAMES, VALUES = list(ATTRIBUTES), list(ATTRIBUTES.values())
SIZES = [len(values) for values in VALUES]


@dataclass(frozen=True)
class Config:
    """What the YAML file says; see there."""

    seed: int
    test_seed: int
    images: int
    render_sizes: list[int]
    epochs: int
    batch_size: int
    other_sentences: int
    subset: list[float]
    shift: int
    text_steps: int
    text_batch_size: int
    ambiguous: float
    image_lr: float
    text_lr: float
    logit_lr: float
    weight_decay: float
    warmup_fraction: float
    towers: TowerConfig
    scene: str | None = None

    @staticmethod
    def read(path: Path) -> "Config":
        """From a YAML file."""
        content = yaml.safe_load(path.read_text())
        return Config(**{**content, "towers": TowerConfig(**content["towers"])})

    def settings(self) -> dict[str, Any]:
        """What the file says."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def steps(self) -> int:
        """Steps of an epoch; pictures of an unfilled batch wait for another epoch."""
        return self.images // self.batch_size


def draw_codes(seed: int, count: int) -> np.ndarray:
    """``(count, 6)`` attribute codes, uniform over the combinations that no class of the data set has."""
    classes = {bird.codes() for bird in bird_classes(MAX_CLASSES)}
    grid = [codes for codes in np.ndindex(*SIZES) if codes not in classes]
    return np.array(grid)[generator(seed, "teacher-birds").integers(0, len(grid), count)]


def draw_ambiguous(
    rng: np.random.Generator, count: int, share: float, sizes: Sequence[int]
) -> np.ndarray:
    """``(count, s)`` codes; in about ``share`` of the rows two parts have values of the same two names.

    "A pointed crest and a fan tail" is the same words as another bird's description, and rare among random birds: a
    text tower would not learn to tell the two.
    """
    codes = rng.integers(0, sizes, (count, len(sizes)))
    crest, tail = NAMES.index("crest"), NAMES.index("tail")
    shared = sorted(set(VALUES[crest]) & set(VALUES[tail]))
    for row in np.flatnonzero(rng.random(count) < share):
        for part in (crest, tail):
            codes[row, part] = VALUES[part].index(str(rng.choice(shared)))
    return codes


def draw_scenes(seed: int, count: int) -> np.ndarray:
    """``(count, K)`` nuisance values of the training pictures."""
    rngs = (generator(seed, "teacher-nuisance", i) for i in range(count))
    return np.array([draw_nuisance(rng).values() for rng in rngs])


def draw_image(config: Config, i: int, codes: np.ndarray) -> Tensor:
    """Training picture ``i``, ``(3, S, S)`` uint8."""
    rng = generator(config.seed, "teacher-nuisance", i)
    nuisance, size = draw_nuisance(rng), int(rng.choice(config.render_sizes))
    grain = generator(config.seed, "teacher-grain", i)
    picture = Image.fromarray(render_image(bird_of(codes.tolist()), nuisance, grain, size))
    side = config.towers.image_size
    pixels = np.array(picture.resize((side, side), Image.Resampling.BILINEAR))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def draw_images(config: Config, codes: np.ndarray, cache: Path) -> Tensor:
    """All training pictures, ``(N, 3, S, S)`` uint8, from the cache if it holds them."""
    key = [config.seed, config.images, config.render_sizes, config.towers.image_size]
    if cache.is_file():
        stored = torch.load(cache, weights_only=True)
        if stored["key"] == key:
            return stored["images"]
    side = config.towers.image_size
    images = torch.empty(config.images, 3, side, side, dtype=torch.uint8)
    for i in track(range(config.images), description="Drawing birds"):
        images[i] = draw_image(config, i, codes[i])
    _save({"key": key, "images": images}, cache)
    return images


def augment(images: Tensor, rng: np.random.Generator, shift: int) -> Tensor:
    """``(B, 3, S, S)`` uint8, each moved by up to ``shift`` pixels and flipped or not."""
    side = images.shape[-1]
    padded = F.pad(images.float(), [shift] * 4, mode="replicate").to(torch.uint8)
    draws = rng.integers(0, [2 * shift + 1, 2 * shift + 1, 2], (len(images), 3)).tolist()
    moved = [
        image[:, y : y + side, x : x + side].flip(-1)
        if flip
        else image[:, y : y + side, x : x + side]
        for image, (y, x, flip) in zip(padded, draws, strict=True)
    ]
    return torch.stack(moved)


def truth(codes: Tensor, stated: Tensor) -> Tensor:
    """``(B, n)`` float32: 1 where the sentence that states row j is true of the bird with the codes in row i."""
    return ((codes[:, None] == stated) | (stated < 0)).all(-1).float()


class BirdTable(nn.Module):
    """Stands in for the image tower while the text tower learns: ``(B, s)`` codes to ``(B, e)``, L2-normalised."""

    def __init__(self, dim: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.values = nn.ModuleList(nn.Embedding(size, dim) for size in sizes)
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, codes: Tensor) -> Tensor:
        """The sum of the values' rows and a bias, normalised."""
        rows = [table(column) for table, column in zip(self.values, codes.T, strict=True)]
        return F.normalize(torch.stack(rows).sum(0) + self.bias, dim=-1)


class Trainer:
    """The model and where it stands.

    Args:
        config: What to train.
        captions: What the birds are described with.
    """

    def __init__(self, config: Config, captions: Captions) -> None:
        torch.manual_seed(torch_seed(config.seed, "teacher-init"))
        self.config, self.captions = config, captions
        self.tokenizer = WordTokenizer(captions.vocabulary())
        self.model = Towers(config.towers, len(self.tokenizer.vocabulary))
        self.model.to(memory_format=torch.channels_last)
        self.optimizer, self.schedule = self._optimizer(
            [self.model.image, self.model.image_head],
            config.image_lr,
            config.epochs * config.steps,
        )
        self.epoch, self.seconds = 0, 0.0

    def fit(self, images: Tensor, codes: Tensor, checkpoint: Path, console: Console) -> None:
        """The text tower, then the epochs of the image tower that are left; after each the state is on the disk."""
        if checkpoint.is_file():
            self._resume(torch.load(checkpoint, weights_only=True))
        else:
            self._measured(self.fit_texts, checkpoint, console, "texts")
        while self.epoch < self.config.epochs:
            self.epoch += 1
            fit_epoch = partial(self.fit_images, images, codes)
            self._measured(fit_epoch, checkpoint, console, f"epoch {self.epoch}")

    def fit_texts(self) -> float:
        """Train the text tower beside a table of the attributes; the mean loss of the last tenth."""
        config, losses = self.config, []
        table = BirdTable(config.towers.dim, self.captions.sizes)
        optimizer, schedule = self._optimizer(
            [self.model.text, table], config.text_lr, config.text_steps
        )
        for step in track(range(config.text_steps), description="Text tower"):
            rng = generator(config.seed, "teacher-texts", step)
            codes = draw_ambiguous(
                rng, config.text_batch_size, config.ambiguous, self.captions.sizes
            )
            sentences = self._describe(codes, rng)
            texts = self._embed([sentence.text for sentence in sentences])
            logits = self.model.logits(table(torch.from_numpy(codes)), texts)
            target = truth(torch.from_numpy(codes), _codes(sentences))
            losses.append(self._step(logits, target, optimizer, schedule))
        return float(np.mean(losses[-max(1, len(losses) // 10) :]))

    def fit_images(self, images: Tensor, codes: Tensor) -> float:
        """One pass of the image tower beside the locked text tower; the mean loss."""
        self.model.train()
        rng = generator(self.config.seed, "teacher-epoch", self.epoch)
        order, losses = rng.permutation(len(images)), []
        texts, stated = self._caption_all(codes.numpy(), rng)
        size = self.config.batch_size
        for step in track(range(self.config.steps), description=f"Epoch {self.epoch}"):
            own = torch.from_numpy(order[step * size : (step + 1) * size])
            others = torch.from_numpy(rng.integers(0, len(images), self.config.other_sentences))
            judged = torch.cat([own, others])
            pixels = normalise(augment(images[own], rng, self.config.shift))
            embeddings = self.model.embed_images(
                pixels.contiguous(memory_format=torch.channels_last)
            )
            logits = self.model.logits(embeddings, texts[judged])
            target = truth(codes[own], stated[judged])
            losses.append(self._step(logits, target, self.optimizer, self.schedule))
        return float(np.mean(losses))

    def _step(
        self,
        logits: Tensor,
        target: Tensor,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
    ) -> float:
        loss = F.binary_cross_entropy_with_logits(logits, target)
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
        optimizer.step()
        schedule.step()
        return loss.item()

    def _describe(self, codes: np.ndarray, rng: np.random.Generator) -> list[Sentence]:
        """A true sentence about each bird, in order of their length: padding is work as well."""
        sentences = [self.captions.sentence(row, rng) for row in codes.tolist()]
        return sorted(sentences, key=lambda sentence: len(sentence.text))

    def _caption_all(self, codes: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """A new caption of each picture: its embedding ``(N, e)`` and what it states ``(N, s)``."""
        sentences = [self.captions.sentence(row, rng) for row in codes.tolist()]
        order = np.argsort([len(sentence.text) for sentence in sentences])
        self.model.text.eval()
        with torch.no_grad():
            found = self._embed([sentences[i].text for i in order], 64)
        texts = torch.empty_like(found)
        texts[torch.from_numpy(order)] = found
        return texts, _codes(sentences)

    def _embed(self, texts: list[str], size: int = 16) -> Tensor:
        """Embeddings of texts, a few at a time."""
        parts = [texts[k : k + size] for k in range(0, len(texts), size)]
        return torch.cat([self.model.embed_tokens(self.tokenizer.batch(part)) for part in parts])

    def _optimizer(
        self, parts: list[nn.Module], rate: float, steps: int
    ) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.OneCycleLR]:
        """For these parts and the logits' scale and bias; gains and biases do not decay."""
        parameters = [p for part in parts for p in part.parameters()]
        logits = [self.model.logit_scale, self.model.logit_bias]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "lr": rate},
            {"params": [p for p in parameters if p.ndim <= 1], "lr": rate, "weight_decay": 0.0},
            {"params": logits, "lr": self.config.logit_lr, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, weight_decay=self.config.weight_decay)
        rates = [rate, rate, self.config.logit_lr]
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, rates, total_steps=steps, pct_start=self.config.warmup_fraction
        )
        return optimizer, schedule

    def _measured(
        self, work: Callable[[], float], checkpoint: Path, console: Console, name: str
    ) -> None:
        """Do a part of the work, count its CPU time, keep the state."""
        started = time.process_time()
        loss = work()
        self.seconds += time.process_time() - started
        _save(self._state(), checkpoint)
        console.print(f"{name}: loss {loss:.4f}, {self.seconds:.0f} CPU seconds")

    def _state(self) -> dict[str, Any]:
        return {
            "config": self.config.settings(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "epoch": self.epoch,
            "seconds": self.seconds,
        }

    def _resume(self, state: dict[str, Any]) -> None:
        if state["config"] != self.config.settings():
            raise SystemExit("The checkpoint is of another configuration: give another --work.")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.epoch, self.seconds = state["epoch"], state["seconds"]


def _codes(sentences: list[Sentence]) -> Tensor:
    return torch.tensor([sentence.codes for sentence in sentences])


def _save(content: dict[str, Any], path: Path) -> None:
    """Either the old file or the new one, whenever it is interrupted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    torch.save(content, part)
    part.replace(path)


def main() -> None:
    """Train, write the weights, measure what was written."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--config", type=Path, default=Path(__file__).with_name("synthetic-clip.yaml")
    )
    parser.add_argument("--work", type=Path, required=True, help="for pictures and checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="the weights, .safetensors")
    parser.add_argument("--figures", type=Path, required=True, help="what was measured, .json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    console, config = Console(), Config.read(args.config)
    scene = None if config.scene is None else PHRASES.with_name(config.scene)
    captions = Captions(PHRASES, config.subset, scene)
    birds = draw_codes(config.seed, config.images)
    images = draw_images(config, birds, args.work / "images.pt")
    scenes = captions.scene_codes(draw_scenes(config.seed, config.images))
    codes = np.concatenate([birds, scenes], 1)
    trainer = Trainer(config, captions)
    trainer.fit(images, torch.from_numpy(codes), args.work / "checkpoint.pt", console)
    origin = {"seed": config.seed, "commit": provenance()["commit"], "training": config.settings()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_bytes(pack(trainer.model, config.towers, trainer.tokenizer.vocabulary, origin))
    measured = figures(args.out, captions, config.test_seed)
    spent = {"CPU seconds": round(trainer.seconds)}
    write_json(args.figures, {**measured, **spent, **origin, "provenance": provenance()})
    console.print_json(data=measured)


if __name__ == "__main__":
    main()
