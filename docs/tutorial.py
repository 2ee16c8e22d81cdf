# %% [markdown]
# # A first dissection: which neurons listen to which notes?
#
# This tutorial leads from sound to report. It needs no data and no network: the notes are synthesised, and the encoder,
# `m2d_tiny`, comes with the package. Open this file in Jupyter (with jupytext) or VS Code and run it cell by cell. Or
# run all of it by `python docs/tutorial.py`, which takes half a minute to a minute on two cores. It writes into the
# folder `jaxdissect-tutorial` below the current one, and a second run reuses the files there.
#
# Every step is a command, and `run` below calls it as a shell would. The command prints a summary. It writes tables
# (CSV) and arrays (netCDF) into the run directory, and the cells in between read them.

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
# `notes` has 960 clips of 2 s: 8 instruments x 60 pitches x 2 takes. Its table has the columns `octave`, `pitch_class`,
# `instrument` and `split`. The first takes are enough here. A table of your own works in the same way, with
# `file_name`, columns of labels, and `split` (train, valid, test) or `fold`.

# %%
load_task("notes", data=folder / "notes")  # synthesises them where they are missing
table = pd.read_csv(folder / "notes" / "notes.csv")
table = table[table["file_name"].str.endswith("_1.wav")]
table.to_csv(folder / "notes" / "first_takes.csv", index=False)
print(table.groupby("split").size().to_dict(), "clips;", table["octave"].nunique(), "octaves,", end=" ")
print(table["instrument"].nunique(), "instruments")

# %% [markdown]
# ## Counting and selection
#
# One pass over the training clips counts active tokens, for each of the encoder's 9,216 neurons and each class. The
# activation probability is the fraction of tokens at which the neuron is active. AAPE is the entropy of these
# probabilities over the classes: it is low if a neuron responds to few of them. The 2% of lowest AAPE are kept. Each is
# *specific* to the classes for which it fires often enough.
#
# Two label sets of the same clips are counted at once. `--keep-clips` keeps the counts of single clips, which the test
# of significance needs.

# %%
task = f"--task {folder}/notes/first_takes.csv --unit-seconds 2 --label octave,instrument"
choice = "--preset lape --keep 0.02"
drawn = "--keep-clips --permutations 200 --resamples 50 --splits 10"
run(f"dissect --encoder m2d_tiny {task} {choice} {drawn} --run {folder}/trained")

# %% [markdown]
# ## Chance
#
# AAPE keeps its 2% of any encoder and any labels, so the number of kept neurons says nothing. Two comparisons show
# what chance gives. Above, `neurons` permuted the labels 200 times and printed how many pairs of class and neuron would
# pass the same cut-offs by chance. The second comparison is the same encoder before its training.

# %%
run(f"dissect --encoder jaxdissect.demo:untrained_tiny {task} {choice} --run {folder}/untrained")
coverage = pd.concat(
    {name: pd.read_csv(folder / name / "coverage.csv", index_col="label_set") for name in ("trained", "untrained")}
)
print(coverage[["coverage", "kept_neurons", "mean_neurons_per_class"]].to_string())
assert set(coverage["kept_neurons"]) == {round(0.02 * 9216)}  # by construction, trained or not

# %% [markdown]
# Random filters cover octaves, too. The trained encoder separates instruments better.

# %% [markdown]
# ## A single neuron
#
# `neurons.csv` has a row for every pair of class and neuron. This cell takes the pair of an octave and a neuron that
# fires most, and the ten clips that fire this neuron most.

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
# Dark is strong. The lowest band is at the bottom.

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
# ## Classes that share neurons
#
# Neighbouring octaves should share neurons, and so should instruments that sound alike. `share` says how many neurons
# every two classes have in common, and how many chance would give. It also says whether these two in particular share
# more than their sizes and the breadth of the neurons explain.

# %%
run(f"share --run {folder}/trained")

# %% [markdown]
# ## Ablation
#
# A neuron can fire for a class although nothing reads it. So a linear probe is trained on the clip embeddings. Then the
# neurons of the lowest octave are silenced inside the encoder. The probe judges the *test* clips again, and the
# selection saw none of these. The controls are 9 random sets that match in layer, activation rate and size of the
# output. (9 controls cannot give a p below 1/10. Take 200 for a claim.)

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
# The margin is the distance of the true class above the best other class. It moves long before the accuracy does.
#
# ## The report
#
# The report is one page with all results, their sounds and their links. It opens from the disk.

# %%
run(f"report --run {folder}/trained --with {folder}/untrained --no-figures --max-mb 2")
print(f"Open {(folder / 'trained' / 'report.html').resolve()}")

# %% [markdown]
# ## Next steps
#
# - The README and `docs/encoders.md` describe your own data and encoder.
# - `docs/embedding.md` shows the functions in your own JAX code.
# - `docs/method.md` gives the formula of each step, and `docs/certainty.md` the significance of the results.
# - Neurons that respond to silence and padding look specific, too. Count again with `--tokens sounding`, and compare.
