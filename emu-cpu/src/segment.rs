//! Segment registers with their hidden parts, and descriptors as they stand in the GDT, LDT and
//! IDT.
//!
//! Follows the SDM's chapters on protection: descriptor layout, types, granularity. Invariant: a
//! [`Segment`]'s limit is in bytes, whatever the granularity of its descriptor was.

/// The six segment registers, numbered as instructions encode them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Seg {
    /// Extra segment.
    Es = 0,
    /// Code segment.
    Cs = 1,
    /// Stack segment.
    Ss = 2,
    /// Data segment.
    Ds = 3,
    /// First additional segment.
    Fs = 4,
    /// Second additional segment.
    Gs = 5,
}

impl Seg {
    /// All six.
    pub const ALL: [Seg; 6] = [Seg::Es, Seg::Cs, Seg::Ss, Seg::Ds, Seg::Fs, Seg::Gs];
}

/// A segment register (or LDTR, TR) and what the CPU remembers of its descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Segment {
    /// The visible selector.
    pub selector: u16,
    /// Linear address of offset 0.
    pub base: u32,
    /// Last valid offset in bytes (first invalid one for expand-down segments).
    pub limit: u32,
    /// Bits 8-15 (type, S, DPL, P) and 20-23 (AVL, L, D/B, G) of the descriptor's high word, at
    /// bits 0-7 and 12-15. Zero marks an unusable (null) register.
    pub access: u16,
}

/// Access rights of a flat 32-bit ring-0 code segment: present, readable, accessed, D=1, G=1.
pub const CODE32: u16 = 0xc09b;
/// Access rights of a flat 32-bit ring-0 data segment: present, writable, accessed, B=1, G=1.
pub const DATA32: u16 = 0xc093;

impl Segment {
    /// A flat 4 GiB segment with the given selector and access rights.
    pub fn flat(selector: u16, access: u16) -> Self {
        Self {
            selector,
            base: 0,
            limit: u32::MAX,
            access,
        }
    }

    /// Holds a descriptor at all.
    pub(crate) fn usable(&self) -> bool {
        self.access & 0x80 != 0
    }
    pub(crate) fn dpl(&self) -> u8 {
        (self.access >> 5 & 3) as u8
    }
    /// D of a code segment, B of a stack segment: 32-bit.
    pub fn is_32bit(&self) -> bool {
        self.access & 0x4000 != 0
    }
    pub(crate) fn readable(&self) -> bool {
        self.access & 8 == 0 || self.access & 2 != 0
    }
    pub(crate) fn writable(&self) -> bool {
        self.access & 0xa == 2
    }
    pub(crate) fn expand_down(&self) -> bool {
        self.access & 0xc == 4
    }
    /// `size` bytes at `offset` lie inside the limit.
    pub(crate) fn contains(&self, offset: u32, size: u32) -> bool {
        let last = offset.wrapping_add(size - 1);
        if self.expand_down() {
            let top = if self.is_32bit() { u32::MAX } else { 0xffff };
            offset > self.limit && last >= offset && last <= top
        } else {
            last >= offset && last <= self.limit
        }
    }
    /// Base 0, all 4 GiB, may be read; so no check is needed for a read.
    pub(crate) fn flat_for_reads(&self) -> bool {
        self.usable()
            && self.base == 0
            && self.limit == u32::MAX
            && !self.expand_down()
            && self.readable()
    }
}

/// The eight bytes of a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor(pub u64);

impl Descriptor {
    /// Type, S, DPL, P (bits 40-47).
    pub(crate) fn rights(self) -> u8 {
        (self.0 >> 40) as u8
    }
    pub(crate) fn present(self) -> bool {
        self.rights() & 0x80 != 0
    }
    pub(crate) fn dpl(self) -> u8 {
        self.rights() >> 5 & 3
    }
    /// A system descriptor's type, None for code and data.
    pub(crate) fn system_type(self) -> Option<u8> {
        (self.rights() & 0x10 == 0).then_some(self.rights() & 15)
    }
    pub(crate) fn is_code(self) -> bool {
        self.rights() & 0x18 == 0x18
    }
    pub(crate) fn is_conforming(self) -> bool {
        self.rights() & 0x1c == 0x1c
    }
    pub(crate) fn is_writable_data(self) -> bool {
        self.rights() & 0x1a == 0x12
    }
    pub(crate) fn is_readable(self) -> bool {
        self.rights() & 0x10 != 0 && (!self.is_code() || self.rights() & 2 != 0)
    }

    /// The register contents this descriptor gives under `selector`.
    pub fn segment(self, selector: u16) -> Segment {
        let base = (self.0 >> 16 & 0xff_ffff | self.0 >> 32 & 0xff00_0000) as u32;
        let raw = (self.0 & 0xffff | self.0 >> 32 & 0xf_0000) as u32;
        let limit = if self.0 >> 55 & 1 != 0 {
            raw << 12 | 0xfff
        } else {
            raw
        };
        Segment {
            selector,
            base,
            limit,
            access: (self.0 >> 40 & 0xf0ff) as u16,
        }
    }

    /// The descriptor of a segment with byte limit `limit` (rounded to pages where it needs 21 bits
    /// or more).
    pub fn new(base: u32, limit: u32, access: u16) -> Self {
        let (raw, g) = if access & 0x8000 != 0 || limit > 0xf_ffff {
            (limit >> 12, 1u64 << 55)
        } else {
            (limit, 0)
        };
        let (base, raw) = (u64::from(base), u64::from(raw));
        Descriptor(
            raw & 0xffff
                | (raw & 0xf_0000) << 32
                | (base & 0xff_ffff) << 16
                | (base & 0xff00_0000) << 32
                | u64::from(access & 0x70ff) << 40
                | g,
        )
    }

    /// A gate: `kind` 4 and 0xC call, 5 task, 6 and 0xE interrupt, 7 and 0xF trap.
    pub fn gate(selector: u16, offset: u32, kind: u8, dpl: u8) -> Self {
        let offset = u64::from(offset);
        Descriptor(
            offset & 0xffff
                | u64::from(selector) << 16
                | u64::from(0x80 | dpl << 5 | kind) << 40
                | (offset >> 16) << 48,
        )
    }
    pub(crate) fn gate_offset(self) -> u32 {
        (self.0 & 0xffff | self.0 >> 32 & 0xffff_0000) as u32
    }
    /// Words a call gate copies.
    pub(crate) fn parameters(self) -> u8 {
        (self.0 >> 32) as u8 & 0x1f
    }
    pub(crate) fn gate_selector(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

/// GDTR or IDTR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TableRegister {
    /// Linear address of the table.
    pub base: u32,
    /// Last valid byte of the table.
    pub limit: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_code_descriptor() {
        let d = Descriptor::new(0, u32::MAX, CODE32);
        assert_eq!(d.0, 0x00cf_9b00_0000_ffff);
        assert_eq!(d.segment(8), Segment::flat(8, CODE32));
        let d = Descriptor::new(0xc012_3456, 0x67, 0x0089);
        let s = d.segment(0x20);
        assert_eq!((s.base, s.limit, s.access), (0xc012_3456, 0x67, 0x89));
    }

    #[test]
    fn limits() {
        let mut s = Segment::flat(0x10, DATA32);
        assert!(s.contains(u32::MAX - 3, 4) && !s.contains(u32::MAX - 2, 4));
        s.limit = 0xfff;
        assert!(s.contains(0xffc, 4) && !s.contains(0xffd, 4));
        s.access = 0xc097; // expand-down
        assert!(!s.contains(0xfff, 1) && s.contains(0x1000, 4) && s.contains(u32::MAX, 1));
    }
}
