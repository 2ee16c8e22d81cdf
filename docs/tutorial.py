# %% [markdown]
# # Which neurons listen to which notes?
#
# A first dissection, from sound to report. It needs no data and no network: the notes are synthesised, and the
# encoder, `m2d_tiny`, comes with the package. Open this file in Jupyter (with jupytext) or VS Code and run it cell by
# cell, or all of it by `python docs/tutorial.py`: half a minute to a minute on two cores. It writes into the folder
# `jaxdissect-tutorial` below the current one, and a second run goes on from what is there.
#
# Every step is a command; `run` below calls it as a shell would. What it prints is for people, what it writes into the
# run directory is tables (CSV) and arrays (netCDF), which the cells in between read.

# %%
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import xarray as xr

from jaxdissect import grid_reader, load_encoder, load_task
from jaxdissect.cli import main

folder = Path("jaxdissect-tutorial")


def run(command):
    """`jaxdissect COMMAND`, which must succeed."""
    print(f"\n$ jaxdissect {command}", flush=True)
    code = main(shlex.split(command))
    assert code == 0, f"exit code {code}"


# %% [markdown]
# ## The clips
#
# `notes` is 960 clips of 2 s: 8 instruments x 60 pitches x 2 takes, with `octave`, `pitch_class`, `instrument` and
# `split` in a table. The first takes are enough here. A table of your own works the same: `file_name`, columns of
# labels, and `split` (train, valid, test) or `fold`.

# %%
load_task("notes", data=folder / "notes")  # synthesises them where they are missing
table = pd.read_csv(folder / "notes" / "notes.csv")
table = table[table["file_name"].str.endswith("_1.wav")]
table.to_csv(folder / "notes" / "first_takes.csv", index=False)
print(table.groupby("split").size().to_dict(), "clips;", table["octave"].nunique(), "octaves,", end=" ")
print(table["instrument"].nunique(), "instruments")

# %% [markdown]
# ## Count and choose
#
# One pass over the training clips counts, for each of the encoder's 9,216 neurons and each class, the share of tokens
# at which the neuron is active. AAPE is the entropy of these shares over the classes: low where a neuron answers to
# few. The 2% of lowest AAPE are kept, and each is *specific* to the classes for which it fires often enough. Two label
# sets of the same clips are counted at once. `--keep-clips` keeps what single clips did, which the test of
# significance needs.

# %%
task = f"--task {folder}/notes/first_takes.csv --unit-seconds 2 --label octave,instrument"
choice = "--preset lape --keep 0.02"
drawn = "--keep-clips --permutations 200 --resamples 50 --splits 10"
run(f"dissect --encoder m2d_tiny {task} {choice} {drawn} --run {folder}/trained")

# %% [markdown]
# ## What chance looks like
#
# AAPE keeps its 2% of any encoder and any labels, so the number of kept neurons says nothing. Above, `neurons` has
# also permuted the labels 200 times and told how many pairs of class and neuron would pass the same cut-offs by
# chance. The other yardstick is the same encoder before it was trained.

# %%
run(f"dissect --encoder jaxdissect.demo:untrained_tiny {task} {choice} --run {folder}/untrained")
coverage = pd.concat(
    {name: pd.read_csv(folder / name / "coverage.csv", index_col="label_set") for name in ("trained", "untrained")}
)
print(coverage[["coverage", "kept_neurons", "mean_neurons_per_class"]].to_string())
assert set(coverage["kept_neurons"]) == {round(0.02 * 9216)}  # by construction, trained or not

# %% [markdown]
# Octaves are covered by random filters too; it is instruments that the trained encoder tells apart better.

# %% [markdown]
# ## Look at a neuron
#
# `neurons.csv` has a row for every pair of class and neuron. Take the pair of an octave and a neuron that fires most,
# and the ten clips that fire this neuron most.

