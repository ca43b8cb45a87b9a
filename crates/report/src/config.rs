//! One configuration of the machine and its guest kernel, fully resolved.
//!
//! A [`Config`] is what a run was made with. It is echoed in every result and the echo is valid input. Assumptions
//! about a trace (re-touches, user work, fault-around) belong to the trace and are echoed with it.
//!
//! Invariant: [`Config::default`] is what `--kernel 2.6.7` alone means.

use crate::axis::{AxisError, axis};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

axis! {
    /// A historic combination of the other axes.
    pub enum Kernel("kernel") {
        /// Linux 2.6.7: anon_vma, prio_tree, tagged page cache.
        V2_6_7: "2.6.7", Built;
        /// Linux 2.4 with Andrea Arcangeli's VM: page-table scan, no reverse map.
        V2_4Aa: "2.4-aa", Built;
        /// Linux 2.6.0: pte_chain.
        V2_6_0: "2.6.0", Built;
        /// Linux 2.6.6: the last with pte_chain.
        V2_6_6: "2.6.6", Built;
        /// Linux 2.6.6 with object-based reverse mapping of file pages.
        V2_6_6Objrmap: "2.6.6-objrmap", Built;
        /// Linux 2.6 with Hugh Dickins' anonmm.
        V2_6Anonmm: "2.6-anonmm", Built;
        /// Linux 2.6.5-aa.
        V2_6_5Aa: "2.6.5-aa", Built;
        /// Red Hat Enterprise Linux 3, hugemem: pte_chain on 4G/4G.
        Rhel3Hugemem: "rhel3-hugemem", Built;
        /// Linux 2.6.34: anon_vma_chain.
        V2_6_34: "2.6.34", Built;
    }
}

axis! {
    /// How the 4 GB of linear addresses are divided between user and kernel.
    pub enum Split("split") {
        /// 3 GB user, 1 GB kernel, one set of page tables.
        G3G1: "3g1g", Built;
        /// 4 GB each, CR3 loaded at every kernel entry and exit.
        G4G4: "4g4g", Built;
        /// 2 GB user, 2 GB kernel.
        G2G2: "2g2g", Built;
        /// 1 GB user, 3 GB kernel.
        G1G3: "1g3g", Built;
    }
}

impl Split {
    /// Address behind the last byte of a process.
    pub fn user_end(self) -> u64 {
        match self {
            Split::G3G1 => 0xc000_0000,
            Split::G4G4 => 0xff00_0000,
            Split::G2G2 => 0x8000_0000,
            Split::G1G3 => 0x4000_0000,
        }
    }
}

axis! {
    /// How the mappings of a page are found.
    pub enum Rmap("rmap") {
        /// page -> anon_vma -> vmas (Linux 2.6.7).
        AnonVma: "anon_vma", Built;
        /// A chain of pte addresses per page (Linux 2.6.0 to 2.6.6).
        PteChain: "pte_chain", Built;
        /// Files by object, anonymous pages by chains.
        Objrmap: "objrmap", Built;
        /// page -> anonmm -> mms at one offset.
        Anonmm: "anonmm", Built;
        /// page -> vma, the request for comment of 10 March 2004.
        AnonVmaRfc: "anon_vma_rfc", Built;
        /// Scanning page tables (Linux 2.4).
        SwapOut: "swap_out", Built;
        /// One pte per chain element, as in January 2002.
        PteChainV1: "pte_chain_v1", Built;
        /// Doubly linked chains, a paper design: a shadow page beside each page table.
        PteChainDl: "pte_chain_dl", Built;
        /// anon_vma_chain (Linux 2.6.34).
        AnonVmaChain: "anon_vma_chain", Built;
    }
}

axis! {
    /// How the vmas of a file are indexed.
    pub enum FileVmas("file_vmas") {
        /// A radix priority search tree.
        PrioTree: "prio_tree", Built;
        /// Two plain lists, private and shared (Linux 2.6.0).
        List: "list", Built;
    }
}

axis! {
    /// What is unmapped of nonlinear vmas, which cannot be asked for a page, to free it.
    pub enum Nonlinear("nonlinear") {
        /// Clusters of 32 pages of each, round-robin (Linux 2.6.7).
        Clusters: "clusters", Built;
        /// Whole vmas (Linux 2.6.5-aa).
        Whole: "whole", Built;
    }
}

axis! {
    /// Which pages of files have buffer heads, in low memory.
    pub enum BufferHeads("buffer_heads") {
        /// Those that write() or reclaim writes (Linux 2.6).
        Written: "written", Built;
        /// Those that are read as well (Linux 2.4).
        All: "all", Built;
        /// None (ext2 mounted nobh).
        None: "none", Built;
    }
}

