"""A teacher of photographs without CLIP: an ImageNet encoder and a sentence encoder, joined by a linear map.

The map is fitted on images of classes that the student never sees, with phrases about each class, so no label and no
class of the student's is used. It is a weak teacher, and an honest one: the fit reports how often it names the right
class among classes that it has not seen.

    python -m experiments.teacher.photographs --images OTHER_HALF/train --unseen HALF/test --phrases descriptors.json
        --image-weights lite2.safetensors --sentences MINILM --out runs/teacher/head.safetensors

``ridge`` is a ridge regression of the features onto the mean phrase of their class; ``contrastive`` a linear head
trained with the cross-entropy of class means and phrases; ``conse`` needs no fit and no images: the mean of the name
embeddings of the likeliest ImageNet classes (Norouzi et al., ICLR 2014). As a teacher of AIS or Distillation:

    teacher:
      class_path: experiments.teacher.photographs.Photographs
      init_args: {head: runs/teacher/head.safetensors, image_weights: lite2.safetensors, sentences: MINILM}

The phrases of all classes, each once and without its class, are written beside it (``head.txt``), as a corpus for AIS.
"""

import argparse
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from rich.progress import track
from safetensors.torch import load_file, save_file
from timm.data import ImageNetInfo
from torch import Tensor, nn

from ppssl import Teacher, TimmTeacher
from ppssl.utils.results import show_table, write_json

BACKBONE, SIZE = "tf_efficientnet_lite2", 224


