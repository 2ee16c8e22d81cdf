"""Files whose headers are wrong are counted as far as they go; files that are cut are refused."""

import contextlib
import hashlib
import re
import struct

import numpy as np
import pytest
import soundfile
from compressed import APE, ID3V1, ID3V2, RATE, Mp3, encoded, flac_promising, ogg_ending_at, ogg_pages, tone

from jaxdissect.audio.decode import read_clip
from jaxdissect.audio.sound_files import read_frames
from jaxdissect.errors import UnreadableError

LENGTH = 24000  # samples of a tone
NO_MD5 = bytes(16)


def decoded(content, wanted=10 * LENGTH, frequency=440.0):
    """The number of frames that are read, which must hold the tone to the end."""
    pcm, rate = read_frames(content, lambda _: wanted)
    for part in (pcm[2048:6144, 0], pcm[-6144:-2048, 0]):
        spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part))))
        assert abs(spectrum.argmax() * rate / len(part) - frequency) < 2 * rate / len(part)
    return len(pcm)


def refused(content, match="truncated", wanted=10 * LENGTH):
    with pytest.raises(UnreadableError, match=match):
        read_frames(content, lambda _: wanted)


@pytest.fixture(scope="module", params=["CONSTANT", "VARIABLE"])
def mp3(request):
    return Mp3(LENGTH, mode=request.param)


