//! [`SimulatedCycles`]: a criterion measurement in guest cycles instead of host time.
//!
//! A simulated machine is deterministic: equal starting states give equal counts, and criterion 0.8's kernel-density
//! estimate, t-test and regression have nothing to work on when every sample is equal (it substitutes a bandwidth of one
//! per cent, and every comparison becomes "significant"). So each iteration starts from a clone of the machine that is
//! perturbed by the iteration's own seed, and the spread criterion shows is that of the machine's state: what the TLBs,
//! caches and free lists held. Iterations are numbered, not timed; the same benchmark gives the same samples every time.

use criterion::Throughput;
use criterion::measurement::{Measurement, ValueFormatter};

/// Guest cycles, to be reported through `Bencher::iter_custom`.
#[derive(Debug, Clone, Copy, Default)]
pub struct SimulatedCycles;

impl Measurement for SimulatedCycles {
    type Intermediate = ();
    type Value = u64;

    fn start(&self) -> Self::Intermediate {}

    fn end(&self, (): Self::Intermediate) -> u64 {
        unreachable!(
            "simulated cycles are reported by iter_custom, never by a pair of clock readings"
        )
    }

    fn add(&self, a: &u64, b: &u64) -> u64 {
        a + b
    }

    fn zero(&self) -> u64 {
        0
    }

    fn to_f64(&self, value: &u64) -> f64 {
        *value as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        &CyclesFormatter
    }
}

struct CyclesFormatter;

impl ValueFormatter for CyclesFormatter {
    fn scale_values(&self, typical: f64, values: &mut [f64]) -> &'static str {
        let (factor, unit) = match typical {
            t if t < 1e4 => (1.0, "cycles"),
            t if t < 1e7 => (1e-3, "kcycles"),
            _ => (1e-6, "Mcycles"),
        };
        for v in values {
            *v *= factor;
        }
        unit
    }

    fn scale_throughputs(
        &self,
        _: f64,
        throughput: &Throughput,
        values: &mut [f64],
    ) -> &'static str {
        let (units, unit) = match *throughput {
            Throughput::Bytes(n) | Throughput::BytesDecimal(n) => (n, "bytes/kcycle"),
            Throughput::Elements(n) => (n, "elements/kcycle"),
            _ => (1, "runs/kcycle"),
        };
        for v in values {
            *v = units as f64 * 1e3 / *v;
        }
        unit
    }

    fn scale_for_machines(&self, _: &mut [f64]) -> &'static str {
        "cycles"
    }
}
