//! Host speed of the MMU: accesses per second for a few patterns, fast unit and slow twin.
//!
//! `cargo run --release -p emu-mmu --example speed [PATTERN]` (only the rows whose name contains it)

use emu_mmu::{Cr3Load, Mmu, Pfn, PhysAddr, PhysMem, Privilege, VirtAddr};
use lowmem_cost::geometry::{FrontEnd, Geometry, LargePages, Replacement, SetAssoc, TlbGeometry};

const PAGES: u64 = 2048;

type Build = fn(PhysMem) -> Mmu;

/// The first 4 MiB of linear addresses map low memory, the next 4 MiB full high frames.
fn paged(build: Build) -> Mmu {
    let mut mem = PhysMem::new(64 << 20, 16 << 20).expect("64 MiB are to be had");
    for i in 0..4 {
        mem.write_u64(PhysAddr(0x1000 + 8 * i), (0x2000 + 0x1000 * i) | 1);
    }
    for i in 0..PAGES / 512 {
        mem.write_u64(PhysAddr(0x2000 + 8 * i), (0x10000 + 0x1000 * i) | 0x67);
    }
    for i in 0..PAGES {
        mem.write_u64(PhysAddr(0x10000 + 8 * i), ((0xC00 + i) << 12) | 0x67);
        mem.make_full(Pfn(0xC00 + i as u32));
    }
    let mut mmu = build(mem);
    mmu.set_cr4(0xA0).expect("valid");
    mmu.set_cr3(0x1000, Cr3Load::Other).expect("valid");
    mmu.set_cr0(0x8001_0001).expect("valid");
    mmu
}

/// CPU time of this process in ns, so that a busy host disturbs less (Linux, first field of schedstat).
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let first = text.split_whitespace().next();
    first.and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Fully associative TLBs and a trace cache, as the `pentium4` preset has them; its caches are not the point here.
fn netburst() -> Geometry {
    let small = SetAssoc {
        entries: 64,
        ways: 64,
    };
    let tlb = |large| TlbGeometry {
        small,
        large,
        second: None,
    };
    Geometry {
        itlb: tlb(LargePages::Fragment4k),
        dtlb: tlb(LargePages::Shared),
        tlb_replacement: Replacement::Lru,
        pde_cache: 0,
        front_end: FrontEnd::TraceCache {
            lines: 2048,
            ways: 8,
            line_bytes: 16,
            flush_on_cr3: true,
        },
        ..Geometry::pentium3()
    }
}

fn run(name: &str, mmu: &mut Mmu, n: u64, mut f: impl FnMut(&mut Mmu, u64) -> u64) {
    if std::env::args()
        .nth(1)
        .is_some_and(|only| !name.contains(&only))
    {
        return;
    }
    let start = cpu_ns();
    let sum: u64 = (0..n).map(|i| f(mmu, i)).fold(0, u64::wrapping_add);
    let ns = (cpu_ns() - start) as f64 / n as f64;
    println!(
        "  {name:36} {ns:7.2} ns  ({:6.1} M/s)  [{}]",
        1e3 / ns,
        sum & 1
    );
}

fn main() {
    const P: Privilege = Privilege::Supervisor;
    let builds: [(&str, Build); 3] = [
        ("fast, P6", |m| {
            Mmu::new(m, &Geometry::pentium3()).expect("valid")
        }),
        ("fast, NetBurst", |m| {
            Mmu::new(m, &netburst()).expect("valid")
        }),
        ("reference, P6", |m| {
            Mmu::reference(m, &Geometry::pentium3()).expect("valid")
        }),
    ];
    let original = paged(builds[0].1);
    let mut clone = original.clone_cow().expect("address space is to be had");
    run("clone", &mut paged(builds[0].1), 200, |_, _| {
        original
            .clone_cow()
            .expect("address space is to be had")
            .cr3()
            .into()
    });
    run(
        "reset of a clone, 64 pages written",
        &mut paged(builds[0].1),
        200,
        |_, _| {
            for page in 0..64 {
                clone.write(VirtAddr(page << 16), 4, 1, P).expect("mapped");
            }
            clone.reset_to(&original);
            0
        },
    );
    for (name, build) in builds {
        println!("{name}");
        let mut m = paged(build);
        let read = |m: &mut Mmu, a: u32| m.read(VirtAddr(a), 4, P).expect("mapped");
        run("load, one line", &mut m, 20_000_000, |m, _| read(m, 0x100));
        run("load, 8 KiB, stride 4", &mut m, 20_000_000, |m, i| {
            read(m, (i as u32 * 4) & 0x1FFF)
        });
        run("load, 3 pages in turn", &mut m, 20_000_000, |m, i| {
            read(m, (i as u32 % 3) * 0x1020 + ((i as u32 * 4) & 0x3F))
        });
        run("load, 8 KiB high", &mut m, 20_000_000, |m, i| {
            read(m, 0x50_0000 | ((i as u32 * 4) & 0x1FFF))
        });
        run("store, 8 KiB, stride 4", &mut m, 20_000_000, |m, i| {
            m.write(VirtAddr((i as u32 * 4) & 0x1FFF), 4, i, P)
                .expect("mapped");
            0
        });
        run("store, 8 KiB high", &mut m, 20_000_000, |m, i| {
            let va = VirtAddr(0x50_0000 | ((i as u32 * 4) & 0x1FFF));
            m.write(va, 4, i, P).expect("mapped");
            0
        });
        run("load, 256 KiB random", &mut m, 5_000_000, |m, i| {
            read(m, ((i as u32).wrapping_mul(0x9E37_79B1) >> 14) & !3)
        });
        run("load, 8 MiB random", &mut m, 3_000_000, |m, i| {
            read(m, ((i as u32).wrapping_mul(0x9E37_79B1) >> 9) & !3)
        });
        run("fetch, 4 KiB of 4 bytes", &mut m, 20_000_000, |m, i| {
            m.fetch(VirtAddr((i as u32 * 4) & 0xFFF), 4, P)
                .expect("mapped")
                .0
        });
        run("cr3 load and 8 loads", &mut m, 1_000_000, |m, _| {
            m.set_cr3(0x1000, Cr3Load::Split).expect("valid");
            (0..8).map(|i| read(m, i * 0x1010)).sum()
        });
        run("page of rep stos", &mut m, 20_000, |m, i| {
            let mut done = 0;
            while done < 1024 {
                let va = VirtAddr(((i as u32 & 7) << 12) | (done * 4));
                done += m.rep_stos(va, 4, 1024 - done, 0, P).done;
            }
            0
        });
    }
}
