//! How a statistic is declared: once, with its name, its unit and one sentence.
//!
//! Everything that counts in Lowmem counts in an enum made by [`declare!`]. Text, JSON, CSV and documentation take
//! their words from the declaration, so a figure cannot be called two things. Counting itself is plain integer
//! addition in whoever owns the array; nothing here runs on a hot path.
//!
//! Invariant: the discriminants of a declared enum are `0..COUNT` in declaration order, so it can index an array.

/// What is said of one statistic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Declaration {
    /// Machine name: snake case, stable, used as the key in JSON and CSV.
    pub name: &'static str,
    /// Unit of the count (`instructions`, `accesses`, `bytes`, ...).
    pub unit: &'static str,
    /// One sentence for people.
    pub sentence: &'static str,
}

/// Declares a closed set of statistics as an enum that indexes an array.
///
/// ```
/// lowmem_stats::declare! {
///     /// What a toy counts.
///     pub enum Toy {
///         /// Apples eaten.
///         Apples: "apples", "pieces";
///     }
/// }
/// assert_eq!(Toy::Apples.name(), "apples");
/// assert_eq!(Toy::COUNT, 1);
/// ```
#[macro_export]
macro_rules! declare {
    (
        $(#[$outer:meta])*
        $vis:vis enum $Enum:ident {
            $( #[doc = $sentence:literal] $Variant:ident : $name:literal, $unit:literal ; )*
        }
    ) => {
        $(#[$outer])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(usize)]
        $vis enum $Enum { $( #[doc = $sentence] $Variant, )* }
        impl $Enum {
            /// Every member, in declaration order.
            $vis const ALL: &'static [$Enum] = &[ $( $Enum::$Variant, )* ];
            /// How many there are.
            $vis const COUNT: usize = Self::ALL.len();
            /// What is said of this statistic.
            $vis const fn declaration(self) -> $crate::Declaration {
                match self { $( $Enum::$Variant => $crate::Declaration {
                    name: $name, unit: $unit, sentence: $sentence }, )* }
            }
            /// Its machine name.
            $vis const fn name(self) -> &'static str { self.declaration().name }
            /// The member called `name`, if there is one.
            $vis fn from_name(name: &str) -> Option<$Enum> {
                Self::ALL.iter().copied().find(|e| e.name() == name)
            }
        }
    };
}
