//! Addresses as distances, so that repeated work looks the same and compresses.
//!
//! Inside a chunk an address is stored as its distance (zigzag, 32 bits, wrapping) from a prediction: a fetch from the end of the fetch
//! before it, a load, store or modification from the last of its own kind, a touch and its instruction from the last touch's. Each
//! chunk starts from zero and can be decoded alone.
//!
//! Invariant: `restore` undoes `store` operation by operation, both started from `Delta::default()`.

use crate::op::Op;

/// The predictions.
#[derive(Debug, Default)]
pub(super) struct Delta {
    fetch: u32,
    load: u32,
    store: u32,
    modify: u32,
    touch: u32,
    ip: u32,
}

const fn zigzag(distance: u32) -> u32 {
    (distance << 1) ^ ((distance as i32 >> 31) as u32)
}

const fn unzigzag(stored: u32) -> u32 {
    (stored >> 1) ^ (stored & 1).wrapping_neg()
}

/// Replaces `field` by its distance from `last`, which becomes `next`.
fn out(field: &mut u32, last: &mut u32, next: u32) {
    *field = zigzag(field.wrapping_sub(*last));
    *last = next;
}

/// Undoes [`out`], with `len` added to the next prediction.
fn back(field: &mut u32, last: &mut u32, len: u32) {
    *field = unzigzag(*field).wrapping_add(*last);
    *last = field.wrapping_add(len);
}

impl Delta {
    /// To the stored form.
    pub(super) fn store(&mut self, op: &mut Op) {
        match op {
            Op::Fetch { va, len } => {
                let next = va.wrapping_add(u32::from(*len));
                out(va, &mut self.fetch, next);
            }
            Op::Load { va, .. } => {
                let next = *va;
                out(va, &mut self.load, next);
            }
            Op::Store { va, .. } => {
                let next = *va;
                out(va, &mut self.store, next);
            }
            Op::Modify { va, .. } => {
                let next = *va;
                out(va, &mut self.modify, next);
            }
            Op::Touch { va, ip, .. } => {
                let (next, next_ip) = (*va, *ip);
                out(va, &mut self.touch, next);
                out(ip, &mut self.ip, next_ip);
            }
            Op::Work { .. } | Op::Call(_) | Op::Switch { .. } => {}
        }
    }

    /// From the stored form.
    pub(super) fn restore(&mut self, op: &mut Op) {
        match op {
            Op::Fetch { va, len } => back(va, &mut self.fetch, u32::from(*len)),
            Op::Load { va, .. } => back(va, &mut self.load, 0),
            Op::Store { va, .. } => back(va, &mut self.store, 0),
            Op::Modify { va, .. } => back(va, &mut self.modify, 0),
            Op::Touch { va, ip, .. } => {
                back(va, &mut self.touch, 0);
                back(ip, &mut self.ip, 0);
            }
            Op::Work { .. } | Op::Call(_) | Op::Switch { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zigzag_keeps_small_distances_small() {
        for x in [0u32, 1, 2, u32::MAX, u32::MAX - 1, 0x8000_0000, 0x7fff_ffff] {
            assert_eq!(unzigzag(zigzag(x)), x);
        }
        assert_eq!((zigzag(1), zigzag(u32::MAX)), (2, 1));
    }
}
