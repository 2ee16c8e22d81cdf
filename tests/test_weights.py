"""The encoders that ship: sizes, provenance, licence, and that they are found from a checkout and from a wheel."""

import json

import pytest

from jaxdissect import InputError, ViTConfig, load_encoder, save_encoder, untrained_m2d
from jaxdissect.demo import SELF_SUPERVISED, SUPERVISED
from jaxdissect.encoder.shipped import shipped_encoder, shipped_encoders

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
    assert record["options"]["objective"] == ("supervised" if name == SUPERVISED else "msm_mae")
    assert record["options"]["label"] is None
    assert record["curve"][-1]["step"] == record["steps"]
    assert record["curve"][-1]["loss"] < 0.6 * record["curve"][0]["loss"]
    assert ("head" in encoder.variables) == (name == SUPERVISED)
    assert (folder.parent / "recipes" / f"{name}.md").is_file()


def test_names_of_shipped_encoders_lead_nowhere_else():
    assert shipped_encoder("../weights/msm_mae_tiny") is None
    assert shipped_encoder("") is None
    assert shipped_encoder("nothing") is None
    with pytest.raises(InputError, match=r"take one that ships with the project \(msm_mae_tiny, supervised_tiny\)"):
        load_encoder("nothing")


def test_an_encoder_directory_tells_nothing_of_where_it_was_made(tmp_path):
    save_encoder(untrained_m2d(ViTConfig(frames=16, width=16, depth=1, heads=1, mlp=16)), tmp_path / "encoder")
    files = [file for file in (tmp_path / "encoder").rglob("*") if file.is_file()]
    assert files
    assert not [file.name for file in files if str(tmp_path).encode() in file.read_bytes()]
    load_encoder(tmp_path / "encoder")
