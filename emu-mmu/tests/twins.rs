//! The fast unit against its slow twin, the shadow's identity, and translation against an independent oracle.

mod common;

use common::*;
use emu_mmu::{
    AccessKind, Cr3Load, Mmu, PageFault, PagingMode, PhysAddr, PhysMem, Privilege, VirtAddr,
};
use lowmem_cost::{Account, Event, Geometry};
use proptest::prelude::*;

/// Few addresses that meet in sets, lines, pages and 2 MiB regions.
fn address() -> impl Strategy<Value = VirtAddr> {
    let region = prop_oneof![Just(0u32), Just(1), Just(0x600), Just(0x7FF)];
    let page = prop_oneof![0u32..20, Just(511)];
    let offset = prop_oneof![
        3 => 0u32..4096,
        2 => (0u32..1024).prop_map(|i| i * 4),
        1 => 4080u32..4096,
        1 => 0u32..64,
    ];
    (region, page, offset).prop_map(|(r, p, o)| VirtAddr(r << 21 | p << 12 | o))
}

/// An entry that points to a table or data frame; mostly good ones.
fn entry() -> impl Strategy<Value = u64> {
    let frame = prop_oneof![6u64..14, 14u64..40, 1024u64..1040, Just(0x900u64)];
    let flags = prop_oneof![
        4 => Just(P | W | U | A | D),
        4 => Just(P | W | U | A),
        2 => Just(P | W | A | G),
        4 => any::<u64>().prop_map(|f| P | f & (W | U | A | D | G | NX)),
        2 => any::<u64>().prop_map(|f| P | f & (W | U | A | D | G | PS)),
        1 => Just(P | W | U | 1 << 45),
        1 => Just(W | U),
    ];
    (frame, flags).prop_map(|(frame, flags)| {
        // A large page needs an aligned base, most of the time.
        let base = if flags & PS != 0 && frame % 4 != 0 {
            frame << 21 & 0x60_0000
        } else {
            frame << 12
        };
        base | flags
    })
}

#[derive(Debug, Clone)]
enum Op {
    Read(VirtAddr, u8),
    Write(VirtAddr, u8, u64),
    Modify(VirtAddr, u8, u64),
    Fetch(VirtAddr, u8),
    FetchMany(VirtAddr, u8, u64),
    Stos(VirtAddr, u8, u32, u32),
    Movs(VirtAddr, VirtAddr, u8, u32),
    Translate(VirtAddr),
    Probe(VirtAddr, u8),
    PeekCode(VirtAddr),
    Cr3(u32, Cr3Load),
    Pge,
    Nxe,
    Wp,
    Invlpg(VirtAddr),
    Mm(u32),
    /// Page-table entry: which of the 12 tables, which entry, what.
    Entry(u64, u64, u64),
    /// The same of 32-bit paging: which of its 8 tables.
    Entry32(u64, u64, u64),
    /// Bits of CR4 change.
    Cr4(u32),
    /// Paging off, then on in this mode with a root of its own.
    Mode(PagingMode, u32),
}

