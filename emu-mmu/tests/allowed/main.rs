//! Accesses under all paging modes, with tables that change behind the TLBs: every answer is one that the manual allows.
//!
//! The tables lie in frames 2 to 13 (PAE) and 0x20 to 0x27 (32-bit paging); entries may point to any of them, so tables
//! contain each other, and data writes may hit tables.

#[path = "../common/mod.rs"]
mod common;
mod oracle;

use common::*;
use emu_mmu::{AccessKind, Cr3Load, Mmu, PhysAddr, PhysMem, Privilege, VirtAddr};
use oracle::{Access, Mode, Oracle};
use proptest::prelude::*;

const DIR32: u64 = 0x2_0000;
/// What CR3 may hold: two PDPTs, two directories.
const ROOTS: [u32; 4] = [
    PDPT as u32,
    PDPT as u32 + 32,
    DIR32 as u32,
    DIR32 as u32 + 0x1000,
];
/// Regions of 2 MiB that are accessed: a pair that 32-bit paging maps by one entry, and two apart.
const REGIONS: [u32; 4] = [0, 1, 0x600, 0x7FF];

fn pages() -> Vec<u32> {
    let offsets = || [0u32, 1, 511].into_iter();
    REGIONS
        .iter()
        .flat_map(|r| offsets().map(move |p| r << 9 | p))
        .collect()
}

fn address() -> impl Strategy<Value = VirtAddr> {
    // Two lines of code, so that they are met again.
    let offset = prop::sample::select(vec![0u32, 4, 0xFF8]);
    (prop::sample::select(pages()), offset).prop_map(|(p, o)| VirtAddr(p << 12 | o))
}

/// An entry of either format; mostly good ones, with A clear as often as set.
fn entry() -> impl Strategy<Value = u64> {
    let frame = prop_oneof![6u64..14, 14u64..20, 0x22u64..0x28, 1024u64..1030];
    let flags = prop_oneof![
        4 => Just(P | W | U | A | D),
        3 => Just(P | W | U),
        3 => any::<u64>().prop_map(|f| P | f & (W | U | A | D | G)),
        2 => any::<u64>().prop_map(|f| P | U | f & (W | A | D | G | NX)),
        2 => any::<u64>().prop_map(|f| P | U | PS | f & (W | A | D | G | NX)),
        1 => Just(P | W | U | 1 << 45),
        1 => Just(W | U),
    ];
    (frame, flags, 0..4).prop_map(|(frame, flags, how)| {
        let base = match how {
            _ if flags & PS == 0 => frame << 12,
            0 => frame << 12,
            1 => 1 << 21,
            _ => (frame & 1) << 22,
        };
        base | flags
    })
}

/// A word of a table: where, and what.
#[derive(Debug, Clone, Copy)]
struct Place {
    at: u64,
    wide: bool,
}

fn place() -> impl Strategy<Value = Place> {
    let small = || prop_oneof![Just(0u64), Just(1), Just(511)];
    let wide = |table: u64, index: u64| Place {
        at: PD0 + table * 0x1000 + index * 8,
        wide: true,
    };
    let narrow = |table: u64, index: u64| Place {
        at: DIR32 + table * 0x1000 + index * 4,
        wide: false,
    };
    let directory = prop_oneof![2 => Just(0u64), 1 => Just(768), 1 => Just(1023)];
    prop_oneof![
        2 => (0u64..4, prop_oneof![Just(0u64), Just(1), Just(511)]).prop_map(move |(t, i)| wide(t, i)),
        5 => (4u64..12, small()).prop_map(move |(t, i)| wide(t, i)),
        2 => (0u64..2, directory).prop_map(move |(t, i)| narrow(t, i)),
        5 => (2u64..8, small(), any::<bool>()).prop_map(move |(t, i, high)| narrow(t, i + 512 * u64::from(high))),
    ]
}

#[derive(Debug, Clone, Copy)]
enum Level {
    Leaf,
    Directory,
}

