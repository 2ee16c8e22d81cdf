"""Figures of sharing: the data are those of the table, in the order of the dendrograms, whatever classes are called."""

import numpy as np
import pandas as pd
import pytest
import scipy.cluster.hierarchy

from jaxdissect import InputError
from jaxdissect.sharing.heatmaps import draw_heatmap, draw_sharing, sharing_heatmaps
from jaxdissect.sharing.share import Sets, share

NAMES = ("a", "<script>alert(1)</script>", "$x^2$", "b" * 200, "é ü", "c", "../d", "e")


def sets_of(label_set, run, seed, empty=()):
    rng = np.random.default_rng(seed)
    specific = rng.random((len(NAMES), 2, 40)) < 0.3
    specific[list(empty)] = False
    return Sets(run, label_set, NAMES, specific, rng.random((2, 40)), "encoder")


@pytest.fixture(scope="module")
def sharing():
    one, other = sets_of("digit/../..", "runs/one", 0, empty=(1, 3)), sets_of("voice", "runs/one", 1)
    one.specific[2] = other.specific[4]
    return share([one, other], [sets_of("voice", "runs/two", 1, empty=(0,))])


def test_sharing_heatmaps_hold_what_the_table_says(sharing):
    heatmaps = sharing_heatmaps(sharing)
    assert list(heatmaps) == [
        "sharing-digit",
        "sharing-digit-voice",
        "sharing-digit-voice-of-two",
        "sharing-voice",
        "sharing-voice-voice-of-two",
    ]
    table = sharing.table.set_index(["label_set_a", "run_b", "label_set_b", "class_a", "class_b"])
    keys = {
        "sharing-digit": ("digit/../..", "runs/one", "digit/../.."),
        "sharing-digit-voice": ("digit/../..", "runs/one", "voice"),
        "sharing-voice-voice-of-two": ("voice", "runs/two", "voice"),
    }
    for name, key in keys.items():
        heatmap = heatmaps[name]
        own = key[0] == key[2] and key[1] == "runs/one"
        for row, column in np.ndindex(heatmap.jaccard.shape):
            a, b = heatmap.jaccard.index[row], heatmap.jaccard.columns[column]
            if own and a == b:
                assert heatmap.jaccard.iloc[row, column] == 1
                continue
            found = table.loc[(*key, a, b)] if (*key, a, b) in table.index else table.loc[(*key, b, a)]
            assert heatmap.jaccard.iloc[row, column] == found["jaccard"]
            assert heatmap.marked[row, column] == (found["q_by_breadth"] <= 0.05)
    assert heatmaps["sharing-digit-voice"].marked.any()
    empty = {NAMES[1], NAMES[3]}
    assert set(heatmaps["sharing-digit"].jaccard.index) == set(NAMES) - empty
    assert list(heatmaps["sharing-voice-voice-of-two"].jaccard.columns) == list(NAMES[1:])


def test_sharing_heatmaps_have_rows_and_columns_in_the_order_of_the_dendrograms(sharing):
    for heatmap in sharing_heatmaps(sharing).values():
        for tree, names in zip(heatmap.trees, (heatmap.jaccard.index, heatmap.jaccard.columns), strict=True):
            if tree is not None:
                leaves = scipy.cluster.hierarchy.leaves_list(tree)
                assert len(leaves) == len(names)
    heatmap = sharing_heatmaps(sharing)["sharing-digit"]
    tree, jaccard = heatmap.trees[0], heatmap.jaccard.to_numpy()
    leaves = scipy.cluster.hierarchy.leaves_list(tree).tolist()
    first = sorted(leaves.index(int(leaf)) for leaf in tree[0, :2])
    assert tree[0, 2] == pytest.approx(1 - jaccard[first[0], first[1]]), "the two most alike are joined first"
    assert first[1] - first[0] == 1


def test_draw_sharing_writes_figures_and_their_data(sharing, tmp_path):
    paths = draw_sharing(sharing, tmp_path / "figures")
    assert len(paths) == 5
    for path in paths:
        assert path.parent == tmp_path / "figures"
        assert path.read_text().startswith("<?xml")
        assert "<script>" not in path.read_text()
        assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
        data = pd.read_csv(path.with_suffix(".csv"), index_col="class")
        assert data.shape == sharing_heatmaps(sharing)[path.stem].jaccard.shape
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in draw_sharing(sharing, tmp_path / "figures")] == before
    assert len(list((tmp_path / "figures").iterdir())) == 15


def test_draw_heatmap_has_leaves_at_their_cells(sharing):
    heatmap = sharing_heatmaps(sharing)["sharing-digit"]
    figure = draw_heatmap(heatmap)
    cells, left, top = figure.axes[:3]
    classes = len(heatmap.jaccard)
    assert cells.get_xlim() == top.get_xlim() == (-0.5, classes - 0.5)
    assert cells.get_ylim() == left.get_ylim() == (classes - 0.5, -0.5)
    for axes, across in ((left, "get_ydata"), (top, "get_xdata")):
        ends = np.concatenate([getattr(line, across)() for line in axes.lines])
        assert set(range(classes)) <= set(ends.tolist())


def test_draw_sharing_asks_for_matplotlib(sharing, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match=r"pip install 'jaxdissect\[figures\]'"):
        draw_sharing(sharing, tmp_path)


def test_draw_sharing_of_one_class_and_of_no_neurons(tmp_path):
    nothing = sets_of("voice", "run", 0, empty=range(len(NAMES)))
    assert draw_sharing(share([nothing]), tmp_path) == []
    single = sets_of("voice", "run", 0, empty=range(1, len(NAMES)))
    (path,) = draw_sharing(share([single]), tmp_path)
    assert path.exists()
