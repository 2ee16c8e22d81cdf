"""The kinds of files that libsndfile does not read, known by their first bytes, and what to do about each."""

import re

from jaxdissect.audio.byte_windows import OpenFile, file_size, read_at
from jaxdissect.audio.mpeg_frames import skip_tags

HEAD_BYTES = 4096  # first bytes of a file, by which its kind is known
ZERO_BLOCK_BYTES = 2**20  # bytes that are looked through at once for any that is not zero
FORMATS_READ = "WAV, FLAC, MP3, Ogg Vorbis or Opus"

FETCH_AGAIN = "fetch the file again, after logging in if its site asks for that"
NAME_AUDIO = "name the audio file in the table"
SAVE_AS_SOUND = "write its array as sound: soundfile.write('NAME.wav', array, rate)"
SAVE_AS_FILES = "write the sound in it to files, one for each clip"


def convert_by(ending: str) -> str:
    """The advice to convert a file to WAV, with the command.

    Args:
      ending: ending of the file's name, without the dot.
    """
    return f"convert it: ffmpeg -i NAME.{ending} NAME.wav"


def _unpack_by(command: str) -> str:
    return f"unpack it ({command}) and name the audio files in it"


OGG = "Ogg with a codec that is not read, or damaged"
# Pattern of a file's head, name of the kind as it reads after "it is", and what the user should do. The first pattern
# that matches decides: a codec comes before its container (OggS, RIFF).
# `.{8}` skips the eight bytes of a chunk's name and size; `.{28}` a first Ogg page's header, whose table has one entry.
KINDS: tuple[tuple[bytes, str, str], ...] = (
    (rb".{4}ftypM4A ", "AAC or another codec in MP4", convert_by("m4a")),
    (rb".{4}ftypM4B ", "AAC or another codec in MP4", convert_by("m4b")),
    (rb".{4}ftypqt  ", "AAC or another codec in MP4", convert_by("mov")),
    (rb".{4}ftyp3gp[45]", "AAC or another codec in MP4", convert_by("3gp")),
    (rb".{4}ftyp", "AAC or another codec in MP4", convert_by("mp4")),
    (rb"version https://git-lfs\.github\.com/spec/", "a Git LFS pointer, not the file", "fetch it: git lfs pull"),
    (rb"0&\xb2u\x8ef\xcf\x11", "WMA or another ASF file", convert_by("wma")),
    (rb"\x1aE\xdf\xa3", "Matroska or WebM", convert_by("webm")),
    (rb"#!AMR", "AMR speech", convert_by("amr")),
    (rb"DSD ", "DSD audio (DSF)", convert_by("dsf")),
    (rb"FRM8", "DSD audio (DFF)", convert_by("dff")),
    (rb"MAC ", "Monkey's Audio", convert_by("ape")),
    (rb"wvpk", "WavPack", convert_by("wv")),
    (rb"TTA1", "True Audio", convert_by("tta")),
    (rb"MPCK|MP\+", "Musepack", convert_by("mpc")),
    (rb"ajkg", "Shorten", convert_by("shn")),
    (rb"\.RMF", "RealMedia", convert_by("rm")),
    (rb"\.ra\xfd", "RealAudio", convert_by("ra")),
    (rb"FLV\x01", "Flash video", convert_by("flv")),
    (rb"\x0bw", "AC-3", convert_by("ac3")),
    (rb"\x7f\xfe\x80\x01", "DTS", convert_by("dts")),
    (rb"ADIF", "AAC", convert_by("aac")),
    (rb"caff", "CAF with a codec that is not read", convert_by("caf")),
    (rb".{8}WAVE", "WAV with a codec that is not read, or a damaged header", convert_by("wav")),
    (rb".{8}AIF", "AIFF with a codec that is not read, or a damaged header", convert_by("aiff")),
    (rb".{8}AVI ", "an AVI video", convert_by("avi")),
    (rb".{28}Speex   ", "Ogg Speex", convert_by("spx")),
    (rb".{28}\x7fFLAC", "FLAC in an Ogg container", convert_by("oga")),
    (rb".{28}(?:\x80theora|\x01video)", "an Ogg video", convert_by("ogv")),
    (rb".{28}fishead\0", "Ogg with several streams", convert_by("ogv")),
    (rb"fLaC", "FLAC with a damaged header", FETCH_AGAIN),
    (rb"OggS", OGG, convert_by("ogg")),
    (rb"MThd", "MIDI, which holds notes and no sound", "render it: fluidsynth -F NAME.wav SOUNDFONT NAME.mid"),
    (
        rb"PK\x03\x04.*(?:/data\.pkl|data/pickle)",
        "an archive that torch.save wrote, which is never loaded here",
        SAVE_AS_SOUND,
    ),
    (rb"PK\x03\x04", "a zip archive", _unpack_by("unzip")),
    (rb"PK\x05\x06", "an empty zip archive", _unpack_by("unzip")),
    (rb"\x1f\x8b", "compressed by gzip", _unpack_by("gunzip")),
    (rb"BZh", "compressed by bzip2", _unpack_by("bunzip2")),
    (rb"\xfd7zXZ\0", "compressed by xz", _unpack_by("unxz")),
    (rb"\(\xb5/\xfd", "compressed by zstd", _unpack_by("unzstd")),
    (rb"7z\xbc\xaf'\x1c", "a 7z archive", _unpack_by("7z x")),
    (rb"Rar!\x1a\x07", "a RAR archive", _unpack_by("unrar x")),
    (rb".{257}ustar", "a tar archive", _unpack_by("tar -xf")),
    (rb"%PDF-", "a PDF document", NAME_AUDIO),
    (rb"\x89PNG\r\n", "a PNG picture", NAME_AUDIO),
    (rb"\xff\xd8\xff", "a JPEG picture", NAME_AUDIO),
    (rb"GIF8", "a GIF picture", NAME_AUDIO),
    (rb".{8}WEBP", "a WebP picture", NAME_AUDIO),
    (rb"\x93NUMPY", "a NumPy array", SAVE_AS_SOUND),
    (rb"\x89HDF\r\n", "an HDF5 file", SAVE_AS_SOUND),
    (rb"PAR1", "a Parquet table", SAVE_AS_FILES),
    (rb"SQLite format 3\0", "an SQLite database", SAVE_AS_FILES),
    (rb"RIFF", "a RIFF file without sound, or cut in its header", FETCH_AGAIN),
    (rb"\xff[\xf0\xf1\xf8\xf9]", "AAC (ADTS)", convert_by("aac")),  # the sync bits of MPEG audio, but layer 0
    (rb"G.{187}G", "an MPEG transport stream", convert_by("ts")),  # packets of 188 bytes
    (rb"\0\0\x01\xba", "an MPEG video", convert_by("mpg")),
    (rb"[\w./]*/annex/objects/", "a git-annex pointer, not the file", "fetch it: git annex get"),
    (
        rb"(?:\.{1,2}/)+[^\n\0]{1,1000}\n?\Z",
        "a link that was copied as text",
        "copy or check out the data where links can be made",
    ),
    (
        rb"\x80[\x02-\x05](?:[\x95c(}\]X\x8a\x8c]|.{0,2}\x8c)",  # protocols 2 to 5, and what a pickle then begins with
        "a pickled Python object, which is never loaded here",
        SAVE_AS_SOUND,
    ),
    (
        rb"(?:\xef\xbb\xbf)?\s*(?:<!--.*?-->\s*)*<(?i:!doctype\s+html|html|head|body)\b",  # behind a byte order mark
        "an HTML page, so the download failed",
        FETCH_AGAIN,
    ),
)