fn op() -> impl Strategy<Value = (Op, Privilege)> {
    let size = || prop_oneof![Just(1u8), Just(2), Just(4), Just(8)];
    let string = || prop_oneof![Just(1u8), Just(2), Just(4)];
    let count = || prop_oneof![0u32..20, Just(1024u32), 0u32..5000];
    let index = prop_oneof![0u64..20, Just(511u64)];
    let index32 = prop_oneof![0u64..20, 511u64..532, Just(768), Just(1023)];
    let mode = prop_oneof![
        2 => Just(PagingMode::Bits32),
        2 => Just(PagingMode::Pae),
        1 => Just(PagingMode::Off),
    ];
    let op = prop_oneof![
        10 => (address(), size()).prop_map(|(a, s)| Op::Read(a, s)),
        8 => (address(), size(), any::<u64>()).prop_map(|(a, s, v)| Op::Write(a, s, v)),
        4 => (address(), size(), any::<u64>()).prop_map(|(a, s, v)| Op::Modify(a, s, v)),
        10 => (address(), 1u8..16).prop_map(|(a, l)| Op::Fetch(a, l)),
        2 => (address(), 1u8..16, 1u64..9).prop_map(|(a, l, n)| Op::FetchMany(a, l, n)),
        2 => (address(), string(), count(), prop_oneof![Just(0), any::<u32>()])
            .prop_map(|(a, s, n, v)| Op::Stos(a, s, n, v)),
        3 => (address(), address(), string(), count()).prop_map(|(a, b, s, n)| Op::Movs(a, b, s, n)),
        1 => (address(), 1u32..40, string(), count())
            .prop_map(|(a, d, s, n)| Op::Movs(a.wrapping_add(d), a, s, n)),
        1 => address().prop_map(Op::Translate),
        1 => (address(), size()).prop_map(|(a, s)| Op::Probe(a, s)),
        1 => address().prop_map(Op::PeekCode),
        2 => (0u32..2, prop_oneof![Just(Cr3Load::Split), Just(Cr3Load::Other)]).prop_map(|(r, w)| Op::Cr3(r, w)),
        1 => prop_oneof![Just(Op::Pge), Just(Op::Nxe), Just(Op::Wp)],
        1 => address().prop_map(Op::Invlpg),
        1 => (0u32..3).prop_map(Op::Mm),
        3 => (0u64..12, index, entry()).prop_map(|(t, i, e)| Op::Entry(t, i, e)),
        2 => (0u64..8, index32, entry()).prop_map(|(t, i, e)| Op::Entry32(t, i, e)),
        1 => prop_oneof![Just(CR4_PSE), Just(CR4_PAE)].prop_map(Op::Cr4),
        1 => (mode, 0u32..2).prop_map(|(m, r)| Op::Mode(m, r)),
    ];
    (
        op,
        prop_oneof![Just(Privilege::User), Just(Privilege::Supervisor)],
    )
}

/// All that an operation shows.
type Shown = (u64, Option<PageFault>, u32);

fn show(result: Result<u64, PageFault>) -> Shown {
    match result {
        Ok(v) => (v, None, 0),
        Err(fault) => (0, Some(fault), 0),
    }
}

fn apply(mmu: &mut Mmu, op: &Op, p: Privilege) -> Shown {
    match *op {
        Op::Read(a, s) => show(mmu.read(a, s, p)),
        Op::Write(a, s, v) => show(mmu.write(a, s, v, p).map(|()| 0)),
        Op::Modify(a, s, v) => {
            show(mmu.modify(a, s, p, |old| (v & 1 == 0).then_some(old.wrapping_add(v))))
        }
        Op::Fetch(a, l) => show(mmu.fetch(a, l, p).map(|a| a.0)),
        Op::FetchMany(a, l, n) => show(mmu.fetch_many(a, l, n, p).map(|a| a.0)),
        // The twin goes element by element, so both are driven until done or fault.
        Op::Stos(a, s, n, v) => {
            let mut done = 0;
            while done < n {
                let span = mmu.rep_stos(a.wrapping_add(done * u32::from(s)), s, n - done, v, p);
                done += span.done;
                if span.fault.is_some() {
                    return (0, span.fault, done);
                }
                assert!(span.done > 0);
            }
            (0, None, done)
        }
        Op::Movs(to, from, s, n) => {
            let mut done = 0;
            while done < n {
                let at = done * u32::from(s);
                let span = mmu.rep_movs(to.wrapping_add(at), from.wrapping_add(at), s, n - done, p);
                done += span.done;
                if span.fault.is_some() {
                    return (0, span.fault, done);
                }
                assert!(span.done > 0);
            }
            (0, None, done)
        }
        Op::Translate(a) => show(mmu.translate(a, AccessKind::Read, p).map(|a| a.0)),
        Op::Probe(a, s) => show(mmu.probe_write(a, s, p).map(|()| 0)),
        Op::PeekCode(a) => show(mmu.peek_code(a, p).map(|a| a.0)),
        Op::Cr3(root, why) => (
            u64::from(mmu.set_cr3(root_of(mmu.paging_mode(), root), why).is_err()),
            None,
            0,
        ),
        Op::Pge => (
            u64::from(mmu.set_cr4(mmu.cr4() ^ CR4_PGE).is_err()),
            None,
            0,
        ),
        Op::Nxe => {
            mmu.set_efer(mmu.efer() ^ EFER_NXE);
            (0, None, 0)
        }
        Op::Wp => (u64::from(mmu.set_cr0(mmu.cr0() ^ CR0_WP).is_err()), None, 0),
        Op::Invlpg(a) => {
            mmu.invlpg(a);
            (0, None, 0)
        }
        Op::Mm(id) => {
            mmu.set_running_mm(id);
            (0, None, 0)
        }
        Op::Entry(table, index, entry) => {
            mmu.mem
                .write_u64(PhysAddr(PD0 + table * 0x1000 + 8 * index), entry);
            (0, None, 0)
        }
        Op::Entry32(table, index, entry) => {
            mmu.mem
                .write_u32(PhysAddr(DIR32 + table * 0x1000 + 4 * index), entry as u32);
            (0, None, 0)
        }
        Op::Cr4(bits) => (u64::from(mmu.set_cr4(mmu.cr4() ^ bits).is_err()), None, 0),
        Op::Mode(mode, root) => {
            let cr0 = mmu.cr0();
            mmu.set_cr0(cr0 & CR0_WP | 1).unwrap();
            let pae = if mode == PagingMode::Pae { CR4_PAE } else { 0 };
            mmu.set_cr4(mmu.cr4() & !CR4_PAE | pae).unwrap();
            mmu.set_cr3(root_of(mode, root), Cr3Load::Other).unwrap();
            let done = match mode {
                PagingMode::Off => Ok(()),
                PagingMode::Bits32 | PagingMode::Pae => mmu.set_cr0(cr0 | CR0_PE_PG),
            };
            (u64::from(done.is_err()), None, 0)
        }
    }
}

