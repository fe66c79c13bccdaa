from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from ppssl import DatasetDataModule, FolderDataModule, UserError, embed, neighbours
from ppssl.inference.embedding_file import read_description, read_embeddings
from ppssl.inference.embeddings import embed_loader


class Colour(nn.Module):
    """The mean of each channel; counts the images it has seen, and stops where told."""

    pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}  # noqa: RUF012
    num_features = 3

    def __init__(self, limit: int = 10**6) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.seen, self.limit = 0, limit

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        if self.seen > self.limit:
            raise KeyboardInterrupt
        return images.mean(dim=(2, 3)) * self.scale


def _data(images: Path, **kwargs: Any) -> FolderDataModule:
    return FolderDataModule(
        str(images), **{"image_size": 32, "batch_size": 4, "num_workers": 0} | kwargs
    )


def test_a_row_an_image_of_all_splits(image_folder: Path, tmp_path: Path) -> None:
    data, out = _data(image_folder), tmp_path / "new" / "e.parquet"
    assert embed(Colour(), data, out, part_size=7) == out
    table = pq.read_table(out).to_pydict()
    assert table["index"] == list(range(36))
    assert table["split"] == ["train"] * 24 + ["test"] * 12
    assert table["path"][0] == str(image_folder / "train" / "class0" / "0.png")
    assert table["path"][-1] == str(image_folder / "test" / "class2" / "3.png")
    assert table["class"][-1] == "class2"
    cfg = Colour().pretrained_cfg
    data.normalise_with(cfg["mean"], cfg["std"])
    expected = embed_loader(Colour(), data.eval_loader("test"), data).features
    torch.testing.assert_close(torch.tensor(table["embedding"][24:]), expected)
    assert [p.name for p in out.parent.iterdir()] == ["e.parquet"]
    rows = list(read_embeddings(out, rows=10))
    assert [len(names) for _, names in rows] == [10, 10, 10, 6]
    assert torch.equal(torch.cat([r.features for r, _ in rows]), torch.tensor(table["embedding"]))


def test_an_interruption_keeps_what_was_done(image_folder: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "e.parquet", tmp_path / "whole.parquet"
    with pytest.raises(KeyboardInterrupt):
        embed(Colour(limit=17), _data(image_folder), out, part_size=8)
    assert not out.exists()
    model = Colour()
    embed(model, _data(image_folder), out, part_size=8)
    assert model.seen == 36 - 16
    embed(Colour(), _data(image_folder), whole)
    assert pq.read_table(out).equals(pq.read_table(whole))
    again = Colour()
    embed(again, _data(image_folder), out)
    assert again.seen == 0


def test_parts_of_another_encoder_or_other_images_are_not_used(
    image_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "e.parquet"
    with pytest.raises(KeyboardInterrupt):
        embed(Colour(limit=17), _data(image_folder), out, part_size=8)
    other = Colour()
    other.scale.data *= 2
    embed(other, _data(image_folder), out, part_size=8)
    assert other.seen == 36
    first = read_description(out)
    larger = Colour()
    larger.scale.data *= 2
    embed(larger, _data(image_folder, image_size=24), out)
    assert larger.seen == 36
    assert read_description(out).image_size == 24
    assert read_description(out).encoder == first.encoder


def test_names_and_labels_are_those_of_the_last_call(image_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "e.parquet"
    embed(Colour(), _data(image_folder), out)
    moved = image_folder.rename(tmp_path / "moved")
    paths = pq.read_table(embed(Colour(), _data(moved), out))["path"].to_pylist()
    assert all(Path(path).is_file() for path in paths)
    table = {"file": [str(moved / "test" / "class1" / f"{i}.png") for i in range(4)]}
    table |= {"genus": ["a", "b"] * 2, "species": ["x", "y", "y", "x"]}
    for name in ("genus", "species"):
        data = DatasetDataModule(table, label_column=name, image_size=32, num_workers=0)
        assert pq.read_table(embed(Colour(), data, out))["class"].to_pylist() == table[name]
    again = Colour()
    embed(again, data, out)
    assert again.seen == 0


def test_one_call_writes_a_file_at_a_time(image_folder: Path, tmp_path: Path) -> None:
    out, second = tmp_path / "e.parquet", Colour()

    class Interfering(Colour):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            with pytest.raises(UserError, match=r"Another process is writing .*e\.parquet: wait"):
                embed(second, _data(image_folder), out)
            return super().forward(images)

    embed(Interfering(), _data(image_folder), out)
    assert second.seen == 0
    assert [p.name for p in tmp_path.glob("*e.parquet*")] == ["e.parquet"]
    for size in (0, -1):
        with pytest.raises(ValueError, match=f"`part_size` must be >= 1, got {size}"):
            embed(second, _data(image_folder), out, part_size=size)


def test_files_that_are_none_are_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file of embeddings"):
        read_description(tmp_path / "none.parquet")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="is not a file of embeddings"):
        read_description(tmp_path / "torn.parquet")


def test_neighbours_are_the_nearest_of_all_parts(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, picture = tmp_path / "e.parquet", tmp_path / "n.png"
    data = _data(image_folder)
    embed(Colour(), data, out)
    query = image_folder / "test" / "class1" / "2.png"
    monkeypatch.setattr(read_embeddings, "__defaults__", (5,))  # parts of five rows
    found = neighbours(query, out, Colour(), k=6, out=picture)
    table = pq.read_table(out).to_pydict()
    features = nn.functional.normalize(torch.tensor(table["embedding"]).double(), dim=1)
    similarity = features @ features[table["path"].index(str(query))]
    expected = similarity.argsort(descending=True)[:6].tolist()
    assert [n.index for n in found] == [table["index"][i] for i in expected]
    assert found[0].path == str(query)
    assert found[0].similarity == pytest.approx(1)
    assert {n.class_name for n in found} == {"class1"}
    assert picture.stat().st_size > 10_000


def test_neighbours_say_what_is_wrong(image_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "e.parquet"
    embed(Colour(), _data(image_folder), out)
    query = image_folder / "test" / "class1" / "2.png"
    other = Colour()
    other.scale.data *= 2
    with pytest.raises(UserError, match="are from another encoder"):
        neighbours(query, out, other)
    (tmp_path / "no.png").write_text("none")
    with pytest.raises(UserError, match=r"Cannot read .*no\.png: not an image"):
        neighbours(tmp_path / "no.png", out, Colour())
    picture = tmp_path / "other.png"
    for images in (image_folder / "test", image_folder / "train" / "class0"):  # fewer, or others
        with pytest.raises(UserError, match=r"e\.parquet is of other images than the data set"):
            neighbours(query, out, Colour(), out=picture, data=_data(images))
    (image_folder / "test" / "class1" / "3.png").rename(tmp_path / "away.png")
    with pytest.raises(UserError, match=r"3.png`: no such file"):
        neighbours(query, out, Colour(), k=36, out=tmp_path / "n.png")
