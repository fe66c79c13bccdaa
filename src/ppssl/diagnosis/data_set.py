"""The data set: images that are damaged or occur twice, splits that share images, class sizes, labels, image sizes."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from ppssl.data.datamodule import FineGrainedDataModule
from ppssl.data.report import merged
from ppssl.data.scan import CONVERT
from ppssl.data.source import UNKNOWN
from ppssl.data.survey import Survey
from ppssl.diagnosis.finding import Finding, ok, problem, warning
from ppssl.inference.duplicates import doubtful_labels
from ppssl.inference.embed import check_same_images
from ppssl.inference.embedding_file import read_embeddings
from ppssl.inference.embeddings import Embeddings
from ppssl.losses.ais.plugin import AIS
from ppssl.utils.errors import UserError
from ppssl.utils.paths import AnyPath

__all__ = [
    "check_blank",
    "check_broken",
    "check_class_names",
    "check_class_sizes",
    "check_corpora",
    "check_count",
    "check_data",
    "check_doubtful",
    "check_duplicates",
    "check_passed_over",
    "check_shape",
    "check_shared",
    "check_sizes",
    "check_test_classes",
    "check_two_labels",
]

_FEW = 100
"""Training images below which nothing is learned by pretraining."""
_UNEVEN = 50
"""Ratio of the largest to the smallest class."""
_LARGE = 10
"""Ratio of an image's short side to the view from which reading takes most of the time."""
_LONG = 4
"""Ratio of the sides of an image whose crops are stripes."""
_OBLONG = 1.5
"""Ratio of the sides of most images from which a square in the middle may not show the object."""


def check_data(survey: Survey) -> list[Finding]:
    """All checks of a data set that need its images alone."""
    return [
        *check_count(survey),
        *check_passed_over(survey),
        *check_broken(survey),
        *check_shared(survey),
        *check_duplicates(survey),
        *check_two_labels(survey),
        *check_blank(survey),
        *check_sizes(survey),
        *check_shape(survey),
        *check_class_sizes(survey),
        *check_class_names(survey),
        *check_test_classes(survey),
    ]


def check_count(survey: Survey) -> list[Finding]:
    """How many images there are in which split."""
    counts = {split: int((survey.splits == split).sum()) for split in survey.data.sources}
    listed = ", ".join(f"{split} {count:,}" for split, count in counts.items())
    value = f"{listed}; {len(survey.data.classes):,} classes; {len(survey.opened):,} opened"
    if counts["train"] < _FEW:
        advice = (
            f"Collect at least {_FEW} training images, better thousands: unlabelled ones will do."
        )
        return [warning("images", value, advice)]
    return [ok("images", value)]


def check_passed_over(survey: Survey) -> list[Finding]:
    """Whether images were passed over because Pillow does not read them, and class folders that are empty."""
    passed_over = merged(survey.data.sources.values())
    wanted = CONVERT | {"folders without images", "broken links"}
    found = {reason: entry for reason, entry in passed_over.items() if reason in wanted}
    if not found:
        return []
    listed = ", ".join(f"{count:,} {reason} ({name})" for reason, (count, name) in found.items())
    advice = "Convert images to JPEG or PNG, and remove empty folders and broken links."
    return [warning("passed over", listed, advice)]


def check_broken(survey: Survey) -> list[Finding]:
    """Whether images cannot be read."""
    what = "readable"
    if not survey.broken:
        return [ok(what, f"all of {len(survey.opened):,} opened")]
    index, reason = next(iter(survey.broken.items()))
    value = f"{len(survey.broken):,} of {len(survey.opened):,} opened cannot be read: {survey.name(index)} ({reason})"
    if survey.data.on_error == "skip":
        return [
            warning(what, value, "They are skipped (`data.on_error: skip`); repair or remove them.")
        ]
    advice = (
        "Repair or remove them, or set `data.on_error` to `skip`: the run ends at the first one."
    )
    return [problem(what, value, advice)]