/// Directories and tables of 32-bit paging: 8 frames, which are data frames too.
const DIR32: u64 = 0x2_0000;

fn root_of(mode: PagingMode, root: u32) -> u32 {
    match mode {
        PagingMode::Bits32 => DIR32 as u32 + root * 0x1000,
        PagingMode::Off | PagingMode::Pae => PDPT as u32 + root * 32,
    }
}

/// Two roots: their first and last directories are different frames, so that addresses mean different things.
fn memory(entries: &[(u64, u64, u64)]) -> PhysMem {
    let mut mem = PhysMem::new(8 << 20, 4 << 20).unwrap();
    for i in 0..4u64 {
        mem.write_u64(PhysAddr(PDPT + 8 * i), (PD0 + 0x1000 * i) | P);
        mem.write_u64(PhysAddr(PDPT + 32 + 8 * i), (PD0 + 0x1000 * (3 - i)) | P);
    }
    for (index, table) in [(0u64, 2u64), (768, 3), (1023, 4)] {
        for directory in 0..2 {
            let at = PhysAddr(DIR32 + directory * 0x1000 + index * 4);
            let table = DIR32 + (table + 2 * directory) * 0x1000;
            mem.write_u32(at, (table | P | W | U) as u32);
        }
    }
    for table in 2..8 {
        for index in (0u64..20).chain(511..532).chain([1023]) {
            let at = PhysAddr(DIR32 + table * 0x1000 + index * 4);
            let frame = (0x400 + (index + 3 * table) % 16) << 12;
            let global = if table == 3 { G } else { 0 };
            mem.write_u32(at, (frame | P | W | U | global) as u32);
        }
    }
    for &(table, index, entry) in entries {
        mem.write_u64(PhysAddr(PD0 + table * 0x1000 + 8 * index), entry);
    }
    // The regions of `address` lead somewhere by default.
    for (pd, index, table) in [(0u64, 0u64, 4u64), (0, 1, 5), (3, 0, 6), (3, 511, 7)] {
        if !entries.iter().any(|&(t, i, _)| (t, i) == (pd, index)) {
            let at = PhysAddr(PD0 + pd * 0x1000 + index * 8);
            mem.write_u64(at, (PD0 + table * 0x1000) | P | W | U | A);
        }
    }
    mem
}

