//! How a member's bytes are compressed. Every member is whole in itself, so that members are
//! written and read on all cores.

use crate::config::Compression;
use crate::error::{Context, Result};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use zstd::zstd_safe::CParameter;

/// A member's compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// As it is.
    None,
    /// One Zstandard frame (RFC 8878) with a content checksum.
    Zstd,
    /// One gzip member (RFC 1952).
    Gzip,
}

/// How much work a member's content is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Stored as it is: what a person should be able to read at once.
    None,
    /// Less than usual: pages of a database server, where long values are compressed already.
    Light,
    /// What the configuration asks for.
    Usual,
}

/// A codec and its level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodecSettings {
    /// The codec.
    pub codec: Codec,
    /// The level, in the codec's own terms; 0 is the default here.
    pub level: i32,
}

impl CodecSettings {
    /// The settings that the configuration asks for; level 0 is the default here: zstd 3, gzip 6,
    /// and zstd 1 for what is worth less.
    #[must_use]
    pub fn of(compression: Compression, level: i32) -> Self {
        match compression {
            Compression::Zstd => Self {
                codec: Codec::Zstd,
                level: level.clamp(-7, 22),
            },
            Compression::Gzip => Self {
                codec: Codec::Gzip,
                level: level.clamp(0, 9),
            },
        }
    }

    /// The same for content that is worth this effort. A level that somebody asked for is taken for
    /// everything.
    #[must_use]
    pub(super) fn with(self, effort: Effort) -> Self {
        let level = match (effort, self.codec, self.level) {
            (Effort::None, ..) => {
                return Self {
                    codec: Codec::None,
                    level: 0,
                };
            }
            (Effort::Light, Codec::Zstd, 0) => ZSTD_LEVEL_OF_PAGES,
            (Effort::Usual, Codec::Zstd, 0) => ZSTD_LEVEL,
            (_, Codec::Gzip, 0) => GZIP_LEVEL,
            (_, _, level) => level,
        };
        Self { level, ..self }
    }

    /// Compresses `raw` into one frame.
    pub fn compress(self, raw: &[u8]) -> Result<Vec<u8>> {
        self.with(Effort::Usual).compress_into(Vec::new(), raw)
    }

    /// The same into `frame`, whose content is lost and whose room is used.
    pub(super) fn compress_into(self, mut frame: Vec<u8>, raw: &[u8]) -> Result<Vec<u8>> {
        frame.clear();
        match self.codec {
            Codec::None => {
                frame.extend_from_slice(raw);
                Ok(frame)
            }
            Codec::Zstd => zstd_frame(frame, raw, self.level).context(|| "zstd cannot compress"),
            Codec::Gzip => gzip_frame(frame, raw, self.level).context(|| "gzip cannot compress"),
        }
    }

    /// How many bytes the frame of `raw_len` bytes takes at most, whatever they are.
    pub(super) fn largest_frame(self, raw_len: usize) -> usize {
        match self.codec {
            Codec::None => raw_len,
            Codec::Zstd => zstd::zstd_safe::compress_bound(raw_len),
            // Deflate stores what does not compress in blocks of 16 KiB or more, with 5 bytes each.
            Codec::Gzip => raw_len + raw_len / 16_384 * 5 + 64,
        }
    }
}

/// The default level of zstd.
const ZSTD_LEVEL: i32 = 3;
/// Takes two thirds of the time of level 3.
const ZSTD_LEVEL_OF_PAGES: i32 = 2;
const GZIP_LEVEL: i32 = 6;

/// What the default level does differently from the library's own level 3, found by measuring rows
/// of Conductor's tables: a window over the whole part, and more and longer matches to choose from.
/// One per cent smaller for the same time. Any decoder reads it without options: 8 MiB of window
/// is what the format's specification recommends to support.
const ZSTD_DEFAULTS: [CParameter; 4] = [
    CParameter::WindowLog(23),
    CParameter::HashLog(18),
    CParameter::ChainLog(16),
    CParameter::MinMatch(6),
];

fn zstd_frame(mut frame: Vec<u8>, raw: &[u8], level: i32) -> std::io::Result<Vec<u8>> {
    let mut compressor = zstd::bulk::Compressor::new(level)?;
    if level == ZSTD_LEVEL {
        for parameter in ZSTD_DEFAULTS {
            compressor.set_parameter(parameter)?;
        }
    }
    compressor.include_checksum(true)?;
    compressor.include_contentsize(true)?;
    frame.reserve(zstd::zstd_safe::compress_bound(raw.len()));
    compressor.compress_to_buffer(raw, &mut frame)?;
    Ok(frame)
}

fn gzip_frame(frame: Vec<u8>, raw: &[u8], level: i32) -> std::io::Result<Vec<u8>> {
    let level = flate2::Compression::new(level.unsigned_abs());
    let mut encoder = flate2::write::GzEncoder::new(frame, level);
    encoder.write_all(raw)?;
    encoder.finish()
}

impl Codec {
    /// What is appended to a member's name: `.zst`, `.gz` or nothing.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Zstd => ".zst",
            Self::Gzip => ".gz",
        }
    }

    /// The program that undoes it on a pipe.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Self::None => "cat",
            Self::Zstd => "zstd -dc",
            Self::Gzip => "gzip -dc",
        }
    }

    /// A reader of the uncompressed bytes. It reads on in pieces, so that neither a huge member nor
    /// a decompression bomb can fill the memory.
    pub fn decoder<'a>(self, stored: impl Read + Send + 'a) -> Result<Box<dyn Read + Send + 'a>> {
        Ok(match self {
            Self::None => Box::new(stored),
            Self::Zstd => {
                let mut decoder =
                    zstd::Decoder::new(stored).context(|| "zstd cannot be started")?;
                // A frame may ask for a window of any size; ours never need more than 128 MiB.
                decoder
                    .window_log_max(27)
                    .context(|| "zstd cannot be limited")?;
                Box::new(decoder)
            }
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(stored)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out() {
        let raw = b"row\n".repeat(10_000);
        for compression in [Compression::Zstd, Compression::Gzip] {
            let settings = CodecSettings::of(compression, 0);
            let stored = settings.compress(&raw).unwrap();
            assert!(stored.len() < raw.len() / 10);
            let mut back = Vec::new();
            settings
                .codec
                .decoder(stored.as_slice())
                .unwrap()
                .read_to_end(&mut back)
                .unwrap();
            assert_eq!(back, raw);
        }
    }
}
