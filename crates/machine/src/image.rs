//! The guest kernel's image: an ELF file linked at PAGE_OFFSET + 1 MiB, loaded at physical 1 MiB.
//!
//! Text, rodata and data are loaded in native runs too: they take the same frames, so low memory is the same on both ways
//! (decision D3). The image's symbols give the addresses that the interrupt table and the MSRs need, and name functions
//! in attributions.
//!
//! Invariant: an image covers whole frames from [`lowmem_abi::layout::IMAGE`] to [`Image::end_frame`].

use crate::archive;
use emu_mmu::{PhysAddr, PhysMem};
use lowmem_abi::boot::Symbols;
use lowmem_abi::layout::{IMAGE, PAGE_SHIFT, PAGE_SIZE};

use object::read::elf::{ElfFile32, ProgramHeader};
use object::{LittleEndian, Object, ObjectSymbol};
use std::collections::BTreeMap;

/// Why an image cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// Not an ELF file that can be read.
    #[error("guest image {name}: {reason}")]
    Elf {
        /// Name of the image.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A symbol that the machine needs is missing.
    #[error("guest image {name}: no symbol {symbol}")]
    Symbol {
        /// Name of the image.
        name: String,
        /// The symbol.
        symbol: &'static str,
    },
    /// No such image in the archive.
    #[error("no guest image {name} in {place}")]
    Missing {
        /// Name of the image.
        name: String,
        /// Where it was looked for.
        place: String,
    },
}

macro_rules! archives {
    ($($rmap:literal)*) => {
        &[$(($rmap, include_bytes!(concat!("../../../guest-vm/images/", $rmap, ".zst")))),*]
    };
}

/// The committed archives, by reverse map.
const COMMITTED: &[(&str, &[u8])] = archives!(
    "anon_vma"
    "pte_chain"
    "anonmm"
    "pte_chain_v1"
    "pte_chain_dl"
    "objrmap"
    "anon_vma_rfc"
    "swap_out"
    "anon_vma_chain"
);

/// A loadable kernel.
#[derive(Debug, Clone)]
pub struct Image {
    /// Name of its row: `anon_vma-3g1g` and so on.
    pub name: String,
    /// Pieces: physical address and bytes.
    pieces: Vec<(u32, Vec<u8>)>,
    /// First frame behind the image, its zeroed data included.
    pub end_frame: u32,
    /// Addresses for boot.
    pub symbols: Symbols,
    /// Where boot on the CPU starts, if the image has such an entry.
    pub start: Option<u32>,
    /// Functions by address, for messages and attribution.
    functions: BTreeMap<u32, (u32, String)>,
}

impl Image {
    /// The image of a row: from the directory that LOWMEM_GUEST_IMAGES names (what `cargo xtask guest` built), else the committed
    /// one that this program carries.
    pub fn for_row(name: &str, page_offset: u32) -> Result<Image, ImageError> {
        let missing = |place: String| ImageError::Missing {
            name: name.to_owned(),
            place,
        };
        if let Some(dir) = std::env::var_os("LOWMEM_GUEST_IMAGES") {
            let path = std::path::Path::new(&dir).join(format!("{name}.elf"));
            let bytes =
                std::fs::read(&path).map_err(|e| missing(format!("{}: {e}", path.display())))?;
            return Image::parse(name, &bytes, page_offset);
        }
        let committed = || {
            format!(
                "the built-in archives (build it with `cargo xtask guest {name}` and set \
                 LOWMEM_GUEST_IMAGES=target/guest)"
            )
        };
        let rmap = name.split('-').next().unwrap_or(name);
        let found = COMMITTED.iter().find(|(of, _)| *of == rmap);
        let (_, archive) = found.ok_or_else(|| missing(committed()))?;
        let archive = zstd::decode_all(*archive).map_err(|_| missing(committed()))?;
        let images = archive::unpack(&archive).map_err(|_| missing(committed()))?;
        let found = images.iter().find(|(n, _)| n == name);
        let (_, bytes) = found.ok_or_else(|| missing(committed()))?;
        Image::parse(name, bytes, page_offset)
    }

