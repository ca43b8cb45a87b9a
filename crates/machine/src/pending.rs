//! Stand-ins for what the guest kernel does not export yet. To be removed.
#![allow(missing_docs, clippy::todo, reason = "to be removed")]

pub(crate) mod swap {
    use guest_vm::pgtable::Pte;
    #[derive(Clone, Copy)]
    pub(crate) struct SwapEntry;
    impl SwapEntry {
        pub(crate) fn of_pte(_: Pte) -> Self {
            todo!()
        }
        pub(crate) fn slot(self) -> u32 {
            todo!()
        }
    }
}
pub(crate) mod file {
    use guest_vm::kernel::Kernel;
    use guest_vm::layout::Mapping;
    use guest_vm::ptr::Low;
    pub(crate) fn id_of_mapping<K: Kernel>(_: K, _: Low<Mapping>) -> u32 {
        todo!()
    }
}
pub(crate) mod task {
    use guest_vm::kernel::Kernel;
    use guest_vm::layout::Task;
    use guest_vm::ptr::Low;
    pub(crate) fn find<K: Kernel>(_: K, _: u32) -> Low<Task> {
        todo!()
    }
}
pub(crate) mod check {
    use guest_vm::kernel::Kernel;
    pub(crate) fn all<K: Kernel>(_: K) -> Result<(), u32> {
        todo!()
    }
}
pub(crate) mod page_alloc {
    use guest_vm::kernel::Kernel;
    use guest_vm::layout::Page;
    use guest_vm::ptr::Low;
    pub(crate) fn owner_of<K: Kernel>(k: K, page: Low<Page>) -> u32 {
        (page.flags(k) >> 24) & 0x3f
    }
}
pub(crate) mod slab {
    use guest_vm::kernel::Kernel;
    pub(crate) struct CacheId;
    impl CacheId {
        pub(crate) const ALL: &'static [CacheId] = &[];
        pub(crate) fn owner(&self) -> lowmem_abi::owner::Owner {
            todo!()
        }
    }
    pub(crate) fn usage<K: Kernel>(_: K, _: &CacheId) -> (u32, u32, u32) {
        todo!()
    }
}