/// Sums that must hold at any time.
fn sums(mmu: &Mmu) -> Result<(), TestCaseError> {
    use Event::*;
    let n = |e| mmu.account.total(e);
    let (ishadow, dshadow) = mmu.shadow_misses();
    let sides = [
        (
            ItlbMiss,
            ItlbFlush,
            ItlbRemap,
            ItlbCold,
            ItlbCapacity,
            ItlbSpared,
            ishadow,
        ),
        (
            DtlbMiss,
            DtlbFlush,
            DtlbRemap,
            DtlbCold,
            DtlbCapacity,
            DtlbSpared,
            dshadow,
        ),
    ];
    for (miss, flush, remap, cold, capacity, spared, shadow) in sides {
        prop_assert_eq!(n(miss), n(flush) + n(remap) + n(cold) + n(capacity));
        prop_assert_eq!(
            n(miss) as i64 - shadow as i64,
            n(flush) as i64 + n(remap) as i64 - n(spared) as i64
        );
    }
    prop_assert!(n(DtlbMiss) <= n(DtlbAccess) && n(ItlbMiss) <= n(ItlbAccess));
    for (miss, access2, miss2, walk) in [
        (ItlbMiss, Itlb2Access, Itlb2Miss, ItlbWalk),
        (DtlbMiss, Dtlb2Access, Dtlb2Miss, DtlbWalk),
    ] {
        if n(access2) == 0 {
            prop_assert_eq!(n(miss), n(walk));
        } else {
            prop_assert_eq!((n(miss), n(miss2)), (n(access2), n(walk)));
        }
    }
    Ok(())
}

fn compare(a: &Mmu, b: &Mmu) -> Result<(), TestCaseError> {
    for pfn in a.mem.touched_frames().chain(b.mem.touched_frames()) {
        prop_assert!(
            a.mem.page_words(pfn).eq(b.mem.page_words(pfn)),
            "{:?} differs",
            pfn
        );
    }
    Ok(())
}