#[derive(Debug, Clone, Copy)]
enum Op {
    /// A translation, after which memory is looked at.
    Access(VirtAddr, AccessKind, bool),
    Read(VirtAddr, bool),
    Write(VirtAddr, bool, u32),
    Fetch(VirtAddr, bool),
    Entry(Place, u64),
    /// The entry that maps this address now, or the one above it.
    Change(VirtAddr, Level, u64),
    Invlpg(VirtAddr),
    /// The region of this address becomes another large page; invlpg of some address in it.
    Remap(VirtAddr, u64, VirtAddr),
    Cr3(usize),
    Cr4(u32),
    Cr0(u32),
    Nxe,
    /// Paging off, then on in this mode with one of its roots.
    Mode(Mode, usize),
    Reset,
}

fn op() -> impl Strategy<Value = Op> {
    let kind = prop_oneof![
        Just(AccessKind::Read),
        Just(AccessKind::Write),
        Just(AccessKind::Fetch)
    ];
    let level = prop_oneof![3 => Just(Level::Leaf), 1 => Just(Level::Directory)];
    let mode = prop_oneof![2 => Just(Mode::Bits32), 2 => Just(Mode::Pae)];
    prop_oneof![
        20 => (address(), kind, any::<bool>()).prop_map(|(a, k, u)| Op::Access(a, k, u)),
        3 => (address(), any::<bool>()).prop_map(|(a, u)| Op::Read(a, u)),
        2 => (address(), any::<bool>(), any::<u32>()).prop_map(|(a, u, v)| Op::Write(a, u, v)),
        8 => (address(), any::<bool>()).prop_map(|(a, u)| Op::Fetch(a, u)),
        2 => (place(), entry()).prop_map(|(p, e)| Op::Entry(p, e)),
        6 => (address(), level, entry()).prop_map(|(a, l, e)| Op::Change(a, l, e)),
        4 => address().prop_map(Op::Invlpg),
        2 => (address(), 0u64..2, address()).prop_map(|(a, f, b)| Op::Remap(a, f, b)),
        5 => (0usize..4).prop_map(Op::Cr3),
        1 => prop_oneof![Just(CR4_PGE), Just(CR4_PSE), Just(CR4_PAE)].prop_map(Op::Cr4),
        1 => prop_oneof![4 => Just(CR0_WP), 1 => Just(1u32 << 31), 1 => Just(1u32 << 30), 1 => Just(1)].prop_map(Op::Cr0),
        1 => Just(Op::Nxe),
        1 => (mode, 0usize..2).prop_map(|(m, r)| Op::Mode(m, r)),
        1 => Just(Op::Reset),
    ]
}

fn memory(entries: &[(Place, u64)]) -> PhysMem {
    let mut mem = PhysMem::new(8 << 20, 4 << 20).unwrap();
    for i in 0..4u64 {
        mem.write_u64(PhysAddr(PDPT + 8 * i), (PD0 + 0x1000 * i) | P);
        mem.write_u64(PhysAddr(PDPT + 32 + 8 * i), (PD0 + 0x1000 * (3 - i)) | P);
    }
    // Both kinds of directory lead somewhere by default.
    for (pd, index, table) in [(0u64, 0u64, 4u64), (0, 1, 5), (3, 0, 6), (3, 511, 7)] {
        let at = PhysAddr(PD0 + pd * 0x1000 + index * 8);
        mem.write_u64(at, (PD0 + table * 0x1000) | P | W | U | A);
    }
    for (directory, index, table) in [
        (0u64, 0u64, 2u64),
        (0, 768, 3),
        (0, 1023, 4),
        (1, 0, 5),
        (1, 768, 6),
    ] {
        let at = PhysAddr(DIR32 + directory * 0x1000 + index * 4);
        mem.write_u32(at, ((DIR32 + table * 0x1000) | P | W | U) as u32);
    }
    for i in [0u64, 1, 511, 512, 513, 1023] {
        let frame = (14 + i % 5) << 12;
        let global = |table: u64| (table & 1) * G;
        for table in 4..12 {
            if i < 512 {
                let at = PhysAddr(PD0 + table * 0x1000 + i * 8);
                mem.write_u64(at, frame | P | W | U | global(table));
            }
        }
        for table in 2..8 {
            let at = PhysAddr(DIR32 + table * 0x1000 + i * 4);
            mem.write_u32(at, (frame | P | W | U | global(table)) as u32);
        }
    }
    for &(place, entry) in entries {
        put(&mut mem, place, entry);
    }
    mem
}

