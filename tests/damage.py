"""Ways in which a text file of metadata comes to be wrong, for hypothesis."""

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

_ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp500")


@st.composite
def damaged(draw: DrawFn, text: str, swaps: bool = False) -> bytes:
    """A text with one to three faults: of lines, fields, characters, line ends, encoding or length.

    ``swaps``: also fields in each other's place. Each is a good one then, so that only what is said twice shows it.
    """
    lines = text.splitlines()
    for _ in range(draw(st.integers(1, 3))):
        k = draw(st.integers(0, max(len(lines) - 1, 0)))
        if not lines:
            break
        fields = lines[k].split(" ")
        match draw(st.integers(0, 11 if swaps else 8)):
            case 0:
                del lines[k]
            case 1:
                lines.insert(draw(st.integers(0, len(lines))), lines[k])
            case 2:
                lines[k] += draw(st.sampled_from([" 1", " x", "  ", "\t0", " # comment", ","]))
            case 3:
                field = draw(st.integers(0, len(fields) - 1))
                odd = st.sampled_from(
                    ["", "0", "-1", "1.0", "1e0", "99", "\u0661", "1_0", "nan", "é"]
                )
                fields[field] = draw(odd | st.text(max_size=6))
                lines[k] = " ".join(fields)
            case 4:
                lines[k] = " ".join(fields[:-1])
            case 5:  # every number one higher, from some line on
                for n in range(k, len(lines)):
                    first, _, rest = lines[n].partition(" ")
                    if first.isascii() and first.isdigit():
                        lines[n] = f"{int(first) + 1} {rest}"
            case 6:
                lines.insert(k, draw(st.text(max_size=12)))
            case 7:
                lines[k] = lines[k].replace(" ", draw(st.sampled_from(["\t", ",", "  ", "\xa0"])))
            case 8:
                position = draw(st.integers(0, max(len(lines[k]) - 1, 0)))
                lines[k] = lines[k][:position] + draw(st.characters()) + lines[k][position + 1 :]
            case _:
                other = draw(st.integers(0, len(lines) - 1))
                theirs = fields if other == k else lines[other].split(" ")
                i, j = (draw(st.integers(0, len(row) - 1)) for row in (fields, theirs))
                fields[i], theirs[j] = theirs[j], fields[i]
                lines[k], lines[other] = " ".join(fields), " ".join(theirs)
    ends = draw(st.sampled_from(["\n", "\r\n", "\r", "\n\n", " \n"]))
    encoding = draw(st.sampled_from(_ENCODINGS) if draw(st.booleans()) else st.just("utf-8"))
    content = ends.join(lines).encode(encoding, "replace")
    return content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content
