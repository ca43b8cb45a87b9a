//! `guest_struct!`: structures in guest memory, with written offsets.
//!
//! Offsets are written, not computed: they *are* the historic layout (D12), so padding, niches and the alignment of `u64`
//! cannot move a field. Offsets and sizes may depend on the image: `pub struct Vma [K k] size 72 + K::Rmap::vma_bytes(k);` names the
//! handle's type and value that these expressions may use (`[K]` alone when none does). Tests call the generated
//! `fields` to check that fields of a structure neither overlap nor leave it.
//!
//! Field forms, after `at OFFSET =>`:
//! `word name, set_name: T` one word (`u8`, `u16`, `u32`, `Low<_>`): getter `name(k)`, setter `set_name(k, v)`;
//! `part name: T` an embedded structure: `name(k)` is its address; `words name, set_name: T, N` an array of words:
//! `name(k, i)`, `set_name(k, i, v)`; `parts name: T, N` an array of structures; `opaque name: u8, N` bytes nobody reads.

use crate::kernel::Kernel;
use crate::ptr::Low;

/// A value that one plain load or store moves.
pub trait Word: Copy {
    /// Size in bytes.
    const BYTES: u32;
    /// Reads the word at `p`.
    fn load<K: Kernel>(k: K, p: Low<Self>) -> Self;
    /// Writes the word at `p`.
    fn store<K: Kernel>(k: K, p: Low<Self>, v: Self);
}

macro_rules! plain_word {
    ($($T:ty),*) => { $(
        impl Word for $T {
            const BYTES: u32 = core::mem::size_of::<$T>() as u32;
            #[inline(always)]
            fn load<K: Kernel>(k: K, p: Low<Self>) -> Self {
                // SAFETY: `low` yields a pointer inside the direct map (x86: mapped; native: inside the
                // reservation, where a stray address faults instead of reaching the host).
                unsafe { k.low(p.va()).cast::<$T>().read_unaligned() }
            }
            #[inline(always)]
            fn store<K: Kernel>(k: K, p: Low<Self>, v: Self) {
                // SAFETY: as for `load`.
                unsafe { k.low(p.va()).cast::<$T>().write_unaligned(v) }
            }
        }
    )* };
}
plain_word!(u8, u16, u32);

impl<T> Word for Low<T> {
    const BYTES: u32 = 4;
    #[inline(always)]
    fn load<K: Kernel>(k: K, p: Low<Self>) -> Self {
        Low::new(u32::load(k, p.cast()))
    }
    #[inline(always)]
    fn store<K: Kernel>(k: K, p: Low<Self>, v: Self) {
        u32::store(k, p.cast(), v.va());
    }
}

impl<T: Word> Low<T> {
    /// Reads the word.
    #[inline(always)]
    pub fn read<K: Kernel>(self, k: K) -> T {
        T::load(k, self)
    }
    /// Writes the word.
    #[inline(always)]
    pub fn write<K: Kernel>(self, k: K, v: T) {
        T::store(k, self, v);
    }
}