class Sentences:
    """Mean-pooled sentence embeddings of a folder of transformers, such as MiniLM: ``(n, e)`` float32, of length 1."""

    def __init__(self, folder: str) -> None:
        from transformers import AutoModel, AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder).eval()

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Embed texts, 64 at a time."""
        rows = []
        for i in range(0, len(texts), 64):
            batch = self.tokenizer(list(texts[i : i + 64]), padding=True, return_tensors="pt")
            mask = batch["attention_mask"][..., None]
            hidden = self.model(**batch).last_hidden_state
            rows.append((hidden * mask).sum(dim=1) / mask.sum(dim=1))
        return F.normalize(torch.cat(rows), dim=1)


class Photographs(Teacher):
    """The teacher: ``head`` maps the features of :data:`BACKBONE` to the centred space of the sentence encoder.

    Args:
        head: File that this script wrote.
        image_weights: Weights of the image encoder.
        sentences: Folder of the sentence encoder.
    """

    temperature = 0.05

    def __init__(self, head: str, image_weights: str, sentences: str) -> None:
        self.head, self.image_weights, self.sentences = head, image_weights, sentences
        self.name = f"photographs {Path(head).stem}"
        self.images = TimmTeacher(BACKBONE, pretrained=image_weights, image_size=SIZE)
        self.input_size = SIZE
        self.map = load_file(head)
        self.dim = len(self.map["text_mean"])

    @cached_property
    def texts(self) -> Sentences:
        """The sentence encoder."""
        return Sentences(self.sentences)

    @cached_property
    def transform(self) -> Callable[[Image.Image], Tensor]:  # type: ignore[override]
        """Preprocessing of the image encoder."""
        return self.images.transform

    @property
    def mean(self) -> tuple[float, ...]:  # type: ignore[override]
        """Mean of the image encoder's input."""
        return self.images.mean

    @property
    def std(self) -> tuple[float, ...]:  # type: ignore[override]
        """Standard deviation of the image encoder's input."""
        return self.images.std

    def fingerprint(self) -> str:
        """Hash of the head; its name and the encoders never change."""
        return hashlib.sha256(Path(self.head).read_bytes()).hexdigest()

    def embed_images(self, pixels: Tensor) -> Tensor:
        """Features times the map."""
        return F.normalize(apply_map(self.map, self.images.embed_images(pixels).cpu()), dim=1)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Sentence embeddings less the mean phrase."""
        return F.normalize(self.texts(texts) - self.map["text_mean"], dim=1)

    def fits(self, text: str) -> bool:
        """Whether the sentence encoder reads all of it."""
        return len(self.texts.tokenizer(text)["input_ids"]) <= 256

    def to(self, device: torch.device | str) -> "Photographs":
        """Move the image encoder; returns itself."""
        self.images.to(device)
        return self


def apply_map(weights: dict[str, Tensor], features: Tensor) -> Tensor:
    """Embeddings of features of length 1: linear, or by the likeliest ImageNet classes (ConSE)."""
    if "names" in weights:
        p, chosen = (features * weights["norm"] @ weights["W"].T + weights["bias"]).topk(10, dim=1)
        return torch.einsum("bk,bke->be", p.softmax(dim=1), weights["names"][chosen])
    return (features - weights["mean"]) @ weights["W"] + weights["offset"]


def embed_folder(folder: Path, weights: str) -> tuple[Tensor, Tensor, list[str]]:
    """Features ``(N, D)`` of length 1 of a class folder, labels, and class names."""
    teacher = TimmTeacher(BACKBONE, pretrained=weights, image_size=SIZE)
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    files = [
        (path, label)
        for label, name in enumerate(names)
        for path in sorted((folder / name).iterdir())
    ]
    rows = []
    for i in track(range(0, len(files), 32), description=f"Embedding {folder}", transient=True):
        pixels = [teacher.transform(Image.open(path)) for path, _ in files[i : i + 32]]
        rows.append(teacher.embed_images(torch.stack(pixels)))
    return torch.cat(rows), torch.tensor([label for _, label in files]), names


def class_phrases(names: Sequence[str], path: Path) -> list[list[str]]:
    """Phrases of each class of a folder, ``017.Cardinal`` or ``Cardinal``."""

    def key(name: str) -> str:
        return re.sub(r"^[0-9]+[.]|[^a-z0-9]", "", name.lower())

    table = {key(name): phrases for name, phrases in json.loads(path.read_text()).items()}
    return [table[key(name)] for name in names]


def ridge(
    features: Tensor, labels: Tensor, means: Tensor, strength: float = 0.3
) -> dict[str, Tensor]:
    """Ridge regression of centred features onto the mean phrase of their class."""
    mean, offset = features.mean(dim=0), means[labels].mean(dim=0)
    x, y = features - mean, means[labels] - offset
    gram = x.T @ x + strength * torch.eye(x.shape[1])
    return {"mean": mean, "W": torch.linalg.solve(gram, x.T @ y), "offset": offset}


def contrastive(
    features: Tensor,
    labels: Tensor,
    means: Tensor,
    phrases: Tensor,
    member: Tensor,
    steps: int = 400,
) -> dict[str, Tensor]:
    """Linear head by cross-entropy over class means and over phrases, with dropout, noise and weight decay."""
    torch.manual_seed(0)
    mean, scale = features.mean(dim=0), 36.0  # features of unit variance, about
    head = nn.Sequential(nn.Dropout(0.3), nn.Linear(features.shape[1], means.shape[1]))
    log_scale = nn.Parameter(torch.tensor(2.7))
    optimizer = torch.optim.AdamW([*head.parameters(), log_scale], lr=2e-3, weight_decay=0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    positive = member / member.sum(dim=1, keepdim=True)
    for _ in range(steps):
        i = torch.randint(len(features), (256,))
        x = (features[i] - mean) * scale + 0.1 * torch.randn(256, features.shape[1])
        v = log_scale.exp() * F.normalize(head(x), dim=1)
        of_phrases = (positive[labels[i]] * (v @ phrases.T).log_softmax(dim=1)).sum(dim=1).mean()
        loss = F.cross_entropy(v @ means.T, labels[i]) - 0.5 * of_phrases
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    linear: nn.Linear = head[1]  # type: ignore[assignment]
    weight = linear.weight.detach().T * scale
    return {"mean": mean, "W": weight.contiguous(), "offset": linear.bias.detach()}


def conse(weights: str, sentences: Sentences, text_mean: Tensor) -> dict[str, Tensor]:
    """ConSE: the classifier of ImageNet, and the embeddings of its class names."""
    state = load_file(weights)
    names = [text.split(",")[0] for text in ImageNetInfo().label_descriptions()]
    embedded = F.normalize(sentences([f"a photo of a {name}" for name in names]) - text_mean, dim=1)
    norm = torch.tensor(14.0)  # of the features, about: the bank has them at length 1
    return {
        "W": state["classifier.weight"],
        "bias": state["classifier.bias"],
        "names": embedded,
        "norm": norm,
    }


def zero_shot(v: Tensor, labels: Tensor, means: Tensor) -> dict[str, float]:
    """Share of images whose class is the first, or among the first five, by the mean phrases of unseen classes."""
    order = (F.normalize(v, dim=1) @ means.T).argsort(dim=1, descending=True)
    hit = order == labels[:, None]
    return {
        "top-1": hit[:, 0].float().mean().item(),
        "top-5": hit[:, :5].any(dim=1).float().mean().item(),
    }


def fit(arguments: argparse.Namespace) -> None:
    """Fit a map, and say what it knows of unseen classes."""
    sentences = Sentences(str(arguments.sentences))
    seen, labels, names = embed_folder(arguments.images, str(arguments.image_weights))
    of_class = class_phrases(names, arguments.phrases)
    phrases = sorted({text for texts in of_class for text in texts})
    embedded = sentences(phrases)
    text_mean = embedded.mean(dim=0)
    embedded = F.normalize(embedded - text_mean, dim=1)
    member = torch.tensor([[float(text in texts) for text in phrases] for texts in of_class])
    means = F.normalize(member @ embedded, dim=1)
    if arguments.kind == "ridge":
        weights = ridge(seen, labels, means)
    elif arguments.kind == "contrastive":
        weights = contrastive(seen, labels, means, embedded, member)
    else:
        weights = conse(str(arguments.image_weights), sentences, text_mean)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.contiguous() for name, value in weights.items()} | {"text_mean": text_mean},
        arguments.out,
    )
    every = {text for texts in json.loads(arguments.phrases.read_text()).values() for text in texts}
    arguments.out.with_suffix(".txt").write_text("\n".join(sorted(every)) + "\n")
    unseen, unseen_labels, unseen_names = embed_folder(
        arguments.unseen, str(arguments.image_weights)
    )
    rows = [
        F.normalize(sentences(texts) - text_mean, dim=1).mean(dim=0)
        for texts in class_phrases(unseen_names, arguments.phrases)
    ]
    result = zero_shot(
        apply_map(weights, unseen), unseen_labels, F.normalize(torch.stack(rows), dim=1)
    )
    result |= {"classes": len(unseen_names), "images": len(unseen)}
    shares = [f"{100 * result[name]:.1f} %" for name in ("top-1", "top-5")]
    show_table(
        f"{arguments.kind}, {len(unseen_names)} unseen classes", ["top-1", "top-5"], [shares]
    )
    write_json(arguments.out.with_suffix(".json"), {"kind": arguments.kind, "unseen": result})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kind", choices=["ridge", "contrastive", "conse"], default="contrastive")
    for name in ("images", "unseen", "phrases", "image-weights", "sentences", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    fit(parser.parse_args())


if __name__ == "__main__":
    main()
