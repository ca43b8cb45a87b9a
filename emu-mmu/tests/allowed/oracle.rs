//! What a processor may answer: the translations that the manual (SDM vol. 3A, sections 4.3 to 4.10) allows to be cached,
//! and what an access may do with them. Shares no code with the crate.
//!
//! A translation may be cached from any moment at which its path is complete, without reserved bits and marked accessed,
//! even without an access (speculation), until something that covers it invalidates it. A directory entry likewise, and it
//! may be combined with table entries of any later moment. Every access must be explained by one of these or by a walk of
//! the tables as they are. Where nothing stale is left, that is one answer only.
//!
//! Left out: that more may be dropped at any time needs no model, since a walk is always allowed.

use emu_mmu::{AccessKind, Mmu, PhysAddr, VirtAddr};
use std::collections::{BTreeMap, BTreeSet};

const P: u64 = 1;
const W: u64 = 2;
const U: u64 = 4;
const A: u64 = 0x20;
const D: u64 = 0x40;
const PS: u64 = 0x80;
const G: u64 = 0x100;
const NX: u64 = 1 << 63;
const FRAME: u64 = 0xF_FFFF_FFFF_F000;

/// How the tables are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Off,
    Bits32,
    Pae,
}

/// A translation of one 4 KiB page: what a TLB keeps of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    frame: u64,
    w: bool,
    u: bool,
    x: bool,
    d: bool,
    g: bool,
    large: bool,
}

/// Why an access fails: the low bits of the error code.
const ABSENT: u32 = 0;
const RIGHTS: u32 = 1;
const RESERVED: u32 = 9;

/// One way to explain an access: an entry of the tables that was, or might be, read for it.
#[derive(Debug, Clone, Copy)]
struct Path {
    entry: Entry,
    /// Where its leaf is, and the directory entry above it if the walk read that from memory.
    leaf: u64,
    above: Option<u64>,
}

/// An access.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Access {
    pub(crate) va: VirtAddr,
    pub(crate) kind: AccessKind,
    pub(crate) user: bool,
}

/// The model of one processor; memory is read from the unit under test.
#[derive(Debug, Clone)]
pub(crate) struct Oracle {
    pub(crate) cr0: u32,
    pub(crate) cr3: u32,
    pub(crate) cr4: u32,
    pub(crate) efer: u32,
    max: u8,
    pdpte: [u64; 4],
    pages: Vec<u32>,
    tlb: BTreeMap<u32, BTreeSet<Entry>>,
    pdes: BTreeMap<u32, BTreeSet<u64>>,
}

impl Oracle {
    /// Paging off; only these pages are ever accessed.
    pub(crate) fn new(max: u8, pages: Vec<u32>) -> Oracle {
        Oracle {
            cr0: 0,
            cr3: 0,
            cr4: 0,
            efer: 0,
            max,
            pdpte: [0; 4],
            pages,
            tlb: BTreeMap::new(),
            pdes: BTreeMap::new(),
        }
    }

    pub(crate) fn mode(&self) -> Mode {
        match (self.cr0 >> 31 != 0, self.cr4 & 0x20 != 0) {
            (false, _) => Mode::Off,
            (true, false) => Mode::Bits32,
            (true, true) => Mode::Pae,
        }
    }

    fn nxe(&self) -> bool {
        self.efer & 0x800 != 0 && self.mode() == Mode::Pae
    }

    fn region_shift(&self) -> u32 {
        if self.mode() == Mode::Pae { 21 } else { 22 }
    }

    fn region(&self, page: u32) -> u32 {
        page >> (self.region_shift() - 12)
    }

    fn read(&self, mmu: &Mmu, at: u64) -> u64 {
        if self.mode() == Mode::Pae {
            mmu.mem.read_u64(PhysAddr(at))
        } else {
            mmu.mem.read_u32(PhysAddr(at)).into()
        }
    }

