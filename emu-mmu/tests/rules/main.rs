//! One test per rule of translation and invalidation (SDM vol. 3A, chapter 4) and of counting (decision D5), on hand-made
//! page tables, with exact counts. One file per concern.

#[path = "../common/mod.rs"]
mod common;

mod data;
mod fetches;
mod invalidation;
mod paging32;
mod pdptes;
mod shadow;
mod strings;
mod translation;

use emu_mmu::Mmu;

#[test]
fn units_are_values() {
    fn send<T: Send>() {}
    send::<Mmu>();
}