def describe_kind(file: OpenFile) -> tuple[str, str] | None:
    """What a file is that holds no sound that is read; None: unknown, or it may well be such sound.

    Args:
      file: open file; its position changes.

    Returns:
      The kind as it reads after "it is", and what the user should do.
    """
    head = read_at(file, skip_tags(file, 0), HEAD_BYTES)
    for pattern, name, remedy in KINDS:
        if re.match(pattern, head, re.DOTALL):  # re keeps what it has compiled
            return name, remedy
    text = _describe_text(head)
    return (text, FETCH_AGAIN) if text is not None else None


def refusal(file: OpenFile) -> str:
    """Why a file cannot be read, and what to do.

    Args:
      file: open file; its position changes.
    """
    kind = describe_kind(file)
    if kind is None and _is_all_zeros(file):
        kind = "nothing but zeros, so a copy or a download did not finish", FETCH_AGAIN
    if kind is not None:
        return f"cannot be decoded: it is {kind[0]}; {kind[1]}"
    return (
        f"cannot be decoded: it is in a format that is unknown here; convert it to {FORMATS_READ}, samples without a "
        f"header: ffmpeg -f s16le -ar RATE -ac CHANNELS -i NAME.raw NAME.wav"
    )


def _describe_text(head: bytes) -> str | None:
    plain = head.removeprefix(b"\xef\xbb\xbf")  # a byte order mark
    text = plain.lstrip()
    # Of the control characters, text holds tabs (9), line ends (10 to 13) and nothing else.
    if not text or any(byte < 9 or 13 < byte < 32 for byte in plain):
        return None
    try:
        plain.decode("utf-8")
    except UnicodeDecodeError as error:
        if len(plain) - error.start > 3:  # else the head may end within a character of up to four bytes
            return None
    if text.startswith((b"{", b"[")):
        return "JSON, perhaps a server's error message"
    return "XML, perhaps a server's error message" if text.startswith(b"<") else "text"


def _is_all_zeros(file: OpenFile) -> bool:
    offsets = range(0, file_size(file), ZERO_BLOCK_BYTES)
    return not any(read_at(file, offset, ZERO_BLOCK_BYTES).strip(b"\0") for offset in offsets)
