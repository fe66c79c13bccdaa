"""Corpora from metadata as CUB, Stanford Cars and FGVC-Aircraft have it."""

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from damage import damaged
from ppssl.data import FolderDataModule
from ppssl.losses.ais.plugin import AIS
from ppssl.text.corpus import TextCorpus
from ppssl.text.metadata.aircraft import aircraft_hierarchy
from ppssl.text.metadata.cars import CarName, cars_names
from ppssl.text.metadata.cub import cub_attributes
from ppssl.utils.errors import UserError

COLOURS = (
    "blue brown iridescent purple rufous grey yellow olive green pink orange black white red buff"
)
COLOURED = """
    wing upperparts underparts back upper_tail under_tail breast throat belly eye forehead nape crown primary leg bill
"""
VALUES = {
    "bill_shape": "curved_(up_or_down) dagger hooked needle hooked_seabird spatulate all-purpose cone specialized",
    "tail_shape": "forked_tail rounded_tail notched_tail fan-shaped_tail pointed_tail squared_tail",
    "head_pattern": "spotted malar crested masked unique_pattern eyebrow eyering plain eyeline striped capped",
    "bill_length": "about_the_same_as_head longer_than_head shorter_than_head",
    "wing_shape": "rounded-wings pointed-wings broad-wings tapered-wings long-wings",
    "size": "large_(16_-_32_in) small_(5_-_9_in) very_large_(32_-_72_in) medium_(9_-_16_in) very_small_(3_-_5_in)",
    "shape": "upright-perching_water-like chicken-like-marsh long-legged-like duck-like owl-like gull-like "
    "hummingbird-like pigeon-like tree-clinging-like hawk-like sandpiper-like upland-ground-like swallow-like "
    "perching-like",
} | {
    f"{part}_pattern": "solid spotted striped multi-colored"
    for part in ("breast", "back", "tail", "belly", "wing")
}


def _cub(folder: Path, text: str | bytes | None = None) -> Path:
    """CUB's attributes.txt, all 312 as published, or a text of one's own."""
    names = [
        f"has_{group}::{value}" for group, values in VALUES.items() for value in values.split()
    ]
    names += [
        f"has_{part}_color::{colour}"
        for part in COLOURED.split()
        for colour in COLOURS.split()
        if (part, colour) != ("eye", "iridescent")
    ]
    assert len(names) == 312
    if text is None:
        text = "".join(f"{i} {name}\n" for i, name in enumerate(names, start=1))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "attributes.txt").write_bytes(text.encode() if isinstance(text, str) else text)
    return folder


def test_cub_has_312_different_sentences(tmp_path: Path) -> None:
    sentences = [only for (only,) in cub_attributes(_cub(tmp_path))]
    assert len(set(sentences)) == 312
    assert all(re.fullmatch(r"an? [a-z0-9, -]+", sentence) for sentence in sentences)
    unknown = [s for s in sentences if " whose " in s and "plumage" not in s]
    assert not unknown  # each is written out, none falls back to the attribute's own words
    assert {
        "a bird with a curved bill",
        "a very small bird, 3 to 5 inches long",
        "a bird with an iridescent throat",
        "a bird with wings marked with spots",
        "a bird with a fan-shaped tail",
        "a bird with rounded wings",
        "a bird shaped like an owl",
        "a water bird that perches upright",
        "a bird whose plumage is mainly olive",
    } <= set(sentences)


@pytest.mark.parametrize("place", ["", "attributes", "CUB_200_2011", "CUB_200_2011/attributes"])
def test_cub_is_found_wherever_copies_have_it(tmp_path: Path, place: str) -> None:
    _cub(tmp_path / place)
    assert len(TextCorpus.load("cub-attributes", root=tmp_path)) == 312
    (tmp_path / "CUB_200_2011").mkdir(exist_ok=True)
    if place != "attributes":
        assert len(TextCorpus.load("cub-attributes", root=tmp_path / "CUB_200_2011")) == 312