fn put(mem: &mut PhysMem, place: Place, entry: u64) {
    if place.wide {
        mem.write_u64(PhysAddr(place.at), entry);
    } else {
        mem.write_u32(PhysAddr(place.at), entry as u32);
    }
}

/// Unit and model together.
struct Pair {
    mmu: Mmu,
    oracle: Oracle,
}

impl Pair {
    fn access(&mut self, a: Access) -> Result<(), TestCaseError> {
        let allowed = self.oracle.expect(&self.mmu, a);
        let peek = self.mmu.peek(a.va);
        prop_assert_eq!(peek, self.oracle.peek(&self.mmu, a.va));
        let got = self.mmu.translate(a.va, a.kind, privilege(a.user));
        let got = got.map(|at| at.0).map_err(|f| f.code);
        prop_assert!(
            allowed.explains(&self.oracle, &self.mmu, got),
            "{:x?} gave {:x?}, allowed {:x?}",
            a,
            got,
            allowed
        );
        if got.is_err() {
            self.oracle.faulted(a.va);
        }
        Ok(())
    }

    fn data(
        &mut self,
        a: Access,
        op: impl FnOnce(&mut Mmu) -> Result<u64, u32>,
    ) -> Result<(), TestCaseError> {
        let allowed = self.oracle.expect(&self.mmu, a);
        let want: Vec<u64> = allowed
            .places()
            .into_iter()
            .map(|at| match a.kind {
                AccessKind::Fetch => at,
                AccessKind::Read | AccessKind::Write => self.mmu.mem.read_u32(PhysAddr(at)).into(),
            })
            .collect();
        match op(&mut self.mmu) {
            // The walk may itself set bits in the word that is then read.
            Ok(got) => prop_assert!(
                want.iter().any(|w| w & !0x60 == got & !0x60),
                "{:x?} gave {:x}, allowed {:x?}",
                a,
                got,
                allowed
            ),
            Err(code) => {
                prop_assert!(
                    allowed.fails(code),
                    "{:x?} gave {:x}, allowed {:x?}",
                    a,
                    code,
                    allowed
                );
                self.oracle.faulted(a.va);
            }
        }
        Ok(())
    }

