//! The linear memory that a case sees, alike on the host and in the emulated machine.
//!
//! Pages of every kind lie side by side so that operands, strings, stacks and code can straddle any
//! two: writable, read-only and absent ones. All pages together are the *image*, contiguous both in
//! the host's memory file and in emulated RAM, so that two machines are compared by one memory
//! comparison. Selectors are those a Linux process has (`arch/x86/include/asm/segment.h`: user code
//! 0x23, user data 0x2b), plus a loadable LDT that only ring 3 ever uses.
//!
//! Invariant: no page outside [`Layout::pages`] may be touched on the host; the emulated machine
//! runs first and says so.

/// Bytes of a page.
pub const PAGE: u32 = 4096;

/// Where cases are placed: one page that is written and executed, one that is executed only, then
/// nothing.
pub const CODE: u32 = 0x1000_0000;
/// Two writable pages, an absent one, a read-only one, a writable one.
pub const DATA: u32 = 0x2000_0000;
/// Two writable pages between absent ones.
pub const STACK: u32 = 0x3000_0000;
/// Pages that 16-bit addresses reach: two writable, one read-only.
pub const LOW: u32 = 0x4000;
/// Two writable pages around 64 KiB, where 16-bit addresses end.
pub const WRAP: u32 = 0xf000;

/// A case has ended when it arrives here.
pub const EXIT: u32 = 0x4000_0000;
/// The host's save area.
pub const AREA: u32 = 0x4000_1000;
/// Where the emulated machine keeps its tables and handlers.
pub const KERNEL: u32 = 0xe000_0000;
/// The image once more, for the emulated machine's supervisor.
pub const ALIAS: u32 = 0xe010_0000;

/// User code segment of a Linux process.
pub const USER_CS: u16 = 0x23;
/// User data segment of a Linux process.
pub const USER_DS: u16 = 0x2b;
/// 64-bit user code segment of a Linux process.
pub const USER_CS64: u16 = 0x33;

/// What user code may do with a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Read and write.
    Write,
    /// Read.
    Read,
    /// Read, write and execute.
    WriteExecute,
    /// Read and execute.
    Execute,
}

/// A page of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// Its linear address.
    pub at: u32,
    /// What user code may do with it.
    pub rights: Rights,
}

const fn page(at: u32, rights: Rights) -> Page {
    Page { at, rights }
}

/// Pages above the lowest 128 KiB, which any process may map.
const PAGES: [Page; 8] = [
    page(CODE, Rights::WriteExecute),
    page(CODE + PAGE, Rights::Execute),
    page(DATA, Rights::Write),
    page(DATA + PAGE, Rights::Write),
    page(DATA + 3 * PAGE, Rights::Read),
    page(DATA + 4 * PAGE, Rights::Write),
    page(STACK, Rights::Write),
    page(STACK + PAGE, Rights::Write),
];

/// Pages below, which need a low `vm.mmap_min_addr` or a privileged user.
const LOW_PAGES: [Page; 5] = [
    page(LOW, Rights::Write),
    page(LOW + PAGE, Rights::Write),
    page(LOW + 2 * PAGE, Rights::Read),
    page(WRAP, Rights::Write),
    page(WRAP + PAGE, Rights::Write),
];

/// The pages that exist in this session.
#[derive(Debug, Clone)]
pub struct Layout {
    /// In the order of the image.
    pub pages: Vec<Page>,
}

impl Layout {
    /// Everything, or without the pages below 128 KiB where the host forbids them.
    pub fn new(low: LowPages) -> Layout {
        let mut pages = PAGES.to_vec();
        if low == LowPages::Mapped {
            pages.extend(LOW_PAGES);
        }
        Layout { pages }
    }

    /// Bytes of the image.
    pub fn image_bytes(&self) -> usize {
        self.pages.len() * PAGE as usize
    }

    /// Where in the image a linear address is.
    pub fn offset(&self, linear: u32) -> Option<usize> {
        let at = linear & !(PAGE - 1);
        let page = self.pages.iter().position(|p| p.at == at)?;
        Some(page * PAGE as usize + (linear - at) as usize)
    }

    /// The linear address of a byte of the image.
    pub fn linear(&self, offset: usize) -> u32 {
        self.pages[offset / PAGE as usize].at + offset as u32 % PAGE
    }
}

/// Whether pages below 128 KiB can be mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LowPages {
    /// They are there.
    Mapped,
    /// The host refused them.
    Refused,
}

