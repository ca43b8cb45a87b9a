//! Every load, small: valid, as long as estimated, the same for the same seed.

use super::build::Compile;
use super::pressure::{MremapFork, Order, SwapStorm};
use super::server::{Prefork, SharedSegment};
use super::vmas::{Areas, ManyVmas, WorstCase};
use super::*;

fn small() -> Vec<Box<dyn Workload>> {
    let many = |areas| ManyVmas {
        areas,
        count: 20,
        pages: 4,
        processes: 2,
    };
    vec![
        Box::new(SharedSegment {
            processes: 4,
            segment_pages: 200,
            private_pages: 10,
            vmas: 6,
            transactions: 3,
            ..SharedSegment::default()
        }),
        Box::new(Prefork {
            children: 5,
            parent_pages: 30,
            vmas: 6,
            requests: 60,
            per_child: 7,
            ..Prefork::default()
        }),
        Box::new(Compile {
            files: 5,
            jobs: 2,
            cc1_pages: 90,
            vmas: 4,
        }),
        Box::new(WorstCase {
            tasks: 5,
            vmas: 4,
            window_pages: 10,
            touched_pages: 2,
            sharers: 3,
        }),
        Box::new(many(Areas::Guards)),
        Box::new(many(Areas::Stacks)),
        Box::new(many(Areas::Windows)),
        Box::new(many(Areas::Nonlinear)),
        Box::new(many(Areas::Locked)),
        Box::new(SwapStorm {
            pages: 50,
            slice: 8,
            order: Order::Zipf,
            ..SwapStorm::default()
        }),
        Box::new(MremapFork {
            segments: 3,
            pages: 20,
            children: 3,
            steps: 30,
        }),
    ]
}