fn same_account(fast: &Account, slow: &Account, op: (usize, &Op)) -> Result<(), TestCaseError> {
    if fast != slow {
        prop_assert_eq!(format!("{fast:?}"), format!("{slow:?}"), "{:?}", op);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn fast_equals_slow(
        which in 0usize..6,
        entries in prop::collection::vec((0u64..12, prop_oneof![0u64..20, Just(511u64)], entry()), 40..250),
        ops in prop::collection::vec(op(), 1..400),
        clone_at in 0usize..400,
    ) {
        let g = &geometries()[which];
        let mut fast = Mmu::new(memory(&entries), g).unwrap();
        let mut slow = Mmu::reference(memory(&entries), g).unwrap();
        enable(&mut fast);
        enable(&mut slow);
        let mut original = None;
        for (i, (op, p)) in ops.iter().enumerate() {
            if i == clone_at {
                // A clone goes on exactly as its original would have.
                let clone = fast.clone_cow().unwrap();
                original = Some(std::mem::replace(&mut fast, clone));
            }
            let shown = (apply(&mut fast, op, *p), apply(&mut slow, op, *p));
            prop_assert_eq!(shown.0, shown.1, "op {} {:?}", i, op);
            same_account(&fast.account, &slow.account, (i, op))?;
        }
        compare(&fast, &slow)?;
        sums(&fast)?;
        drop(original);
    }

    /// A clone that is reset repeats itself: accounts, memory and results.
    #[test]
    fn a_reset_clone_repeats_itself(
        which in 0usize..6,
        entries in prop::collection::vec((0u64..12, prop_oneof![0u64..20, Just(511u64)], entry()), 40..250),
        before in prop::collection::vec(op(), 0..60),
        ops in prop::collection::vec(op(), 1..60),
    ) {
        let mut original = Mmu::new(memory(&entries), &geometries()[which]).unwrap();
        enable(&mut original);
        for (op, p) in &before {
            apply(&mut original, op, *p);
        }
        let mut clone = original.clone_cow().unwrap();
        let run = |clone: &mut Mmu| -> (Vec<Shown>, Account) {
            let shown = ops.iter().map(|(op, p)| apply(clone, op, *p)).collect();
            (shown, clone.account.clone())
        };
        let first = run(&mut clone);
        clone.reset_to(&original);
        compare(&clone, &original)?;
        let second = run(&mut clone);
        prop_assert_eq!(first.0, second.0);
        same_account(&first.1, &second.1, (0, &Op::Pge))?;
    }

    /// With empty TLBs every access does what the manual says of the tables in memory.
    #[test]
    fn cold_accesses_obey_the_tables(
        which in 0usize..6,
        entries in prop::collection::vec((0u64..12, prop_oneof![0u64..20, Just(511u64)], entry()), 40..250),
        accesses in prop::collection::vec((address(), 0u8..3, any::<bool>()), 1..60),
        (nxe, wp, pge) in any::<(bool, bool, bool)>(),
    ) {
        let mut mmu = Mmu::new(memory(&entries), &geometries()[which]).unwrap();
        enable(&mut mmu);
        mmu.set_efer(if nxe { EFER_NXE } else { 0 });
        mmu.set_cr0(CR0_PE_PG | if wp { CR0_WP } else { 0 }).unwrap();
        mmu.set_cr4(CR4_PAE | if pge { CR4_PGE } else { 0 }).unwrap();
        for (va, kind, user) in accesses {
            let kind = [AccessKind::Read, AccessKind::Write, AccessKind::Fetch][usize::from(kind)];
            let p = if user { Privilege::User } else { Privilege::Supervisor };
            mmu.reset_state();
            let mut oracle = Oracle { max: geometries()[which].maxphyaddr, nxe, wp, touched: Vec::new() };
            let want = oracle.access(&mmu.mem, va, kind, user);
            prop_assert_eq!(
                mmu.probe_write(va, 1, p).is_ok(),
                oracle.clone().access(&mmu.mem, va, AccessKind::Write, user).is_ok()
            );
            let peek = mmu.peek(va);
            let got = mmu.translate(va, kind, p);
            prop_assert_eq!(got.map(|a| a.0).map_err(|f| f.code), want);
            if let Ok(a) = got {
                prop_assert_eq!(peek, Some(a));
            }
            for (at, entry) in oracle.touched {
                prop_assert_eq!(mmu.mem.read_u64(PhysAddr(at)), entry, "entry at {:#x}", at);
            }
        }
    }
}

/// PAE translation written down from the manual, without sharing code with the crate.
#[derive(Clone)]
struct Oracle {
    max: u8,
    nxe: bool,
    wp: bool,
    /// Entries as they must be afterwards.
    touched: Vec<(u64, u64)>,
}

impl Oracle {
    fn access(
        &mut self,
        mem: &PhysMem,
        va: VirtAddr,
        kind: AccessKind,
        user: bool,
    ) -> Result<u64, u32> {
        let code = u32::from(kind == AccessKind::Write) << 1
            | u32::from(user) << 2
            | u32::from(kind == AccessKind::Fetch && self.nxe) << 4;
        let va = u64::from(va.0);
        let pdpte = mem.read_u64(PhysAddr(PDPT + (va >> 30) * 8));
        let pde_at = (pdpte & 0xF_FFFF_FFFF_F000) + (va >> 21 & 511) * 8;
        let pde = mem.read_u64(PhysAddr(pde_at));
        self.good(pde, pde & PS != 0, code)?;
        let (leaf_at, leaf, path, mask) = if pde & PS != 0 {
            (pde_at, pde, pde, 0x1F_FFFF)
        } else {
            self.touched.push((pde_at, pde | A));
            let pte_at = (pde & 0xF_FFFF_FFFF_F000) + (va >> 12 & 511) * 8;
            // The table may contain its own directory entry.
            let pte = mem.read_u64(PhysAddr(pte_at)) | if pte_at == pde_at { A } else { 0 };
            self.good(pte, false, code)?;
            (pte_at, pte, pde, 0xFFF)
        };
        let both = path & leaf;
        let allowed = (!user || both & U != 0)
            && (kind != AccessKind::Write || both & W != 0 || !user && !self.wp)
            && (kind != AccessKind::Fetch || (path | leaf) & NX == 0);
        if !allowed {
            return Err(code | 1);
        }
        let dirty = if kind == AccessKind::Write { D } else { 0 };
        self.touched.retain(|&(at, _)| at != leaf_at);
        self.touched.push((leaf_at, leaf | A | dirty));
        Ok((leaf & 0xF_FFFF_FFFF_F000 & !mask) | va & mask)
    }

    fn good(&self, entry: u64, large: bool, code: u32) -> Result<(), u32> {
        if entry & P == 0 {
            return Err(code);
        }
        let beyond = (1u64 << 63) - (1u64 << self.max);
        let nx = if self.nxe { 0 } else { NX };
        let large = if large { 0x1F_E000 } else { 0 };
        if entry & (beyond | nx | large) != 0 {
            Err(code | 1 | 8)
        } else {
            Ok(())
        }
    }
}

#[test]
fn an_odd_geometry_is_an_error() {
    let mem = || PhysMem::new(1 << 20, 0).unwrap();
    let mut g = Geometry::pentium3();
    g.l1d.ways = 0;
    assert!(Mmu::new(mem(), &g).unwrap_err().to_string().contains("l1d"));
    let mut g = Geometry::pentium3();
    g.dtlb.small.entries = 65;
    assert!(
        Mmu::new(mem(), &g)
            .unwrap_err()
            .to_string()
            .contains("dtlb.small")
    );
    let mut g = Geometry::pentium3();
    g.l2.kib = u32::MAX;
    assert!(Mmu::new(mem(), &g).is_err());
    let mut g = Geometry::pentium3();
    g.dram_page_bytes = 0;
    assert!(Mmu::new(mem(), &g).is_err());
}

/// The target's walk sets a dirty bit in the source: the first element was read before, the second is not.
#[test]
fn a_move_out_of_its_own_page_table() {
    let p = Privilege::User;
    // Entry 511 of frame 6 maps frame 6, at the end of the first 2 MiB and of the address space.
    let entries = [
        (3, 511, 0x6000 | P | W | U | A),
        (4, 511, 0x6000 | P | W | U | A),
    ];
    for g in &geometries() {
        for (first, count) in [(0x1F_FFF5, 2), (0x1F_FFF8, 2), (0x1F_FFF4, 3)] {
            let mut fast = Mmu::new(memory(&entries), g).unwrap();
            let mut slow = Mmu::reference(memory(&entries), g).unwrap();
            enable(&mut fast);
            enable(&mut slow);
            let op = Op::Movs(VirtAddr(0xFFFF_F000), VirtAddr(first), 4, count);
            assert_eq!(apply(&mut fast, &op, p), apply(&mut slow, &op, p), "{op:?}");
            assert_eq!(fast.account, slow.account, "{op:?}");
            compare(&fast, &slow).unwrap();
        }
    }
}

/// A page that is global under one root and not under the other: the shadow must not hold it twice, or shortcut and search use
/// different copies.
#[test]
fn a_page_global_under_one_root_only() {
    let va = VirtAddr(3_223_318_528);
    let p = Privilege::User;
    let ops = [
        Op::Mode(PagingMode::Bits32, 1),
        Op::Modify(va, 1, 0),
        Op::Read(VirtAddr(20480), 1),
        Op::Write(VirtAddr(2_093_056), 1, 0),
        Op::Cr3(0, Cr3Load::Split),
        Op::Write(va, 1, 0),
        Op::Cr3(1, Cr3Load::Split),
        Op::Movs(va.wrapping_add(1), va, 1, 1),
        Op::Movs(VirtAddr(27193), VirtAddr(2_156_548), 2, 1024),
        Op::Read(VirtAddr(36857), 8),
        Op::Read(va, 1),
    ];
    for g in &geometries() {
        let mut fast = Mmu::new(memory(&[]), g).unwrap();
        let mut slow = Mmu::reference(memory(&[]), g).unwrap();
        enable(&mut fast);
        enable(&mut slow);
        for op in &ops {
            assert_eq!(apply(&mut fast, op, p), apply(&mut slow, op, p), "{op:?}");
            assert_eq!(fast.account, slow.account, "{op:?}");
        }
    }
}
