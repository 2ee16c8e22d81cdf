"""Records of how results were made, as JSON objects: names for their parts, and what differs between two of them."""

from collections.abc import Iterable, Mapping

from jaxdissect.types import Record

SHOWN_LENGTH = 40  # characters of a value in a message; longer ones, as fingerprints are, are cut


def named_parts(record: Record) -> Record:
    """Options and fingerprints of a record by their names in messages, such as `--batch-size` and `the front end`."""
    options = {f"--{name.replace('_', '-')}": value for name, value in record["options"].items()}
    return options | {f"the {name.replace('_', ' ')}": value for name, value in record["fingerprints"].items()}


def differences(
    first: Mapping[str, object],
    second: Mapping[str, object],
    *,
    names: Iterable[str] | None = None,
    words: tuple[str, str] = ("before", "now"),
) -> dict[str, str]:
    """Compare two records of how something is made.

    Args:
      first: values by name, for example what a file records.
      second: values by name, for example what the user asks for.
      names: names to compare; by default all names of either record. A name that a record lacks has the value None.
      words: words that follow the first and the second value in a phrase.

    Returns:
      a phrase for each name whose values differ, such as `{"--seed": "--seed (0 before, 1 now)"}`.
    """
    compared = dict.fromkeys((*second, *first) if names is None else names)  # each name once, in the second's order
    return {
        name: f"{name} ({_shown(first.get(name))} {words[0]}, {_shown(second.get(name))} {words[1]})"
        for name in compared
        if first.get(name) != second.get(name)
    }


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= SHOWN_LENGTH else f"{text[:12]}..."