def test_cub_reads_other_line_ends_and_attributes(tmp_path: Path) -> None:
    text = "﻿1 has_bill_shape::dagger\r\n2 has_foot_colour_at_dusk::sky_blue\r\n"
    corpus = TextCorpus.load("cub-attributes", root=_cub(tmp_path, text))
    assert corpus.titles == [
        "a bird with a dagger-shaped bill",
        "a bird whose foot colour at dusk is sky blue",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 has_bill_shape::dagger\n2 bill_shape\n", "line 2: 'bill_shape' must have the form"),
        ("1 has_bill_shape::dagger\n3 has_size::x\n", "line 2: number 2 is missing"),
        (
            "1 has_size::x\n2 has_size::x\n",
            "line 2: 'has_size::x' makes the same sentence as line 1",
        ),
        ("1 has_bill_shape::dagger x\n", "line 1: expected 2 fields"),
        ("", "the file is empty"),
        (b"1 has_size::\xe9\n", "line 1 is not UTF-8"),
    ],
)
def test_cub_wrong_lines(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=f"attributes.txt.*{message}"):
        cub_attributes(_cub(tmp_path, text))


PIECES = [
    "1 has_size::a\n",
    "2 has_size::b\r\n",
    "3 has_wing_color::red",
    "2 has_size\n",
    "4",
    " ",
    "\r",
    "é",
]


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=6))
def test_cub_is_read_or_refused(tmp_path: Path, pieces: list[str]) -> None:
    """Whatever the file holds: a sentence a line, in the order of their numbers, or an error that names the file."""
    text, refused, sentences = "".join(pieces), "", []
    folder = _cub(tmp_path, text)
    try:
        sentences = cub_attributes(folder)
    except UserError as error:
        refused = str(error)
    if refused:
        assert str(folder / "attributes.txt") in refused
    else:
        numbers = [int(line.split()[0]) for line in re.split(r"[\r\n]+", text) if line.strip()]
        assert sorted(numbers) == list(range(1, len(sentences) + 1))


@pytest.mark.parametrize(
    ("name", "parts", "sentence"),
    [
        ("Acura RL Sedan 2012", ("Acura", "RL", "Sedan", 2012), "the 2012 Acura RL sedan"),
        ("AM General Hummer SUV 2000", ("AM General", "Hummer", "SUV", 2000), "Hummer SUV"),
        (
            "Chevrolet Silverado 1500 Extended Cab 2012",
            ("Chevrolet", "Silverado 1500", "Extended Cab", 2012),
            "the 2012 Chevrolet Silverado 1500 extended cab pickup truck",
        ),
        ("Ford E-Series Wagon Van 2012", ("Ford", "E-Series", "Wagon Van", 2012), "passenger van"),
        (
            "Ram C-V Cargo Van Minivan 2012",
            ("Ram", "C-V Cargo Van", "Minivan", 2012),
            "the 2012 Ram C-V Cargo Van minivan",
        ),
        ("Infiniti G Coupe IPL 2012", ("Infiniti", "G Coupe IPL", "Coupe", 2012), "G Coupe IPL"),
        ("Dodge_Challenger_SRT8_2011", ("Dodge", "Challenger SRT8", None, 2011), "SRT8"),
        ("Geo Metro Convertible 1993", ("Geo", "Metro", "Convertible", 1993), "Metro convertible"),
        ("Audi 100 Wagon 1994", ("Audi", "100", "Wagon", 1994), "the 1994 Audi 100 station wagon"),
    ],
)
def test_cars_names_are_taken_apart(
    name: str, parts: tuple[str, str, str | None, int], sentence: str
) -> None:
    car = CarName.parse(name)
    assert (car.make, car.model, car.body, car.year) == parts
    assert car.sentences()[0].startswith("a photo of the ")
    assert car.sentences()[0].endswith(sentence)