    fn reserved(&self, entry: u64, large: bool) -> bool {
        if self.mode() == Mode::Bits32 {
            return large && entry & 0x3F_E000 != 0;
        }
        let beyond = (1u64 << 63) - (1u64 << self.max);
        let nx = if self.nxe() { 0 } else { NX };
        let below = if large { 0x1F_E000 } else { 0 };
        entry & (beyond | nx | below) != 0
    }

    fn large(&self, pde: u64) -> bool {
        pde & PS != 0 && (self.mode() == Mode::Pae || self.cr4 & 0x10 != 0)
    }

    fn pde_at(&self, page: u32) -> Option<u64> {
        let page = u64::from(page);
        if self.mode() == Mode::Bits32 {
            return Some((u64::from(self.cr3) & 0xFFFF_F000) + (page >> 10) * 4);
        }
        let pdpte = self.pdpte[(page >> 18) as usize];
        (pdpte & P != 0).then(|| (pdpte & FRAME) + (page >> 9 & 511) * 8)
    }

    fn pte_at(&self, pde: u64, page: u32) -> u64 {
        let page = u64::from(page);
        if self.mode() == Mode::Bits32 {
            (pde & FRAME) + (page & 1023) * 4
        } else {
            (pde & FRAME) + (page & 511) * 8
        }
    }

    fn entry(&self, page: u32, pde: u64, leaf: u64, large: bool) -> Entry {
        let mask = if large {
            (1u64 << self.region_shift()) - 1
        } else {
            0xFFF
        };
        let both = pde & leaf;
        Entry {
            frame: (leaf & FRAME & !mask) | (u64::from(page) << 12 & mask),
            w: both & W != 0,
            u: both & U != 0,
            x: (pde | leaf) & NX == 0,
            d: leaf & D != 0,
            g: leaf & G != 0 && self.cr4 & 0x80 != 0,
            large,
        }
    }

    /// Present and well-formed, or why not.
    fn good(&self, entry: u64, large: bool) -> Result<(), u32> {
        if entry & P == 0 {
            Err(ABSENT)
        } else if self.reserved(entry, large) {
            Err(RESERVED)
        } else {
            Ok(())
        }
    }

    /// The rest of a walk from a directory entry that maps a table.
    fn below(&self, mmu: &Mmu, page: u32, pde: u64, above: Option<u64>) -> Result<Path, u32> {
        let at = self.pte_at(pde, page);
        let pte = self.read(mmu, at);
        self.good(pte, false)?;
        Ok(Path {
            entry: self.entry(page, pde, pte, false),
            leaf: at,
            above,
        })
    }

    /// A walk that reads everything from memory.
    fn walk(&self, mmu: &Mmu, page: u32) -> Result<Path, u32> {
        let at = self.pde_at(page).ok_or(ABSENT)?;
        let pde = self.read(mmu, at);
        let large = self.large(pde);
        self.good(pde, large)?;
        if !large {
            return self.below(mmu, page, pde, Some(at));
        }
        Ok(Path {
            entry: self.entry(page, pde, pde, true),
            leaf: at,
            above: None,
        })
    }

    /// Where the tables lead now, rights aside.
    pub(crate) fn peek(&self, mmu: &Mmu, va: VirtAddr) -> Option<PhysAddr> {
        if self.mode() == Mode::Off {
            return Some(PhysAddr(va.0.into()));
        }
        let path = self.walk(mmu, va.vpn()).ok()?;
        Some(PhysAddr(path.entry.frame + u64::from(va.offset())))
    }

    /// Where the entry is that maps `va` now.
    pub(crate) fn leaf(&self, mmu: &Mmu, va: VirtAddr) -> Option<u64> {
        let paging = self.mode() != Mode::Off;
        paging
            .then(|| self.walk(mmu, va.vpn()).ok())?
            .map(|p| p.leaf)
    }

    /// Where the directory entry of `va` is.
    pub(crate) fn directory(&self, va: VirtAddr) -> Option<u64> {
        let paging = self.mode() != Mode::Off;
        paging.then(|| self.pde_at(va.vpn()))?
    }

