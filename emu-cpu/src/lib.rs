//! The 32-bit x86 CPU: decode, execute, exceptions and interrupts