# %%
neurons = pd.read_csv(folder / "trained" / "neurons.csv")
octaves = neurons[neurons["label_set"] == "octave"]
best = octaves.loc[octaves["probability"].idxmax()]
profile = octaves[(octaves["layer"] == best["layer"]) & (octaves["neuron"] == best["neuron"])]
print(profile[["class", "layer", "neuron", "probability", "aape", "q_value", "stability"]].to_string(index=False))
top = xr.open_dataset(folder / "trained" / "top_clips.nc").sel(layer=best["layer"], neuron=best["neuron"])
clips = pd.read_csv(folder / "trained" / "clips.csv")
print(clips.loc[top["clip"].values, ["file_name", "octave"]].assign(share=top["active_share"].values).to_string())

# %% [markdown]
# Its activation lies on the grid of the encoder's patches: five bands of mel frequencies, and 13 columns of 0.16 s.
# Dark is strong; the lowest band stands at the bottom.

# %%
encoder = load_encoder("m2d_tiny")
samples = 2 * encoder.sample_rate
read = grid_reader(encoder, samples, np.array([[best["layer"], best["neuron"]]]))
name = clips.loc[int(top["clip"][0]), "file_name"]
pcm, _ = soundfile.read(folder / "notes" / name, dtype="float32")
grid = read(np.pad(pcm, (0, samples - len(pcm)))[None])[0, 0]  # (band, column)
print(f"Layer {best['layer']}, neuron {best['neuron']} on {name}:")
shades = " .:-=+*#%@"
for row in grid[::-1]:
    levels = np.clip(row / grid.max() * (len(shades) - 1), 0, None).astype(int)
    print("  |" + "".join(3 * shades[level] for level in levels) + "|")

# %% [markdown]
# ## Which classes share neurons?
#
# Neighbouring octaves should, and instruments that sound alike. `share` says how many neurons every two classes have
# in common, how many chance would give, and whether these two in particular share more than their sizes and the
# breadth of the neurons explain.

# %%
run(f"share --run {folder}/trained")

# %% [markdown]
# ## Do the neurons matter?
#
# That a neuron fires for a class does not mean that anything reads it. A linear probe is trained on the clip
# embeddings; then the neurons of the lowest octave are silenced inside the encoder, and the probe judges the *test*
# clips again, which took no part in choosing the neurons. Beside it stand 9 random sets that match in layer,
# activation rate and size of what they write. (9 controls cannot give a p below 1/10. Take 200 for a claim.)

# %%
run(f"probe --run {folder}/trained --learning-rate 3e-3 --seeds 1")
run(f"ablate --run {folder}/trained --neurons octave:2 --controls 9 --no-causal-map")

# %%
effect = pd.read_csv(folder / "trained" / "ablation.csv")
own = effect[(effect["label_set"] == "octave") & (effect["class"].astype(str) == "2")].iloc[0]
controls = pd.read_csv(folder / "trained" / "ablation_controls.csv")
controls = controls[controls["class"].astype(str) == "2"]["margin_change"]
print(
    f"Silencing the {own['neurons']} neurons of octave 2 changes its margin by {own['margin_change']:+.2f} logits, "
    f"accuracy by {own['change_clips']:+.0f} of {own['clips']} clips.\n"
    f"The {len(controls)} controls: {controls.min():+.2f} to {controls.max():+.2f} logits."
)
assert own["margin_change"] < controls.min()

# %% [markdown]
# The margin, which is how far the true class lies above the best other one, moves long before the accuracy does.
#
# ## The report
#
# One page with all of it, to click through and to hear. It opens from the disk.

# %%
run(f"report --run {folder}/trained --with {folder}/untrained --no-figures --max-mb 2")
print(f"Open {(folder / 'trained' / 'report.html').resolve()}")

# %% [markdown]
# ## On
#
# - Your own data and encoder: the README, `docs/encoders.md`; the pieces in your own JAX code: `docs/embedding.md`.
# - What each step computes: `docs/method.md`; how far to trust it: `docs/certainty.md`.
# - Neurons that answer to silence and padding look specific too: count again with `--tokens sounding`, and compare.
