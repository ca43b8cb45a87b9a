//! temp
#![allow(missing_docs)]
use guest_vm::kernel::*;
use guest_vm::layout::*;
use guest_vm::ptr::*;
use guest_vm::rmap::*;
#[derive(Debug, Clone, Copy)]
pub enum NullRmap {}
impl<K: Kernel> ReverseMap<K> for NullRmap {
    const VMA_BYTES: u32 = 12;
    const MM_BYTES: u32 = 0;
    type Spare = ();
    fn boot(_: K) -> Result<(), Oom> {
        Ok(())
    }
    fn spare(_: K) -> Result<(), Oom> {
        Ok(())
    }
    fn spare_free(_: K, _: ()) {}
    fn vma_init(_: K, _: Low<Vma>) {}
    fn prepare_anon(_: K, _: Low<Vma>) -> Result<(), Oom> {
        Ok(())
    }
    fn vma_forked(_: K, _: Low<Vma>, _: Low<Vma>) {}
    fn vma_gone(_: K, _: Low<Vma>) {}
    fn mergeable(_: K, _: Low<Vma>, _: Low<Vma>) -> bool {
        true
    }
    fn adjust_begin(_: K, _: &Adjust) -> Result<(), Oom> {
        Ok(())
    }
    fn adjust_end(_: K, _: &Adjust) {}
    fn mm_init(_: K, _: Low<Mm>, _: Low<Mm>) -> Result<(), Oom> {
        Ok(())
    }
    fn mm_gone(_: K, _: Low<Mm>) {}
    fn pte_page_init(_: K, _: Low<Page>, _: Low<Mm>, _: u32) {}
    fn pte_page_exit(_: K, _: Low<Page>) {}
    fn add_anon(_: K, _: Low<Page>, _: Low<Vma>, _: PteAt, _: &mut ()) {}
    fn add_file(_: K, _: Low<Page>, _: PteAt, _: &mut ()) {}
    fn dup(_: K, _: Low<Page>, _: PteAt, _: &mut ()) {}
    fn spare_used(_: &()) -> bool {
        false
    }
    fn remove(_: K, _: Low<Page>, _: Kmapped) {}
    fn moved(_: K, _: Low<Page>, _: PteAt, _: PteAt, _: &mut ()) {}
    fn mapped(_: K, _: Low<Page>) -> bool {
        false
    }
    fn mapcount(_: K, _: Low<Page>) -> u32 {
        0
    }
    fn page_referenced(_: K, _: Low<Page>) -> u32 {
        0
    }
    fn try_to_unmap(_: K, _: Low<Page>) -> Unmap {
        Unmap::Fail
    }
}
