//! Guest pointers: 32-bit addresses with a type, the same width on every target.
//!
//! [`Low`] is an address in the direct map (or null). [`Kmapped`] is an address through which a frame of *any* zone is
//! reached: the direct map for low frames, a kmap or fixmap slot for high ones. They are two types because natively they
//! resolve differently. Invariant: a `Low` is never an address at or above the kmap windows.

use core::marker::PhantomData;

/// Pointer to a `T` in low memory; 0 is null.
#[repr(transparent)]
pub struct Low<T>(u32, PhantomData<fn() -> T>);

impl<T> Low<T> {
    /// The null pointer.
    pub const NULL: Self = Self(0, PhantomData);

    /// The pointer with address `va`.
    #[inline(always)]
    pub const fn new(va: u32) -> Self {
        Self(va, PhantomData)
    }

    /// Its address.
    #[inline(always)]
    pub const fn va(self) -> u32 {
        self.0
    }

    /// Whether it is null.
    #[inline(always)]
    pub const fn is_null(self) -> bool {
        self.0 == 0
    }

    /// `Some(self)` unless null.
    #[inline(always)]
    pub const fn get(self) -> Option<Self> {
        if self.0 == 0 { None } else { Some(self) }
    }

    /// The same address as another type.
    #[inline(always)]
    pub const fn cast<U>(self) -> Low<U> {
        Low::new(self.0)
    }

    /// The address `bytes` further, as another type: a field.
    #[inline(always)]
    pub const fn field<U>(self, bytes: u32) -> Low<U> {
        Low::new(self.0.wrapping_add(bytes))
    }

    /// The object whose field at `bytes` this is (container_of).
    #[inline(always)]
    pub const fn container<U>(self, bytes: u32) -> Low<U> {
        Low::new(self.0.wrapping_sub(bytes))
    }
}

impl<T> Clone for Low<T> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Low<T> {}
impl<T> PartialEq for Low<T> {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<T> Eq for Low<T> {}
impl<T> core::fmt::Debug for Low<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

/// Address through which a frame is reached now: direct map, kmap window or fixmap slot.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kmapped(pub u32);

impl Kmapped {
    /// The address `bytes` further, in the same page.
    #[inline(always)]
    pub const fn at(self, bytes: u32) -> Self {
        Self(self.0 + bytes)
    }
}
