"""The field's data sets, each in every layout it lies on disks in: labels, sizes, and all that is done with data."""

import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning.pytorch import Trainer

import layouts
from damage import damaged
from ppssl import (
    IADM,
    PPSSL,
    AircraftDataModule,
    CarsDataModule,
    CUBDataModule,
    FineGrainedDataModule,
    TorchvisionDataModule,
    evaluate,
)
from ppssl.data.sets.published import PublishedDataModule
from ppssl.losses.contrastive import MoCo
from ppssl.losses.iadm.callback import IADMCallback
from ppssl.utils.errors import UserError
from ppssl.utils.instantiate import instantiate

SMALL: dict[str, Any] = {"image_size": 32, "batch_size": 4, "num_workers": 0}
OPEN = SMALL | {"check_counts": False}


def _folders(root: Path, **kwargs: Any) -> Path:
    return layouts.class_folders(root, layouts.SPECIES, **kwargs)


def _nested_cars(root: Path) -> Path:
    layouts.cars(root, beside=False)
    for split in ("cars_train", "cars_test"):
        folder = root / "stanford_cars" / split
        folder.rename(root / "away")
        shutil.move(root / "away", folder / split)
    return root / "stanford_cars"


def _data(layout: str, root: Path) -> FineGrainedDataModule:
    """A data set in a layout."""
    match layout.split():
        case ["cub"]:
            return CUBDataModule(str(layouts.cub(root)), **OPEN)
        case ["cub", "itself"]:
            return CUBDataModule(str(layouts.cub(root) / "CUB_200_2011"), **OPEN)
        case ["cub", "folders"]:
            return CUBDataModule(str(_folders(root)), **OPEN)
        case ["cars"]:
            return CarsDataModule(str(layouts.cars(root)), **OPEN)
        case ["cars", "itself"]:
            return CarsDataModule(str(layouts.cars(root) / "stanford_cars"), **OPEN)
        case ["cars", "nested"]:
            return CarsDataModule(str(_nested_cars(root)), **OPEN)
        case ["cars", "parquet"]:
            return CarsDataModule(str(layouts.parquet(root)), **OPEN)
        case ["cars", "parquet", "itself"]:
            return CarsDataModule(str(layouts.parquet(root) / "data"), **OPEN)
        case ["cars", "folders"]:
            return CarsDataModule(str(_folders(root)), **OPEN)
        case ["aircraft"]:
            return AircraftDataModule(str(layouts.aircraft(root)), **OPEN)
        case ["aircraft", "itself"]:
            home = layouts.aircraft(root) / "fgvc-aircraft-2013b"
            return AircraftDataModule(str(home), **OPEN)
        case ["aircraft", "lists"]:
            home = layouts.aircraft(root) / "fgvc-aircraft-2013b" / "data"
            return AircraftDataModule(str(home), **OPEN)
        case ["aircraft", "folders"]:
            return AircraftDataModule(str(_folders(root, val=True, banner=20)), **OPEN)
        case ["flowers"]:
            return TorchvisionDataModule("Flowers102", str(layouts.flowers(root)), **OPEN)
        case ["pets"]:
            return TorchvisionDataModule("OxfordIIITPet", str(layouts.pets(root)), **OPEN)
        case ["food"]:
            return TorchvisionDataModule("Food101", str(layouts.food(root)), **OPEN)
    raise ValueError(layout)


