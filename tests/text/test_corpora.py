"""The packaged corpora: many, short, different sentences that name a visible attribute and no class."""

import re
from importlib import resources
from itertools import pairwise
from pathlib import Path

import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics.pairwise import cosine_similarity

from ppssl.data import FolderDataModule
from ppssl.losses.ais.plugin import AIS
from ppssl.text.corpus import TextCorpus, packaged_corpora

CORPORA = ("birds", "cars", "aircraft")

# Every class of the three sets, as they name them: 200 species, 196 models, 100 variants, 30 manufacturers and those
# families that are named otherwise.
CLASS_NAMES = {
    name: (Path(__file__).parent / "class_names" / f"{name}.txt").read_text().splitlines()
    for name in CORPORA
}
# Words of class names that tell what can be seen, or kinds of vehicle, and so may stand in a sentence.
PLAIN = {
    "birds": """
        and black blue brown chestnut dark glossy golden green grey ivory long olive orange purple red ring rose ruby
        rusty sharp sooty spotted tree white yellow
        """,
    "cars": """
        and c cab car cargo convertible coupe flying grand hatchback model passenger pickup roadster sedan van wagon
        """,
    "aircraft": "a air aircraft an de jet v",
}

# And what the classes are called besides: related kinds, shorter and further names.
CLASS_WORDS = {
    "birds": """
        albatross auklet blackbird bobolink bunting cardinal catbird chat towhee widow will cormorant cowbird creeper
        crow cuckoo finch flicker flycatcher frigatebird fulmar gadwall goldfinch grackle grebe grosbeak guillemot gull
        hummingbird violetear jaeger jay junco kingbird kingfisher kittiwake lark loon mallard meadowlark merganser
        mockingbird ani nighthawk nutcracker nuthatch oriole ovenbird pelican pewee sayornis pipit whip puffin raven
        redstart geococcyx roadrunner shrike sparrow starling swallow tanager tern thrasher vireo warbler waterthrush
        waxwing woodpecker wren yellowthroat yellowlegs duck goose hawk owl heron thrush
        brandt brewer heermann anna baird harris henslow leconte lincoln nelson bewick swainson wilson scott clark
        forster acadian baltimore bohemian nashville tennessee kentucky carolina california canada philadelphia
        parakeet rhinoceros indigo lazuli bay cape loggerhead prothonotary palm magnolia cactus cedar vesper
        """,
    "cars": """
        acura am audi aston bentley bmw bugatti buick cadillac chevrolet chevy chrysler daewoo dodge eagle fiat ferrari
        fisker ford gmc geo hummer honda hyundai infiniti isuzu jaguar jeep lamborghini land lincoln mini maybach mazda
        mclaren mercedes benz mitsubishi nissan plymouth porsche ram rolls royce scion spyker suzuki tesla toyota
        volkswagen volvo smart fortwo
        integra rl tl tsx zdx vantage virage activehybrid series arnage continental mulsanne spur veyron enclave rainier
        regal verano cts escalade srx avalanche camaro cobalt corvette express hhr impala malibu carlo silverado sonic
        tahoe trailblazer traverse aspen crossfire cruiser sebring nubira caliber caravan challenger charger dakota
        durango journey magnum sprinter talon abarth california italia karma edge expedition explorer f-150 f-450
        fiesta focus freestar mustang ranger acadia canyon savana terrain yukon metro accord odyssey accent azera
        elantra genesis sonata tucson veloster veracruz santa qx56 ascender xk cherokee compass liberty patriot wrangler
        aventador diablo gallardo reventon rover landaulet tribute lancer juke leaf 240sx neon panamera ghost phantom
        drophead xd aerio kizashi sx4 camry corolla sequoia 4runner beetle golf town abarth cooper c30 xc90
        """,
    "aircraft": """
        boeing airbus antonov atr british aerospace bae beechcraft bombardier canadair cessna cirrus dassault havilland
        dornier douglas embraer eurofighter fairchild fokker gulfstream hawker ilyushin lockheed mcdonnell panavia
        piper robin saab supermarine tupolev yakovlev mikoyan sukhoi avro
        707 717 727 737 747 757 767 777 787 a300 a310 a318 a319 a320 a321 a330 a340 a350 a380 an-12 an-72 atr-42 atr-72
        jetstream beaver baron king bonanza learjet challenger crj caravan citation skyhawk skylane chipmunk comet
        dash dakota moth tiger otter dauphin legacy erj phenom typhoon falcon fighting hornet global express hawk
        hercules tristar constellation metro metroliner metro-liner cherokee warrior spitfire tornado concorde mustang
        dc-3 dc-6 dc-8 dc-9 dc-10 md-11 md-80 md-87 md-90 il-76 tu-134 tu-154 yak-42 c-47 c-130 f-16 f-18 f/a-18 sr-20
        """,
}