    /// Everything that could be cached now, is.
    pub(crate) fn speculate(&mut self, mmu: &Mmu) {
        if self.mode() == Mode::Off {
            return;
        }
        for page in self.pages.clone() {
            let region = self.region(page);
            if let Some(at) = self.pde_at(page) {
                let pde = self.read(mmu, at);
                let large = self.large(pde);
                if self.good(pde, large).is_ok() && pde & A != 0 {
                    if large {
                        let entry = self.entry(page, pde, pde, true);
                        self.tlb.entry(page).or_default().insert(entry);
                    } else {
                        self.pdes.entry(region).or_default().insert(pde);
                    }
                }
            }
            for &pde in self.pdes.get(&region).into_iter().flatten() {
                if let Ok(path) = self.below(mmu, page, pde, None)
                    && self.read(mmu, path.leaf) & A != 0
                {
                    self.tlb.entry(page).or_default().insert(path.entry);
                }
            }
        }
    }

    fn allows(&self, entry: Entry, a: Access) -> bool {
        let write = entry.w || !a.user && self.cr0 & 0x1_0000 == 0;
        (!a.user || entry.u)
            && (a.kind != AccessKind::Write || write)
            && (a.kind != AccessKind::Fetch || entry.x)
    }

    fn code(&self, a: Access, why: u32) -> u32 {
        why | u32::from(a.kind == AccessKind::Write) << 1
            | u32::from(a.user) << 2
            | u32::from(a.kind == AccessKind::Fetch && self.nxe()) << 4
    }

    /// The answers that are allowed before the access is made.
    pub(crate) fn expect(&self, mmu: &Mmu, a: Access) -> Allowed {
        let (page, offset) = (a.va.vpn(), u64::from(a.va.offset()));
        let mut allowed = Allowed::default();
        if self.mode() == Mode::Off {
            allowed.held.insert(u64::from(a.va.0));
            return allowed;
        }
        for &entry in self.tlb.get(&page).into_iter().flatten() {
            if !self.allows(entry, a) {
                allowed.codes.insert(self.code(a, RIGHTS));
            } else if a.kind != AccessKind::Write || entry.d {
                allowed.held.insert(entry.frame + offset);
            }
        }
        let cached = self.pdes.get(&self.region(page)).into_iter().flatten();
        let cached = cached.map(|&pde| self.below(mmu, page, pde, None));
        for path in cached.chain([self.walk(mmu, page)]) {
            match path {
                Err(why) => {
                    allowed.codes.insert(self.code(a, why));
                }
                Ok(path) if !self.allows(path.entry, a) => {
                    allowed.codes.insert(self.code(a, RIGHTS));
                }
                Ok(path) => allowed.walks.push(Walk {
                    at: path.entry.frame + offset,
                    leaf: path.leaf,
                    above: path.above,
                    bits: A | if a.kind == AccessKind::Write { D } else { 0 },
                }),
            }
        }
        allowed
    }

    /// A bit pattern in the entry at `at`.
    pub(crate) fn has(&self, mmu: &Mmu, at: u64, bits: u64) -> bool {
        self.read(mmu, at) & bits == bits
    }

    /// A page fault at `va` was delivered.
    pub(crate) fn faulted(&mut self, va: VirtAddr) {
        self.tlb.remove(&va.vpn());
        let region = self.region(va.vpn());
        self.pdes.remove(&region);
    }

    /// invlpg: the page with all its pieces, if the tables map it large, and every directory entry.
    pub(crate) fn invlpg(&mut self, mmu: &Mmu, va: VirtAddr) {
        if self.mode() == Mode::Off {
            return;
        }
        self.tlb.remove(&va.vpn());
        self.pdes.clear();
        if self.walk(mmu, va.vpn()).is_ok_and(|p| p.entry.large) {
            let (shift, region) = (self.region_shift() - 12, self.region(va.vpn()));
            for (page, entries) in &mut self.tlb {
                if page >> shift == region {
                    entries.retain(|e| !e.large);
                }
            }
        }
    }