/// Addresses that belong to the harness: a case that asks for them is not run on the host.
pub fn is_harness(linear: u32) -> bool {
    (EXIT..EXIT + 4 * PAGE).contains(&linear) || (KERNEL..KERNEL + 0x20_0000).contains(&linear)
}

/// What an LDT entry describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Writable data.
    Data,
    /// Read-only data.
    ReadOnly,
    /// Writable data that grows down.
    ExpandDown,
    /// Readable code.
    Code,
    /// Code that cannot be read.
    ExecuteOnly,
    /// Conforming code (Linux takes it only when absent).
    Conforming,
}

/// Width of a segment: the D or B bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// D/B = 0.
    Bits16,
    /// D/B = 1.
    Bits32,
}

/// An LDT entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Linear address of offset 0.
    pub base: u32,
    /// As in the descriptor: bytes, or pages with `pages`.
    pub limit: u32,
    /// The limit counts pages.
    pub pages: bool,
    /// Type.
    pub kind: Kind,
    /// D or B.
    pub width: Width,
    /// Present.
    pub present: bool,
}

const fn entry(base: u32, limit: u32, kind: Kind, width: Width) -> Entry {
    Entry {
        base,
        limit,
        pages: false,
        kind,
        width,
        present: true,
    }
}

use Kind::{Code, Conforming, Data, ExecuteOnly, ExpandDown, ReadOnly};
use Width::{Bits16, Bits32};

/// The LDT: limits at and off page ends, both directions of growth, both widths, a base that wraps,
/// absent ones.
pub const LDT: [Entry; 15] = [
    entry(DATA, 0x1fff, Data, Bits32),
    entry(DATA + 0x800, 0x7ff, Data, Bits32),
    entry(DATA, 0xfff, ReadOnly, Bits32),
    entry(DATA, 0xfff, ExpandDown, Bits32),
    entry(DATA - 0xe000, 0xefff, ExpandDown, Bits16),
    Entry {
        pages: true,
        ..entry(STACK + PAGE, 0, Data, Bits32)
    },
    Entry {
        pages: true,
        ..entry(0, 0xf_ffff, Code, Bits32)
    },
    entry(CODE, 0x1fff, ExecuteOnly, Bits32),
    entry(CODE, 0xffff, Code, Bits16),
    Entry {
        present: false,
        ..entry(DATA, 0xfff, Data, Bits32)
    },
    Entry {
        pages: true,
        ..entry(0xffff_f000, 0xf_ffff, Data, Bits32)
    },
    entry(STACK, 0xffff, Data, Bits16),
    entry(STACK, 0x17ff, Data, Bits32),
    Entry {
        present: false,
        ..entry(CODE, 0xfff, Conforming, Bits32)
    },
    entry(DATA + 1, 0x1000, Data, Bits32),
];

/// The selector of an LDT entry, RPL 3.
pub const fn ldt_selector(index: u16) -> u16 {
    index << 3 | 7
}

impl Entry {
    /// The eight bytes as Linux writes them (the accessed bit is always set, DPL 3).
    pub fn descriptor(&self) -> u64 {
        let kind: u64 = match self.kind {
            ReadOnly => 0x1,
            Data => 0x3,
            ExpandDown => 0x7,
            ExecuteOnly => 0x9,
            Code => 0xb,
            Conforming => 0xf,
        };
        let (base, limit) = (u64::from(self.base), u64::from(self.limit));
        let rights = kind | 0x10 | 3 << 5 | u64::from(self.present) << 7;
        limit & 0xffff
            | (base & 0xff_ffff) << 16
            | rights << 40
            | (limit >> 16 & 15) << 48
            | u64::from(self.width == Bits32) << 54
            | u64::from(self.pages) << 55
            | (base >> 24) << 56
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_offsets_and_linear_addresses_are_inverse() {
        let l = Layout::new(LowPages::Mapped);
        for offset in (0..l.image_bytes()).step_by(97) {
            assert_eq!(l.offset(l.linear(offset)), Some(offset));
        }
        assert_eq!(l.offset(DATA + 2 * PAGE), None);
        assert_eq!(l.offset(EXIT), None);
    }

    #[test]
    fn a_flat_code_entry_is_the_well_known_descriptor() {
        assert_eq!(LDT[6].descriptor(), 0x00cf_fb00_0000_ffff);
    }
}