/// A structure in guest memory.
pub trait Layout {
    /// Its size in bytes in the image of `K`.
    fn size<K: Kernel>(k: K) -> u32;
    /// Calls `f(name, offset, bytes)` for each field, in the order written.
    fn fields<K: Kernel>(k: K, f: &mut dyn FnMut(&'static str, u32, u32));
}

impl Layout for u32 {
    fn size<K: Kernel>(_: K) -> u32 {
        4
    }
    fn fields<K: Kernel>(_: K, _: &mut dyn FnMut(&'static str, u32, u32)) {}
}

/// Declares a structure in guest memory; see the module's documentation.
#[macro_export]
macro_rules! guest_struct {
    ( $(#[$meta:meta])* pub struct $Name:ident [$K:ident] size $($rest:tt)* ) => {
        $crate::guest_struct! { $(#[$meta])* pub struct $Name [$K k] size $($rest)* }
    };
    (
        $(#[$meta:meta])*
        pub struct $Name:ident [$K:ident $k:ident] size $size:expr;
        $( $(#[$fmeta:meta])* at $off:expr => $kind:ident $name:ident $(, $set:ident)? : $T:ty $( , $n:literal )? ; )*
    ) => {
        $(#[$meta])*
        #[derive(Debug)]
        pub enum $Name {}
        impl $crate::guest_struct::Layout for $Name {
            #[inline(always)]
            #[allow(unused_variables, reason = "most sizes are the same in every image")]
            fn size<$K: $crate::kernel::Kernel>($k: $K) -> u32 { $size }
            #[allow(unused_variables, reason = "most offsets are the same in every image")]
            fn fields<$K: $crate::kernel::Kernel>($k: $K, f: &mut dyn FnMut(&'static str, u32, u32)) {
                $( f(stringify!($name), $off, $crate::guest_struct!(@bytes $k $kind $T $(, $n)?)); )*
            }
        }
        impl $crate::ptr::Low<$Name> {
            $( $crate::guest_struct!(@accessor $K $k [$(#[$fmeta])*] $off => $kind $name $(, $set)? : $T $(, $n)?); )*
        }
    };
    (@bytes $k:ident word $T:ty) => { <$T as $crate::guest_struct::Word>::BYTES };
    (@bytes $k:ident part $T:ty) => { <$T as $crate::guest_struct::Layout>::size($k) };
    (@bytes $k:ident words $T:ty, $n:literal) => { <$T as $crate::guest_struct::Word>::BYTES * $n };
    (@bytes $k:ident parts $T:ty, $n:literal) => { <$T as $crate::guest_struct::Layout>::size($k) * $n };
    (@bytes $k:ident opaque $T:ty, $n:literal) => { $n };
    (@accessor $K:ident $k:ident [$(#[$m:meta])*] $off:expr => word $name:ident, $set:ident : $T:ty) => {
        $(#[$m])*
        #[doc = concat!("`", stringify!($name), "`, at offset ", stringify!($off), ".")]
        #[inline(always)]
        pub fn $name<$K: $crate::kernel::Kernel>(self, $k: $K) -> $T { self.field::<$T>($off).read($k) }
        $(#[$m])*
        #[doc = concat!("`", stringify!($name), "`, at offset ", stringify!($off), ".")]
        #[inline(always)]
        pub fn $set<$K: $crate::kernel::Kernel>(self, $k: $K, v: $T) { self.field::<$T>($off).write($k, v) }
    };
    (@accessor $K:ident $k:ident [$(#[$m:meta])*] $off:expr => part $name:ident : $T:ty) => {
        $(#[$m])*
        #[doc = concat!("`", stringify!($name), "`, at offset ", stringify!($off), ".")]
        #[inline(always)]
        #[allow(unused_variables, reason = "most offsets are the same in every image")]
        pub fn $name<$K: $crate::kernel::Kernel>(self, $k: $K) -> $crate::ptr::Low<$T> { self.field($off) }
    };
    (@accessor $K:ident $k:ident [$(#[$m:meta])*] $off:expr => words $name:ident, $set:ident : $T:ty, $n:literal) => {
        $(#[$m])*
        #[doc = concat!("`", stringify!($name), "`, at offset ", stringify!($off), ".")]
        #[inline(always)]
        pub fn $name<$K: $crate::kernel::Kernel>(self, $k: $K, i: u32) -> $T {
            self.field::<$T>($off + i * <$T as $crate::guest_struct::Word>::BYTES).read($k)
        }
        $(#[$m])*
        #[doc = concat!("`", stringify!($name), "`, at offset ", stringify!($off), ".")]
        #[inline(always)]
        pub fn $set<$K: $crate::kernel::Kernel>(self, $k: $K, i: u32, v: $T) {
            self.field::<$T>($off + i * <$T as $crate::guest_struct::Word>::BYTES).write($k, v)
        }
    };
    (@accessor $K:ident $k:ident [$(#[$m:meta])*] $off:expr => parts $name:ident : $T:ty, $n:literal) => {
        $(#[$m])*
        #[doc = concat!("`", stringify!($name), "`, at offset ", stringify!($off), ".")]
        #[inline(always)]
        pub fn $name<$K: $crate::kernel::Kernel>(self, $k: $K, i: u32) -> $crate::ptr::Low<$T> {
            self.field($off + i * <$T as $crate::guest_struct::Layout>::size($k))
        }
    };
    (@accessor $K:ident $k:ident [$(#[$m:meta])*] $off:expr => opaque $name:ident : $T:ty, $n:literal) => {};
}
