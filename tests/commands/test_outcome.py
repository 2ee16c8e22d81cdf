"""What a command says at its end."""

from jaxdissect.commands.outcome import left_out


def test_left_out_says_once_what_all_files_have_in_common():
    reasons = [(f"{number}.m4a", "it is AAC") for number in range(450)]
    assert left_out("Not counted", reasons, "clips.csv") == [
        "Not counted: 450 files, all for the same reason: it is AAC; the first is 0.m4a, see clips.csv."
    ]


def test_left_out_names_the_first_files_where_reasons_differ():
    reasons = [(f"{number}.wav", "missing" if number else "empty file") for number in range(12)]
    lines = left_out("Not counted", reasons, "clips.csv")
    assert lines[:2] == ["Not counted: 0.wav: empty file", "Not counted: 1.wav: missing"]
    assert lines[10:] == ["... and 2 more, see clips.csv."]
    assert left_out("Not counted", reasons[1:3], "clips.csv") == [f"Not counted: {n}.wav: missing" for n in (1, 2)]
