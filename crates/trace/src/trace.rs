//! An opened trace, and the stream of its operations.
//!
//! The file stays compressed in memory; the stream decodes chunk by chunk, so that a recording of
//! every reference costs a few megabytes. All checks were made when the trace was opened, hence the stream cannot fail.
//!
//! Invariant: `OpStream` is a plain value; a clone of it stands at the same operation.

use std::{path::Path, sync::Arc};

use crate::{
    error::TraceError,
    format::{self, Chunk},
    header::{Header, Info, Summary},
    op::Op,
};

pub(crate) struct Inner {
    pub(crate) bytes: Arc<[u8]>,
    pub(crate) header: Header,
    pub(crate) summary: Summary,
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) sha256: [u8; 32],
    pub(crate) version: u32,
}

/// A checked trace. Cloning shares the contents.
#[derive(Clone)]
pub struct Trace {
    pub(crate) inner: Arc<Inner>,
}

impl std::fmt::Debug for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trace")
            .field("name", &self.inner.header.name)
            .field("operations", &self.len())
            .finish_non_exhaustive()
    }
}

impl Trace {
    /// Reads and checks a trace file.
    ///
    /// # Errors
    /// If the file cannot be read, is not a trace, comes from a later version, or is damaged.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, TraceError> {
        format::open(path.as_ref())
    }

    /// Checks a trace that is already in memory; `name` stands for the file in messages.
    ///
    /// # Errors
    /// As [`Trace::open`].
    pub fn from_bytes(name: &str, bytes: impl Into<Arc<[u8]>>) -> Result<Self, TraceError> {
        format::parse(name, bytes.into())
    }

    /// Writes the trace under `path`: to a temporary file beside it, then by rename, so that nothing
    /// half-written ever has the final name.
    ///
    /// # Errors
    /// If the folder or disk refuses.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), TraceError> {
        format::save(path.as_ref(), &self.inner.bytes)
    }

    /// Name of the recording.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.header.name
    }

    /// Tables and totals.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.inner.header
    }

    /// Counts over the operations, with the peak.
    #[must_use]
    pub fn summary(&self) -> &Summary {
        &self.inner.summary
    }

    /// Number of operations.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.inner.summary.operations
    }

    /// Whether there are no operations.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of threads.
    #[must_use]
    pub fn tasks(&self) -> usize {
        self.inner.header.tasks.len()
    }

    /// SHA-256 of the file.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        self.inner.sha256
    }

    /// SHA-256 of the file in hexadecimal.
    #[must_use]
    pub fn sha256_hex(&self) -> String {
        format::hex(&self.inner.sha256)
    }

    /// The file itself.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.inner.bytes
    }

    /// Everything `trace info` prints.
    #[must_use]
    pub fn info(&self) -> Info {
        let totals = &self.inner.header.totals;
        Info {
            header: self.inner.header.clone(),
            summary: self.inner.summary.clone(),
            sha256: self.sha256_hex(),
            bytes: self.inner.bytes.len() as u64,
            version: self.inner.version,
            recorded_switches: totals.get("ctxsw") + totals.get("exits"),
        }
    }

    /// A stream that stands at the first operation.
    #[must_use]
    pub fn ops(&self) -> OpStream {
        OpStream {
            inner: Arc::clone(&self.inner),
            next: 0,
            slots: [const { None }; 2],
        }
    }

    /// The operation with that index, found by its chunk.
    #[must_use]
    pub fn op(&self, index: u64) -> Option<Op> {
        self.ops().get(index).cloned()
    }
}

#[derive(Clone)]
struct Loaded {
    first: u64,
    ops: Arc<Vec<Op>>,
}

impl Loaded {
    fn get(&self, index: u64) -> Option<&Op> {
        index
            .checked_sub(self.first)
            .and_then(|i| self.ops.get(i as usize))
    }
}

/// A cursor over the operations of a trace.
///
/// As an [`Iterator`] it yields clones; the borrowing methods avoid them.
#[derive(Clone)]
pub struct OpStream {
    inner: Arc<Inner>,
    next: u64,
    slots: [Option<Loaded>; 2],
}

impl std::fmt::Debug for OpStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpStream")
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

impl OpStream {
    /// Index of the operation that [`OpStream::peek`] shows.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.next
    }

    /// The operation at the cursor, `None` at the end.
    pub fn peek(&mut self) -> Option<&Op> {
        self.get(self.next)
    }

    /// The operation `ahead` places behind the cursor's; 0 is [`OpStream::peek`].
    pub fn peek_ahead(&mut self, ahead: u64) -> Option<&Op> {
        self.get(self.next.checked_add(ahead)?)
    }

    /// Moves the cursor to the next operation.
    pub fn advance(&mut self) {
        self.next = self.inner.summary.operations.min(self.next + 1);
    }

    /// The operation at the cursor, which moves on.
    pub fn next_op(&mut self) -> Option<&Op> {
        let index = self.next;
        self.advance();
        self.get(index)
    }

    /// Puts the cursor at an operation, or at the end.
    pub fn seek(&mut self, index: u64) {
        self.next = index.min(self.inner.summary.operations);
    }

    /// Any operation, without moving the cursor. Neighbouring chunks stay decoded.
    pub fn get(&mut self, index: u64) -> Option<&Op> {
        if index >= self.inner.summary.operations {
            return None;
        }
        let slot = match self
            .slots
            .iter()
            .position(|s| s.as_ref().is_some_and(|l| l.get(index).is_some()))
        {
            Some(slot) => slot,
            None => {
                let number = self.inner.chunks.partition_point(|c| c.first <= index) - 1;
                let chunk = &self.inner.chunks[number];
                let ops = format::decode_chunk(&self.inner.bytes, chunk)
                    .expect("chunks were decoded when the trace was opened");
                let slot = number & 1;
                self.slots[slot] = Some(Loaded {
                    first: chunk.first,
                    ops: Arc::new(ops),
                });
                slot
            }
        };
        self.slots[slot].as_ref().and_then(|l| l.get(index))
    }
}

impl Iterator for OpStream {
    type Item = Op;

    fn next(&mut self) -> Option<Op> {
        self.next_op().cloned()
    }
}