    fn drop_all(&mut self) {
        self.tlb.clear();
        self.pdes.clear();
    }

    /// Nothing is cached any more.
    pub(crate) fn reset(&mut self) {
        self.drop_all();
    }

    /// The four PDPTEs at CR3, unless they refuse to load.
    fn pdptes(&self, mmu: &Mmu, cr3: u32) -> Option<[u64; 4]> {
        let base = u64::from(cr3 & !31);
        let pdptes: [u64; 4] =
            std::array::from_fn(|i| mmu.mem.read_u64(PhysAddr(base + 8 * i as u64)));
        let reserved = 0x1E6 | (u64::MAX << self.max);
        let bad = pdptes.iter().any(|p| p & P != 0 && p & reserved != 0);
        (!bad).then_some(pdptes)
    }

    /// MOV to CR3; true if it is accepted.
    pub(crate) fn set_cr3(&mut self, mmu: &Mmu, new: u32) -> bool {
        if self.mode() == Mode::Pae {
            match self.pdptes(mmu, new) {
                Some(pdptes) => self.pdpte = pdptes,
                None => return false,
            }
        }
        self.cr3 = new;
        if self.mode() != Mode::Off {
            self.pdes.clear();
            for entries in self.tlb.values_mut() {
                entries.retain(|e| e.g);
            }
        }
        true
    }

    /// MOV to CR0 or CR4, as `now` has them; true if it is accepted.
    pub(crate) fn set_controls(&mut self, mmu: &Mmu, cr0: u32, cr4: u32) -> bool {
        if cr0 >> 31 != 0 && cr0 & 1 == 0 {
            return false;
        }
        let old = self.clone();
        let (c0, c4) = (self.cr0 ^ cr0, self.cr4 ^ cr4);
        (self.cr0, self.cr4) = (cr0, cr4);
        let reload = c0 & 0xE000_0000 != 0 || c4 & 0xB0 != 0;
        if self.mode() == Mode::Pae && reload {
            match self.pdptes(mmu, self.cr3) {
                Some(pdptes) => self.pdpte = pdptes,
                None => {
                    *self = old;
                    return false;
                }
            }
        }
        if c0 >> 31 != 0 || c4 & 0xB0 != 0 {
            self.drop_all();
        }
        true
    }
}

/// A walk that would succeed.
#[derive(Debug, Clone, Copy)]
struct Walk {
    at: u64,
    leaf: u64,
    above: Option<u64>,
    bits: u64,
}

/// The answers that an access may give.
#[derive(Debug, Clone, Default)]
pub(crate) struct Allowed {
    /// Through what is cached: nothing is written.
    held: BTreeSet<u64>,
    /// Through a walk: the leaf gets these bits, and the directory entry that was read its A.
    walks: Vec<Walk>,
    /// Error codes.
    codes: BTreeSet<u32>,
}

impl Allowed {
    /// True if `result` is allowed and memory is as it must be after it.
    pub(crate) fn explains(&self, o: &Oracle, mmu: &Mmu, result: Result<u64, u32>) -> bool {
        match result {
            Err(code) => self.codes.contains(&code),
            Ok(at) => {
                let walked = |w: &Walk| {
                    w.at == at
                        && o.has(mmu, w.leaf, w.bits)
                        && w.above.is_none_or(|above| o.has(mmu, above, A))
                };
                self.held.contains(&at) || self.walks.iter().any(walked)
            }
        }
    }

    /// The physical addresses that an access may reach.
    pub(crate) fn places(&self) -> BTreeSet<u64> {
        let walks = self.walks.iter().map(|w| w.at);
        self.held.iter().copied().chain(walks).collect()
    }

    /// True if a fault with this code is allowed.
    pub(crate) fn fails(&self, code: u32) -> bool {
        self.codes.contains(&code)
    }
}
