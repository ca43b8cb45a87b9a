//! Offsets in struct page, by kernel (include/linux/mm.h; fact sheet VM 2.1 and its sequel, 3).
//!
//! | kernel | order | bytes |
//! |---|---|---|
//! | 2.4 (read in RHEL3's 2.4.21) | list 0, mapping 8, index 12, next_hash 16, count 20, flags 24, lru 28, (pte, age), pprev_hash, buffers, virtual | 48; with chains 56, HIGHPTE 60 |
//! | 2.6.0 to 2.6.5 | flags, count, list 8, mapping 16, index 20, lru 24, pte 32, private | 40, HIGHPTE 44 |
//! | 2.6.6 | the same without list | 32, HIGHPTE 36 |
//! | 2.6.7, anonmm | flags, count, mapcount 8, private 12, mapping 16, index 20, lru 24 | 32 |
//!
//! With HIGHPTE a direct pte is a physical address of 8 bytes; only schemes that keep one have it. The page-cache hash of 2.4 is not
//! rebuilt: its two words are there and unused, a scheme without a word of its own calls next_hash that. 2.6.5-aa: its mapcount in the
//! place of `pte` is an assumption.
//!
//! Invariant: every function here is a constant of the image.

use crate::axes::{Axes, Era, MapKind, PteKind};

/// Whether page->pte.direct is 8 bytes: a chain's name of a pte in high memory.
#[inline(always)]
pub const fn wide(a: Axes) -> bool {
    matches!(a.pte, PteKind::High) && matches!(a.rmap, MapKind::PteChain | MapKind::Objrmap)
}

#[inline(always)]
const fn wide_bytes(a: Axes) -> u32 {
    if wide(a) { 4 } else { 0 }
}

/// 2.4: bytes of pte union and age, which only RHEL3 has.
#[inline(always)]
const fn chain_bytes_2_4(a: Axes) -> u32 {
    match a.rmap {
        MapKind::SwapOut => 0,
        _ => 8 + wide_bytes(a),
    }
}

/// page->flags.
#[inline(always)]
pub const fn flags(a: Axes) -> u32 {
    match a.era() {
        Era::V2_4 => 24,
        _ => 0,
    }
}

/// page->count.
#[inline(always)]
pub const fn count(a: Axes) -> u32 {
    match a.era() {
        Era::V2_4 => 20,
        _ => 4,
    }
}

/// page->list, with a page cache of lists.
#[inline(always)]
pub const fn list(a: Axes) -> u32 {
    match a.era() {
        Era::V2_4 => 0,
        _ => 8,
    }
}

/// page->mapping.
#[inline(always)]
pub const fn mapping(a: Axes) -> u32 {
    match a.era() {
        Era::V2_4 | Era::V2_6_6 => 8,
        Era::V2_6_0 | Era::V2_6_5Aa | Era::V2_6_7 => 16,
    }
}

/// page->index.
#[inline(always)]
pub const fn index(a: Axes) -> u32 {
    mapping(a) + 4
}

/// page->lru.
#[inline(always)]
pub const fn lru(a: Axes) -> u32 {
    match a.era() {
        Era::V2_4 => 28,
        _ => mapping(a) + 8,
    }
}

/// page->mapcount or page->pte.
#[inline(always)]
pub const fn rmap(a: Axes) -> u32 {
    match a.era() {
        Era::V2_4 if matches!(a.rmap, MapKind::SwapOut) => 16,
        Era::V2_4 => 36,
        Era::V2_6_0 | Era::V2_6_5Aa => 32,
        Era::V2_6_6 => 24,
        Era::V2_6_7 => 8,
    }
}

/// page->private; page->buffers of 2.4.
#[inline(always)]
pub const fn private(a: Axes) -> u32 {
    match a.era() {
        Era::V2_4 => 40 + chain_bytes_2_4(a),
        Era::V2_6_0 | Era::V2_6_5Aa => 36 + wide_bytes(a),
        Era::V2_6_6 => 28 + wide_bytes(a),
        Era::V2_6_7 => 12,
    }
}

/// page->virtual of 2.4.
#[inline(always)]
pub const fn window(a: Axes) -> u32 {
    44 + chain_bytes_2_4(a)
}

/// Bytes of a struct page.
#[inline(always)]
pub const fn bytes(a: Axes) -> u32 {
    match a.era() {
        Era::V2_4 => 48 + chain_bytes_2_4(a),
        Era::V2_6_0 | Era::V2_6_5Aa => 40 + wide_bytes(a),
        Era::V2_6_6 | Era::V2_6_7 => 32 + wide_bytes(a),
    }
}
