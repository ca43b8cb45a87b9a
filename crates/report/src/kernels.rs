//! Historic kernels as combinations of the other axes (`--kernel`), and what of each real one is not rebuilt.
//!
//! Sources: fact sheets VM 2 to 5 and their sequel, 0, 3, 13 (read in the sources of the tags named there). A value that a vendor
//! or builder chose (HIGHPTE, HZ, SMP) is that of the kernel as published benchmarks of the time ran it; single options
//! override it.
//!
//! Invariant: [`config_of`] of the default kernel is [`Config::default`].

use crate::config::{
    AnonVmaReuse, BufferHeads, Config, FileVmas, Highpte, Kernel, Nonlinear, PageCache, Reclaim,
    Rmap, Split, YoungFlush,
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
            buffer_heads: BufferHeads::All,
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
            buffer_heads: BufferHeads::All,
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

/// What no preset has; the last [`PDFLUSH_ONLY`] concern kernels with pdflush.
const COMMON: [&str; 7] = [
    "buffer heads of metadata, and of blocks smaller than 4 KB: a page of a file has one for each 4 KB",
    "read-around on file faults: a fault reads the one page it needs",
    "msync: dirty pages of shared maps go out by age, by the dirty limits, by fsync or by reclaim",
    "the swap map lies in low memory (1 MB): vmalloc asked for high memory first",
    "list-walk prefetches are not executed",
    "pdflush runs where a kernel stay ends, not beside a task that sleeps in direct reclaim",
    "a task inside write() that reclaims may not wait at a congested queue; the real one may, at the queue it fills itself",
];
const PDFLUSH_ONLY: usize = 2;

/// What a run of this preset does not have of the real kernel, and what it has that the real one had not.
pub fn not_covered(kernel: Kernel) -> Vec<&'static str> {
    let common = match kernel {
        // No pdflush, and no queue that a writer fills itself.
        Kernel::V2_4Aa => &COMMON[..COMMON.len() - PDFLUSH_ONLY],
        _ => &COMMON[..],
    };
    [own(kernel), common].concat()
}

fn own(kernel: Kernel) -> &'static [&'static str] {
    match kernel {
        Kernel::V2_6_7 => &[
            "the two anon_vma bugs of 2.6.7 are fixed as in 2.6.8 (lock in anon_vma_prepare, mprotect shifts)",
        ],
        Kernel::V2_4Aa => &[
            "the balance of the -aa VM (per-classzone lists, mapped ratio, its watermarks): reclaim and watermarks are those of 2.4.18 to 2.4.22",
            "a request that finds no page goes round as in 2.4.20, up to livelock, where -aa gave up and returned -ENOMEM",
            "LRU lists are per zone and fed through per-CPU vectors; 2.4 had one pair for all zones and no vectors",
            "kmem_cache_reap and dcache pruning by priority: slab shrinks and is trimmed by the timer as in 2.6",
            "kswapd's sleep of a second after a failure; its failures do not count for out_of_memory",
            "the page-cache hash: its two words are in struct page (48 bytes), a radix tree without tags is used",
            "sizes of mm, inode, address_space, dentry and file are those of 2.6.0: the fact sheets have none of 2.4",
            "buffer heads go by 2.6's rules (one per 4 KB block, no lists of dirty buffers, no bdflush); their 96 bytes are slabinfo(5)'s",
            "the task_struct at the low end of the kernel stack: a slab object of 1,584 bytes as in 2.6.0",
            "fork order and prepare steps are those of 2.6.7; i_shared_lock is a spin lock as there",
        ],
        Kernel::V2_6_0 => &[
            "offsets inside mm, task, inode and file are those of 2.6.7 (sizes, page, vma and address_space are its own)",
            "a holder of i_shared_sem never sleeps, so reclaim's try at it never fails",
            "nonlinear vmas are on a list of their own, not on i_mmap_shared",
        ],
        Kernel::V2_6_6 => &[
            "reclaim is that of 2.6.7 (2.6.6 refilled by the wanted 32 pages); a holder of i_shared_sem never sleeps, so reclaim's try at it never fails",
            "the swap cache has tags as in 2.6.7; nonlinear vmas are on a list of their own, not on i_mmap_shared",
        ],
        Kernel::V2_6_6Objrmap => &[
            "a patch set, not a release (the tree of \"rmap 7\"): reclaim is that of 2.6.7",
            "a holder of i_shared_sem never sleeps, so reclaim's try at it never fails",
        ],
        Kernel::V2_6Anonmm => &["the tree of 22 May 2004 (\"rmap 37\"): reclaim is that of 2.6.7"],
        Kernel::V2_6_5Aa => &[
            "the -aa VM's own reclaim: that of 2.6.0, with its watermarks, stands in (page_referenced and try_to_unmap follow its mm/objrmap.c)",
            "anon_vma_prepare gave each vma an anon_vma of its own, without page_table_lock; here a neighbour's is shared where 2.6.7 shares it",
            "nonlinear vmas are on a list of their own and swept last; there they stayed on i_mmap_shared, in order of mapping",
            "where page has its mapcount and vma its anon_vma (40 and 76 bytes) is an assumption",
            "a holder of i_shared_sem never sleeps, so reclaim's try at it never fails",
        ],
        Kernel::Rhel3Hugemem => &[
            "2.4.21: the age in struct page (60 bytes) is never used; no inactive-dirty and inactive-clean lists, no page-cache hash",
            "sizes of mm, task, inode, address_space, dentry and file are those of 2.6.0: the fact sheets have none of 2.4",
            "buffer heads go by 2.6's rules (one per 4 KB block, no lists of dirty buffers, no bdflush); their 96 bytes are slabinfo(5)'s",
            "chain entries of 4 bytes under HIGHPTE (a physical address shifted right by 3): ours have 8, as in 2.6",
            "pte_chains of locked shared memory are kept here; reclaim, its lists and watermarks are those of 2.6.0",
            "a request that finds no page goes round as in 2.6.0, up to livelock",
        ],
        Kernel::V2_6_34 => &[
            "split LRU, watermarks of 2.6.34 (here 2.6.7's), per-memory-cgroup reclaim, SLUB, RCU-freed anon_vmas, the flusher threads of 2.6.32",
            "sizes are those of 2.6.7 with the anon_vma_chain fields: the fact sheets have none of 2.6.34",
            "the degree rule of 2015 is off; --anon-vma-reuse on has it, in its form of 2022",
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
            let lacks = not_covered(*kernel);
            for common in &COMMON[..4] {
                assert!(lacks.contains(common), "{name}: {common}");
            }
            assert!(lacks.len() > COMMON.len() - PDFLUSH_ONLY, "{name}");
        }
    }
}