axis! {
    /// How the pages of a file are indexed.
    pub enum PageCache("page_cache") {
        /// A radix tree with tags.
        Tagged: "tagged", Built;
        /// A radix tree and lists of clean and dirty pages.
        Lists: "lists", Built;
    }
}

axis! {
    /// Whether locks and atomics are real.
    pub enum Build("build") {
        /// Locks and lock prefixes, also on one CPU.
        Smp: "smp", Built;
        /// None.
        Up: "up", Built;
    }
}

axis! {
    /// Which kernel's reclaim.
    pub enum Reclaim("reclaim") {
        /// Linux 2.6.7.
        V2_6_7: "2.6.7", Built;
        /// Linux 2.6.0.
        V2_6_0: "2.6.0", Built;
        /// Linux 2.6.8.
        V2_6_8: "2.6.8", Built;
        /// Linux 2.4.
        V2_4: "2.4", Built;
    }
}

axis! {
    /// The instruction that enters the kernel for a system call.
    pub enum Entry("entry") {
        /// int 0x80.
        Int80: "int80", Built;
        /// sysenter, through the vsyscall page.
        Sysenter: "sysenter", Built;
    }
}

axis! {
    /// Kernel stack per task.
    pub enum Stack("stack") {
        /// 8 KB.
        K8: "8k", Built;
        /// 4 KB.
        K4: "4k", Planned;
    }
}

axis! {
    /// Whether page_referenced flushes the TLB entry whose Accessed bit it clears.
    pub enum YoungFlush("young_flush") {
        /// It does not (until 2.6.7).
        Off: "off", Built;
        /// It does (from 2.6.8).
        On: "on", Built;
    }
}

axis! {
    /// Whether fork may give a vma an ancestor's anon_vma instead of a new one (anon_vma_chain only).
    pub enum AnonVmaReuse("anon_vma_reuse") {
        /// It may not (2.6.34).
        Off: "off", Built;
        /// It may, if no vma has it as its own and it has at most one child (the rule of 2015 as mended in 2022).
        On: "on", Built;
    }
}

axis! {
    /// Whether pte pages may lie in high memory.
    pub enum Highpte("highpte") {
        /// They lie in low memory.
        Off: "off", Built;
        /// They may lie in high memory.
        On: "on", Built;
    }
}

/// A price or a size of the CPU preset overridden on the command line: key and value as given.
pub type CpuOverrides = BTreeMap<String, String>;

/// One configuration, every axis resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The historic combination it started from.
    pub kernel: Kernel,
    /// Axes that were set apart from it, with the value given.
    pub overrides: BTreeMap<String, String>,
    /// Address-space split.
    pub split: Split,
    /// Reverse mapping.
    pub rmap: Rmap,
    /// Index of a file's vmas.
    pub file_vmas: FileVmas,
    /// Unmapping of nonlinear vmas.
    pub nonlinear: Nonlinear,
    /// Index of a file's pages.
    pub page_cache: PageCache,
    /// Buffer heads of a file's pages.
    #[serde(default)]
    pub buffer_heads: BufferHeads,
    /// Page clustering: log2 of the hardware pages in a kernel page.
    pub cluster: u8,
    /// Pte pages in high memory.
    pub highpte: Highpte,
    /// Bytes of one pte_chain element: the cache line the kernel was built for.
    pub chain_line: u32,
    /// Locks or none.
    pub build: Build,
    /// Whose reclaim.
    pub reclaim: Reclaim,
    /// System-call instruction.
    pub entry: Entry,
    /// Timer interrupts per second.
    pub hz: u32,
    /// Kernel stack per task.
    pub stack: Stack,
    /// TLB flush in page_referenced.
    pub young_flush: YoungFlush,
    /// Reuse of ancestors' anon_vmas under anon_vma_chain.
    #[serde(default)]
    pub anon_vma_reuse: AnonVmaReuse,
    /// RAM in bytes.
    pub ram_bytes: u64,
    /// CPU preset: a name, a file, or `none`.
    pub cpu: String,
    /// Numbers of the preset set on the command line.
    pub cpu_overrides: CpuOverrides,
    /// Pages sampled by the unmap probe, 0 for none.
    pub probe_unmap: u32,
    /// Seed of everything that is drawn.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            kernel: Kernel::default(),
            overrides: BTreeMap::new(),
            split: Split::default(),
            rmap: Rmap::default(),
            file_vmas: FileVmas::default(),
            nonlinear: Nonlinear::default(),
            page_cache: PageCache::default(),
            buffer_heads: BufferHeads::default(),
            cluster: 0,
            highpte: Highpte::default(),
            chain_line: 128,
            build: Build::default(),
            reclaim: Reclaim::default(),
            entry: Entry::default(),
            hz: 1000,
            stack: Stack::default(),
            young_flush: YoungFlush::default(),
            anon_vma_reuse: AnonVmaReuse::default(),
            ram_bytes: 4 << 30,
            cpu: "pentium4".to_owned(),
            cpu_overrides: CpuOverrides::new(),
            probe_unmap: 256,
            seed: 1,
        }
    }
}

