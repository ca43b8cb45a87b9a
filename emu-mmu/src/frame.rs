//! One page frame of high memory, in the smallest of four exact representations (decision D9).
//!
//! | kind | content |
//! |---|---|
//! | zero | nothing |
//! | compact | at most [`COMPACT_WORDS`] non-zero words |
//! | affine | a page table: a run of 64-bit entries `base + i * step`, and at most [`PATCHES`] words that differ |
//! | full | 4096 bytes |
//!
//! Writes switch zero -> compact -> affine or full and never lose a bit; nothing goes back from full except by clearing
//! or copying a whole page. Page tables are written in 32-bit halves, so a half-written next entry is a patch until its
//! other half makes it the next member of the run. Invariant: [`Frame::word`] returns what was last written there.

use std::cell::UnsafeCell;
use std::sync::Arc;

/// 32-bit words in a frame.
pub(crate) const WORDS: usize = 1024;
/// Most words of a compact frame.
pub(crate) const COMPACT_WORDS: usize = 16;
/// Most words of an affine frame that lie off its line.
const PATCHES: usize = 8;
/// 64-bit entries in a frame.
const ENTRIES: u16 = 512;

/// The bytes of a full frame.
#[repr(C, align(64))]
pub(crate) struct Page(UnsafeCell<[u8; 4096]>);

// SAFETY: the cell is written only through `Full::owned_ptr`'s pointer, whose holder has `&mut` access to the only memory
// that references this page (its ownership was checked with `Arc::get_mut`).
unsafe impl Sync for Page {}

impl std::fmt::Debug for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Page")
    }
}

/// A shared page, and the epoch of its memory in which it was found unshared.
#[derive(Debug)]
pub(crate) struct Full {
    page: Arc<Page>,
    owned: u32,
}

impl Clone for Full {
    fn clone(&self) -> Full {
        Full {
            page: self.page.clone(),
            owned: NOT_OWNED,
        }
    }
}

/// No memory ever has this epoch.
pub(crate) const NOT_OWNED: u32 = 0;

impl Full {
    fn new(bytes: [u8; 4096], epoch: u32) -> Full {
        Full {
            page: Arc::new(Page(UnsafeCell::new(bytes))),
            owned: epoch,
        }
    }

    /// For reading, while nobody writes.
    #[inline(always)]
    pub(crate) fn ptr(&self) -> *const u8 {
        self.page.0.get().cast()
    }

    /// For writing, if already known to be unshared in this epoch.
    #[inline(always)]
    pub(crate) fn owned_ptr(&self, epoch: u32) -> Option<*mut u8> {
        (self.owned == epoch).then(|| self.page.0.get().cast())
    }

    /// The page may be shared from now on.
    pub(crate) fn disown(&mut self) {
        self.owned = NOT_OWNED;
    }

    /// Makes it unshared, copying if it must.
    fn own(&mut self, epoch: u32) -> *mut u8 {
        if self.owned != epoch {
            if Arc::get_mut(&mut self.page).is_none() {
                self.page = Arc::new(Page(UnsafeCell::new(*self.bytes())));
            }
            self.owned = epoch;
        }
        self.page.0.get().cast()
    }

    pub(crate) fn bytes(&self) -> &[u8; 4096] {
        // SAFETY: writes need `&mut` to the memory that owns this frame (see `Page`), so none happens during this borrow.
        unsafe { &*self.page.0.get() }
    }

    pub(crate) fn sharers(&self) -> usize {
        Arc::strong_count(&self.page)
    }
}

/// Few non-zero words, by ascending index.
#[derive(Debug, Clone, Default)]
pub(crate) struct Compact(Vec<(u16, u32)>);

/// A run of equidistant 64-bit entries, zero around it, and words that differ from that.
#[derive(Debug, Clone)]
pub(crate) struct Affine {
    start: u16,
    len: u16,
    base: u64,
    step: u64,
    patches: Vec<(u16, u32)>,
}

/// A frame of high memory.
#[derive(Debug, Clone, Default)]
pub(crate) enum Frame {
    /// All zero.
    #[default]
    Zero,
    /// Few words.
    Compact(Box<Compact>),
    /// A page table.
    Affine(Box<Affine>),
    /// Any bytes.
    Full(Full),
}

impl Frame {
    /// The frame holding these bytes, in its smallest form.
    pub(crate) fn from_bytes(bytes: &[u8; 4096], epoch: u32) -> Frame {
        let mut words = Vec::new();
        for (i, word) in bytes.chunks_exact(4).enumerate() {
            let word = u32::from_le_bytes(word.try_into().expect("chunks of 4"));
            if word != 0 {
                if words.len() == COMPACT_WORDS {
                    return Frame::Full(Full::new(*bytes, epoch));
                }
                words.push((i as u16, word));
            }
        }
        Frame::compact(words)
    }

