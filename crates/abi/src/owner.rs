//! Whom a page of low memory belongs to: a closed set, kept in the top bits of `page->flags`.

macro_rules! owners {
    ($( $(#[$doc:meta])* $Name:ident = $n:literal, $text:literal; )*) => {
        /// The owner of a page.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Owner { $( $(#[$doc])* $Name = $n, )* }
        impl Owner {
            /// Every owner, in report order.
            pub const ALL: &'static [Owner] = &[ $( Owner::$Name, )* ];
            /// Key in JSON.
            pub const fn name(self) -> &'static str { match self { $( Owner::$Name => $text, )* } }
            /// The owner with this number.
            pub const fn from_u32(n: u32) -> Option<Owner> {
                match n { $( $n => Some(Owner::$Name), )* _ => None }
            }
        }
    };
}

owners! {
    /// Nobody: free.
    Free = 0, "free";
    /// Text, rodata and data of the kernel.
    KernelImage = 1, "kernel_image";
    /// The array of struct page.
    MemMap = 2, "mem_map";
    /// Pages taken at boot: abi pages, bitmaps, hash tables.
    Boot = 3, "boot";
    /// vmalloc.
    Vmalloc = 4, "vmalloc";
    /// Page directory pointer tables.
    Pgd = 5, "pgd";
    /// Page directories.
    Pmd = 6, "pmd";
    /// Page tables.
    Pte = 7, "pte";
    /// pte_chain blocks.
    PteChain = 8, "pte_chain";
    /// anon_vma heads.
    AnonVma = 9, "anon_vma";
    /// anonmm objects.
    Anonmm = 10, "anonmm";
    /// anon_vma_chain links.
    AnonVmaChain = 11, "anon_vma_chain";
    /// vm_area_struct.
    Vma = 12, "vma";
    /// mm_struct.
    Mm = 13, "mm";
    /// task_struct.
    Task = 14, "task";
    /// Kernel stacks.
    Stack = 15, "stack";
    /// sighand, signal, files, fs, filp of processes.
    ProcessOther = 16, "process_other";
    /// inodes.
    Inode = 17, "inode";
    /// dentries.
    Dentry = 18, "dentry";
    /// buffer heads.
    BufferHead = 19, "buffer_head";
    /// Radix-tree nodes.
    RadixTree = 20, "radix_tree";
    /// General caches.
    Kmalloc = 21, "kmalloc";
    /// Unused room in slabs (computed, never stored in a page).
    SlabWaste = 22, "slab_waste";
    /// Per-CPU areas and lists.
    PerCpu = 23, "per_cpu";
    /// User pages that fell into low memory.
    User = 24, "user";
    /// Page-cache pages that fell into low memory.
    PageCache = 25, "page_cache";
}