/// Why a configuration cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value of an axis.
    #[error(transparent)]
    Axis(#[from] AxisError),
    /// RAM outside 24 MiB to 64 GiB, or no whole number of pages.
    #[error("ram of {bytes} bytes: must be 24M to 64G and a multiple of 4K")]
    Ram {
        /// The amount asked for.
        bytes: u64,
    },
    /// HZ outside 1 to 10,000.
    #[error("hz {hz}: must be 1 to 10000")]
    Hz {
        /// The rate asked for.
        hz: u32,
    },
    /// A page of more than 16 frames.
    #[error("cluster {cluster}: must be 0 to 4")]
    Cluster {
        /// The shift asked for.
        cluster: u8,
    },
    /// RAM that is no whole number of clustered pages.
    #[error("ram of {bytes} bytes: no multiple of the {page} bytes of a page (cluster)")]
    Pages {
        /// The amount asked for.
        bytes: u64,
        /// Bytes of a page.
        page: u64,
    },
    /// A pte_chain element of another size.
    #[error("chain_line {bytes}: must be 32, 64 or 128")]
    ChainLine {
        /// The size asked for.
        bytes: u32,
    },
}

impl ConfigError {
    /// The value is part of the design but not built.
    pub fn is_not_yet(&self) -> bool {
        matches!(self, ConfigError::Axis(AxisError::NotYet { .. }))
    }
}

impl Config {
    /// Smallest RAM a machine can have.
    pub const MIN_RAM: u64 = 24 << 20;
    /// Largest page-clustering shift: pages of 64 KB.
    pub const MAX_CLUSTER: u8 = 4;
    /// Largest RAM a PAE machine can have.
    pub const MAX_RAM: u64 = 64 << 30;

    /// Checks the ranges that types do not hold.
    pub fn check(&self) -> Result<(), ConfigError> {
        let bytes = self.ram_bytes;
        if !(Self::MIN_RAM..=Self::MAX_RAM).contains(&bytes) || !bytes.is_multiple_of(4096) {
            return Err(ConfigError::Ram { bytes });
        }
        if !(1..=10_000).contains(&self.hz) {
            return Err(ConfigError::Hz { hz: self.hz });
        }
        if self.cluster > Self::MAX_CLUSTER {
            return Err(ConfigError::Cluster {
                cluster: self.cluster,
            });
        }
        let page = 4096 << self.cluster;
        if !bytes.is_multiple_of(page) {
            return Err(ConfigError::Pages { bytes, page });
        }
        if ![32, 64, 128].contains(&self.chain_line) {
            return Err(ConfigError::ChainLine {
                bytes: self.chain_line,
            });
        }
        Ok(())
    }

    /// A short name for tables, told from that of all other rows: `anon_vma 4g4g`, and the value of each axis in which rows differ. Among
    /// historic kernels: the kernel's name, what was set apart from it, and what no kernel decides.
    pub fn label<'a>(&self, rows: impl IntoIterator<Item = &'a Config>) -> String {
        let rows: Vec<&Config> = rows.into_iter().collect();
        let kernels = rows
            .iter()
            .chain([&self])
            .any(|r| r.kernel != Kernel::default());
        let mut label = match kernels {
            true => self.kernel.to_string(),
            false => format!("{} {}", self.rmap, self.split),
        };
        if kernels {
            for (axis, value) in &self.overrides {
                label.push_str(&format!(" {axis} {value}"));
            }
        }
        let parts = self.parts(kernels);
        let others: Vec<Vec<Part>> = rows.iter().map(|r| r.parts(kernels)).collect();
        for (i, part) in parts.iter().enumerate() {
            let told = match part.follows {
                // Only rows unlike the first say what another axis decides.
                true => others.first().is_some_and(|o| o[i].text != part.text),
                false => others.iter().any(|o| o[i].text != part.text),
            };
            if told {
                label.push(' ');
                label.push_str(&part.text);
            }
        }
        label
    }

    /// The axes beside reverse map and split; among `kernels` those that no kernel decides.
    fn parts(&self, kernels: bool) -> Vec<Part> {
        let own = |text: String| Part {
            text,
            follows: false,
        };
        let mut parts = vec![
            own(self.cpu.clone()),
            own(bytes(self.ram_bytes)),
            own(self.entry.to_string()),
        ];
        if !kernels {
            parts.extend([
                own(format!("file_vmas {}", self.file_vmas)),
                own(format!("page_cache {}", self.page_cache)),
                own(format!("buffer_heads {}", self.buffer_heads)),
                own(format!("highpte {}", self.highpte)),
                own(self.build.to_string()),
                own(format!("nonlinear {}", self.nonlinear)),
                own(format!("cluster {}", self.cluster)),
                own(format!("{} Hz", self.hz)),
                own(format!("{} stack", self.stack)),
                own(format!("young_flush {}", self.young_flush)),
                own(format!("anon_vma_reuse {}", self.anon_vma_reuse)),
                Part {
                    text: format!("line {}", self.chain_line),
                    follows: true,
                },
                Part {
                    text: format!("reclaim {}", self.reclaim),
                    follows: true,
                },
            ]);
        }
        parts.push(own(format!("seed {}", self.seed)));
        parts
    }
}