def test_every_name_of_the_published_set_is_taken_apart() -> None:
    """49 makes, as the authors count them; what a name has none of is not made up."""
    names = (Path(__file__).parent / "class_names" / "cars.txt").read_text().splitlines()
    cars = [CarName.parse(name) for name in names]
    assert len({car.make for car in cars}) == 49
    assert sum(car.body is None for car in cars) == 14
    for name, car in zip(names, cars, strict=True):
        rest = name.removeprefix(f"{car.make} {car.model}").removesuffix(str(car.year)).strip()
        assert rest == ("" if car.body is None or car.body in car.model else car.body)
    descriptions = cars_names(names)
    assert len({phrasings[0] for phrasings in descriptions}) == len(descriptions) > 196


def test_cars_corpus() -> None:
    names = ["Acura RL Sedan 2012", "Acura TL Sedan 2012", "Dodge Challenger SRT8 2011"]
    assert TextCorpus.load("cars-names", classes=names).titles == [
        "a photo of the 2012 Acura RL sedan",
        "a photo of the 2012 Acura TL sedan",
        "a photo of the 2011 Dodge Challenger SRT8",
        "a car made by Acura",
        "a car made by Dodge",
        "a photo of a sedan",
        "a car of the model year 2011",
        "a car of the model year 2012",
    ]
    assert cars_names(names)[2][1] == "the Dodge Challenger SRT8, a car of the model year 2011"


@pytest.mark.parametrize("name", ["Acura RL Sedan", "2012", "Acura 2012", "class0", "", "A B 3012"])
def test_cars_names_that_are_none(name: str) -> None:
    with pytest.raises(UserError, match="with make, model and year; got"):
        cars_names(["Acura RL Sedan 2012", name])
    with pytest.raises(UserError, match="the data set has none"):
        TextCorpus.load("cars-names")


AIRCRAFT = [
    ("0034309", "707-320", "Boeing 707", "Boeing"),
    ("0056978", "737-200", "Boeing 737", "Boeing"),
    ("0062765", "737-300", "Boeing 737", "Boeing"),
    ("0109760", "737-200", "Boeing 737", "Boeing"),
    ("0217953", "Cessna 172", "Cessna 172", "Cessna"),
    ("1025794", "C-130", "C-130", "Lockheed Corporation"),
]


FIXED = "a an aircraft photo of the type family made by"


def _aircraft(root: Path, edit: tuple[str, str, str] = ("", "", "")) -> Path:
    """The lists of the three levels; one may be edited: file, what, by what."""
    data = root / "fgvc-aircraft-2013b" / "data"
    data.mkdir(parents=True)
    for column, level in enumerate(("variant", "family", "manufacturer"), start=1):
        text = "".join(f"{row[0]} {row[column]}\n" for row in AIRCRAFT)
        if level == edit[0]:
            assert edit[1] in text
            text = text.replace(*edit[1:])
        (data / f"images_{level}_trainval.txt").write_bytes(text.encode())
    return root


@pytest.mark.parametrize("below", ["", "fgvc-aircraft-2013b", "fgvc-aircraft-2013b/data"])
def test_aircraft_hierarchy(tmp_path: Path, below: str) -> None:
    corpus = TextCorpus.load("aircraft-hierarchy", root=_aircraft(tmp_path) / below)
    assert list(corpus)[:2] == [
        (
            "a photo of the Boeing 707-320, a type of aircraft",
            "the Boeing 707-320 of the Boeing 707 family, made by Boeing",
        ),
        (
            "a photo of the Boeing 737-200, a type of aircraft",
            "the Boeing 737-200 of the Boeing 737 family, made by Boeing",
        ),
    ]
    assert corpus.titles[4:] == [
        "a photo of the Cessna 172, a type of aircraft",
        "an aircraft of the Boeing 707 family",
        "an aircraft of the Boeing 737 family",
        "an aircraft of the Lockheed Corporation C-130 family",
        "an aircraft of the Cessna 172 family",
        "an aircraft made by Boeing",
        "an aircraft made by Cessna",
        "an aircraft made by Lockheed Corporation",
    ]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            ("family", "0109760 Boeing 737", "0109760 Boeing 747"),
            "family_trainval.txt, line 4: '737-200' belongs to 'Boeing 747' here and to 'Boeing 737'",
        ),
        (
            ("manufacturer", "0034309 Boeing\n", ""),
            "variant_trainval.txt, line 1: image 0034309 is not in images_manufacturer_trainval.txt",
        ),
        (("variant", "0062765", "0056978"), "line 3: image 0056978 is already in line 2"),
        (("family", "0217953 Cessna 172", "0217953"), "family_trainval.txt, line 5: expected 2 fi"),
    ],
)
def test_aircraft_lists_that_disagree(
    tmp_path: Path, edit: tuple[str, str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        aircraft_hierarchy(_aircraft(tmp_path, edit))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), level=st.sampled_from(["variant", "family", "manufacturer"]))
