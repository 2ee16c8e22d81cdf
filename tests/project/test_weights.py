"""The encoders that ship: sizes, provenance, licence, and that they are found from a checkout and from a wheel."""

import json
import shutil
import tomllib
from pathlib import Path

import pytest

from jaxdissect import InputError, ViTConfig, load_encoder, save_encoder, untrained_m2d
from jaxdissect.demo import SELF_SUPERVISED, SUPERVISED
from jaxdissect.encoder import shipped
from jaxdissect.encoder.shipped import shipped_encoder, shipped_encoders

ROOT = Path(__file__).parents[2]
NAMES = (SELF_SUPERVISED, SUPERVISED)
LARGEST = 12e6  # bytes of an encoder directory


def test_both_ship_and_no_other():
    assert shipped_encoders() == tuple(sorted(NAMES))


@pytest.mark.parametrize("name", NAMES)
def test_sizes_provenance_and_licence(name):
    encoder, folder = load_encoder(name), shipped_encoder(name)
    vit = encoder.config
    assert (vit.depth, vit.width, vit.heads, vit.mlp) == (12, 192, 3, 768)
    assert (vit.bands, vit.frames, vit.patch_bands, vit.patch_frames) == (80, 208, 16, 16)
    assert encoder.sample_rate == 16000
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= LARGEST
    assert encoder.source["licence"].startswith("CC BY-NC 4.0")
    record = json.loads((folder / "training.json").read_text())
    assert (record["task"], record["options"]["test_fold"], record["data"]["clips"]) == ("esc50", 5, 1600)
    assert record["options"]["objective"] == ("supervised" if name == SUPERVISED else "m2d")
    assert record["options"]["label"] is None
    assert record["curve"][-1]["step"] == record["steps"]
    assert record["curve"][-1]["loss"] < 0.6 * record["curve"][0]["loss"]
    assert ("head" in encoder.variables) == (name == SUPERVISED)
    assert (folder.parent / "recipes" / f"{name}.md").is_file()


def test_names_of_shipped_encoders_lead_nowhere_else():
    assert shipped_encoder("../weights/m2d_tiny") is None
    assert shipped_encoder("") is None
    assert shipped_encoder("nothing") is None
    with pytest.raises(InputError, match=r"take one that ships with the project \(m2d_tiny, supervised_tiny\)"):
        load_encoder("nothing")


def test_an_installed_package_brings_them_along(tmp_path, monkeypatch):
    """What the wheel is told to include, laid out as it is installed, and found there."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    for source, place in included.items():
        shutil.copytree(ROOT / source, tmp_path / place)
    monkeypatch.setattr(shipped, "WEIGHT_FOLDERS", (tmp_path / "jaxdissect" / shipped.WEIGHT_FOLDERS[0].name,))
    assert shipped_encoders() == tuple(sorted(NAMES))
    for name in NAMES:
        assert load_encoder(name).source["licence"].startswith("CC BY-NC 4.0")
        assert (shipped_encoder(name).parent / "LICENSE.md").is_file()


def test_the_self_supervised_one_names_where_it_began():
    start = json.loads((ROOT / "weights" / "recipes" / "msm_mae_tiny.json").read_text())
    record = json.loads((ROOT / "weights" / SELF_SUPERVISED / "training.json").read_text())
    assert (record["options"]["start_from"], start["options"]["objective"]) == ("msm_mae_tiny", "msm_mae")
    assert record["data"]["pcm_sha256"] == start["data"]["pcm_sha256"]


def test_an_encoder_directory_tells_nothing_of_where_it_was_made(tmp_path):
    save_encoder(untrained_m2d(ViTConfig(frames=16, width=16, depth=1, heads=1, mlp=16)), tmp_path / "encoder")
    files = [file for file in (tmp_path / "encoder").rglob("*") if file.is_file()]
    assert files
    assert not [file.name for file in files if str(tmp_path).encode() in file.read_bytes()]
    load_encoder(tmp_path / "encoder")
