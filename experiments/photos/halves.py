"""Two halves of the classes of a data set, as folders of links: choose on one, report on the other.

    python experiments/photos/halves.py path/to/cub2010 path/to/halves

``choose`` has every other class by name, from the first on, ``report`` the rest; both have the source's splits.
"""

import argparse
from pathlib import Path


def main() -> None:
    """Make the links; those that are there stay."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "source", type=Path, help="A folder with train/ and test/ of class folders."
    )
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    source = arguments.source.resolve()
    classes = sorted(path.name for path in (source / "train").iterdir() if path.is_dir())
    for half, first in (("choose", 0), ("report", 1)):
        for split in ("train", "test"):
            folder = arguments.out / half / split
            folder.mkdir(parents=True, exist_ok=True)
            for name in classes[first::2]:
                if not (folder / name).is_symlink():
                    (folder / name).symlink_to(source / split / name)


if __name__ == "__main__":
    main()
