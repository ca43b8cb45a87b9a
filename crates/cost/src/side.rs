//! On whose behalf the machine works: the rows of a cost report.
//!
//! CPL 3 is `user`. From the first instruction of an entry stub until the kernel's first path probe it is `entry_exit`,
//! and again from the end of the outermost path to the return instruction. In between the innermost open path names it.

lowmem_stats::declare! {
    /// The side an event is charged to.
    pub enum Side {
        /// User code of the trace.
        User: "user", "cycles";
        /// Entry stubs, trampoline, dispatch and return.
        EntryExit: "entry_exit", "cycles";
        /// Page-fault handling.
        Fault: "fault", "cycles";
        /// fork, vfork and clone.
        Fork: "fork", "cycles";
        /// Process exit and the tearing down of address spaces by exec.
        Exit: "exit", "cycles";
        /// mmap, munmap, mprotect, mremap, brk, madvise, mlock, exec's mappings, shmat and shmdt.
        Mmap: "mmap", "cycles";
        /// Copying between kernel and user memory.
        Copy: "copy", "cycles";
        /// schedule() and the context switch.
        Switch: "switch", "cycles";
        /// Page reclaim other than unmapping.
        Reclaim: "reclaim", "cycles";
        /// page_referenced and try_to_unmap.
        Unmap: "unmap", "cycles";
        /// Writeback of dirty pages.
        Writeback: "writeback", "cycles";
        /// The timer interrupt.
        Tick: "tick", "cycles";
        /// Kernel work that is none of these.
        OtherKernel: "other_kernel", "cycles";
        /// No task to run.
        Idle: "idle", "cycles";
    }
}
