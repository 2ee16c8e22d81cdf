"""Compressed files for tests, and copies of them with altered headers."""

import io

import numpy as np
import soundfile

RATE = 16000
ID3V2 = b"ID3\4\0\0\0\0\2\0" + bytes(256)
ID3V1 = b"TAG" + bytes(125)
APE = b"APETAGEX" + bytes(24)


def tone(samples, rate=RATE, frequency=440.0):
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(samples) / rate)).astype(np.float32)


def encoded(samples, rate=RATE, **options):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, **options)
    return buffer.getvalue()


class Mp3:
    """A tone as MP3, with the tag that its encoder wrote into a first frame."""

    def __init__(self, samples, rate=RATE, mode="CONSTANT"):
        self.samples, self.rate = samples, rate
        self.content = encoded(tone(samples, rate), rate, format="MP3", bitrate_mode=mode, compression_level=0.5)
        self.tag = max(self.content.find(b"Xing"), self.content.find(b"Info"))
        self.frames, self.bytes = (self._number(self.tag + at) for at in (8, 12))
        self.frame_samples = 1152 if rate >= 32000 else 576  # MPEG-1; MPEG-2 and 2.5
        self.first = self.content.index(self.content[:2], 4)  # the next frame begins like the tag's own

    def _number(self, at):
        return int.from_bytes(self.content[at : at + 4], "big")

    @property
    def without_tag(self):
        return self.content[self.first :]

    @property
    def samples_without_tag(self):
        """Samples of all frames, with those that the encoder added: only the tag shows which these are."""
        return self.frames * self.frame_samples

    def promising(self, frames, size=None):
        """The file with other numbers of frames and bytes in its tag."""
        size = self.bytes if size is None else size
        numbers = frames.to_bytes(4, "big") + size.to_bytes(4, "big")
        return self.content[: self.tag + 8] + numbers + self.content[self.tag + 16 :]


def flac_promising(content, samples, md5=None):
    """A FLAC file with another number of samples in its header, and perhaps another checksum."""
    field = int.from_bytes(content[18:26], "big") >> 36 << 36 | samples
    return content[:18] + field.to_bytes(8, "big") + (content[26:42] if md5 is None else md5) + content[42:]


def ogg_pages(content):
    pages, start = [], 0
    while start < len(content):
        table = start + 27 + content[start + 26]
        end = table + sum(content[start + 27 : table])
        pages.append(bytearray(content[start:end]))
        start = end
    return pages


def ogg_checksum(page):
    """A page's checksum bit by bit, as RFC 3533 describes it."""
    remainder = 0
    for byte in (*page[:22], 0, 0, 0, 0, *page[26:]):
        remainder ^= byte << 24
        for _ in range(8):
            remainder = (remainder << 1 ^ (0x104C11DB7 if remainder >> 31 else 0)) & 0xFFFFFFFF
    return remainder


def ogg_ending_at(content, position):
    """An Ogg file whose last page has another position."""
    pages = ogg_pages(content)
    pages[-1][6:14] = position.to_bytes(8, "little", signed=True)
    pages[-1][22:26] = ogg_checksum(pages[-1]).to_bytes(4, "little")
    return b"".join(pages)
