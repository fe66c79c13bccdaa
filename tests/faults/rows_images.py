"""Rows: image folders and image files."""

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from faults.damage import Damage, blank, cut, flipped
from faults.outcome import Row, World

FIT = "fit --config ppssl:folder/pretrain --data.root $here/images --trainer.default_root_dir $here/run $small"
PIXELS = np.random.default_rng(0).integers(0, 255, (40, 48, 3), dtype=np.uint8)


def encoded(kind: str, image: Image.Image | None = None, **options: object) -> bytes:
    """Bytes of an image file of a format."""
    content = io.BytesIO()
    (image or Image.fromarray(PIXELS)).save(content, kind, **options)
    return content.getvalue()


def beside(name: str, content: bytes | Callable[[], bytes]) -> Callable[[Path, World], None]:
    """Makes a copy of the good folder with one more file in a class."""

    def make(here: Path, world: World) -> None:
        shutil.copytree(world["images"], here / "images")
        path = here / "images" / "train" / "class0" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content())

    return make


def folder(change: Callable[[Path], object]) -> Callable[[Path, World], None]:
    """Makes a copy of the good folder that is changed."""

    def make(here: Path, world: World) -> None:
        shutil.copytree(world["images"], here / "images")
        change(here / "images")

    return make


def damaged(damage: Damage, kind: str) -> Callable[[], bytes]:
    """Bytes of a damaged image file."""
    return lambda: damage(encoded(kind))