LAYOUTS = (
    "cub", "cub itself", "cub folders", "cars", "cars itself", "cars nested", "cars parquet", "cars parquet itself",
    "cars folders", "aircraft", "aircraft itself", "aircraft lists", "aircraft folders", "flowers", "pets", "food",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _flowers_of_three_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchvision compares Flowers102's small files with the originals' MD5, and has its class names built in."""
    from torchvision.datasets import Flowers102

    monkeypatch.setattr(Flowers102, "classes", Flowers102.classes[:3])
    monkeypatch.setattr(Flowers102, "_check_integrity", lambda self: self._images_folder.is_dir())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_labels_are_the_images_own(layout: str, tmp_path: Path) -> None:
    data = _data(layout, tmp_path)
    data.setup()
    assert list(data.sources) == ["train", "test"]
    train = layouts.TRAIN + (layouts.VAL if data.num_train > 9 else 0)
    for source, per_class in ((data.sources["train"], train), (data.sources["test"], layouts.TEST)):
        seen = [layouts.class_of(source.load(i)) for i in range(len(source))]
        assert source.labels.tolist() == seen
        assert sorted(seen) == sorted([0, 1, 2] * per_class)
        assert len(source.classes) == 3
        names = [source.name(i) for i in range(len(source))]
        assert len(set(names)) == len(names)
    assert data.classes == data.sources["test"].classes
    paths = {data.sources[split].name(i) for split in ("train", "test") for i in range(5)}
    assert len(paths) == 10  # no image is in both
    again = instantiate(data.config())  # what a checkpoint remembers of the data
    again.setup()
    assert again.sources["train"].fingerprint() == data.sources["train"].fingerprint()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_step_an_evaluation_and_the_health_of_saliency(layout: str, tmp_path: Path) -> None:
    data = _data(layout, tmp_path / "data")
    torch.manual_seed(0)
    model = PPSSL(
        backbone="resnet_small",
        backbone_kwargs={"width": 4},
        contrastive=MoCo(dim=8),
        plugins={"iadm": IADM(start=0.0, full=0.0)},
    )
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False}
    quiet |= {"enable_progress_bar": False, "enable_model_summary": False}
    watch = IADMCallback(every_n_epochs=0, num_probes=6)
    trainer = Trainer(
        max_epochs=1, limit_train_batches=1, accelerator="cpu", callbacks=[watch], **quiet
    )
    trainer.fit(model, data)
    assert trainer.global_step == 1
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert 0 < logged["train/iadm_health_entropy"] <= 1
    has_boxes = layout.split()[0] in ("cub", "cars", "aircraft")
    has_boxes &= not {"folders", "parquet"} & set(layout.split())
    assert ("train/iadm_health_energy" in logged) == has_boxes
    if has_boxes:  # 24 x 20 pixels of a centre crop of 35 x 35
        assert logged["train/iadm_health_energy_chance"] == pytest.approx(480 / 1225, abs=0.03)
    assert ("train/iadm_health_part_energy" in logged) == (layout in ("cub", "cub itself"))
    metrics = evaluate(model, data).metrics
    assert 0 <= metrics["knn-1"] <= 1
    assert 0 <= metrics["mAP"] <= 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_copy_of_another_size_is_refused_with_its_numbers(layout: str, tmp_path: Path) -> None:
    data = _data(layout, tmp_path)
    assert isinstance(data, PublishedDataModule)
    data.check_counts = True
    train, test, classes = (f"{n:,}" for n in vars(data.sizes).values())
    with pytest.raises(UserError, match="differs from the published data set") as caught:
        data.setup()
    found = 12 if layout.split()[0] in ("aircraft", "flowers") else 9
    message = str(caught.value)
    assert (
        f"{found} training images of {train}, 6 test images of {test}, 3 classes of {classes}"
        in message
    )
    assert "`check_counts: false`" in message


def test_the_published_sizes() -> None:
    sizes = {
        "CUB": CUBDataModule("x").sizes,
        "Cars": CarsDataModule("x").sizes,
        "variant": AircraftDataModule("x").sizes,
        "family": AircraftDataModule("x", level="family").sizes,
        "manufacturer": AircraftDataModule("x", level="manufacturer").sizes,
    }
    assert {name: tuple(vars(size).values()) for name, size in sizes.items()} == {
        "CUB": (5994, 5794, 200),
        "Cars": (8144, 8041, 196),
        "variant": (6667, 3333, 100),
        "family": (6667, 3333, 70),
        "manufacturer": (6667, 3333, 30),
    }


@pytest.mark.parametrize("layout", ["cub", "cars parquet", "aircraft"])
def test_sources_travel_to_workers(layout: str, tmp_path: Path) -> None:
    data = _data(layout, tmp_path)
    data.setup()
    source = data.sources["test"]
    source.load(0)  # what is open by now must not stand in the way
    copy = pickle.loads(pickle.dumps(source))
    assert copy.load(5).tobytes() == source.load(5).tobytes()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (CUBDataModule, "CUB-200-2011 is not in .*: extract CUB_200_2011.tgz .*`download: true`"),
        (CarsDataModule, "Stanford Cars is not in .*pytorch/vision/issues/7545.*cars_train"),
        (
            AircraftDataModule,
            "FGVC-Aircraft is not in .*: extract fgvc-aircraft-2013b.tar.gz .*`download: true`",
        ),
        (
            lambda root: TorchvisionDataModule("Food101", root),
            "Food101 is not in .*: provide torchvision's layout in food-101/, or set `download: true`",
        ),
    ],
)
def test_where_nothing_is_one_line_says_what_to_do(make: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as caught:
        make(str(tmp_path)).setup()
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"`data.root` is not a folder"):
        make(str(tmp_path / "none")).setup()


def test_what_cannot_be_downloaded_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ppssl cannot download it: .*pytorch/vision/issues/7545"):
        CarsDataModule(str(tmp_path / "new"), download=True).prepare_data()
    assert not (tmp_path / "new").exists()


def test_torchvision_downloads_where_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torchvision.datasets as tv

    asked = []

    def download(self: Any) -> None:
        asked.append(self.root)
        layouts.food(Path(self.root))

    monkeypatch.setattr(tv.Food101, "_download", download)
    for _ in range(2):  # the second time the files are there
        data = TorchvisionDataModule("Food101", str(tmp_path / "new"), download=True, **OPEN)
        data.setup()
        assert data.num_train == 9
    assert [str(root) for root in asked] == [str(tmp_path / "new")]


def test_an_interrupted_download_of_torchvision_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import torchvision.datasets as tv

    (tmp_path / "food-101").mkdir()
    monkeypatch.setattr(tv.Food101, "_download", lambda self: layouts.food(Path(self.root)))
    for root in (tmp_path, tmp_path / "food-101"):
        TorchvisionDataModule("Food101", str(root), download=True, **OPEN).setup()
        shutil.rmtree(tmp_path / "food-101" / "meta")


def test_torchvisions_own_complaints_are_one_line(tmp_path: Path) -> None:
    layouts.pets(tmp_path)
    listed = tmp_path / "oxford-iiit-pet" / "annotations" / "trainval.txt"
    listed.write_text(listed.read_text() + "Bengal_9 3 1\n")  # a field is missing
    with pytest.raises(UserError, match=r"torchvision cannot read OxfordIIITPet in .*unpack"):
        TorchvisionDataModule("OxfordIIITPet", str(tmp_path), **OPEN).setup()
    listed.write_text("\n".join(["Bengal_0 9 1 1"]))
    with pytest.raises(UserError, match="labels must be in 0 to 0, for 1 classes"):
        TorchvisionDataModule("OxfordIIITPet", str(tmp_path), **OPEN).setup()
    with pytest.raises(
        ValueError, match="`name` must be one of Flowers102, OxfordIIITPet, Food101"
    ):
        TorchvisionDataModule("MNIST", str(tmp_path))  # type: ignore[arg-type]


LISTS = {
    "OxfordIIITPet": (layouts.pets, "oxford-iiit-pet/annotations/{}.txt", ("trainval", "test")),
    "Food101": (layouts.food, "food-101/meta/{}.json", ("train", "test")),
}


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), name=st.sampled_from(sorted(LISTS)), which=st.integers(0, 1))
def test_damaged_lists_of_torchvisions_sets_never_give_a_wrong_label(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, name: str, which: int
) -> None:
    lay_out, place, splits = LISTS[name]
    root = tmp_path_factory.getbasetemp() / f"damaged-{name}"
    if not root.exists():
        lay_out(root)
    file = root / place.format(splits[which])
    original = file.read_bytes()
    file.write_bytes(data.draw(damaged(original.decode(), swaps=True)))
    module = TorchvisionDataModule(name, str(root), **OPEN)  # type: ignore[arg-type]
    message = ""
    try:
        module.setup()
    except UserError as error:
        message = str(error)
    finally:
        file.write_bytes(original)
    assert module.sources or str(root) in message
    for source in module.sources.values():
        groups = {(layouts.class_of(source.load(i)), int(k)) for i, k in enumerate(source.labels)}
        assert len({colour for colour, _ in groups}) == len({k for _, k in groups}) == len(groups)


@pytest.mark.parametrize("content", ['"churros/1"', "[]", "3", "null", '{"churros": 1}', "{"])
def test_a_list_of_another_kind_is_refused(tmp_path: Path, content: str) -> None:
    lay_out, place, splits = LISTS["Food101"]
    lay_out(tmp_path)
    (tmp_path / place.format(splits[0])).write_text(content)
    with pytest.raises(UserError, match=re.escape(str(tmp_path))):
        TorchvisionDataModule("Food101", str(tmp_path), **OPEN).setup()


def test_a_label_that_another_breed_has_is_named(tmp_path: Path) -> None:
    listed = layouts.pets(tmp_path) / "oxford-iiit-pet" / "annotations" / "trainval.txt"
    listed.write_text(listed.read_text().replace("Bengal_1 3 ", "Bengal_1 1 "))
    with pytest.raises(UserError, match=r"the train list has label 0 for 'Bengal', .*label 2"):
        TorchvisionDataModule("OxfordIIITPet", str(tmp_path), **OPEN).setup()


def test_an_image_in_the_list_of_another_dish_is_named(tmp_path: Path) -> None:
    listed = layouts.food(tmp_path) / "food-101" / "meta" / "train.json"
    listed.write_text(listed.read_text().replace('"baklava/2"', '"churros/2"'))
    with pytest.raises(UserError, match=r"the train list has label 1 for 'churros', .*'baklava'"):
        TorchvisionDataModule("Food101", str(tmp_path), **OPEN).setup()


def test_validation_images_are_training_images(tmp_path: Path) -> None:
    _folders(tmp_path, val=True)
    data = CUBDataModule(str(tmp_path), val_fraction=0.25, **OPEN)
    data.setup()
    assert (data.num_train, len(data.train_val), len(data.train_fit)) == (12, 3, 9)
