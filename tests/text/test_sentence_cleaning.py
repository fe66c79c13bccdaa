import pytest

from ppssl.text.sentence_cleaning import clean_sentences, names_class

ANSWER = """Sure! Here are eight sentences that describe it:

1. The bill is short, black and conical.
 2) A bright **red** shoulder patch, bordered with `yellow`.
- "The tail is long and rounded."
• “Its eyes are dark brown.”
* - 3: the bill is SHORT, black and conical
(4) Red.
a) legs of black
1966 was a good year for it
2.5 cm long black bill
- 1) 10:1 is the aspect of its wings
6.The crown is white.
e.g. the white bars
The blackbird sings from reeds.
Two Red-Winged birds in flight
"""


def test_answer_becomes_descriptions() -> None:
    assert clean_sentences(ANSWER, "Red_winged_Blackbird") == [
        "The bill is short, black and conical.",
        "A bright red shoulder patch, bordered with yellow.",
        "The tail is long and rounded.",
        "Its eyes are dark brown.",
        "legs of black",
        "1966 was a good year for it",
        "2.5 cm long black bill",
        "10:1 is the aspect of its wings",
        "The crown is white.",
        "e.g. the white bars",
    ]


@pytest.mark.parametrize("words", [2, 3, 40, 41])
def test_number_of_words(words: int) -> None:
    line = " ".join(f"w{i}" for i in range(words))
    assert clean_sentences(line, "x") == ([line] if 3 <= words <= 40 else [])


@pytest.mark.parametrize(
    ("sentence", "name", "named"),
    [
        ("the RED-winged one", "Red_winged_Blackbird", True),
        ("a flock of blackbirds", "Red winged Blackbird", True),
        ("a red wing and a winged seed", "Red winged Blackbird", False),
        ("red, and winged", "Red winged Blackbird", False),
        ("two finches on a twig", "Purple Finch", True),
        ("an Acura RL seen from behind", "Acura RL Sedan 2012", True),
        ("a sedan of 2012", "Acura RL Sedan 2012", False),
        ("the 737-200 has small engines", "737-200", True),
        ("it has 200 windows", "737-200", False),
        ("number 707 in white", "707", True),
        ("scissors", "cis", False),
        ("anything", "", False),
    ],
)
def test_what_names_a_class(sentence: str, name: str, named: bool) -> None:
    assert names_class(sentence, name) is named
