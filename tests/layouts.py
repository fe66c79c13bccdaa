"""Miniature copies of the field's data sets, laid out file by file like the originals.

Each image has the colour of its class, so that a label can be checked against pixels, and a brighter object at a known
place. Image ``i`` of a class is ``WIDTH + i`` pixels wide: no two of a class are alike.
"""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 48, 40
BOX = (12, 10, 36, 30)
"""Left, top, right, bottom edges of the object in pixels."""
COLOURS = ((160, 40, 40), (40, 160, 40), (40, 40, 160))
SPECIES = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross")
MODELS = ("AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Acura TL Sedan 2012")
VARIANTS = ("707-320", "727-200", "A300B4")
FAMILIES = {"707-320": "Boeing 707", "727-200": "Boeing 727", "A300B4": "A300"}
MAKERS = {"707-320": "Boeing", "727-200": "Boeing", "A300B4": "Airbus"}
PARTS = (
    "back", "beak", "belly", "breast", "crown", "forehead", "left eye", "left leg", "left wing", "nape", "right eye",
    "right leg", "right wing", "tail", "throat",
)  # fmt: skip
TRAIN, VAL, TEST = 3, 1, 2


def picture(label: int, number: int, banner: int = 0) -> Image.Image:
    """An image of a class; a white banner of some rows below it."""
    image = Image.new("RGB", (WIDTH + number, HEIGHT + banner), COLOURS[label])
    image.paste(tuple(c + 90 for c in COLOURS[label]), BOX)
    if banner:
        image.paste((255, 255, 255), (0, HEIGHT, WIDTH + number, HEIGHT + banner))
    return image


def class_of(image: Image.Image) -> int:
    """The class whose colour an image has."""
    corner = np.asarray(image)[1:7, 1:7].reshape(-1, 3).mean(axis=0)
    return int(np.argmin([np.abs(corner - np.array(colour)).sum() for colour in COLOURS]))


def save(path: Path, image: Image.Image) -> None:
    """Write an image, and the folders it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=95)


def write(path: Path, lines: Sequence[str]) -> None:
    """Write a text file, a line each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def class_folders(root: Path, names: Sequence[str], *, val: bool = False, banner: int = 0) -> Path:
    """``train/<class>``, ``test/<class>`` and, if wanted, ``val/<class>``."""
    for split, count in (("train", TRAIN), ("val", VAL if val else 0), ("test", TEST)):
        for label, name in enumerate(names):
            for i in range(count):
                save(root / split / name / f"{i}.jpg", picture(label, i, banner))
    return root


def cub(root: Path) -> Path:
    """``CUB_200_2011`` and, as in the archive, ``attributes.txt`` beside it."""
    home = root / "CUB_200_2011"
    images, labels, split, boxes, points = [], [], [], [], []
    for label, species in enumerate(SPECIES):
        for i in range(TRAIN + TEST):
            number = len(images) + 1
            file = f"{species}/{species[4:]}_{i + 1:04d}_{796_000 + number}.jpg"
            save(home / "images" / file, picture(label, i))
            images.append(f"{number} {file}")
            labels.append(f"{number} {label + 1}")
            split.append(f"{number} {int(i % 2 == 0)}")  # training and test images take turns
            left, top, right, bottom = BOX
            boxes.append(f"{number} {left:.1f} {top:.1f} {right - left:.1f} {bottom - top:.1f}")
            for part in range(len(PARTS)):
                seen = (part + i) % 3 > 0
                place = f"{left + part:.1f} {top + 0.5 * part:.1f} 1" if seen else "0.0 0.0 0"
                points.append(f"{number} {part + 1} {place}")
    write(home / "images.txt", images)
    write(home / "image_class_labels.txt", labels)
    write(home / "train_test_split.txt", split)
    write(home / "classes.txt", [f"{k + 1} {name}" for k, name in enumerate(SPECIES)])
    write(home / "bounding_boxes.txt", boxes)
    write(home / "parts" / "parts.txt", [f"{k + 1} {name}" for k, name in enumerate(PARTS)])
    write(home / "parts" / "part_locs.txt", points)
    names = (
        "has_bill_shape::curved_(up_or_down)",
        "has_bill_shape::dagger",
        "has_size::small_(5_-_9_in)",
    )
    write(root / "attributes.txt", [f"{k + 1} {name}" for k, name in enumerate(names)])
    write(
        home / "attributes" / "class_attribute_labels_continuous.txt",
        ["0.0 20.779220779220779 1e2", "25.0 0.0 75.0", "100.0 100.0 0.0"],
    )
    return root