/// One axis of a label.
struct Part {
    text: String,
    /// Whether it follows from another axis unless it is set.
    follows: bool,
}

/// A size in the largest binary unit that divides it: `4G`, `896M`, `12K`, `100`.
pub fn bytes(n: u64) -> String {
    for (shift, unit) in [(30, "G"), (20, "M"), (10, "K")] {
        if n != 0 && n.is_multiple_of(1 << shift) {
            return format!("{}{unit}", n >> shift);
        }
    }
    n.to_string()
}

/// Reads a size such as `4G`, `896M`, `64K` or a number of bytes.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'G' | b'g' => (&text[..text.len() - 1], 30),
        b'M' | b'm' => (&text[..text.len() - 1], 20),
        b'K' | b'k' => (&text[..text.len() - 1], 10),
        _ => (text, 0),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::axis::Status;

    #[test]
    fn the_echo_of_a_configuration_is_valid_input() {
        let config = Config {
            rmap: Rmap::PteChain,
            split: Split::G4G4,
            ..Config::default()
        };
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config);
    }

    #[test]
    fn planned_values_are_answered_with_not_yet_and_unknown_ones_with_a_suggestion() {
        let values = [("now", 1, Status::Built), ("later", 2, Status::Planned)];
        let planned = crate::axis::parse("example", "later", &values).unwrap_err();
        assert_eq!(planned.to_string(), "example later: not yet");
        assert!(ConfigError::from(planned).is_not_yet());
        let unknown = "anonvma".parse::<Rmap>().unwrap_err().to_string();
        assert!(unknown.contains("did you mean \"anon_vma\"?"), "{unknown}");
    }

    #[test]
    fn ram_is_bounded_by_pae() {
        let mut config = Config {
            ram_bytes: 65 << 30,
            ..Config::default()
        };
        assert!(matches!(config.check(), Err(ConfigError::Ram { .. })));
        config.ram_bytes = 64 << 30;
        assert_eq!(config.check(), Ok(()));
    }

    #[test]
    fn sizes_are_read_as_they_are_written() {
        for n in [0, 1, 4096, 24 << 20, 4 << 30, 64 << 30, 12345] {
            assert_eq!(parse_bytes(&bytes(n)), Some(n));
        }
        for bad in [
            "",
            "G",
            "4T",
            "-1",
            "4 G",
            "99999999999999999999",
            "18014398509481984K",
        ] {
            assert_eq!(parse_bytes(bad), None, "{bad}");
        }
    }

    #[test]
    fn rows_of_kernels_are_named_by_their_kernel() {
        use crate::kernels::config_of;
        let base = config_of(Kernel::V2_6_6);
        let mut other = config_of(Kernel::V2_6_7);
        let both = [base.clone(), other.clone()];
        assert_eq!(
            (base.label(&both), other.label(&both)),
            ("2.6.6".to_owned(), "2.6.7".to_owned())
        );
        other.overrides.insert("hz".to_owned(), "100".to_owned());
        assert_eq!(other.label(&both), "2.6.7 hz 100");
    }

    #[test]
    fn rows_are_told_apart_by_every_axis_in_which_they_differ() {
        let base = Config::default();
        let of = |change: &dyn Fn(&mut Config)| {
            let mut other = base.clone();
            change(&mut other);
            let both = [base.clone(), other.clone()];
            (base.label(&both), other.label(&both))
        };
        let (a, b) = of(&|c| c.highpte = Highpte::On);
        assert_eq!(a, "anon_vma 3g1g highpte off");
        assert_eq!(b, "anon_vma 3g1g highpte on");
        let (a, b) = of(&|c| c.file_vmas = FileVmas::List);
        assert_eq!(a, "anon_vma 3g1g file_vmas prio_tree");
        assert_eq!(b, "anon_vma 3g1g file_vmas list");
        let (a, b) = of(&|c| c.reclaim = Reclaim::V2_4);
        assert_eq!(a, "anon_vma 3g1g");
        assert_eq!(b, "anon_vma 3g1g reclaim 2.4");
        assert_eq!(base.label([]), "anon_vma 3g1g");
    }
}
