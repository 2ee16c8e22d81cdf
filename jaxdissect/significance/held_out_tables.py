"""The tables of a selection with what held-out clips say of it."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import pandas as pd

from jaxdissect.selection.labelled import Neurons, class_table
from jaxdissect.significance.held_out import NAMES, READING_NAMES, HeldOut, Pairs
from jaxdissect.types import Record

GOOD_AUROC = 0.8  # held-out AUROC from which a neuron counts as one that tells its class
PAIR_COLUMNS = {name: f"held_out_{name}" for name in NAMES}  # of `neurons.csv` and `classes.csv`


def with_held_out(neurons: Neurons, held_out: Mapping[str, HeldOut], pairs: Mapping[str, Pairs]) -> Neurons:
    """Add what held-out clips say to the table of pairs and to the coverage.

    Args:
      neurons: chosen neurons.
      held_out: judgement of every label set.
      pairs: chosen pairs of every label set, in the order of their rows.
    """
    table = neurons.neurons.copy()
    table["reading"] = ""
    for column in PAIR_COLUMNS.values():
        table[column] = np.nan
    for name, judged in held_out.items():
        own = (table["label_set"] == name).to_numpy()
        table.loc[own, "reading"] = [READING_NAMES[number] for number in pairs[name].reading]
        for part, column in PAIR_COLUMNS.items():
            table.loc[own, column] = getattr(judged.pairs, part)
    table["held_out_clips"] = table["held_out_clips"].astype("Int64")  # nullable, as in the table of classes
    coverage = neurons.coverage.reset_index(drop=True)
    rows = [_row(table[table["label_set"] == name], held_out[name]) for name in coverage["label_set"]]
    return dataclasses.replace(
        neurons,
        neurons=table,
        coverage=pd.concat([coverage, pd.DataFrame(rows)], axis=1),
        classes=class_table(table, neurons.classes),
    )


def _row(pairs: pd.DataFrame, held_out: HeldOut) -> Record:
    """Further columns of a row of `coverage.csv`."""
    aurocs = held_out.aurocs
    best = pairs.groupby("class", sort=False)["held_out_auroc"].max()
    return {
        "held_out_by": held_out.by,
        "held_out_auroc": float(np.median(aurocs)) if len(aurocs) else np.nan,
        "held_out_auroc_q10": float(np.quantile(aurocs, 0.1)) if len(aurocs) else np.nan,
        "classes_judged": int(best.notna().sum()),
        "classes_held_out": int((best >= GOOD_AUROC).sum()),
        "held_out_left_out": held_out.left_out,
    }
