//! The same image on the bare machine, as `lowmem run` runs it.

use emu_cpu::Engine;
use lowmem_cost::Geometry;
use lowmem_machine::bare::{Bare, BareImage, BareOptions, ClockTime, Console, End};

/// Far more than any program needs.
const LIMIT: u64 = 20_000_000;

/// The log.
pub(crate) fn run(image: &[u8], engine: Engine, nx: bool) -> Vec<u8> {
    let options = BareOptions {
        ram_bytes: 32 << 20,
        geometry: Geometry {
            nx,
            ..Geometry::pentium3()
        },
        per_second: 1_000_000_000,
        engine,
        start: ClockTime::default(),
        serial_in: Vec::new(),
    };
    let image = BareImage::parse(image.to_vec()).unwrap();
    let mut machine = Bare::new(&image, &options).unwrap();
    let end = machine.run(LIMIT);
    let output = machine.board_mut().take_output();
    let log = output
        .into_iter()
        .filter(|(from, _)| *from == Console::PortE9);
    let log: Vec<u8> = log.map(|(_, byte)| byte).collect();
    assert!(
        matches!(end, Some(End::Exit(_))),
        "{end:?} after {} bytes of log: {}",
        log.len(),
        machine.cpu().dump()
    );
    log
}
