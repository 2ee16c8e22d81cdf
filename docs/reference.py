"""Write the API reference as HTML: `make docs`, or `python docs/reference.py FOLDER`; needs the extra `docs`."""

import re
import sys
from pathlib import Path

import pdoc

import jaxdissect

INDEX = Path(__file__).with_name("api.md")


def write(folder: Path) -> None:
    """The index, then every public name in its order."""
    text = INDEX.read_text()
    jaxdissect.__doc__ = text.partition("\n")[2]
    jaxdissect.__all__ = re.findall(r"^- `(\w+)`: ", text, re.MULTILINE)
    for name in jaxdissect.__all__:
        found = vars(jaxdissect)[name] = getattr(jaxdissect, name)  # else imported on first use, too late for pdoc
        if isinstance(found, type) and "__call__" in vars(found):
            found.__call__.__doc__ += "@public"  # pdoc's mark for methods that it would leave out
    pdoc.render.configure(docformat="google")
    pdoc.pdoc("jaxdissect", output_directory=folder)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
