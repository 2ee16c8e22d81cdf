"""What a command begins with: compiled programs are kept, and JAX is imported no sooner than it is needed."""

import json
import os
import subprocess
import sys

import pytest
from platformdirs import user_cache_path

LIGHT = "from jaxdissect.runtime import files, progress, run_directory, startup; import sys"
HEAVY = {"jax", "pandas", "scipy", "xarray"}
KEPT = "'jax_compilation_cache_dir', 'jax_persistent_cache_min_compile_time_secs'"
SHOW = f"import jax, json; print(json.dumps([jax.config.values[name] for name in ({KEPT})]))"


def in_new_process(code, **environment):
    """What code prints in a process of its own, which has no cache of compiled programs unless it asks for one."""
    inherited = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=inherited | environment, capture_output=True, text=True, check=True).stdout


def test_startup_imports_no_heavy_package():
    assert in_new_process(f"{LIGHT}; print(sorted({HEAVY} & sys.modules.keys()))") == "[]\n"


@pytest.mark.parametrize("before", ["", "import jax; "])
def test_prepare_process_keeps_programs_whether_or_not_jax_is_imported(before):
    code = f"{before}{LIGHT}; startup.prepare_process(); {SHOW}"
    folder, least = json.loads(in_new_process(code))
    assert folder == str(user_cache_path("jaxdissect") / "programs")
    assert least == 0


def test_prepare_process_leaves_the_folder_of_programs_that_the_environment_names(tmp_path):
    code = f"{LIGHT}; startup.prepare_process(); {SHOW}"
    folder, least = json.loads(in_new_process(code, JAX_COMPILATION_CACHE_DIR=str(tmp_path)))
    assert folder == str(tmp_path)
    assert least > 0