@pytest.mark.parametrize("rate", [8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000])
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_read_mpeg_of_any_rate_with_and_without_its_tag(rate, mode):
    file = Mp3(3 * rate // 2, rate, mode)
    assert decoded(file.content) == file.samples
    assert decoded(file.without_tag) == file.samples_without_tag


@pytest.mark.parametrize("tail", [b"", ID3V1, APE, APE + ID3V1, bytes(5000), b"junk" * 500])
@pytest.mark.parametrize("head", [b"", ID3V2, 2 * ID3V2, bytes(3), bytes(1500)])
def test_read_mpeg_between_tags_and_junk(mp3, head, tail):
    assert decoded(head + mp3.content + tail) == mp3.samples
    assert decoded(head + mp3.without_tag + tail) == mp3.samples_without_tag


@pytest.mark.parametrize("change", [lambda n: 0, lambda n: 1, lambda n: n // 2, lambda n: n + 1, lambda n: 9 * n])
def test_read_mpeg_whose_tag_has_another_number_of_frames(mp3, change):
    content = mp3.promising(change(mp3.frames))
    assert decoded(content) == mp3.samples
    assert decoded(content, wanted=9000) == 9000


def test_read_mpeg_whose_tag_was_written_before_the_length_was_known(mp3):
    assert decoded(mp3.promising(0, 0)) == mp3.samples
    assert decoded(mp3.promising(2**32 - 1, 2**32 - 1)) == mp3.samples
    flags = mp3.tag + 7
    silent = mp3.content[:flags] + bytes([mp3.content[flags] & ~1]) + mp3.content[flags + 1 :]
    assert decoded(silent) == mp3.samples_without_tag


def test_read_mpeg_whose_tag_is_by_another_encoder():
    file = Mp3(LENGTH, 48000, "VARIABLE")
    header = bytes.fromhex("fffb94c4")  # 128 kbit/s, mono: 384 bytes at 48 kHz
    for frames in (file.frames, 3, 0):
        numbers = struct.pack(">HHHIIHHHH", 1, 0, 50, len(file.without_tag) + 384, frames, 1, 1, 2, 10)
        tag = (header + bytes(32) + b"VBRI" + numbers).ljust(384, b"\0")
        assert decoded(tag + file.without_tag) == file.samples_without_tag


@pytest.mark.parametrize("cut", [1, 50, 700])
def test_read_mpeg_refuses_a_cut_stream(mp3, cut):
    refused(mp3.content[:-cut])
    refused(mp3.without_tag[: -cut if cut < 700 else -len(mp3.without_tag) // 2 - 1])
    if cut < 700:
        assert decoded(mp3.content[:-cut], wanted=9000) == 9000  # the clip needs nothing of what is missing


def test_read_mpeg_refuses_a_tag_that_promises_more_frames_and_more_bytes(mp3):
    refused(mp3.promising(2 * mp3.frames, 2 * mp3.bytes), r"its header promises \d+ MPEG frames in \d+ bytes")


def test_read_mpeg_refuses_a_change_of_rate_or_channels(mp3):
    other = Mp3(LENGTH, 24000)
    refused(mp3.without_tag + other.without_tag, "changes its rate or its number of channels")
    stereo = encoded(np.stack([tone(LENGTH)] * 2, 1), format="MP3")
    refused(mp3.without_tag + stereo, "changes its rate or its number of channels")
    assert decoded(mp3.without_tag + ID3V2 + mp3.without_tag) == 2 * mp3.samples_without_tag


def test_read_mpeg_refuses_damage_within(mp3):
    middle = len(mp3.without_tag) // 2
    at = mp3.without_tag.index(mp3.without_tag[:2], middle)
    refused(mp3.without_tag[:at] + b"\x11" * 3000 + mp3.without_tag[at:], "damaged")


def test_read_mpeg_finds_no_frames_in_other_bytes():
    random = np.random.default_rng(0)
    plain = random.integers(128, 255, 3000).astype(np.uint8).tobytes()
    file = Mp3(LENGTH)
    row = file.without_tag[: 3 * file.first]  # three frames, as chance may bring: all are as long as the tag's own
    bits = (random.integers(0, 2, 60000) * 255).astype(np.uint8).tobytes()
    for content in (random.bytes(60000), bits, plain + row + plain):
        refused(content, "in a format that is unknown here")


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
@pytest.mark.parametrize("channels", [1, 2])
def test_read_flac_whatever_its_header_promises(subtype, channels):
    content = encoded(np.stack([tone(LENGTH)] * channels, 1), format="FLAC", subtype=subtype)
    for promised in (LENGTH, 0, 1, 5000, LENGTH - 1, LENGTH + 1, 2 * LENGTH, 2**36 - 1):
        for head, tail in ((b"", b""), (ID3V2, ID3V1)):
            assert decoded(head + flac_promising(content, promised) + tail) == LENGTH
            assert decoded(head + flac_promising(content, promised, NO_MD5) + tail) == LENGTH  # written to a pipe
        assert decoded(flac_promising(content, promised), wanted=9000) == 9000


def test_read_flac_refuses_a_cut_file():
    content = encoded(tone(LENGTH), format="FLAC")
    whole = flac_promising(content, 0, NO_MD5)
    starts = [match.start() for match in re.finditer(b"\xff\xf8", content) if match.start() > len(content) // 2]
    counted = []
    for size in sorted({start + more for start in starts for more in range(-2, 20)} - {len(content)}):
        refused(content[:size])
        with contextlib.suppress(
            UnreadableError
        ):  # without a length in the header nothing shows that whole frames are missing
            counted.append(len(read_frames(whole[:size], lambda _: 10 * LENGTH)[0]))
    assert counted == [4096 * frames for frames in range(counted[0] // 4096, LENGTH // 4096 + 1)]
    assert len(counted) > 1


def test_read_flac_refuses_missing_frames_by_the_checksum():
    content = encoded(tone(LENGTH), format="FLAC")
    refused(
        flac_promising(content, 2 * LENGTH, hashlib.md5(b"more").digest()), f"promises {2 * LENGTH} frames, {LENGTH}"
    )


OGG = {"VORBIS": 64 * 5, "OPUS": 1000}  # samples at most that the encoder adds, and trims by the last position


@pytest.mark.parametrize("subtype", OGG)
def test_read_ogg_whatever_the_position_of_its_last_page(subtype):
    content = encoded(tone(LENGTH), format="OGG", subtype=subtype)
    assert decoded(content) == LENGTH
    for position in (0, 1, 100, 10000, 10**6, 2**40, 2**63 - 1, -1):
        altered = ogg_ending_at(content, position)
        assert LENGTH <= decoded(altered) <= LENGTH + OGG[subtype]
        assert decoded(altered, wanted=9000) == 9000


@pytest.mark.parametrize("length", [4000, 8000, 16000])
@pytest.mark.parametrize("subtype", OGG)
def test_read_ogg_of_one_page_of_sound(subtype, length):
    """libsndfile reckons the begin of such an Opus stream from its last position, which is its first one, too."""
    content = encoded(tone(length), format="OGG", subtype=subtype)
    assert decoded(content) == length
    assert decoded(content + content) == 2 * length
    if subtype == "OPUS":  # a position of 0 may be right in Vorbis, which can trim all of so short a stream
        for position in (0, 1):
            assert length <= decoded(ogg_ending_at(content, position)) <= length + OGG[subtype]


@pytest.mark.parametrize("subtype", OGG)
def test_read_ogg_counts_all_streams_that_follow_one_another(subtype):
    first, second = (encoded(tone(length), format="OGG", subtype=subtype) for length in (LENGTH, 2 * LENGTH))
    for chained in (first + second, second + first, first + first + first):
        assert decoded(chained) == 3 * LENGTH
        assert decoded(chained, wanted=LENGTH + 9000) == LENGTH + 9000
    other = encoded(np.stack([tone(LENGTH)] * 2, 1), format="OGG", subtype=subtype)
    refused(first + other, "its streams differ in rate or channels: 16000 Hz, 1" if subtype == "VORBIS" else "differ")


@pytest.mark.parametrize("subtype", OGG)
def test_read_ogg_refuses_a_cut_or_damaged_file(subtype):
    content = encoded(tone(LENGTH), format="OGG", subtype=subtype)
    pages = ogg_pages(content)
    for cut in (content[:-1], content[: len(content) // 2], b"".join(pages[:-1]), content + content[:-1]):
        refused(cut, "truncated: the last Ogg page does not end the stream; .* ffmpeg -i NAME.ogg -c copy")
    flipped = bytearray(content)
    flipped[-40] ^= 0xFF
    refused(bytes(flipped), "an Ogg page is missing or altered")


UNKNOWN = (0, 2**32 - 1, 0x7FFFF000, 0x7FFFFFFF, 0x80000000)


def with_number(content, mark, at, number_format, value):
    """A file with the number replaced that is `at` bytes behind the start of a mark."""
    start = content.index(mark) + at
    return content[:start] + struct.pack(number_format, value) + content[start + struct.calcsize(number_format) :]


@pytest.mark.parametrize("value", UNKNOWN)
def test_read_frames_of_pcm_written_to_a_pipe(value):
    wav, au, aiff = (encoded(tone(LENGTH), format=form, subtype="PCM_16") for form in ("WAV", "AU", "AIFF"))
    assert decoded(with_number(wav, b"data", 4, "<I", value)) == LENGTH
    assert decoded(with_number(with_number(wav, b"data", 4, "<I", value), b"RIFF", 4, "<I", value)) == LENGTH
    if value in UNKNOWN[:3]:
        assert decoded(with_number(au, b".snd", 8, ">I", value)) == LENGTH
        streamed = with_number(with_number(aiff, b"SSND", 4, ">I", value), b"COMM", 10, ">I", value)
        assert decoded(streamed) == LENGTH
        assert decoded(with_number(aiff, b"COMM", 10, ">I", value)) == LENGTH


def test_read_frames_of_large_containers_written_to_a_pipe():
    caf, w64, rf64 = (encoded(tone(LENGTH), format=form, subtype="PCM_16") for form in ("CAF", "W64", "RF64"))
    assert decoded(with_number(caf, b"data", 4, ">q", -1)) == LENGTH
    for value in (0, 2**63 - 1):
        assert decoded(with_number(w64, b"data\xf3", 16, "<Q", value)) == LENGTH
    for value in (0, 2**64 - 1):
        streamed = rf64
        for at in (8, 16, 24):  # sizes of the file and of the sound, and the number of frames
            streamed = with_number(streamed, b"ds64", at, "<Q", value)
        assert decoded(streamed) == LENGTH


@pytest.mark.parametrize("form", ["WAV", "WAVEX", "RF64", "AU", "AIFF", "CAF", "W64", "NIST", "SVX", "MAT4", "SDS"])
def test_read_frames_refuses_cut_pcm_even_if_the_clip_needs_less(form):
    content = encoded(tone(LENGTH), format=form, subtype=None if form == "SVX" else "PCM_16" if form != "SDS" else None)
    assert decoded(content) == LENGTH
    refused(content[: len(content) // 2])
    if form != "SDS":
        refused(content[: len(content) // 2], wanted=100)


def test_read_frames_does_not_take_pcm_without_samples_for_a_stream():
    empty = encoded(np.zeros(0), format="WAV") + b"LIST\4\0\0\0INFO"
    assert len(read_frames(empty, lambda _: 100)[0]) == 0


@pytest.mark.parametrize("form", ["WAV", "FLAC", "MP3", "OGG", "AIFF", "CAF", "AU"])
@pytest.mark.parametrize("wanted", [9000, LENGTH, 2 * LENGTH])
def test_read_frames_with_right_headers_equals_soundfile(tmp_path, form, wanted):
    noise = np.random.default_rng(0).normal(size=(LENGTH, 2)) * 0.1
    path = tmp_path / "a.x"
    soundfile.write(path, noise, RATE, format=form)
    with soundfile.SoundFile(path) as file:
        expected = file.read(min(wanted, file.frames), dtype="float32", always_2d=True)
    for source in (path, path.read_bytes()):
        pcm, rate = read_frames(source, lambda _: wanted)
        assert rate == RATE
        np.testing.assert_array_equal(pcm, expected)


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.raw", "a.m4a", "a"])
@pytest.mark.parametrize("form", ["WAV", "FLAC", "MP3", "OGG"])
def test_read_clip_does_not_depend_on_names_that_mislead(data_folder, name, form):
    data_folder.table("t.csv", "")
    (data_folder.path / name).write_bytes(encoded(tone(LENGTH), format=form))
    recording = read_clip(data_folder.path, name, RATE, RATE)
    assert (recording.clip.status, recording.clip.samples) == ("ok", RATE)


def test_read_clip_counts_short_clips_whose_header_has_no_length(data_folder):
    """An MP3 file without a tag, and a FLAC file that was written to a pipe."""
    data_folder.table("t.csv", "")
    file = Mp3(54392, 44100)
    (data_folder.path / "a.mp3").write_bytes(file.without_tag)
    (data_folder.path / "a.flac").write_bytes(
        flac_promising(encoded(tone(52920, 44100), 44100, format="FLAC"), 0, NO_MD5)
    )
    for name in ("a.mp3", "a.flac"):
        recording = read_clip(data_folder.path, name, RATE, RATE)
        assert (recording.clip.status, recording.clip.samples) == ("ok", RATE)
        assert np.abs(np.fft.rfft(recording.pcm)).argmax() == 440  # 1 Hz a bin