    fn compact(words: Vec<(u16, u32)>) -> Frame {
        if words.is_empty() {
            Frame::Zero
        } else {
            Frame::Compact(Box::new(Compact(words)))
        }
    }

    /// Word number `i`.
    #[inline]
    pub(crate) fn word(&self, i: usize) -> u32 {
        debug_assert!(i < WORDS);
        match self {
            Frame::Zero => 0,
            Frame::Compact(c) => c.word(i as u16),
            Frame::Affine(a) => a.word(i as u16),
            Frame::Full(f) => {
                let at = i * 4;
                u32::from_le_bytes(f.bytes()[at..at + 4].try_into().expect("four bytes"))
            }
        }
    }

    /// Sets word number `i`. `epoch` is the one of the memory this frame belongs to.
    pub(crate) fn set_word(&mut self, i: usize, value: u32, epoch: u32) {
        debug_assert!(i < WORDS);
        match self {
            Frame::Zero => {
                if value != 0 {
                    *self = Frame::compact(vec![(i as u16, value)]);
                }
            }
            Frame::Compact(c) => {
                c.set(i as u16, value);
                match c.0.len() {
                    0 => *self = Frame::Zero,
                    1..=COMPACT_WORDS => {}
                    _ => match Affine::fit(&c.0) {
                        Some(affine) => *self = Frame::Affine(Box::new(affine)),
                        None => {
                            self.make_full(epoch);
                        }
                    },
                }
            }
            Frame::Affine(a) => {
                a.set(i as u16, value);
                if a.patches.len() > PATCHES {
                    self.make_full(epoch);
                } else if a.len == 0 {
                    let mut words = std::mem::take(&mut a.patches);
                    words.sort_unstable();
                    *self = Frame::compact(words);
                }
            }
            Frame::Full(f) => {
                let p = f.own(epoch).cast::<[u8; 4]>();
                // SAFETY: `own` gave the unshared page of 1024 words and `i` is below that.
                unsafe { p.add(i).write(value.to_le_bytes()) }
            }
        }
    }

    /// Makes the frame full and unshared; its bytes.
    pub(crate) fn make_full(&mut self, epoch: u32) -> *mut u8 {
        if !matches!(self, Frame::Full(_)) {
            let mut bytes = [0; 4096];
            self.copy_to(&mut bytes);
            *self = Frame::Full(Full::new(bytes, epoch));
        }
        match self {
            Frame::Full(f) => f.own(epoch),
            _ => unreachable!("made full above"),
        }
    }

    /// Writes the content out.
    pub(crate) fn copy_to(&self, out: &mut [u8; 4096]) {
        match self {
            Frame::Zero => out.fill(0),
            Frame::Full(f) => out.copy_from_slice(f.bytes()),
            Frame::Compact(_) | Frame::Affine(_) => {
                for (i, word) in out.chunks_exact_mut(4).enumerate() {
                    word.copy_from_slice(&self.word(i).to_le_bytes());
                }
            }
        }
    }

    /// Host bytes this frame needs beside its descriptor.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let list = |words: &Vec<(u16, u32)>| (words.capacity() * size_of::<(u16, u32)>()) as u64;
        match self {
            Frame::Zero => 0,
            Frame::Compact(c) => size_of::<Compact>() as u64 + list(&c.0),
            Frame::Affine(a) => size_of::<Affine>() as u64 + list(&a.patches),
            Frame::Full(f) => 4096 / f.sharers() as u64,
        }
    }

    /// The non-zero words as (byte offset, word), ascending.
    pub(crate) fn words(&self) -> PageWords<'_> {
        match self {
            Frame::Zero => PageWords::List([].iter()),
            Frame::Compact(c) => PageWords::List(c.0.iter()),
            Frame::Affine(a) => PageWords::Computed(a, a.word_range()),
            Frame::Full(f) => PageWords::bytes(f.bytes()),
        }
    }
}