def check_shared(survey: Survey) -> list[Finding]:
    """Whether two splits share images: what is measured on them is too good."""
    equal = [group for group in survey.equal if len(set(survey.splits[list(group)])) > 1]
    alike = [pair for pair in survey.alike if len(set(survey.splits[list(pair)])) > 1]
    if not equal and not alike:
        return [ok("splits", "share no image")] if len(survey.data.sources) > 1 else []
    value = f"images in two splits: {len(equal):,} equal, {len(alike):,} nearly so: "
    value += _both(survey, (equal or alike)[0])
    advice = "Remove them from one split; `ppssl duplicates` shows all."
    return [(problem if equal else warning)("splits", value, advice)]


def check_duplicates(survey: Survey) -> list[Finding]:
    """Whether images occur twice within a split."""
    equal = [group for group in survey.equal if len(set(survey.splits[list(group)])) == 1]
    alike = [pair for pair in survey.alike if len(set(survey.splits[list(pair)])) == 1]
    if not equal and not alike:
        return [ok("duplicates", "none within a split")]
    value = f"images that occur again: {len(equal):,} equal, {len(alike):,} nearly so: "
    value += _both(survey, (equal or alike)[0])
    advice = (
        "Remove all but one: an image is a negative of its own copy. `ppssl duplicates` shows all."
    )
    return [warning("duplicates", value, advice)]


def check_two_labels(survey: Survey) -> list[Finding]:
    """Whether equal images have different labels."""
    groups = [
        group for group in survey.equal if len(set(survey.labels[list(group)]) - {UNKNOWN}) > 1
    ]
    if not groups:
        return []
    first = groups[0]
    labels = sorted({survey.data.classes[k] for k in survey.labels[list(first)] if k != UNKNOWN})
    value = f"{len(groups):,} images are in several classes: {_both(survey, first)} ({' and '.join(labels)})"
    return [warning("labels", value, "Decide for one class, and remove the other copies.")]


def _both(survey: Survey, images: Iterable[int]) -> str:
    return " = ".join(survey.name(i) for i in list(images)[:2])


def check_blank(survey: Survey) -> list[Finding]:
    """Whether images are of one colour."""
    blank = survey.readable[(survey.std < 0.004).all(axis=1)]
    if not len(blank):
        return []
    value = f"{len(blank):,} images are of one colour: {survey.name(int(blank[0]))}"
    return [warning("blank images", value, "Look at them, and remove what shows nothing.")]


def check_sizes(survey: Survey) -> list[Finding]:
    """Image sizes against the view: upscaled images have no details, very large ones are read slowly."""
    if not len(sizes := survey.served_sizes):
        return []
    view, short, long = survey.data.image_size, sizes.min(axis=1), sizes.max(axis=1)
    what, middle = "image sizes", int(np.median(short))
    between = f"{short.min()} to {short.max()} pixels (median {middle})"
    value = f"short sides of {between}, views of {view}"
    small = (short < view).mean()
    if small > 0.1:
        lower = max(32, int(np.quantile(short, 0.1)))
        advice = f"Lower `data.image_size` (to {lower}), or use" if lower < view else "Use"
        found = f"{100 * small:.0f} % are smaller than a view: {value}"
        return [warning(what, found, f"{advice} larger originals.")]
    if middle > _LARGE * view:
        advice = f"Save copies with a short side of {4 * view} pixels: decoding takes most of the time otherwise."
        return [warning(what, f"much larger than a view: {value}", advice)]
    narrow = (long > _LONG * short).mean()
    if narrow > 0.05:
        advice = "Cut them: views are crops of at most 4 to 3, a small part of such an image."
        return [
            warning(what, f"{100 * narrow:.0f} % are longer than {_LONG} to 1: {value}", advice)
        ]
    return [ok(what, value)]


def check_shape(survey: Survey) -> list[Finding]:
    """Whether most images are long, and would show more of an object that fills them if they were squashed."""
    if not len(sizes := survey.served_sizes):
        return []
    ratio = float(np.median(sizes[:, 0] / sizes[:, 1]))
    if 1 / _OBLONG <= ratio <= _OBLONG:
        return []
    value = f"median of width / height {ratio:.2f}: evaluation sees a square in the middle"
    advice = "If objects fill their images, such as cars, try `--data.squash=true`; if not, don't."
    return [ok("image shape", value, advice)]


