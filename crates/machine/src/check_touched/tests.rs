//! Planted faults are found at the next operation that touches the page, in both modes, and not before.

use super::*;
use crate::drive_native::Stop;
use crate::native::Native;
use crate::replay::{boot, cycle_options, preset};
use crate::replayer::{Pause, PauseAfter, Replayer};
use emu_cpu::Engine;
use lowmem_report::config::{Rmap, Split};
use lowmem_report::{Config, Mode};
use lowmem_trace::{Assumptions, PAGE_SIZE, RetouchDepth, TraceBuilder};

/// Two operations on another page lie between the planted fault and the one that finds it.
const QUIET: u64 = 2;

/// Runs a program, plants a fault in the frame of its first page, and returns how the next touch of the page reports it.
type Row = (Rmap, Split);
const ANON_VMA_3G1G: Row = (Rmap::AnonVma, Split::G3G1);
const PTE_CHAIN_4G4G: Row = (Rmap::PteChain, Split::G4G4);

fn planted(row: Row, mode: Mode, plant: fn(Native, Low<Page>, Low<Vma>)) -> String {
    let mut t = TraceBuilder::new("planted");
    let p = t.spawn();
    let a = t.on(p).mmap_anon(4 * PAGE_SIZE);
    t.on(p).write_pages(a, 4 * PAGE_SIZE);
    // Another vma, so that the page in it has nothing in common with the first but the anon_vma.
    t.on(p).munmap(a + PAGE_SIZE, PAGE_SIZE);
    let c = t.on(p).fork();
    t.on(c).load(a, 4);
    t.on(p).load(a, 4);
    let other = a + 2 * PAGE_SIZE;
    t.on(p).load(other, 4).load(other, 4).load(a, 4);
    let trace = t.finish();
    let finds = trace.len() - 1;
    let plants = finds - QUIET - 1;

    let (rmap, split) = row;
    let config = Config {
        rmap,
        split,
        ram_bytes: 64 << 20,
        ..Config::default()
    };
    let preset = preset(&config).unwrap();
    let mut machine = boot(&config, &preset).unwrap();
    let mut cycle = (mode == Mode::Cycle).then(|| {
        let options = cycle_options(&preset, &config, Engine::Fast);
        machine.enter_cycle(&options).unwrap()
    });
    let assumptions = Assumptions {
        retouch: RetouchDepth::NONE,
        ..Assumptions::default()
    };
    let mut replayer = Replayer::new(&trace, assumptions);
    replayer.pause_after = PauseAfter::Every;
    replayer.keep_touched();
    loop {
        let stop = match &mut cycle {
            None => Some(machine.run_native(&mut replayer)),
            Some(state) => machine.run_cycle(&mut replayer, state),
        };
        let to = match stop {
            Some(Stop::Pause(Pause::Done(_, to))) => to,
            None | Some(Stop::Pause(Pause::LastUser { .. })) => continue,
            other => panic!("{other:?}"),
        };
        let touched = replayer.take_touched();
        match machine.check_touched(to, &touched) {
            Ok(()) => assert!(to < finds, "not found"),
            Err(e) => {
                assert_eq!(to, finds, "{e}");
                assert!(to.count_ones() > 1, "a doubling scan would find it too");
                return e.to_string();
            }
        }
        if to == plants {
            let k = machine.k;
            let leaf = walk::lookup(machine.mem(), machine.user_root(), a).unwrap();
            let mm = task::current(k).mm(k);
            let page = pfn_to_page(k, Pte(leaf.entry).pfn());
            plant(k, page, find_vma_prev(k, mm, a).0);
        }
    }
}

fn both(row: Row, what: &str, plant: fn(Native, Low<Page>, Low<Vma>)) {
    for mode in [Mode::Native, Mode::Cycle] {
        let found = planted(row, mode, plant);
        assert!(found.contains(what), "{mode:?}: {found}");
    }
}

#[test]
fn wrong_mapcount() {
    both(ANON_VMA_3G1G, "with mapcount 3", |k, page, _| {
        page.set_rmap(k, page.rmap(k) + 1);
    });
}

#[test]
fn wrong_index() {
    both(ANON_VMA_3G1G, "is another address", |k, page, _| {
        page.set_index(k, page.index(k) + 1);
    });
}

#[test]
fn unlinked_vma() {
    both(ANON_VMA_3G1G, "not on its anon_vma's list", |k, _, vma| {
        let node = vma.rmap_fields::<_, anon_vma::VmaPart>(k).node(k);
        let (next, prev) = (node.next(k), node.prev(k));
        next.set_prev(k, prev);
        prev.set_next(k, next);
    });
}

#[test]
fn missing_chain_entry() {
    // The parent's entry becomes the address of another pte, so that counts still agree.
    both(PTE_CHAIN_4G4G, "0 times in the chain", |k, page, _| {
        let n = pte_chain::nrpte(k);
        let head: Low<pte_chain::PteChain> = Low::new(page.rmap(k));
        for i in head.idx(k, n)..n {
            let entry = head.entry(k, i);
            if entry.mm(k) == task::current(k).mm(k) {
                PteAddr::from_words(entry.low() + 8, 0).write(k, head.slot(k, i));
            }
        }
    });
}