PNG = encoded("PNG")
FILES: dict[str, tuple[str, bytes | Callable[[], bytes], str, str]] = {
    "empty": ("x.png", b"", "x.png", "line"),
    "text": ("x.jpg", b"404 not found", "x.jpg", "line"),
    "a web page": ("x.jpg", b"<html>sign in</html>", "x.jpg", "line"),
    "a video": ("x.mp4", b"\0\0\0\x18ftypmp42", r"1 \.mp4", "right"),
    "notes": ("notes.txt", b"blurred: 3, 7", r"1 \.txt", "right"),
    "a thumbnail database": ("Thumbs.db", bytes(99), r"1 \.db", "right"),
    "a resource fork": ("._0.png", bytes(99), "1 hidden", "right"),
    "a photo of a phone": ("x.heic", b"\0\0\0\x18ftypheic", r"\.heic.*Convert them", "right"),
    "a raw photo": ("x.nef", bytes(99), r"\.nef.*Convert them", "right"),
    "a drawing": ("x.svg", b"<svg/>", r"\.svg.*Convert them", "right"),
    "a PNG called .jpg": ("x.jpg", PNG, "", "right"),
    "no ending": ("x", PNG, "", "right"),
    "capitals": ("X.PNG", PNG, "", "right"),
    "a name in Chinese": ("北京.png", PNG, "", "right"),
    "a name with a line break": ("a\nb.png", PNG, "", "right"),
    "a name that is no UTF-8": (os.fsdecode(b"a\xff.png"), PNG, "", "right"),
    "one pixel": ("x.png", encoded("PNG", Image.new("RGB", (1, 1))), "", "right"),
    "one pixel high": ("x.png", encoded("PNG", Image.new("RGB", (4000, 1))), "", "right"),
    "black and white": ("x.png", encoded("PNG", Image.new("1", (40, 40))), "", "right"),
    "greyscale": ("x.png", encoded("PNG", Image.new("L", (40, 40))), "", "right"),
    "a palette": ("x.gif", encoded("GIF"), "", "right"),
    "transparency": ("x.png", encoded("PNG", Image.new("RGBA", (40, 40))), "", "right"),
    "grey with transparency": ("x.png", encoded("PNG", Image.new("LA", (40, 40))), "", "right"),
    "CMYK": ("x.jpg", encoded("JPEG", Image.new("CMYK", (40, 40))), "", "right"),
    "YCbCr": ("x.jpg", encoded("JPEG", Image.new("YCbCr", (40, 40))), "", "right"),
    "16 bits": ("x.png", encoded("PNG", Image.fromarray(np.full((40, 40), 65535, np.uint16))), "", "right"),
    "12 bits in 16": ("x.png", encoded("PNG", Image.fromarray(np.full((40, 40), 4095, np.uint16))), "", "either"),
    "floating point": ("x.tiff", encoded("TIFF", Image.new("F", (40, 40))), "floating-point", "line"),
    "32 bits": ("x.tiff", encoded("TIFF", Image.fromarray(np.full((40, 40), 70000, np.int32))), "32-bit|range", "line"),
    "WebP": ("x.webp", encoded("WEBP"), "", "right"),
    "BMP": ("x.bmp", encoded("BMP"), "", "right"),
    "an animation": ("x.gif", encoded("GIF", save_all=True, append_images=[Image.new("RGB", (48, 40))]), "", "right"),
    "a decompression bomb": ("x.png", encoded("PNG", Image.new("1", (20000, 20000))), "x.png", "line"),
    "more at the end": ("x.png", PNG + bytes(9999), "", "right"),
    **{f"a JPEG, cut at {s:.0%}": ("x.jpg", damaged(cut(s), "JPEG"), "x.jpg", "line") for s in (0.01, 0.3, 0.9)},
    **{f"a PNG, cut at {s:.0%}": ("x.png", damaged(cut(s), "PNG"), "x.png", "line") for s in (0.1, 0.5, 0.9)},
    **{f"a {k}, cut in the middle": (f"x.{k.lower()}", damaged(cut(0.5), k), "x", "line") for k in ("WEBP", "BMP", "GIF", "TIFF")},
    **{f"a {k}, bits flipped ({seed})": (f"x.{k.lower()}", damaged(flipped(seed, 4), k), "", "either") for seed in range(3) for k in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")},
    **{f"a {k}, a block of zeros": (f"x.{k.lower()}", damaged(blank(1, 64), k), "", "either") for k in ("JPEG", "PNG", "GIF")},
}  # fmt: skip


def _link_to_itself(root: Path) -> None:
    (root / "train" / "class0" / "again").symlink_to(root / "train")


def _broken_link(root: Path) -> None:
    (root / "train" / "class0" / "x.png").symlink_to(root / "nowhere.png")


def _all_broken(root: Path) -> None:
    for path in root.rglob("*.png"):
        path.write_bytes(b"")


def _emptied(root: Path) -> None:
    shutil.rmtree(root / "train" / "class1")
    (root / "train" / "class1").mkdir()


def _one_class(root: Path) -> None:
    for name in ("class1", "class2"):
        for split in ("train", "test"):
            shutil.rmtree(root / split / name)


def _unknown_class(root: Path) -> None:
    shutil.copytree(root / "test" / "class0", root / "test" / "class9")


def _deeper(root: Path) -> None:
    (root / "data").mkdir()
    for split in ("train", "test"):
        shutil.move(root / split, root / "data" / split)


def _flat(root: Path) -> None:
    for i, path in enumerate(sorted(root.rglob("*.png"))):
        shutil.move(path, root / f"{i}.png")
    for split in ("train", "test"):
        shutil.rmtree(root / split)


def _renamed(root: Path) -> None:
    (root / "train").rename(root / "Training")


def _loose(root: Path) -> None:
    shutil.copy(root / "train" / "class0" / "0.png", root / "train" / "0.png")


def _both(root: Path) -> None:
    shutil.copytree(root / "test", root / "testing")


def _same_images(root: Path) -> None:
    shutil.rmtree(root / "test")
    shutil.copytree(root / "train", root / "test")


def _few(root: Path) -> None:
    for path in root.glob("train/*/*.png"):
        if path.stem not in "0":
            path.unlink()


def _pipe(root: Path) -> None:
    os.mkfifo(root / "train" / "class0" / "x.png")


FOLDERS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a link to a folder above": (_link_to_itself, "", "right"),
    "a broken link": (_broken_link, "broken link", "right"),
    "only broken images": (_all_broken, "empty", "line"),
    "a class without images": (_emptied, "class1 is not one of the 2 classes", "line"),
    "one class": (_one_class, "", "right"),
    "a class in the test images alone": (_unknown_class, "class9", "line"),
    "a level deeper": (_deeper, "", "right"),
    "no folders of classes": (_flat, "without labels", "right"),
    "`Training` in place of `train`": (_renamed, "", "right"),
    "an image beside the classes": (_loose, "", "right"),
    "`test` and `testing`": (_both, "testing", "line"),
    "the same images for training and test": (_same_images, "", "right"),
    "one image a class": (_few, "larger than the data set", "line"),
    "a pipe": (_pipe, "1 no files", "right"),
    "nothing": (lambda root: [shutil.rmtree(root / s) for s in ("train", "test")], "images", "line"),
}  # fmt: skip
IMAGES = [
    *(Row(f"an image: {what}", FIT, expected, says, beside(name, content))
      for what, (name, content, says, expected) in FILES.items()),
    Row("a broken image, to be skipped", f"{FIT} --data.on_error=skip", "right", "x.png", beside("x.png", b"")),
    *(Row(f"`{c.split()[0]}`: a broken image", f"{c}", "line", "x.png", beside("x.png", b"\x89PNG"))
      for c in ("embed $last --data $data_yaml --data.root=$here/images --out $here/e.parquet",
                "evaluate $last --data $data_yaml --data.root=$here/images",
                "explain $last $here/images/train/class0/x.png --out $here/o",
                "neighbours $here/images/train/class0/x.png --embeddings $embeddings --checkpoint $last")),
]  # fmt: skip
LAYOUTS = [
    Row(f"a folder: {what}", FIT, expected, says, folder(change))
    for what, (change, says, expected) in FOLDERS.items()
]
ROWS = {"Image files": IMAGES, "Image folders": LAYOUTS}
