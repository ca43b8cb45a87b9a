//! The cache of decoded blocks, by physical address.
//!
//! A block is a straight run of instructions inside one frame, up to and with the first that may go
//! elsewhere. Frames that hold decoded code are watched by the MMU; a write to one drops all its
//! blocks. An instruction that runs over the end of its page is not kept: the reference executes
//! it. The same bytes are other code in a 16-bit segment, so a block is known by its address and the
//! size of its segment: its [`Key`]. Invariant: a live block's operations are what its frame holds now.

use crate::decode::{CodeSize, Decoded, MAX_LEN, Translator};
use crate::op::{END, NEW_LINE, Op, PROBE};
use crate::segment::Segment;
use emu_mmu::{Mmu, PAGE_SIZE, Pfn, PhysAddr};
use lowmem_cost::Event;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Longest block; longer runs continue in a next one.
const MAX_OPS: usize = 48;
/// Blocks kept before everything is dropped.
const MAX_BLOCKS: usize = 1 << 16;
/// Entries of the table of branch targets.
const TARGETS: usize = 4096;
/// Entries of the table of code pages.
const PAGES: usize = 64;

/// Index of a block; [`NONE`] for none.
pub(crate) type BlockId = u32;
/// No block.
pub(crate) const NONE: BlockId = u32::MAX;
/// Physical address of a block, with [`NARROW`] added for code of 16-bit segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key(u64);

/// Beyond every physical address.
const NARROW: u64 = 1 << 62;
/// Key of a dropped block: nowhere.
const NOWHERE: Key = Key(u64::MAX);

impl Key {
    /// The key of what lies at `at` as code of `cs`.
    #[inline(always)]
    pub(crate) fn new(at: PhysAddr, cs: &Segment) -> Key {
        Key(at.0 | if cs.is_32bit() { 0 } else { NARROW })
    }

    /// The key of another place in the same page.
    #[inline(always)]
    pub(crate) fn in_page(self, offset: u32) -> Key {
        Key(self.0 & !0xfff | u64::from(offset & 0xfff))
    }

    fn at(self) -> PhysAddr {
        PhysAddr(self.0 & !NARROW)
    }

    fn size(self) -> CodeSize {
        if self.0 & NARROW == 0 {
            CodeSize::Bits32
        } else {
            CodeSize::Bits16
        }
    }
}

/// A run of operations.
#[derive(Debug)]
pub(crate) struct Block {
    /// [`NOWHERE`] when dropped.
    pub(crate) key: Key,
    /// Physical address of its first byte.
    pub(crate) at: PhysAddr,
    /// Bytes of all operations.
    pub(crate) bytes: u32,
    pub(crate) ops: Box<[Op]>,
    /// What all operations but the last count when they retire.
    pub(crate) counts: Box<[(Event, u64)]>,
    /// How many of them need no look-up in the front end.
    pub(crate) line_hits: u64,
    /// Blocks that followed in the same page: after falling through, after a taken transfer.
    pub(crate) links: [BlockId; 2],
}

/// Hash of a physical address: multiplication is enough.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.write_u64(u64::from(b));
        }
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0 ^ n)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(26);
    }
    fn write_u32(&mut self, n: u32) {
        self.write_u64(u64::from(n));
    }
}

type AddressMap<K, V> = HashMap<K, V, BuildHasherDefault<AddressHasher>>;

/// What is known of a frame that holds code.
#[derive(Debug)]
struct CodeFrame {
    blocks: Vec<BlockId>,
    /// Operations of the next block at most. One after a write to the frame, then doubled with each
    /// block up to [`MAX_OPS`]: code that rewrites itself decodes little in vain.
    longest: usize,
}

