"""Corpus of the class names of Stanford Cars (Krause et al., 3dRR 2013): make, model, body type and year."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ppssl.utils.errors import UserError

__all__ = ["CarName", "cars_names"]

_TWO_WORD_MAKES = ("AM General", "Aston Martin", "Land Rover")
_BODIES = {
    "Sedan": "a sedan",
    "Coupe": "a coupe",
    "Convertible": "a convertible",
    "Hatchback": "a hatchback",
    "SUV": "an SUV",
    "Wagon": "a station wagon",
    "Wagon Van": "a passenger van",
    "Cargo Van": "a cargo van",
    "Passenger Van": "a passenger van",
    "Van": "a van",
    "Minivan": "a minivan",
    "Regular Cab": "a regular cab pickup truck",
    "Extended Cab": "an extended cab pickup truck",
    "Crew Cab": "a crew cab pickup truck",
    "Club Cab": "a club cab pickup truck",
    "Quad Cab": "a quad cab pickup truck",
    "SuperCab": "an extended cab pickup truck",
}


@dataclass(frozen=True)
class CarName:
    """Parts of a class name of Stanford Cars, such as ``Acura RL Sedan 2012``.

    Attributes:
        make: Make, such as ``Acura``.
        model: Model, such as ``RL``; it includes a body type that is not its last word (``G Coupe IPL``).
        body: Body type, such as ``Sedan``; ``None`` if the name has none (``Dodge Challenger SRT8 2011``).
        year: Model year, such as 2012.
    """

    make: str
    model: str
    body: str | None
    year: int

    @classmethod
    def parse(cls, name: str) -> CarName:
        """Parse a class name; underscores count as spaces.

        Raises:
            UserError: The name does not start with make and model and end with a model year.
        """
        text = " ".join(name.replace("_", " ").split())
        match = re.fullmatch(r"(.+) ((?:19|20)\d\d)", text)
        if match is None or " " not in match[1]:
            raise UserError(
                f"The corpus `cars-names` reads class names such as `Acura RL Sedan 2012`, with make, model and year; "
                f"got {name!r}."
            )
        words = match[1]
        make = next((m for m in _TWO_WORD_MAKES if words.startswith(f"{m} ")), words.split()[0])
        model = words[len(make) + 1 :]
        ends = [body for body in _BODIES if model.endswith(f" {body}")]
        inside = [body for body in _BODIES if f" {body} " in f" {model} "]
        body = max(ends or inside, key=len, default=None)
        if ends and body is not None:
            model = model[: -len(body) - 1]
        return cls(make, model, body, int(match[2]))

    def sentences(self) -> tuple[str, str]:
        """Two phrasings of the name's parts."""
        car = f"{self.make} {self.model}"
        noun = "a car" if self.body is None else _BODIES[self.body]
        first = f"a photo of the {self.year} {car}"
        if self.body is not None and not re.search(rf"\b{self.body}\b", self.model):
            first += f" {_BODIES[self.body].partition(' ')[2]}"
        return first, f"the {car}, {noun} of the model year {self.year}"


def cars_names(classes: Sequence[str]) -> list[tuple[str, ...]]:
    """Make a description of each class of Stanford Cars, and of each make, body type and model year.

    Args:
        classes: Class names of the devkit or the class folders.

    Raises:
        UserError: There are no class names, or one cannot be parsed.
    """
    if not classes:
        raise UserError(
            "The corpus `cars-names` is made from class names, but the data set has none."
        )
    cars = [CarName.parse(name) for name in classes]
    bodies = {_BODIES[car.body] for car in cars if car.body is not None}
    descriptions: list[tuple[str, ...]] = [car.sentences() for car in cars]
    descriptions += [(f"a car made by {make}",) for make in sorted({car.make for car in cars})]
    descriptions += [(f"a photo of {body}",) for body in sorted(bodies)]
    years = sorted({car.year for car in cars})
    descriptions += [(f"a car of the model year {year}",) for year in years]
    return descriptions