def check_class_sizes(survey: Survey) -> list[Finding]:
    """Whether classes have images to compare with, and are not too uneven."""
    known = survey.of("train")[survey.of("train") != UNKNOWN]
    if not len(known):
        return [ok("classes", "no labels: pretraining needs none, the monitors are off")]
    counts = np.bincount(known, minlength=len(survey.data.classes))
    present = counts[counts > 0]
    what = "classes"
    value = f"{len(present):,} of {present.min():,} to {present.max():,} training images"
    single = [survey.data.classes[k] for k in np.flatnonzero(counts == 1)]
    if len(present) == 1:
        return [
            warning(what, value, "Labels of one class measure nothing: is a folder level missing?")
        ]
    if single:
        advice = "Add images, or remove the class: kNN and retrieval have nothing to find."
        return [warning(what, f"{len(single):,} with one image: {single[0]}", advice)]
    if present.max() > _UNEVEN * present.min():
        advice = "Look at macro accuracy; for a classifier set `model.class_weights` to `balanced`."
        return [warning(what, f"very uneven: {value}", advice)]
    return [ok(what, value)]


def check_class_names(survey: Survey) -> list[Finding]:
    """Whether names differ only by case, spaces or punctuation: probably one class in two folders."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in survey.data.classes:
        alike["".join(filter(str.isalnum, name.casefold()))].append(name)
    pairs = [names for key, names in alike.items() if key and len(names) > 1]
    if not pairs:
        return []
    listed = " and ".join(f"`{name}`" for name in pairs[0])
    return [warning("class names", f"{listed} differ by spelling alone", "Join their folders.")]


def check_test_classes(survey: Survey) -> list[Finding]:
    """Whether each class of the other splits has training images."""
    known = set(survey.of("train"))
    found = []
    for split in survey.data.sources:
        labels = Counter(survey.of(split).tolist())
        missing = [k for k in labels if k not in known and k != UNKNOWN]
        if missing:
            value = f"{len(missing):,} classes of `{split}` have no training image: {survey.data.classes[missing[0]]}"
            advice = (
                "Add training images, or remove the class: none of its images can be recognised."
            )
            found.append(problem(f"{split} classes", value, advice))
    return found


def check_doubtful(survey: Survey, embeddings: AnyPath) -> list[Finding]:
    """Whether neighbours by embedding contradict labels.

    Args:
        survey: The data set.
        embeddings: A file of ``ppssl embed`` of this data set.

    Raises:
        UserError: The file cannot be read, or is of other images.
    """
    check_same_images(embeddings, survey.data)
    parts = [part for part, _ in read_embeddings(embeddings)]
    index = torch.cat([part.index for part in parts])
    labels = torch.from_numpy(survey.labels)[index]
    images = Embeddings(torch.cat([part.features for part in parts]), labels, index)
    doubts = doubtful_labels(images)
    if not doubts:
        return [ok("doubtful labels", "none: each image has a neighbour of its class")]
    first, classes = doubts[0], survey.data.classes
    value = (
        f"{len(doubts):,}, such as {survey.name(first.index)}: `{classes[first.label]}`, and "
        f"{100 * first.share:.0f} % of its neighbours are `{classes[first.proposed]}`"
    )
    return [warning("doubtful labels", value, "Look at them in `ppssl report`.")]


def check_corpora(model: Any, data: FineGrainedDataModule) -> list[Finding]:
    """Whether the corpus of each AIS can be read.

    Args:
        model: The model; others than PPSSL have no corpus.
        data: The data module, after its ``setup``.
    """
    findings = []
    for name, plugin in dict(getattr(model, "plugins", {})).items():
        if isinstance(plugin, AIS):
            try:
                corpus = plugin.load_corpus(data)
            except UserError as error:
                findings.append(problem(f"corpus of {name}", str(error), "Give another corpus."))
            else:
                findings.append(ok(f"corpus of {name}", f"{len(corpus):,} descriptions"))
    return findings
