"""What was written down before it was computed (notebooks/predictions.md), beside what came."""

from collections.abc import Iterable


def outcome(
    statement: str, met: Iterable[bool], *, of: int, least: int | None = None,
    most: int | None = None,
) -> dict[str, str]:
    """A row of a table: the expectation, what was found, and whether it came.

    Args:
        statement: what was expected, with its letter in predictions.md.
        met: for each network measured so far, whether it is as the statement says.
        of: how many networks there are to be; as long as that is 0 the answer is open.
        least, most: of these, how many are to be so at least (all, by default) and at most. The
            answer is "open" as long as the networks to come can change it.

    >>> outcome("a. it falls in 2 to 4 of 5", [True, False, True], of=5, least=2, most=4)["so"]
    'yes'
    >>> outcome("b. it falls in all of 5", [True, False, True], of=5)["so"]
    'NO'
    >>> outcome("c. it falls in 3 of 5 at least", [True, False, True], of=5, least=3)
    {'expected': 'c. it falls in 3 of 5 at least', 'found': '2 of 3, 2 to come', 'so': 'open'}
    """
    seen = [bool(one) for one in met]
    so, missing = sum(seen), of - len(seen)
    least, most = of if least is None else least, of if most is None else most
    word = "open"
    if of and so >= least and so + missing <= most:
        word = "yes"
    if so + missing < least or so > most:
        word = "NO"
    found = f"{so} of {len(seen)}" if seen else "not yet measured"
    return {"expected": statement, "found": found + f", {missing} to come" * bool(seen and missing),
            "so": word}
