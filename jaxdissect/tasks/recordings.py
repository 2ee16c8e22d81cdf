"""The recording that a clip was cut from, where file names show it: by the naming of known tasks, or as a suspicion.

A rule takes a file name and gives the name of its recording, or None where the name is not as published. A recording is
whatever makes clips alike for another reason than their class: a sound file that was cut, a speaker, an instrument.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

Rule = Callable[[str], str | None]
BY_COLUMN, BY_NAME = "src_file", "file_name"  # columns of a table that recordings are read from
CUTS = ("-", "_", "/")  # characters up to which the names of a recording's clips may agree
LEAST_CLIPS = 20  # clips whose names suggest groups, below which nothing is suspected
LEAST_CLIPS_PER_GROUP = 3  # on average


def _first_group(match: re.Match[str] | None) -> str | None:
    return match[1] if match else None


def _stem_rule(pattern: str) -> Rule:
    """A rule: the first group of a pattern that a file name without folder and ending must match."""
    compiled = re.compile(pattern, re.ASCII)
    return lambda file_name: _first_group(compiled.fullmatch(PurePosixPath(file_name).stem))


def _path_rule(pattern: str) -> Rule:
    """A rule: the first group of a pattern that must match the end of a path."""
    compiled = re.compile(rf"(?:.*/)?{pattern}")
    return lambda file_name: _first_group(compiled.fullmatch(file_name))


# UrbanSound8K, `fold3/102305-6-0-0.wav`: Freesound id, class, occurrence, slice.
urbansound_source = _stem_rule(r"(\d+)-\d+-\d+-\d+")
# ESC-50, `1-100032-A-0.wav`: fold, Freesound id, take, class.
esc50_source = _stem_rule(r"\d-(\d+)-[A-Z]-\d+")
# VoxCeleb1, `id10001/1zcIwhmdeo4/00001.wav`: speaker, video, utterance.
voxceleb_video = _path_rule(r"(id\d+/[^/]+)/\d+\.\w+")
# Speech Commands, `bed/00176480_nohash_0.wav`: hash of the speaker, number of the utterance.
speech_commands_speaker = _stem_rule(r"([0-9a-f]{8})_nohash_\d+")
# NSynth, `bass_synthetic_033-022-050.wav`: instrument, MIDI pitch, velocity.
nsynth_instrument = _stem_rule(r"([a-z_]+_\d{3})-\d{3}-\d{3}")
# CREMA-D, `1001_DFA_ANG_XX.wav`: actor, sentence, emotion, intensity.
cremad_actor = _stem_rule(r"(\d{4})_[A-Z]{3}_[A-Z]{3}_\w{1,2}")
# Surge's notes as EVAR lays them out, `surge-patches-...-velocity64/060.ogg`: the patch with its velocity, MIDI pitch.
surge_patch = _path_rule(r"([^/]+)/\d+\.\w+")
# VoxForge, `guenter-20140214-afn/wav/de5-001.wav`: an archive is what one speaker read in one session.
voxforge_session = _path_rule(r"([^/]+-\d{8}-\w+)/(?:.*/)?[^/]+\.\w+")
# Notes synthesised here, `audio/saw_lead_060_2.wav`: instrument, MIDI pitch, take; takes of a note differ but little.
synthesised_note = _stem_rule(r"([a-z_]+_\d{3})_[12]")


def named_recordings(file_names: Sequence[str], rule: Rule) -> list[str]:
    """The recording of each clip; empty where the name does not follow the rule: the clip is one by itself.

    Args:
      file_names: names of the clips' files.
      rule: naming of the task.
    """
    return [rule(file_name) or "" for file_name in file_names]


@dataclass(frozen=True)
class Suspicion:
    """Groups that file names suggest.

    Attributes:
      groups: number of groups.
      clips: number of clips in all of them.
      example: beginning that the names of the largest group share.
      size: number of clips of that group.
    """

    groups: int
    clips: int
    example: str
    size: int


def suspected_groups(file_names: Sequence[str]) -> Suspicion | None:
    """Groups of clips whose names agree up to a last -, _ or folder, if they are far fewer than the clips.

    Of the three characters the one with the most groups counts: folders show less than what is cut within them.

    Args:
      file_names: names of the clips' files.
    """
    suspicions = []
    for cut in CUTS:
        beginnings = [PurePosixPath(name).with_suffix("").as_posix().rpartition(cut)[0] for name in file_names]
        groups = Counter(beginning for beginning in beginnings if beginning)
        clips = groups.total()
        # Groups are suspected if they hold half of the clips or more, and at least three clips each on average.
        enough = max(LEAST_CLIPS, len(file_names) / 2, LEAST_CLIPS_PER_GROUP * len(groups))
        if len(groups) > 1 and clips >= enough:
            example, size = groups.most_common(1)[0]
            suspicions.append(Suspicion(len(groups), clips, example, size))
    return max(suspicions, key=lambda suspicion: suspicion.groups, default=None)