impl Default for CodeFrame {
    fn default() -> Self {
        CodeFrame {
            blocks: Vec::new(),
            longest: MAX_OPS,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Target {
    va: u32,
    block: BlockId,
}

#[derive(Debug, Clone, Copy)]
struct CodePage {
    vpn: u32,
    generation: u32,
    frame: Pfn,
}

/// Everything that was decoded.
#[derive(Debug)]
pub(crate) struct Blocks {
    blocks: Vec<Block>,
    by_key: AddressMap<u64, BlockId>,
    by_frame: AddressMap<u32, CodeFrame>,
    free: Vec<BlockId>,
    targets: Box<[Target; TARGETS]>,
    pages: [CodePage; PAGES],
    /// Changes when a translation may have.
    generation: u32,
    /// Probes were known when the blocks were decoded.
    pub(crate) probes: bool,
}

impl Blocks {
    pub(crate) fn new() -> Self {
        Self {
            blocks: Vec::new(),
            by_key: HashMap::default(),
            by_frame: HashMap::default(),
            free: Vec::new(),
            targets: Box::new([Target { va: 0, block: NONE }; TARGETS]),
            pages: [CodePage {
                vpn: u32::MAX,
                generation: 0,
                frame: Pfn(0),
            }; PAGES],
            generation: 1,
            probes: false,
        }
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self) {
        let probes = self.probes;
        *self = Blocks::new();
        self.probes = probes;
    }

    /// Translations of code may have changed.
    #[inline(always)]
    pub(crate) fn forget_pages(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    #[inline(always)]
    pub(crate) fn block(&self, id: BlockId) -> &Block {
        &self.blocks[id as usize]
    }

    /// Remembers that `next` follows `id`, by a taken transfer or not, in the same page.
    #[inline(always)]
    pub(crate) fn link(&mut self, id: BlockId, which: usize, next: BlockId) {
        // The table may have been cleared since; a wrong link does no harm, because its key is
        // checked.
        if let Some(block) = self.blocks.get_mut(id as usize) {
            block.links[which] = next;
        }
    }

    /// The linked block, if it has this key.
    #[inline(always)]
    pub(crate) fn linked(&self, id: BlockId, which: usize, key: Key) -> Option<BlockId> {
        let next = self.blocks[id as usize].links[which];
        let block = self.blocks.get(next as usize)?;
        (block.key == key).then_some(next)
    }

    /// Frame of a code page as last seen, if no translation has changed since.
    #[inline(always)]
    pub(crate) fn page(&self, vpn: u32) -> Option<Pfn> {
        let p = &self.pages[vpn as usize % PAGES];
        (p.vpn == vpn && p.generation == self.generation).then_some(p.frame)
    }

    #[inline]
    pub(crate) fn set_page(&mut self, vpn: u32, frame: Pfn) {
        self.pages[vpn as usize % PAGES] = CodePage {
            vpn,
            generation: self.generation,
            frame,
        };
    }

    /// The block with this key, at the linear address `va`; decoded if need be.
    #[inline(always)]
    pub(crate) fn find(
        &mut self,
        va: u32,
        key: Key,
        mmu: &mut Mmu,
        translator: &mut Translator,
        fetch: &FetchShape,
    ) -> BlockId {
        let t = self.targets[(va ^ va >> 12) as usize % TARGETS];
        if t.va == va
            && let Some(block) = self.blocks.get(t.block as usize)
            && block.key == key
        {
            return t.block;
        }
        self.find_slow(va, key, mmu, translator, fetch)
    }

    #[inline(never)]
    fn find_slow(
        &mut self,
        va: u32,
        key: Key,
        mmu: &mut Mmu,
        translator: &mut Translator,
        fetch: &FetchShape,
    ) -> BlockId {
        let id = match self.by_key.get(&key.0) {
            Some(&id) => id,
            None => self.build(key, mmu, translator, fetch),
        };
        self.targets[(va ^ va >> 12) as usize % TARGETS] = Target { va, block: id };
        id
    }

    fn build(
        &mut self,
        key: Key,
        mmu: &mut Mmu,
        translator: &mut Translator,
        fetch: &FetchShape,
    ) -> BlockId {
        if self.by_key.len() >= MAX_BLOCKS {
            self.clear();
        }
        let at = key.at();
        let frame = self.by_frame.entry(at.pfn().0).or_default();
        let run = Run {
            key,
            longest: frame.longest,
            probes: self.probes,
        };
        frame.longest = (frame.longest * 2).min(MAX_OPS);
        let ops = decode_run(&run, mmu, translator, fetch);
        let (counts, line_hits) = static_counts(&ops);
        let block = Block {
            key,
            at,
            bytes: ops
                .last()
                .map_or(0, |op| u32::from(op.at) + u32::from(op.len)),
            ops,
            counts,
            line_hits,
            links: [NONE; 2],
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.blocks[id as usize] = block;
                id
            }
            None => {
                self.blocks.push(block);
                self.blocks.len() as BlockId - 1
            }
        };
        self.by_key.insert(key.0, id);
        let frame = self.by_frame.entry(at.pfn().0).or_default();
        frame.blocks.push(id);
        mmu.watch_code(at.pfn());
        id
    }

    /// Drops the blocks of the frames that were written.
    #[cold]
    #[inline(never)]
    pub(crate) fn drop_written(&mut self, mmu: &mut Mmu) {
        for frame in mmu.take_code_writes() {
            let Some(frame) = self.by_frame.get_mut(&frame.0) else {
                continue;
            };
            frame.longest = 1;
            for id in frame.blocks.drain(..) {
                let block = &mut self.blocks[id as usize];
                self.by_key.remove(&block.key.0);
                block.key = NOWHERE;
                block.links = [NONE; 2];
                self.free.push(id);
            }
        }
    }
}

/// What the CPU must know of the front end (D5).
#[derive(Debug, Clone, Copy)]
pub(crate) struct FetchShape {
    /// Bytes that one look-up covers, a power of two.
    pub(crate) line: u32,
    pub(crate) kind: FetchKind,
}

/// How a fetch is counted that hits the line of the fetch before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FetchKind {
    /// An ITLB access (with paging on) and an L1I hit.
    L1i,
    /// A trace-cache look-up.
    TraceCache,
}

/// What to decode.
struct Run {
    key: Key,
    /// Operations at most.
    longest: usize,
    probes: bool,
}

/// Decodes to the end of the block. Empty if already the first instruction runs over the page's end.
fn decode_run(run: &Run, mmu: &Mmu, translator: &mut Translator, fetch: &FetchShape) -> Box<[Op]> {
    let (at, size) = (run.key.at(), run.key.size());
    let mut bytes = [0; MAX_OPS * MAX_LEN];
    let to_end = (PAGE_SIZE - at.offset()) as usize;
    let have = to_end.min(run.longest * MAX_LEN);
    mmu.mem.read_bytes(at, &mut bytes[..have]);
    let line_of = |offset: usize| (at.offset() + offset as u32) / fetch.line;

    let mut ops: Vec<Op> = Vec::new();
    let mut offset = 0;
    let mut line = u32::MAX;
    while offset < have && ops.len() < run.longest {
        let Decoded::Op(mut op) = translator.decode(&bytes[offset..have], size, run.probes) else {
            break;
        };
        op.at = offset as u16;
        if op.marks & PROBE == 0 {
            let (first, last) = (line_of(offset), line_of(offset + usize::from(op.len) - 1));
            if first != line || last != line {
                op.marks |= NEW_LINE;
            }
            line = last;
        }
        offset += usize::from(op.len);
        ops.push(op);
        if op.marks & END != 0 {
            break;
        }
    }
    ops.into()
}

/// What all operations but the last count when they retire in this order, and their line hits.
fn static_counts(ops: &[Op]) -> (Box<[(Event, u64)]>, u64) {
    let mut counts: Vec<(Event, u64)> = Vec::new();
    let mut line_hits = 0;
    if let Some((_, prefix)) = ops.split_last() {
        line_hits = count_prefix(prefix, |event| {
            match counts.iter_mut().find(|(e, _)| *e == event) {
                Some((_, n)) => *n += 1,
                None => counts.push((event, 1)),
            }
        });
    }
    (counts.into(), line_hits)
}

/// Tells `add` what these operations, the first of a block, count when they retire; but not the
/// load-use stall of the first. Gives their line hits.
pub(crate) fn count_prefix(ops: &[Op], mut add: impl FnMut(Event)) -> u64 {
    let mut loaded = 0;
    let mut line_hits = 0;
    for op in ops {
        add(Event::Instructions);
        add(op.class);
        if loaded & op.reads != 0 {
            add(Event::LoadUse);
        }
        loaded = op.loads;
        line_hits += u64::from(op.marks & NEW_LINE == 0);
    }
    line_hits
}
