//! The archive of guest images: a list of names and sizes, then the bytes, compressed as one zstd frame so that images of one
//! source share what they have in common.
//!
//! Also compiled into xtask, which writes it. Invariant: [`unpack`] of [`pack`] gives the same list.

/// Why an archive cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damaged(pub &'static str);

const MAGIC: &[u8; 8] = b"LMIMAGE1";

/// The uncompressed archive of named images.
#[allow(dead_code, reason = "only xtask writes archives")]
pub fn pack(images: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend((images.len() as u32).to_le_bytes());
    for (name, bytes) in images {
        out.push(name.len() as u8);
        out.extend(name.as_bytes());
        out.extend((bytes.len() as u32).to_le_bytes());
    }
    for (_, bytes) in images {
        out.extend(bytes);
    }
    out
}

/// Names and bytes of an uncompressed archive.
pub fn unpack(archive: &[u8]) -> Result<Vec<(String, Vec<u8>)>, Damaged> {
    let mut rest = archive
        .strip_prefix(MAGIC)
        .ok_or(Damaged("no guest image archive"))?;
    let mut take = |n: usize| -> Result<&[u8], Damaged> {
        let (head, tail) = rest
            .split_at_checked(n)
            .ok_or(Damaged("archive is cut short"))?;
        rest = tail;
        Ok(head)
    };
    let word = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize;
    let count = word(take(4)?);
    let mut list = Vec::new();
    for _ in 0..count {
        let length = usize::from(take(1)?[0]);
        let name = String::from_utf8(take(length)?.to_vec()).map_err(|_| Damaged("bad name"))?;
        list.push((name, word(take(4)?)));
    }
    list.into_iter()
        .map(|(name, bytes)| Ok((name, take(bytes)?.to_vec())))
        .collect()
}
