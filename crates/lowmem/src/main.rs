//! Replay a recorded workload on an emulated 32-bit PAE machine and report what each VM design costs
fn main() {}