/// Iterator over the non-zero words of a frame, as (byte offset, word).
#[derive(Debug)]
pub enum PageWords<'a> {
    #[doc(hidden)]
    List(std::slice::Iter<'a, (u16, u32)>),
    #[doc(hidden)]
    #[allow(private_interfaces, reason = "opaque to users, who only iterate")]
    Computed(&'a Affine, std::ops::Range<u16>),
    #[doc(hidden)]
    Bytes(std::iter::Enumerate<std::slice::ChunksExact<'a, u8>>),
}

impl<'a> PageWords<'a> {
    pub(crate) fn bytes(page: &'a [u8; 4096]) -> PageWords<'a> {
        PageWords::Bytes(page.chunks_exact(4).enumerate())
    }
}

impl Iterator for PageWords<'_> {
    type Item = (u32, u32);

    fn next(&mut self) -> Option<(u32, u32)> {
        match self {
            PageWords::List(words) => words.next().map(|&(i, w)| (u32::from(i) * 4, w)),
            PageWords::Computed(a, range) => range
                .map(|i| (u32::from(i) * 4, a.word(i)))
                .find(|&(_, w)| w != 0),
            PageWords::Bytes(words) => words
                .map(|(i, w)| {
                    let w = u32::from_le_bytes(w.try_into().expect("chunks of 4"));
                    (i as u32 * 4, w)
                })
                .find(|&(_, w)| w != 0),
        }
    }
}

impl Compact {
    fn word(&self, i: u16) -> u32 {
        match self.0.binary_search_by_key(&i, |&(j, _)| j) {
            Ok(at) => self.0[at].1,
            Err(_) => 0,
        }
    }

    fn set(&mut self, i: u16, value: u32) {
        match (self.0.binary_search_by_key(&i, |&(j, _)| j), value) {
            (Ok(at), 0) => {
                self.0.remove(at);
            }
            (Ok(at), _) => self.0[at].1 = value,
            (Err(_), 0) => {}
            (Err(at), _) => self.0.insert(at, (i, value)),
        }
    }
}

impl Affine {
    /// A run that explains these words but for a few.
    fn fit(words: &[(u16, u32)]) -> Option<Affine> {
        let mut entries: Vec<(u16, u64)> = Vec::with_capacity(words.len());
        for &(i, word) in words {
            let value = u64::from(word) << (32 * (i & 1));
            match entries.last_mut() {
                Some((e, v)) if *e == i / 2 => *v |= value,
                _ => entries.push((i / 2, value)),
            }
        }
        // The first entries may be irregular; a run that starts later than the fourth is no page table.
        (0..entries.len().saturating_sub(1).min(4)).find_map(|first| {
            let (start, base) = entries[first];
            let (next, second) = entries[first + 1];
            if next != start + 1 {
                return None;
            }
            let mut affine = Affine {
                start,
                len: 1,
                base,
                step: second.wrapping_sub(base),
                patches: Vec::new(),
            };
            while entries
                .get(first + usize::from(affine.len))
                .is_some_and(|&e| e == (start + affine.len, affine.line(start + affine.len)))
            {
                affine.len += 1;
            }
            let off_line = |i: u16, w: u32| affine.predicted(i) != w;
            let patches = words.iter().copied().filter(|&(i, w)| off_line(i, w));
            let patches: Vec<_> = patches.take(PATCHES + 1).collect();
            affine.patches = patches;
            (affine.patches.len() <= PATCHES).then_some(affine)
        })
    }

    /// Value of the line at entry `e`, inside the run or not.
    fn line(&self, e: u16) -> u64 {
        let i = i64::from(e) - i64::from(self.start);
        self.base.wrapping_add(self.step.wrapping_mul(i as u64))
    }

    /// Word `i` without patches.
    fn predicted(&self, i: u16) -> u32 {
        let e = i / 2;
        if e < self.start || e >= self.start + self.len {
            return 0;
        }
        (self.line(e) >> (32 * (i & 1))) as u32
    }

    fn word(&self, i: u16) -> u32 {
        match self.patches.iter().find(|&&(j, _)| j == i) {
            Some(&(_, w)) => w,
            None => self.predicted(i),
        }
    }

    fn entry(&self, e: u16) -> u64 {
        u64::from(self.word(2 * e)) | u64::from(self.word(2 * e + 1)) << 32
    }

    fn unpatch(&mut self, e: u16) {
        self.patches.retain(|&(i, _)| i / 2 != e);
    }

    fn set(&mut self, i: u16, value: u32) {
        self.patches.retain(|&(j, _)| j != i);
        if self.predicted(i) == value {
            return;
        }
        self.patches.push((i, value));
        let e = i / 2;
        let end = self.start + self.len;
        if e == end || e + 1 == self.start {
            self.grow();
        } else if self.entry(e) == 0 && e == self.start {
            self.base = self.base.wrapping_add(self.step);
            self.start += 1;
            self.len -= 1;
            self.unpatch(e);
        } else if self.entry(e) == 0 && e + 1 == end {
            self.len -= 1;
            self.unpatch(e);
        }
    }

    /// Takes neighbours into the run that have become equal to the line.
    fn grow(&mut self) {
        while self.start + self.len < ENTRIES {
            let e = self.start + self.len;
            if self.entry(e) != self.line(e) {
                break;
            }
            self.len += 1;
            self.unpatch(e);
        }
        while self.start > 0 && self.entry(self.start - 1) == self.line(self.start - 1) {
            self.base = self.base.wrapping_sub(self.step);
            self.start -= 1;
            self.len += 1;
            self.unpatch(self.start);
        }
    }

    /// Words that can be non-zero.
    fn word_range(&self) -> std::ops::Range<u16> {
        let run = 2 * self.start..2 * (self.start + self.len);
        self.patches
            .iter()
            .fold(run, |r, &(i, _)| r.start.min(i)..r.end.max(i + 1))
    }
}
