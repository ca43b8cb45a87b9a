//! Developer commands: guest images, README table
fn main() {}
