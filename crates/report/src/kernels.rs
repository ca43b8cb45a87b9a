//! Historic kernels as combinations of the other axes (`--kernel`), and what of each real one is not rebuilt.
//!
//! Sources: fact sheets VM 2 to 5 and their sequel, 0, 3, 13 (read in the sources of the tags named there). A value that a vendor
//! or builder chose (HIGHPTE, HZ, SMP) is that of the kernel as published benchmarks of the time ran it; single options
//! override it.
//!
//! Invariant: [`config_of`] of the default kernel is [`Config::default`].

use crate::config::{
    AnonVmaReuse, Config, FileVmas, Highpte, Kernel, Nonlinear, PageCache, Reclaim, Rmap, Split,
    YoungFlush,
};

/// What `--kernel` alone means.
pub fn config_of(kernel: Kernel) -> Config {
    let base = Config {
        kernel,
        ..Config::default()
    };
    match kernel {
        Kernel::V2_6_7 => base,
        Kernel::V2_4Aa => Config {
            rmap: Rmap::SwapOut,
            file_vmas: FileVmas::List,
            page_cache: PageCache::Lists,
            reclaim: Reclaim::V2_4,
            hz: 100,
            ..base
        },
        Kernel::V2_6_0 => Config {
            rmap: Rmap::PteChain,
            file_vmas: FileVmas::List,
            page_cache: PageCache::Lists,
            reclaim: Reclaim::V2_6_0,
            ..base
        },
        Kernel::V2_6_6 => Config {
            rmap: Rmap::PteChain,
            file_vmas: FileVmas::List,
            ..base
        },
        Kernel::V2_6_6Objrmap => Config {
            rmap: Rmap::Objrmap,
            file_vmas: FileVmas::List,
            ..base
        },
        Kernel::V2_6Anonmm => Config {
            rmap: Rmap::Anonmm,
            ..base
        },
        Kernel::V2_6_5Aa => Config {
            file_vmas: FileVmas::List,
            nonlinear: Nonlinear::Whole,
            page_cache: PageCache::Lists,
            reclaim: Reclaim::V2_6_0,
            ..base
        },
        Kernel::Rhel3Hugemem => Config {
            split: Split::G4G4,
            rmap: Rmap::PteChain,
            file_vmas: FileVmas::List,
            page_cache: PageCache::Lists,
            highpte: Highpte::On,
            reclaim: Reclaim::V2_6_0,
            hz: 100,
            ..base
        },
        Kernel::V2_6_34 => Config {
            rmap: Rmap::AnonVmaChain,
            reclaim: Reclaim::V2_6_8,
            young_flush: YoungFlush::On,
            anon_vma_reuse: AnonVmaReuse::Off,
            ..base
        },
    }
}

/// What a run of this preset does not have of the real kernel, and what it has that the real one had not.
pub fn not_covered(kernel: Kernel) -> &'static [&'static str] {
    match kernel {
        Kernel::V2_6_7 => &[
            "the two anon_vma bugs of 2.6.7 are fixed as in 2.6.8 (lock in anon_vma_prepare, mprotect shifts)",
            "list-walk prefetches are not executed; file read-around is not modelled",
        ],
        Kernel::V2_4Aa => &[
            "the balance of the -aa VM (per-classzone, mapped ratio): swap_out and shrink_cache are those of 2.5.7",
            "the page-cache hash: its two words are in struct page (48 bytes), a radix tree without tags is used",
            "sizes of mm, inode, address_space, dentry and file are those of 2.6.0: the fact sheets have none of 2.4",
            "the task_struct at the low end of the kernel stack: a slab object of 1,584 bytes as in 2.6.0",
            "fork order and prepare steps are those of 2.6.7; i_shared_lock is a spin lock as there",
        ],
        Kernel::V2_6_0 => &[
            "offsets inside mm, task, inode and file are those of 2.6.7 (sizes, page, vma and address_space are its own)",
            "a holder of i_shared_sem never sleeps, so reclaim's try at it never fails",
            "nonlinear vmas are on a list of their own, not on i_mmap_shared",
        ],
        Kernel::V2_6_6 => &[
            "reclaim is that of 2.6.7; a holder of i_shared_sem never sleeps, so reclaim's try at it never fails",
            "the swap cache has tags as in 2.6.7; nonlinear vmas are on a list of their own, not on i_mmap_shared",
        ],
        Kernel::V2_6_6Objrmap => &[
            "a patch set, not a release (the tree of \"rmap 7\"): reclaim is that of 2.6.7",
            "a holder of i_shared_sem never sleeps, so reclaim's try at it never fails",
        ],
        Kernel::V2_6Anonmm => &["the tree of 22 May 2004 (\"rmap 37\"): reclaim is that of 2.6.7"],
        Kernel::V2_6_5Aa => &[
            "the -aa VM's own reclaim; its try_to_unmap rules (locked vma fails at once, young stops) are those of 2.6.7",
            "where page has its mapcount and vma its anon_vma (40 and 76 bytes) is an assumption",
            "a holder of i_shared_sem never sleeps, so reclaim's try at it never fails",
        ],
        Kernel::Rhel3Hugemem => &[
            "2.4.21: the age in struct page (60 bytes) is never used; no inactive-dirty and inactive-clean lists, no page-cache hash",
            "sizes of mm, task, inode, address_space, dentry and file are those of 2.6.0: the fact sheets have none of 2.4",
            "chain entries of 4 bytes under HIGHPTE (a physical address shifted right by 3): ours have 8, as in 2.6",
            "pte_chains of locked shared memory are kept here; reclaim is that of 2.6.0",
        ],
        Kernel::V2_6_34 => &[
            "split LRU, per-memory-cgroup reclaim, SLUB, RCU-freed anon_vmas, the flusher threads of 2.6.32",
            "sizes are those of 2.6.7 with the anon_vma_chain fields: the fact sheets have none of 2.6.34",
            "the degree rule of 2015 is off; --anon-vma-reuse on has it",
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_kernel_is_the_default_configuration() {
        assert_eq!(config_of(Kernel::default()), Config::default());
    }

    #[test]
    fn every_kernel_is_a_valid_configuration_and_says_what_it_lacks() {
        for (name, kernel, _) in Kernel::VALUES {
            let config = config_of(*kernel);
            assert_eq!(config.kernel, *kernel);
            assert_eq!(config.check(), Ok(()), "{name}");
            assert!(!not_covered(*kernel).is_empty(), "{name}");
        }
    }
}
