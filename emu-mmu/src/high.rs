//! High memory: chunks of 512 frames, made when first touched, shared between a machine and its clones (decision D9).
//!
//! A clone shares every chunk and every full page with its original and copies them on first write. Whether a chunk or
//! page is unshared is remembered by *epoch*: cloning starts a new epoch of the original, so everything it owned must be
//! proved unshared again before the next write. That keeps atomic operations off the write path.
//!
//! Invariant: a chunk whose `owned` equals the epoch has one reference, and so has a full page in it whose `owned` does.

use crate::frame::{Frame, NOT_OWNED, PageWords};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Frames of a chunk.
const CHUNK: usize = 512;

type Chunk = [Frame; CHUNK];

#[derive(Debug, Clone)]
struct ChunkRef {
    frames: Arc<Chunk>,
    owned: u32,
}

/// The frames above low memory, numbered from 0.
#[derive(Debug)]
pub(crate) struct HighMem {
    chunks: Vec<Option<ChunkRef>>,
    epoch: AtomicU32,
    /// In a clone: what each chunk was before it was first written, to go back to.
    undo: Option<Vec<(usize, Option<Arc<Chunk>>)>>,
}

impl HighMem {
    /// `frames` zero frames.
    pub(crate) fn new(frames: usize) -> HighMem {
        HighMem {
            chunks: vec![None; frames.div_ceil(CHUNK)],
            epoch: AtomicU32::new(NOT_OWNED + 1),
            undo: None,
        }
    }

    #[inline(always)]
    fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// A copy-on-write copy; costs one reference per chunk.
    pub(crate) fn clone_cow(&self) -> HighMem {
        if self.epoch.fetch_add(1, Ordering::Relaxed) == u32::MAX {
            // Skips the epoch that means "not owned".
            self.epoch.fetch_add(1, Ordering::Relaxed);
        }
        let share = |c: &Option<ChunkRef>| {
            c.as_ref().map(|c| ChunkRef {
                frames: c.frames.clone(),
                owned: NOT_OWNED,
            })
        };
        HighMem {
            chunks: self.chunks.iter().map(share).collect(),
            epoch: AtomicU32::new(NOT_OWNED + 1),
            undo: Some(Vec::new()),
        }
    }

    /// Takes back every write since this clone was made or last reset.
    pub(crate) fn reset(&mut self) {
        let undo = self.undo.as_mut().expect("only a clone can be reset");
        // Newest first: a clone that was itself cloned owns a chunk again, and notes it again.
        for (at, old) in undo.drain(..).rev() {
            self.chunks[at] = old.map(|frames| ChunkRef {
                frames,
                owned: NOT_OWNED,
            });
        }
    }

    /// Frame number `i`, if its chunk was ever touched.
    #[inline(always)]
    pub(crate) fn frame(&self, i: usize) -> Option<&Frame> {
        let chunk = self.chunks.get(i / CHUNK)?.as_ref()?;
        Some(&chunk.frames[i % CHUNK])
    }

    /// Frame number `i` for writing, and the epoch to write in.
    pub(crate) fn frame_mut(&mut self, i: usize) -> (&mut Frame, u32) {
        let epoch = self.epoch();
        let at = i / CHUNK;
        let owned = self.chunks[at].as_ref().is_some_and(|c| c.owned == epoch);
        if !owned {
            self.own_chunk(at, epoch);
        }
        let chunk = self.chunks[at].as_mut().expect("owned above");
        let frames = Arc::get_mut(&mut chunk.frames).expect("an owned chunk has one reference");
        (&mut frames[i % CHUNK], epoch)
    }

    fn own_chunk(&mut self, at: usize, epoch: u32) {
        let old = self.chunks[at].take();
        if let Some(undo) = &mut self.undo {
            undo.push((at, old.as_ref().map(|c| c.frames.clone())));
        }
        let mut frames = match old {
            None => Arc::new(std::array::from_fn(|_| Frame::Zero)),
            Some(c) => c.frames,
        };
        match Arc::get_mut(&mut frames) {
            // Epochs stamped by a former owner mean nothing in this memory.
            Some(frames) => frames.iter_mut().for_each(|f| {
                if let Frame::Full(full) = f {
                    full.disown();
                }
            }),
            None => frames = Arc::new(Chunk::clone(&frames)),
        }
        self.chunks[at] = Some(ChunkRef {
            frames,
            owned: epoch,
        });
    }

    /// Pointer for writing to a full frame that is known to be unshared: the fast path.
    #[inline(always)]
    pub(crate) fn owned_ptr(&self, i: usize) -> Option<*mut u8> {
        let epoch = self.epoch();
        let chunk = self.chunks.get(i / CHUNK)?.as_ref()?;
        match &chunk.frames[i % CHUNK] {
            Frame::Full(full) if chunk.owned == epoch => full.owned_ptr(epoch),
            _ => None,
        }
    }

    /// Makes a frame zero.
    pub(crate) fn clear(&mut self, i: usize) {
        if !matches!(self.frame(i), None | Some(Frame::Zero)) {
            *self.frame_mut(i).0 = Frame::Zero;
        }
    }

    /// Makes frame `to` equal to frame `from`, sharing a full page until one of them is written.
    pub(crate) fn copy(&mut self, to: usize, from: usize) {
        if to == from {
            return;
        }
        match self.frame(from) {
            None | Some(Frame::Zero) => self.clear(to),
            Some(source) => {
                let source = source.clone();
                let epoch = self.epoch();
                let chunk = self.chunks[from / CHUNK].as_mut();
                if let Some(c) = chunk.filter(|c| c.owned == epoch) {
                    let frames = Arc::get_mut(&mut c.frames);
                    let frames = frames.expect("an owned chunk has one reference");
                    if let Frame::Full(full) = &mut frames[from % CHUNK] {
                        full.disown();
                    }
                }
                *self.frame_mut(to).0 = source;
            }
        }
    }

    /// Replaces a frame by these bytes.
    pub(crate) fn set_bytes(&mut self, i: usize, bytes: &[u8; 4096]) {
        let frame = Frame::from_bytes(bytes, self.epoch());
        if matches!(frame, Frame::Zero) {
            self.clear(i);
        } else {
            *self.frame_mut(i).0 = frame;
        }
    }

    /// The non-zero words of a frame.
    pub(crate) fn words(&self, i: usize) -> PageWords<'_> {
        match self.frame(i) {
            Some(frame) => frame.words(),
            None => PageWords::List([].iter()),
        }
    }

    /// Numbers of the frames that may hold anything but zeroes, ascending.
    pub(crate) fn touched(&self) -> impl Iterator<Item = usize> + '_ {
        let chunks = self.chunks.iter().enumerate();
        let made = chunks.filter_map(|(at, c)| c.as_ref().map(|c| (at, c)));
        made.flat_map(|(at, c)| {
            let frames = c.frames.iter().enumerate();
            let some = frames.filter(|(_, f)| !matches!(f, Frame::Zero));
            some.map(move |(i, _)| at * CHUNK + i)
        })
    }

    /// Host bytes used; a chunk or page shared by several machines counts in equal parts.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let table = self.chunks.capacity() * size_of::<Option<ChunkRef>>();
        let chunks = self.chunks.iter().flatten().map(|c| {
            let frames: u64 = c.frames.iter().map(Frame::resident_bytes).sum();
            (frames + size_of::<Chunk>() as u64) / Arc::strong_count(&c.frames) as u64
        });
        table as u64 + chunks.sum::<u64>()
    }
}
