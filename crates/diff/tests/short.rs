//! A short run of the fuzzer: no difference, every form executed.
//!
//! One test, because an oracle owns its process's signals and low addresses. Skipped where the host
//! is no oracle.

use iced_x86::Code;
use lowmem_diff::exclude;
use lowmem_diff::minimise::{describe, minimise};
use lowmem_diff::session::{BATCH, Session, SetupError};

/// Cases of the run.
const CASES: u64 = 400_000;
const SEED: u64 = 20_040_601;

#[test]
fn no_difference_from_the_host() {
    let mut session = match Session::new(SEED, &[]) {
        Ok(session) => session,
        Err(SetupError::Host(e)) if e.is_unsupported() => {
            eprintln!("skipped: {e}");
            return;
        }
        Err(e) => panic!("{e}"),
    };
    for batch in 0..CASES / BATCH {
        if let Some(d) = session.batch(batch).first() {
            let small = minimise(&mut session, d);
            panic!("{}", describe(&mut session, SEED, d, &small));
        }
    }
    let t = &session.tally;
    assert_eq!(t.generated, CASES / BATCH * BATCH);
    let dropped: u64 = t.dropped.values().sum();
    assert_eq!(t.compared + dropped, t.generated);
    // What is not compared stays the exception.
    assert!(dropped * 10 < t.generated, "{:?}", t.dropped);
    assert!(t.exits * 4 > t.compared, "{} of {}", t.exits, t.compared);
    for vector in [0, 1, 3, 5, 6, 11, 12, 13, 14, 17] {
        assert!(t.vectors.contains_key(&vector), "no vector {vector}");
    }
    let counts = t.coverage.counts();
    let untested: Vec<Code> = exclude::integer_forms()
        .filter(|c| counts[&format!("{c:?}")].executed == 0)
        .collect();
    assert!(untested.is_empty(), "{untested:?}");
}
