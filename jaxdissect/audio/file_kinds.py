"""What the bytes of a file are that libsndfile does not read, and what to do about it."""

import re
from dataclasses import dataclass

from jaxdissect.audio.byte_windows import Content, content_size, read_at
from jaxdissect.audio.mpeg_frames import skip_tags

HEAD = 4096  # bytes that are looked at
READ = "WAV, FLAC, MP3, Ogg Vorbis or Opus"
FETCH = "fetch the file again, after logging in if its site asks for that"


@dataclass(frozen=True)
class FileKind:
    """What a file is.

    Attributes:
      name: as one says it after "is".
      remedy: what to do; empty: convert it.
      sound: it holds sound, in a format that is not read.
      ending: that such files have, for the command that converts one.
    """

    name: str
    remedy: str = ""
    sound: bool = False
    ending: str = ""


def _sound(name: str, ending: str) -> FileKind:
    return FileKind(name, f"convert it: {convert_by(ending)}", True, ending)


def _archive(name: str, command: str) -> FileKind:
    return FileKind(name, f"unpack it ({command}) and name the audio files in it")


def convert_by(ending: str) -> str:
    """The command that converts a file.

    Args:
      ending: of its name.
    """
    return f"ffmpeg -i NAME.{ending} NAME.wav"


LFS = FileKind("a Git LFS pointer, not the file", "fetch it: git lfs pull")
MIDI = FileKind("MIDI, which holds notes and no sound", "render it: fluidsynth -F NAME.wav SOUNDFONT NAME.mid")
WRITE = "write its array as sound: soundfile.write('NAME.wav', array, rate)"
PICTURE = "name the audio file in the table"
ISO_BRANDS = {b"M4A ": "m4a", b"M4B ": "m4b", b"qt  ": "mov", b"3gp4": "3gp", b"3gp5": "3gp"}
OGG = _sound("Ogg with a codec that is not read, or damaged", "ogg")
SIGNATURES: tuple[tuple[int, bytes, FileKind], ...] = (
    (0, b"version https://git-lfs.github.com/spec/", LFS),
    (0, b"0&\xb2u\x8ef\xcf\x11", _sound("WMA or another ASF file", "wma")),
    (0, b"\x1aE\xdf\xa3", _sound("Matroska or WebM", "webm")),
    (0, b"#!AMR", _sound("AMR speech", "amr")),
    (0, b"DSD ", _sound("DSD audio (DSF)", "dsf")),
    (0, b"FRM8", _sound("DSD audio (DFF)", "dff")),
    (0, b"MAC ", _sound("Monkey's Audio", "ape")),
    (0, b"wvpk", _sound("WavPack", "wv")),
    (0, b"TTA1", _sound("True Audio", "tta")),
    (0, b"MPCK", _sound("Musepack", "mpc")),
    (0, b"MP+", _sound("Musepack", "mpc")),
    (0, b"ajkg", _sound("Shorten", "shn")),
    (0, b".RMF", _sound("RealMedia", "rm")),
    (0, b".ra\xfd", _sound("RealAudio", "ra")),
    (0, b"FLV\x01", _sound("Flash video", "flv")),
    (0, b"\x0bw", _sound("AC-3", "ac3")),
    (0, b"\x7f\xfe\x80\x01", _sound("DTS", "dts")),
    (0, b"ADIF", _sound("AAC", "aac")),
    (0, b"caff", _sound("CAF with a codec that is not read", "caf")),
    (8, b"WAVE", _sound("WAV with a codec that is not read, or a damaged header", "wav")),
    (8, b"AIF", _sound("AIFF with a codec that is not read, or a damaged header", "aiff")),
    (8, b"AVI ", _sound("an AVI video", "avi")),
    (28, b"Speex   ", _sound("Ogg Speex", "spx")),
    (28, b"\x7fFLAC", _sound("FLAC in an Ogg container", "oga")),
    (28, b"\x80theora", _sound("an Ogg video", "ogv")),
    (28, b"\x01video", _sound("an Ogg video", "ogv")),
    (28, b"fishead\0", _sound("Ogg with several streams", "ogv")),
    (0, b"fLaC", FileKind("FLAC with a damaged header", FETCH)),
    (0, b"OggS", OGG),
    (0, b"MThd", MIDI),
    (0, b"PK\x03\x04", _archive("a zip archive", "unzip")),
    (0, b"PK\x05\x06", _archive("an empty zip archive", "unzip")),
    (0, b"\x1f\x8b", _archive("compressed by gzip", "gunzip")),
    (0, b"BZh", _archive("compressed by bzip2", "bunzip2")),
    (0, b"\xfd7zXZ\0", _archive("compressed by xz", "unxz")),
    (0, b"(\xb5/\xfd", _archive("compressed by zstd", "unzstd")),
    (0, b"7z\xbc\xaf'\x1c", _archive("a 7z archive", "7z x")),
    (0, b"Rar!\x1a\x07", _archive("a RAR archive", "unrar x")),
    (257, b"ustar", _archive("a tar archive", "tar -xf")),
    (0, b"%PDF-", FileKind("a PDF document", PICTURE)),
    (0, b"\x89PNG\r\n", FileKind("a PNG picture", PICTURE)),
    (0, b"\xff\xd8\xff", FileKind("a JPEG picture", PICTURE)),
    (0, b"GIF8", FileKind("a GIF picture", PICTURE)),
    (8, b"WEBP", FileKind("a WebP picture", PICTURE)),
    (0, b"\x93NUMPY", FileKind("a NumPy array", WRITE)),
    (0, b"\x89HDF\r\n", FileKind("an HDF5 file", WRITE)),
    (0, b"PAR1", FileKind("a Parquet table", "write the sound in it to files, one for each clip")),
    (0, b"SQLite format 3\0", FileKind("an SQLite database", "write the sound in it to files, one for each clip")),
    (0, b"RIFF", FileKind("a RIFF file without sound, or cut in its header", FETCH)),
)
LINK = FileKind("a link that was copied as text", "copy or check out the data where links can be made")
LINK_TEXT = re.compile(rb"(?:\.{1,2}/)+[^\n\0]{1,1000}\n?\Z")
ANNEX = FileKind("a git-annex pointer, not the file", "fetch it: git annex get")
PICKLED = FileKind("a pickled Python object, which is never loaded here", WRITE)
TORCH = FileKind("an archive that torch.save wrote, which is never loaded here", PICKLED.remedy)
PAGE = FileKind("an HTML page, so the download failed", FETCH)
ANSWER = FileKind("JSON, perhaps a server's error message", FETCH)
XML = FileKind("XML, perhaps a server's error message", FETCH)
TEXT = FileKind("text", FETCH)
ZEROS = FileKind("nothing but zeros, so a copy or a download did not finish", FETCH)
MARKUP = re.compile(rb"\s*(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL)
PICKLE = re.compile(rb"\x80[\x02-\x05](?:[\x95c(}\]X\x8a\x8c]|.{0,2}\x8c)", re.DOTALL)


def describe_kind(content: Content) -> FileKind | None:
    """What a file is that holds no sound that is read; None: that cannot be told, or it may well be such sound.

    Args:
      content: the file; its position changes.
    """
    head = read_at(content, skip_tags(content, 0), HEAD)
    if head[4:8] == b"ftyp":
        return _sound("AAC or another codec in MP4", ISO_BRANDS.get(head[8:12], "mp4"))
    if head.startswith(b"PK\x03\x04") and (b"/data.pkl" in head or b"data/pickle" in head):
        return TORCH
    for offset, magic, kind in SIGNATURES:
        if head.startswith(magic, offset):
            return kind
    if head[:1] == b"\xff" and head[1:2] in (b"\xf1", b"\xf9", b"\xf0", b"\xf8"):  # like MPEG, but of layer 0
        return _sound("AAC (ADTS)", "aac")
    if len(head) > 188 and head[0] == head[188] == 0x47:
        return _sound("an MPEG transport stream", "ts")
    if head.startswith(b"\0\0\x01\xba"):
        return _sound("an MPEG video", "mpg")
    if re.match(rb"[\w./]*/annex/objects/", head):
        return ANNEX
    if LINK_TEXT.match(head):
        return LINK
    if PICKLE.match(head):
        return PICKLED
    return _describe_text(head)


def refusal(content: Content) -> str:
    """Why a file cannot be read, and what to do.

    Args:
      content: the file; its position changes.
    """
    kind = describe_kind(content)
    if kind is None and not _any_byte(content):
        kind = ZEROS
    if kind is not None:
        return f"cannot be decoded: it is {kind.name}; {kind.remedy}"
    return (
        f"cannot be decoded: it is of no format that is known here; convert it to {READ}, samples without a header: "
        f"ffmpeg -f s16le -ar RATE -ac CHANNELS -i NAME.raw NAME.wav"
    )


def _describe_text(head: bytes) -> FileKind | None:
    plain = head.removeprefix(b"\xef\xbb\xbf")
    if MARKUP.match(plain):
        return PAGE
    if not plain.strip() or any(byte < 9 or 13 < byte < 32 for byte in plain):
        return None
    try:
        plain.decode("utf-8")
    except UnicodeDecodeError as error:
        if len(plain) - error.start > 3:  # else a letter that the head cuts off
            return None
    if plain.lstrip().startswith((b"{", b"[")):
        return ANSWER
    return XML if plain.lstrip().startswith(b"<") else TEXT


def _any_byte(content: Content) -> bool:
    """Whether any byte is not zero."""
    size = content_size(content)
    return any(read_at(content, offset, 2**20).strip(b"\0") for offset in range(0, size, 2**20))