    /// Reads an ELF file linked for `page_offset`.
    pub fn parse(name: &str, bytes: &[u8], page_offset: u32) -> Result<Image, ImageError> {
        let bad = |reason: String| ImageError::Elf {
            name: name.to_owned(),
            reason,
        };
        let elf: ElfFile32<'_, LittleEndian> =
            ElfFile32::parse(bytes).map_err(|e| bad(e.to_string()))?;
        if elf.architecture() != object::Architecture::I386 {
            return Err(bad(format!("architecture {:?}", elf.architecture())));
        }
        let mut pieces = Vec::new();
        let mut end = IMAGE;
        // By physical address: the 4G/4G trampoline runs in the shared top, far from where it is loaded.
        for segment in elf.elf_program_headers() {
            if segment.p_type(LittleEndian) != object::elf::PT_LOAD {
                continue;
            }
            let (pa, va) = (segment.p_paddr(LittleEndian), segment.p_vaddr(LittleEndian));
            if pa < IMAGE || (pa != va.wrapping_sub(page_offset) && va < 0xff00_0000) {
                return Err(bad(format!(
                    "segment at {va:#x}, loaded at {pa:#x}, lies outside the direct map"
                )));
            }
            let data = segment
                .data(LittleEndian, bytes)
                .map_err(|()| bad(format!("segment at {va:#x} lies outside the file")))?;
            end = end.max(pa.saturating_add(segment.p_memsz(LittleEndian)));
            if !data.is_empty() {
                pieces.push((pa, data.to_vec()));
            }
        }
        let mut by_name = BTreeMap::new();
        let mut functions = BTreeMap::new();
        for symbol in elf.symbols() {
            let Ok(text) = symbol.name() else { continue };
            let va = symbol.address() as u32;
            if symbol.kind() == object::SymbolKind::Text {
                functions.insert(va, (symbol.size() as u32, text.to_owned()));
            }
            by_name.insert(text.to_owned(), va);
        }
        let need = |symbol: &'static str| {
            by_name.get(symbol).copied().ok_or(ImageError::Symbol {
                name: name.to_owned(),
                symbol,
            })
        };
        let or_zero = |symbol: &str| by_name.get(symbol).copied().unwrap_or(0);
        let symbols = Symbols {
            exception_stubs: need("exception_stubs")?,
            system_call: need("system_call")?,
            tick: need("tick_stub")?,
            resched: need("resched_stub")?,
            unmap: need("unmap_stub")?,
            sysenter: need("sysenter_entry")?,
            trampoline_start: or_zero("trampoline_start"),
            trampoline_end: or_zero("trampoline_end"),
            user_copy_start: or_zero("user_copy_start"),
            user_copy_end: or_zero("user_copy_end"),
            user_copy_fixup: or_zero("user_copy_fixup"),
        };
        Ok(Image {
            name: name.to_owned(),
            pieces,
            end_frame: end.div_ceil(PAGE_SIZE),
            symbols,
            start: by_name.get("_start_phys").copied(),
            functions,
        })
    }

    /// Copies the image into guest memory.
    pub fn load(&self, mem: &mut PhysMem) {
        for (pa, bytes) in &self.pieces {
            mem.write_bytes(PhysAddr(u64::from(*pa)), bytes);
        }
    }

    /// Bytes of low memory the image takes.
    pub fn bytes(&self) -> u64 {
        u64::from(self.end_frame - (IMAGE >> PAGE_SHIFT)) << PAGE_SHIFT
    }

    /// `va` in words: `function+0x1c`, or the bare address.
    pub fn place(&self, va: u32) -> String {
        match self.function_at(va) {
            Some((name, offset)) => format!("{name}+{offset:#x} ({va:#x})"),
            None => format!("{va:#x}"),
        }
    }

    /// The function that holds `va`, with the offset in it.
    pub fn function_at(&self, va: u32) -> Option<(&str, u32)> {
        let (start, (size, name)) = self.functions.range(..=va).next_back()?;
        let offset = va - start;
        (offset < (*size).max(1) || *size == 0).then_some((name.as_str(), offset))
    }
}
