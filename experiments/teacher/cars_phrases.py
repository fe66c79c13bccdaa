"""Phrases about each class of Stanford Cars, from the parts of its name: what a make and a body look like.

    python -m experiments.teacher.cars_phrases CARS/train --out descriptors_cars.json

They say what general knowledge says of makes and bodies, written without a look at the images. No phrase belongs to one
class. The file is for ``experiments.teacher.photographs --phrases``.
"""

import argparse
import json
from pathlib import Path

from ppssl.text.metadata.cars import CarName

BODIES = {
    "Sedan": ["a sedan", "four doors", "a separate trunk", "a fixed metal roof"],
    "Coupe": ["a coupe", "two doors", "a sloping roofline", "a sporty car"],
    "Convertible": ["a convertible", "an open top", "a soft folding roof", "two doors"],
    "Hatchback": ["a hatchback", "a short rear end", "a rear door that swings up", "a small car"],
    "SUV": ["an SUV", "a tall body", "high ground clearance", "roof rails", "large wheels"],
    "Wagon": ["a station wagon", "a long roof", "a large cargo area", "four doors"],
    "Minivan": ["a minivan", "sliding side doors", "a long cabin", "a short hood"],
    "Van": ["a van", "a boxy body", "sliding side doors", "a short hood"],
    "Cab": ["a pickup truck", "an open cargo bed", "a tall front end", "high ground clearance"],
}
CABS = {
    "Crew": ["four full doors", "a long cabin with two rows of seats"],
    "Quad": ["four doors", "a cabin with two rows of seats"],
    "Extended": ["small rear doors", "a cabin with a short second row"],
    "SuperCab": ["small rear doors", "a cabin with a short second row"],
    "Club": ["small rear doors", "a cabin with a short second row"],
    "Regular": ["two doors", "a short cabin with one row of seats"],
}
GERMAN = ["a German car", "tight panel gaps", "a restrained design"]
AMERICAN = ["an American car", "a wide front end", "chrome trim"]
JAPANESE = ["a Japanese car", "swept-back headlights"]
KOREAN = ["a Korean car", "swept-back headlights"]
EXOTIC = ["a supercar", "a very low body", "a mid-mounted engine", "large air intakes"]
ITALIAN = ["an Italian car", "sharp or flowing lines"]
BRITISH = ["a British car", "leather and wood inside"]
LUXURY = ["a luxury car", "polished paint", "large alloy wheels"]
MAKES = {
    "AM General": [*AMERICAN, "a military vehicle", "a flat windshield", "a seven-slot grille"],
    "Acura": [*JAPANESE, "a shield-shaped silver grille", "a premium car"],
    "Aston Martin": [*BRITISH, *LUXURY, "a wide low grille", "a long hood", "side vents"],
    "Audi": [*GERMAN, "four rings on the grille", "a large single-frame grille", "LED lights"],
    "BMW": [*GERMAN, "a double kidney grille", "round twin headlights", "a blue and white badge"],
    "Bentley": [*BRITISH, *LUXURY, "a mesh grille", "large round headlights", "a winged badge"],
    "Bugatti": [*EXOTIC, *LUXURY, "a horseshoe grille", "two-tone paint"],
    "Buick": [*AMERICAN, "a waterfall grille", "a tri-shield badge", "a comfortable car"],
    "Cadillac": [*AMERICAN, *LUXURY, "vertical headlights", "an egg-crate grille", "sharp edges"],
    "Chevrolet": [*AMERICAN, "a gold bowtie badge", "a split grille"],
    "Chrysler": [*AMERICAN, "a winged badge", "a wide mesh grille"],
    "Daewoo": [*KOREAN, "a cheap car", "a plain design"],
    "Dodge": [*AMERICAN, "a crosshair grille", "a muscular body"],
    "Eagle": [*AMERICAN, "pop-up or thin headlights", "a car of the 1990s"],
    "FIAT": [*ITALIAN, "a tiny car", "round headlights", "rounded shapes"],
    "Ferrari": [*EXOTIC, *ITALIAN, "red paint", "a prancing horse badge", "round tail lights"],
    "Fisker": [*LUXURY, "a hybrid sports sedan", "a wide smiling grille", "a long low body"],
    "Ford": [*AMERICAN, "a blue oval badge", "a three-bar grille"],
    "GMC": [*AMERICAN, "red letters on the grille", "a large chrome grille", "a work vehicle"],
    "Geo": [*AMERICAN, "a tiny car", "a car of the 1990s", "a plain design"],
    "HUMMER": [*AMERICAN, "a very wide body", "a seven-slot grille", "a flat windshield"],
    "Honda": [*JAPANESE, "an H badge on the grille", "a practical family car"],
    "Hyundai": [*KOREAN, "a slanted H badge", "a hexagonal grille", "flowing creases"],
    "Infiniti": [*JAPANESE, *LUXURY, "a double-arch grille", "curved flowing lines"],
    "Isuzu": [*JAPANESE, "a boxy off-road vehicle", "a work vehicle"],
    "Jaguar": [*BRITISH, *LUXURY, "an oval mesh grille", "a leaping cat", "a long hood"],
    "Jeep": [*AMERICAN, "a seven-slot grille", "round headlights", "an off-road vehicle"],
    "Lamborghini": [*EXOTIC, *ITALIAN, "a wedge shape", "angular lines", "a bull badge"],
    "Land Rover": [*BRITISH, *LUXURY, "a boxy off-road vehicle", "a floating roof"],
    "Lincoln": [*AMERICAN, *LUXURY, "a waterfall grille", "chrome trim"],
    "MINI": [
        *BRITISH,
        "a tiny car",
        "round headlights",
        "a contrasting roof",
        "a hexagonal grille",
    ],
    "Maybach": [*GERMAN, *LUXURY, "two-tone paint", "a very long body"],
    "Mazda": [*JAPANESE, "a wide smiling grille", "a winged badge"],
    "McLaren": [*EXOTIC, *BRITISH, "curved headlights", "doors that swing up"],
    "Mercedes-Benz": [*GERMAN, *LUXURY, "a three-pointed star", "a slatted chrome grille"],
    "Mitsubishi": [*JAPANESE, "three diamonds on the grille", "an aggressive front"],
    "Nissan": [*JAPANESE, "a round badge on a chrome bar", "a practical family car"],
    "Plymouth": [*AMERICAN, "a car of the 1990s", "a plain design"],
    "Porsche": [*GERMAN, "round headlights", "a low curved hood", "no front grille"],
    "Ram": [*AMERICAN, "a crosshair grille", "a ram's head badge", "a work vehicle"],
    "Rolls-Royce": [*BRITISH, *LUXURY, "a tall upright grille", "a statue on the hood"],
    "Scion": [*JAPANESE, "a boxy body", "a small car"],
    "Spyker": [*EXOTIC, "exposed metal details", "an aircraft-like air scoop", "round headlights"],
    "Suzuki": [*JAPANESE, "an S badge on the grille", "a small car"],
    "Tesla": ["an American car", "an electric car", "no front grille", "smooth flush panels"],
    "Toyota": [*JAPANESE, "an oval badge on the grille", "a practical family car"],
    "Volkswagen": [*GERMAN, "a round VW badge", "a plain horizontal grille", "rounded shapes"],
    "Volvo": ["a Swedish car", "a diagonal bar across the grille", "broad shoulders", "a safe car"],
    "smart": [*GERMAN, "a tiny car with two seats", "contrasting body panels"],
}
SPORT = ("GT", "SRT", "SS", "Z06", "ZR1", "Type-S", "Type R", "Abarth", "M3", "M5", "M6", "S4")
SPORT_PHRASES = ["a sporty car", "wide tyres", "a rear spoiler", "large air intakes"]


def phrases(name: str) -> list[str]:
    """Phrases about a class, ``Acura_RL_Sedan_2012``."""
    car = CarName.parse(name)
    found = list(MAKES[car.make])
    for word, texts in BODIES.items():
        if word in (car.body or ""):
            found += texts
            break
    for word, texts in CABS.items():
        if car.body is not None and car.body.startswith(word):
            found += texts
    if any(word in car.model for word in SPORT):
        found += SPORT_PHRASES
    decade = 10 * (car.year // 10)
    found += [f"a car of the {decade}s", "an old car" if car.year < 2003 else "a modern car"]
    return sorted(set(found))


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("classes", type=Path, help="Folder of class folders, all 196.")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    names = sorted(path.name.split(".", 1)[-1] for path in arguments.classes.iterdir())
    table = {name: phrases(name) for name in names}
    arguments.out.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