@pytest.mark.parametrize("name", CORPORA)
class TestPackaged:
    def test_is_large_and_without_duplicates(self, name: str) -> None:
        lines = _lines(name)
        assert name in packaged_corpora()
        assert len(lines) >= 250
        assert TextCorpus.load(name).titles == lines  # nothing left out, white space normal

    def test_no_two_are_nearly_the_same(self, name: str) -> None:
        lines = _lines(name)
        counts = CountVectorizer(analyzer="char_wb", ngram_range=(3, 5)).fit_transform(lines)
        similarity = cosine_similarity(counts)
        close = [
            (lines[i], lines[j])
            for i in range(len(lines))
            for j in range(i)
            if similarity[i, j] > 0.95
        ]
        assert not close

    def test_fits_clip_whatever_its_merges(self, name: str) -> None:
        """A byte-level BPE makes of each word at most a token a letter; 77 positions hold 75 and two ends."""
        assert max(len(line.replace(" ", "")) for line in _lines(name)) <= 75
        assert all(line.isascii() for line in _lines(name))

    def test_has_no_word_of_a_class_name(self, name: str) -> None:
        plain = set(PLAIN[name].split())
        of_names = [set(_words(n)) - plain for n in CLASS_NAMES[name]]
        assert all(of_names)  # there is no class whose name could be made of plain words
        forbidden = set.union(*of_names)
        for line in _lines(name):
            stems = {
                stem
                for w in _words(line)
                for stem in (w, w.removesuffix("s"), w.removesuffix("es"))
            }
            assert not stems & forbidden, line

    def test_names_no_class(self, name: str) -> None:
        words = CLASS_WORDS[name].split()
        forbidden = re.compile(rf"\b(?:{'|'.join(map(re.escape, words))})(?:e?s|'s)?\b", re.I)
        assert forbidden.search(f"a photo of two {words[0]}s")  # the pattern finds what it should
        assert [line for line in _lines(name) if forbidden.search(line)] == []

    def test_is_plain_prose(self, name: str) -> None:
        for line in _lines(name):
            assert re.fullmatch(r"(?:an?|the|this) [\w ,:'-]*\w", line), line
            assert 4 <= len(line.split()) <= 20, line
            words = re.findall(r"\w+", line)
            assert all(a != b for a, b in pairwise(words)), line


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (
            "birds",
            "bill crown nape throat breast belly back wing tail legs eye crest rump flanks posture",
        ),
        (
            "cars",
            "grille headlights taillights wheels roof emblem door bumper windshield hood mirror",
        ),
        ("aircraft", "engine wing tail nose gear winglets fuselage windows fin propeller cockpit"),
    ],
)
def test_every_part_is_described(name: str, parts: str) -> None:
    text = "\n".join(_lines(name))
    assert [part for part in parts.split() if not re.search(rf"\b{part}", text)] == []


def test_ais_finds_them_by_name(image_folder: Path, clip_folder: Path) -> None:
    data = FolderDataModule(str(image_folder), image_size=16, batch_size=8, num_workers=0)
    data.setup()
    plugin = AIS("birds", teacher=str(clip_folder))
    with pytest.warns(UserWarning, match="exceed the text encoder's limit"):  # it has 16 positions
        plugin.prepare(data)
    assert plugin.targets.titles == _lines("birds")


def test_the_class_names_are_all_of_them() -> None:
    counts = {name: len(set(names)) for name, names in CLASS_NAMES.items()}
    assert counts == {"birds": 200, "cars": 196, "aircraft": 134}


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.casefold())


def _lines(name: str) -> list[str]:
    return (
        resources.files("ppssl.text")
        .joinpath(f"corpora/{name}.txt")
        .read_text("utf-8")
        .splitlines()
    )