    fn apply(&mut self, op: Op) -> Result<(), TestCaseError> {
        match op {
            Op::Access(va, kind, user) => self.access(Access { va, kind, user })?,
            Op::Read(va, user) => {
                let kind = AccessKind::Read;
                self.data(Access { va, kind, user }, |m| {
                    m.read(va, 4, privilege(user)).map_err(|f| f.code)
                })?;
            }
            Op::Write(va, user, value) => {
                let kind = AccessKind::Write;
                // The write may hit the tables that it goes through: what was cached before is seen first.
                self.access(Access { va, kind, user })?;
                self.oracle.speculate(&self.mmu);
                self.data(Access { va, kind, user }, |m| {
                    let old = m.modify(va, 4, privilege(user), |_| Some(value.into()));
                    old.map_err(|f| f.code)
                })?;
            }
            Op::Fetch(va, user) => {
                let kind = AccessKind::Fetch;
                self.data(Access { va, kind, user }, |m| {
                    let seen = m.peek_code(va, privilege(user));
                    let got = m.fetch(va, 4, privilege(user));
                    assert_eq!(seen, got);
                    got.map(|a| a.0).map_err(|f| f.code)
                })?;
            }
            Op::Change(va, level, entry) => {
                let place = match level {
                    Level::Leaf => self.oracle.leaf(&self.mmu, va),
                    Level::Directory => self.oracle.directory(va),
                };
                if let Some(at) = place {
                    let wide = self.oracle.mode() == Mode::Pae;
                    put(&mut self.mmu.mem, Place { at, wide }, entry);
                }
            }
            Op::Entry(place, entry) => put(&mut self.mmu.mem, place, entry),
            Op::Invlpg(va) => {
                self.mmu.invlpg(va);
                self.oracle.invlpg(&self.mmu, va);
            }
            Op::Remap(va, frame, other) => {
                let large = frame << 22 | P | W | U | PS | A;
                self.apply(Op::Change(va, Level::Directory, large))?;
                let pair = if self.oracle.mode() == Mode::Pae {
                    0
                } else {
                    1 << 21
                };
                let inside = 0x1F_F000 | pair;
                self.apply(Op::Invlpg(VirtAddr(va.0 & !inside | other.0 & inside)))?;
            }
            Op::Cr3(root) => self.cr3(ROOTS[root])?,
            Op::Cr4(bits) => self.controls(self.oracle.cr0, self.oracle.cr4 ^ bits)?,
            Op::Cr0(bits) => self.controls(self.oracle.cr0 ^ bits, self.oracle.cr4)?,
            Op::Nxe => {
                self.oracle.efer ^= EFER_NXE;
                self.mmu.set_efer(self.oracle.efer);
            }
            Op::Mode(mode, root) => {
                let cr0 = self.oracle.cr0 & CR0_WP | 1;
                self.controls(cr0, self.oracle.cr4)?;
                let (pae, roots) = match mode {
                    Mode::Pae => (CR4_PAE, &ROOTS[..2]),
                    Mode::Bits32 | Mode::Off => (0, &ROOTS[2..]),
                };
                self.controls(cr0, self.oracle.cr4 & !CR4_PAE | pae)?;
                self.cr3(roots[root])?;
                self.controls(cr0 | CR0_PE_PG, self.oracle.cr4)?;
            }
            Op::Reset => {
                self.mmu.reset_state();
                self.oracle.reset();
            }
        }
        self.oracle.speculate(&self.mmu);
        Ok(())
    }

    fn cr3(&mut self, root: u32) -> Result<(), TestCaseError> {
        let done = self.mmu.set_cr3(root, Cr3Load::Other).is_ok();
        prop_assert_eq!(done, self.oracle.set_cr3(&self.mmu, root));
        Ok(())
    }

    fn controls(&mut self, cr0: u32, cr4: u32) -> Result<(), TestCaseError> {
        let done = if cr0 != self.oracle.cr0 {
            self.mmu.set_cr0(cr0).is_ok()
        } else {
            self.mmu.set_cr4(cr4).is_ok()
        };
        prop_assert_eq!(done, self.oracle.set_controls(&self.mmu, cr0, cr4));
        prop_assert_eq!(
            (self.mmu.cr0(), self.mmu.cr4()),
            (self.oracle.cr0, self.oracle.cr4)
        );
        Ok(())
    }
}

fn privilege(user: bool) -> Privilege {
    if user { USER } else { KERNEL }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12000))]

    #[test]
    fn every_answer_is_one_that_the_manual_allows(
        which in 0usize..6,
        entries in prop::collection::vec((place(), entry()), 0..40),
        first in prop_oneof![Just(Mode::Bits32), Just(Mode::Pae)],
        cr4 in any::<u32>().prop_map(|c| c & (CR4_PGE | CR4_PSE)),
        ops in prop::collection::vec(op(), 1..150),
    ) {
        let g = &geometries()[which];
        let mut pair = Pair {
            mmu: Mmu::new(memory(&entries), g).unwrap(),
            oracle: Oracle::new(g.maxphyaddr, pages()),
        };
        pair.controls(CR0_WP | 1, 0)?;
        pair.controls(CR0_WP | 1, cr4)?;
        pair.apply(Op::Mode(first, 0))?;
        for op in ops {
            pair.apply(op)?;
        }
    }
}