def cars(root: Path, *, beside: bool = True) -> Path:
    """``stanford_cars`` with its devkit; the labels of the test images beside it, or in it."""
    from scipy.io import savemat

    home = root / "stanford_cars"
    (home / "devkit").mkdir(parents=True)
    names = np.array([MODELS], dtype=object)
    savemat(home / "devkit" / "cars_meta.mat", {"class_names": names}, do_compression=True)
    places = {
        "train": home / "devkit" / "cars_train_annos.mat",
        "test": (home if beside else home / "devkit") / "cars_test_annos_withlabels.mat",
    }
    fields = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
    for split, count in (("train", TRAIN), ("test", TEST)):
        rows = []
        for i in range(count):
            for label in (2, 0, 1):  # in no order
                file = f"{len(rows) + 1:05d}.jpg"
                save(home / f"cars_{split}" / file, picture(label, i))
                left, top, right, bottom = BOX
                rows.append((left + 1, top + 1, right, bottom, label + 1, file))
        annotations = np.array([rows], dtype=[(name, object) for name in fields])
        savemat(places[split], {"annotations": annotations}, do_compression=True)
    return root


def parquet(root: Path, names: Sequence[str] | None = MODELS) -> Path:
    """``data/train-0000k-of-00002.parquet`` and a file of test images, as the datasets library writes them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (root / "data").mkdir(parents=True)
    for split, per_class, shards in (("train", TRAIN, 2), ("test", TEST, 1)):
        rows = []
        for i in range(per_class):
            for label in (1, 2, 0):
                content = io.BytesIO()
                picture(label, i).save(content, "JPEG", quality=95)
                image = {"bytes": content.getvalue(), "path": f"{i}-{label}.jpg"}
                rows.append({"image": image, "label": label, "description": "a car"})
        for k in range(shards):
            table = pa.Table.from_pylist(rows[k::shards])
            if names is not None:
                features = {"label": {"names": list(names), "_type": "ClassLabel"}}
                described = json.dumps({"info": {"features": features}})
                table = table.replace_schema_metadata({"huggingface": described})
            file = root / "data" / f"{split}-{k:05d}-of-{shards:05d}.parquet"
            pq.write_table(table, file, row_group_size=2)
    return root


def aircraft(root: Path) -> Path:
    """``fgvc-aircraft-2013b`` with a banner of 20 rows on each image."""
    data = root / "fgvc-aircraft-2013b" / "data"
    splits: dict[str, list[tuple[str, str]]] = {"train": [], "val": [], "test": []}
    boxes = []
    for label, variant in enumerate(VARIANTS):
        for i in range(TRAIN + VAL + TEST):
            image = f"{1_000_000 + 37 * i + 11 * label:07d}"
            save(data / "images" / f"{image}.jpg", picture(label, i, banner=20))
            split = "train" if i < TRAIN else "val" if i < TRAIN + VAL else "test"
            splits[split].append((image, variant))
            boxes.append(f"{image} {BOX[0] + 1} {BOX[1] + 1} {BOX[2]} {BOX[3]}")
    splits["trainval"] = sorted(splits["train"] + splits["val"])
    write(data / "images_box.txt", boxes)
    levels = {"variant": dict(zip(VARIANTS, VARIANTS, strict=True)), "family": FAMILIES}
    for level, names in (levels | {"manufacturer": MAKERS}).items():
        for split, pairs in splits.items():
            rows = [f"{image} {names[variant]}" for image, variant in pairs]
            write(data / f"images_{level}_{split}.txt", rows)
    write(data / "variants.txt", VARIANTS)
    write(data / "families.txt", sorted(FAMILIES.values()))
    write(data / "manufacturers.txt", sorted(set(MAKERS.values())))
    return root


def flowers(root: Path) -> Path:
    """``flowers-102`` as torchvision lays it out."""
    from scipy.io import savemat

    home, labels = root / "flowers-102", []
    parts: dict[str, list[int]] = {"trnid": [], "valid": [], "tstid": []}
    for i in range(TRAIN + VAL + TEST):
        for label in range(3):
            labels.append(label + 1)
            save(home / "jpg" / f"image_{len(labels):05d}.jpg", picture(label, i))
            part = "trnid" if i < TRAIN else "valid" if i < TRAIN + VAL else "tstid"
            parts[part].append(len(labels))
    savemat(home / "imagelabels.mat", {"labels": np.array([labels])})
    savemat(home / "setid.mat", {name: np.array([ids]) for name, ids in parts.items()})
    return root


def pets(root: Path) -> Path:
    """``oxford-iiit-pet`` as torchvision lays it out."""
    home = root / "oxford-iiit-pet"
    for split, first, count in (("trainval", 0, TRAIN), ("test", TRAIN, TEST)):
        rows = []
        for label, breed in enumerate(("Abyssinian", "american_bulldog", "Bengal")):
            for i in range(first, first + count):
                save(home / "images" / f"{breed}_{i}.jpg", picture(label, i))
                rows.append(f"{breed}_{i} {label + 1} 1 1")
        write(home / "annotations" / f"{split}.txt", rows)
    return root


def food(root: Path) -> Path:
    """``food-101`` as torchvision lays it out."""
    home = root / "food-101"
    for split, first, count in (("train", 0, TRAIN), ("test", TRAIN, TEST)):
        listed = {}
        for label, dish in enumerate(("apple_pie", "baklava", "churros")):
            listed[dish] = [f"{dish}/{i}" for i in range(first, first + count)]
            for i in range(first, first + count):
                save(home / "images" / dish / f"{i}.jpg", picture(label, i))
        write(home / "meta" / f"{split}.json", [json.dumps(listed)])
    return root


def nabirds(root: Path) -> Path:
    """``nabirds`` as its archive has it: class folders, and a file that splits the images."""
    images, split = [], []
    for label, name in enumerate(("0295", "0296", "0305")):
        for i in range(TRAIN + TEST):
            key = f"{label:08x}-{i:04x}-4b1c-8e1e-0123456789ab"
            file = f"{name}/{key.replace('-', '')}.jpg"
            save(root / "nabirds" / "images" / file, picture(label, i))
            images.append(f"{key} {file}")
            split.append(f"{key} {int(i < TRAIN)}")
    write(root / "nabirds" / "images.txt", images)
    write(root / "nabirds" / "train_test_split.txt", split)
    return root / "nabirds"


def dogs(root: Path) -> Path:
    """``Images`` and ``train_list.mat``, ``test_list.mat`` as Stanford Dogs' archives have them."""
    from scipy.io import savemat

    for split, first, count in (("train", 0, TRAIN), ("test", TRAIN, TEST)):
        files, labels = [], []
        for label, name in enumerate(("n02085620-Chihuahua", "n02085782-Japanese_spaniel")):
            for i in range(first, first + count):
                file = f"{name}/{name.split('-')[0]}_{i}.jpg"
                save(root / "Images" / file, picture(label, i))
                files.append(file)
                labels.append([label + 1])
        column = np.array([[file] for file in files], dtype=object)
        savemat(root / f"{split}_list.mat", {"file_list": column, "labels": np.array(labels)})
    return root