def test_damaged_aircraft_lists_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, level: str
) -> None:
    """What is said of a variant is what its lines say, or an error names one of the lists."""
    root = tmp_path_factory.getbasetemp() / "damaged-hierarchy"
    if not root.exists():
        _aircraft(root)
    file = root / f"fgvc-aircraft-2013b/data/images_{level}_trainval.txt"
    original = file.read_bytes()
    content = data.draw(damaged(original.decode()))
    file.write_bytes(content)
    descriptions, message = [], ""
    try:
        descriptions = aircraft_hierarchy(root)
    except UserError as error:
        message = str(error)
    finally:
        file.write_bytes(original)
    assert descriptions or re.search(r"images_\w+_trainval\.txt(, line [0-9]+)?: ", message)
    known = {word for row in AIRCRAFT for name in row[1:] for word in name.split()}
    written = set(re.split(r"[\s,\ufeff]+", content.decode("utf-8", "replace")))
    for phrasings in descriptions:
        names = " ".join(phrasings).replace(",", " ").split()
        assert set(names) <= known | written | set(FIXED.split())


@settings(max_examples=150, deadline=None)
@given(
    st.text(max_size=40)
    | st.from_regex(r"[A-Z][a-z]+ [\w/. -]{0,20}(19|20)[0-9]{2}", fullmatch=True)
)
def test_any_class_name_is_taken_apart_whole_or_refused(name: str) -> None:
    car, message = None, ""
    try:
        car = CarName.parse(name)
    except UserError as error:
        message = str(error)
    if car is None:
        assert repr(name) in message
        return
    words = " ".join(name.replace("_", " ").split())
    assert words.startswith(f"{car.make} {car.model}")
    assert words.endswith(f" {car.year}")
    assert car.make
    assert car.model
    assert car.body is None or car.body in words


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="set `root` to its folder"):
        TextCorpus.load("cub-attributes")
    with pytest.raises(UserError, match=r"attributes\.txt, but .* has none"):
        TextCorpus.load("cub-attributes", root=tmp_path)
    with pytest.raises(
        UserError, match=r"no images_variant_trainval\.txt: set `root` to the folder"
    ):
        TextCorpus.load("aircraft-hierarchy", root=tmp_path)
    (_aircraft(tmp_path) / "fgvc-aircraft-2013b/data/images_family_trainval.txt").unlink()
    with pytest.raises(UserError, match=r"images_family_trainval\.txt: cannot be read"):
        TextCorpus.load("aircraft-hierarchy", root=tmp_path)


def test_ais_finds_the_data_sets_own_file(image_folder: Path, clip_folder: Path) -> None:
    _cub(image_folder, "1 has_size::small_(5_-_9_in)\n2 has_wing_color::red\n")
    data = FolderDataModule(str(image_folder), image_size=16, batch_size=8, num_workers=0)
    data.setup()
    plugin = AIS("cub-attributes", teacher=str(clip_folder))
    plugin.prepare(data)
    assert plugin.targets.titles == ["a small bird, 5 to 9 inches long", "a bird with red wings"]