#[test]
fn every_load_is_valid_and_as_long_as_estimated() {
    for load in small() {
        let trace = generate(&*load, 1).unwrap();
        assert_eq!(
            trace.check(|_| {}).unwrap(),
            *trace.summary(),
            "{}",
            load.name()
        );
        let (length, estimate) = (trace.len(), load.operations());
        assert!(
            length < estimate * 3 + 500 && estimate < length * 3 + 500,
            "{}: {length} operations, estimated {estimate}",
            load.name()
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_operations_and_another_one_others() {
    for load in small() {
        let ops = |seed| generate(&*load, seed).unwrap().ops().collect::<Vec<_>>();
        assert!(ops(1) == ops(1), "{}", load.name());
    }
    let load = SwapStorm {
        pages: 50,
        order: Order::Zipf,
        ..SwapStorm::default()
    };
    let ops = |seed| generate(&load, seed).unwrap().ops().collect::<Vec<_>>();
    assert!(ops(1) != ops(2));
}

#[test]
fn the_worst_case_has_as_many_vmas_as_it_says() {
    let load = WorstCase {
        tasks: 3,
        vmas: 7,
        window_pages: 5,
        touched_pages: 1,
        sharers: 2,
    };
    let trace = generate(&load, 1).unwrap();
    let maps = trace
        .ops()
        .filter(|op| matches!(op, crate::Op::Call(c) if matches!(**c, crate::Call::Mmap { .. })));
    assert_eq!(maps.count(), 21);
    assert_eq!(trace.summary().touches, 14);
}

#[test]
fn what_cannot_be_is_refused() {
    let load = SharedSegment {
        segment_pages: 980_000,
        ..SharedSegment::default()
    };
    let e = generate(&load, 1).unwrap_err().to_string();
    assert!(e.contains("pages of address space"), "{e}");
    let load = SharedSegment {
        processes: 10_000,
        segment_pages: 500_000,
        touched: 1000,
        ..SharedSegment::default()
    };
    let e = generate(&load, 1).unwrap_err().to_string();
    assert!(e.contains("at most 4000000000"), "{e}");
    let load = WorstCase {
        sharers: 101,
        ..WorstCase::default()
    };
    assert_eq!(
        generate(&load, 1).unwrap_err().to_string(),
        "sharers 101: must be at most the tasks"
    );
}

#[test]
fn distinct_ranks_are_as_many_as_wanted_hot_ones_first_and_each_draws_its_own() {
    let zipf = Zipf::new(1000, 1000);
    let (mut a, mut b) = (Draw::new(7, 1), Draw::new(7, 2));
    let (first, second) = (zipf.distinct(250, &mut a), zipf.distinct(250, &mut b));
    for ranks in [&first, &second] {
        let mut sorted = ranks.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!((ranks.len(), sorted.len()), (250, 250));
    }
    let shared = first.iter().filter(|r| second.contains(r)).count();
    // Most of the hot ranks are common, the cold ones are not.
    assert!((100..225).contains(&shared), "{shared}");
    assert!(first.contains(&0) && second.contains(&0));
    // More than draws will ever find: the rest is filled up.
    assert_eq!(zipf.distinct(1000, &mut a).len(), 1000);
}

#[test]
fn zipf_favours_low_ranks_as_its_law_says() {
    let (zipf, mut draw) = (Zipf::new(100, 1000), Draw::new(7, 0));
    let mut count = [0u32; 100];
    for _ in 0..100_000 {
        count[zipf.draw(&mut draw) as usize] += 1;
    }
    // Rank 1 has 1/H(100) = 19.3 %, rank 10 a tenth of that.
    assert!((18_500..20_100).contains(&count[0]), "{}", count[0]);
    assert!((1_700..2_200).contains(&count[9]), "{}", count[9]);
}

#[test]
fn an_exponent_of_one_has_the_weights_it_always_had_and_others_their_own() {
    let weights = |s| {
        let mut last = 0;
        let sums = Zipf::new(4096, s).sums;
        sums.iter()
            .map(|sum| sum - std::mem::replace(&mut last, *sum))
            .collect::<Vec<u64>>()
    };
    let one = weights(1000);
    assert!(one.iter().zip(1..).all(|(w, k)| *w == (1u64 << 32) / k));
    for (s, exponent) in [(800, 0.8f64), (1500, 1.5), (500, 0.5)] {
        for (&w, k) in weights(s).iter().zip(1u32..) {
            let wanted = (1u64 << 32) as f64 / f64::from(k).powf(exponent);
            let off = (w as f64 - wanted).abs();
            assert!(off <= 1.0 + wanted * 1e-6, "{s} {k}: {w} {wanted}");
        }
    }
    // 4096^0.5 is 64 to the last bit: the fraction is exact.
    assert_eq!(weights(500)[4095], (1 << 32) / 64);
    assert!(weights(0).iter().all(|&w| w == 1 << 32));
}

#[test]
fn a_smaller_exponent_spreads_the_load() {
    let blocks = |exponent| {
        let load = SharedSegment {
            processes: 2,
            segment_pages: 4096,
            touched: 0,
            private_pages: 0,
            transactions: 200,
            exponent,
            ..SharedSegment::default()
        };
        generate(&load, 1).unwrap().summary().peak_ptes
    };
    let (flat, steep) = (blocks(800), blocks(1000));
    assert!(flat > steep + steep / 10, "{flat} {steep}");
    for exponent in [1501, 10_000] {
        let load = SharedSegment {
            exponent,
            ..SharedSegment::default()
        };
        let e = generate(&load, 1).unwrap_err().to_string();
        assert!(e.contains("must be 0 to 1500 (per mille)"), "{e}");
    }
}

/// The largest segment of 4G/4G in the fact sheet (3.42 GB): laid out for its user space, and for no smaller one.
#[test]
fn a_segment_of_3_4_gb_is_laid_out_for_4g4g() {
    use crate::model::{HUGE_USER_END, USER_END};
    let load = |segment_pages| SharedSegment {
        processes: 2,
        segment_pages,
        touched: 1,
        private_pages: 100,
        vmas: 4,
        transactions: 1,
        ..SharedSegment::default()
    };
    let huge = load(896_532);
    assert!(huge.is_huge());
    let trace = generate(&huge, 1).unwrap();
    assert_eq!(trace.check(|_| {}).unwrap(), *trace.summary());
    assert_eq!(trace.user_end(), HUGE_USER_END);
    assert_eq!(trace.highest_address(), HUGE_USER_END);
    let e = trace.packed(USER_END).unwrap_err().to_string();
    assert!(e.contains("cannot be packed below 0xc0000000"), "{e}");
    let plain = generate(&load(700_000), 1).unwrap();
    assert_eq!(plain.user_end(), USER_END);
    assert_eq!(plain.highest_address(), USER_END);
}

#[test]
fn scatter_is_a_permutation() {
    for n in [1, 2, 10, 97, 4096] {
        let scatter = Scatter::new(n, &mut Draw::new(3, n));
        let mut seen: Vec<u32> = (0..n).map(|i| scatter.at(i)).collect();
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..n), "{n}");
    }
}
