//! The board: which port belongs to whom, interrupt lines, and the ports that only talk to the outside.
//!
//! | port | who |
//! |---|---|
//! | 20, 21, A0, A1 | 8259s |
//! | 40–43, 61 | 8254, channel 0 on line 0 |
//! | 60, 64 | keyboard controller: self-test, reset |
//! | 70, 71 | CMOS |
//! | 80, 190 | power-on self-test codes |
//! | 92 | A20 and fast reset |
//! | E9 | console of Bochs and QEMU; reads E9, as Bochs' does |
//! | F4 | QEMU's isa-debug-exit: ends the run with status (value << 1 \| 1) & FF |
//! | 3F8–3FF | COM1, line 4 |
//! | CF9 | reset, if bit 2 |
//! | 8900 | Bochs: `Shutdown` ends the run |
//!
//! Wider accesses to byte-wide ports are split, low byte first. All other ports read ones and ignore writes.
//!
//! Invariant: the board's time is retired instructions plus those skipped by `hlt`, and nothing else.

use crate::bare::cmos::{ClockTime, Cmos};
use crate::bare::keyboard::{Asked, Keyboard};
use crate::bare::pic::Pics;
use crate::bare::pit::{self, Pit};
use crate::bare::serial::Serial;
use emu_cpu::{Bus, Cpu, Flow};

/// Interrupt line of channel 0 of the timer.
const TIMER_LINE: u8 = 0;
/// Interrupt line of COM1.
const SERIAL_LINE: u8 = 4;
/// What an image writes to port 8900 to end a run.
const SHUTDOWN: &[u8] = b"Shutdown";
/// Self-test codes that are kept.
const POSTS: usize = 1 << 16;

/// Where a byte of output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Console {
    /// COM1.
    Serial,
    /// Port E9.
    PortE9,
}

/// What the image asked for by a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// Port F4.
    Exit(u8),
    /// Port 8900.
    Shutdown,
    /// A reset line.
    Reset,
}

/// What the board did, for the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Acknowledged interrupts by line: 0 to 7 the first controller's, 8 to 15 the second's; spurious ones are those of 7 and 15.
    pub interrupts: u64,
    /// Rising edges of the timer's channel 0 that raised line 0.
    pub timer_edges: u64,
    /// Bytes written to COM1.
    pub serial_bytes: u64,
    /// Bytes written to port E9.
    pub e9_bytes: u64,
    /// Accesses to ports where nobody is.
    pub unmapped_ports: u64,
}

/// The devices.
#[derive(Debug)]
pub struct Board {
    pics: Pics,
    pit: Pit,
    cmos: Cmos,
    serial: Serial,
    keyboard: Keyboard,
    port92: u8,
    shutdown: usize,
    serial_line: bool,
    /// Instructions that make a second.
    per_second: u64,
    /// Instructions that were skipped by `hlt`.
    skipped: u64,
    now: u64,
    output: Vec<(Console, u8)>,
    posts: Vec<u8>,
    posts_in_all: u64,
    pub(crate) request: Option<Request>,
    tally: Tally,
}

impl Board {
    /// A board at power-on, whose time is `per_second` instructions a second.
    pub fn new(per_second: u64, start: ClockTime, ram_bytes: u64, serial_in: &[u8]) -> Board {
        Board {
            pics: Pics::new(),
            pit: Pit::new(),
            cmos: Cmos::new(start, ram_bytes),
            serial: Serial::new(serial_in),
            keyboard: Keyboard::default(),
            port92: 2,
            shutdown: 0,
            serial_line: false,
            per_second: per_second.max(1),
            skipped: 0,
            now: 0,
            output: Vec::new(),
            posts: Vec::new(),
            posts_in_all: 0,
            request: None,
            tally: Tally::default(),
        }
    }

    /// What was done so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Output since last asked, in order.
    pub fn take_output(&mut self) -> Vec<(Console, u8)> {
        std::mem::take(&mut self.output)
    }

    /// Self-test codes since the start (the first 65,536), and how many there were.
    pub fn posts(&self) -> (&[u8], u64) {
        (&self.posts, self.posts_in_all)
    }

    /// Instructions' worth of time that `hlt` skipped.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// A reset line was pulled: everything but CMOS, time and what is on the serial line starts anew.
    pub(crate) fn reset(&mut self) {
        self.pics = Pics::new();
        self.pit = Pit::new();
        self.keyboard = Keyboard::default();
        self.port92 = 2;
        self.serial_line = false;
    }

    /// Skips time up to the next thing that wakes a halted CPU; how much. `None`: nothing ever will.
    pub(crate) fn skip(&mut self) -> Option<u64> {
        if self.pics.intr() {
            return Some(0);
        }
        let next = self.next_timer()?;
        let n = next.saturating_sub(self.now);
        self.skipped += n;
        self.advance(next.max(self.now));
        // A line in service stays blocked: whoever could unblock it sleeps.
        self.pics.intr().then_some(n)
    }

    /// Time of the next timer edge, if its line is open.
    fn next_timer(&self) -> Option<u64> {
        let edge = self
            .pit
            .next_edge()
            .filter(|_| self.pics.open(TIMER_LINE))?;
        let scaled = u128::from(edge) * u128::from(self.per_second);
        u64::try_from(scaled.div_ceil(u128::from(pit::HZ))).ok()
    }

    /// The timer's clock now.
    fn clocks(&self) -> u64 {
        (u128::from(self.now) * u128::from(pit::HZ) / u128::from(self.per_second)) as u64
    }

    fn advance(&mut self, now: u64) {
        self.now = now;
        let clocks = self.clocks();
        if self.pit.raised(clocks) {
            self.tally.timer_edges += 1;
            self.pics.raise(TIMER_LINE);
        }
    }

    fn read(&mut self, port: u16) -> u8 {
        match port {
            0x20 | 0x21 | 0xa0 | 0xa1 => self.pics.read(port),
            0x40..=0x43 | 0x61 => self.pit.read(port, self.clocks()),
            0x60 | 0x64 => self.keyboard.read(port),
            0x71 => self.cmos.read(self.now / self.per_second),
            0x92 => self.port92,
            0xe9 => 0xe9,
            0x3f8..=0x3ff => {
                let value = self.serial.read(port & 7);
                self.update_serial();
                value
            }
            0x80 => self.posts.last().copied().unwrap_or(0),
            _ => {
                self.tally.unmapped_ports += 1;
                0xff
            }
        }
    }

    fn write(&mut self, port: u16, value: u8) {
        match port {
            0x20 | 0x21 | 0xa0 | 0xa1 => self.pics.write(port, value),
            0x40..=0x43 | 0x61 => {
                let clocks = self.clocks();
                self.pit.write(port, value, clocks);
            }
            0x60 | 0x64 => {
                if self.keyboard.write(port, value) == Asked::Reset {
                    self.request = Some(Request::Reset);
                }
            }
            0x70 => self.cmos.select(value),
            0x71 => self.cmos.write(value),
            0x80 | 0x190 => {
                self.posts_in_all += 1;
                if self.posts.len() < POSTS {
                    self.posts.push(value);
                }
            }
            0x92 => {
                // A reset is asked for by the rising bit 0.
                if value & !self.port92 & 1 != 0 {
                    self.request = Some(Request::Reset);
                }
                self.port92 = value;
            }
            0xe9 => {
                self.tally.e9_bytes += 1;
                self.output.push((Console::PortE9, value));
            }
            0x3f8..=0x3ff => {
                if let Some(byte) = self.serial.write(port & 7, value) {
                    self.tally.serial_bytes += 1;
                    self.output.push((Console::Serial, byte));
                }
                self.update_serial();
            }
            0xcf9 if value & 4 != 0 => self.request = Some(Request::Reset),
            0xcf9 => {}
            0x8900 => {
                self.shutdown = match SHUTDOWN.get(self.shutdown) {
                    Some(&wanted) if wanted == value => self.shutdown + 1,
                    _ => usize::from(SHUTDOWN[0] == value),
                };
                if self.shutdown == SHUTDOWN.len() {
                    self.shutdown = 0;
                    self.request = Some(Request::Shutdown);
                }
            }
            _ => self.tally.unmapped_ports += 1,
        }
    }

    /// Tells the controller of a rising serial line.
    fn update_serial(&mut self) {
        let line = self.serial.interrupt();
        if line && !self.serial_line {
            self.pics.raise(SERIAL_LINE);
        }
        self.serial_line = line;
    }
}

impl Bus for Board {
    fn port_in(&mut self, port: u16, size: u8) -> u32 {
        (0..u16::from(size)).fold(0, |value, i| {
            value | u32::from(self.read(port.wrapping_add(i))) << (8 * i)
        })
    }

    fn port_out(&mut self, port: u16, size: u8, value: u32) -> Flow {
        if port == 0xf4 {
            self.request = Some(Request::Exit((value << 1 | 1) as u8));
            return Flow::Stop;
        }
        for i in 0..u16::from(size) {
            self.write(port.wrapping_add(i), (value >> (8 * i)) as u8);
        }
        match self.request {
            Some(_) => Flow::Stop,
            None => Flow::Continue,
        }
    }

    fn probe(&mut self, _id: u16, _cpu: &mut Cpu) {}

    fn clock(&mut self, retired: u64) {
        self.advance(retired.saturating_add(self.skipped));
    }

    fn next_event(&self) -> u64 {
        match self.next_timer() {
            Some(at) => at.saturating_sub(self.skipped),
            None => u64::MAX,
        }
    }

    fn intr(&self) -> bool {
        self.pics.intr()
    }

    fn acknowledge(&mut self) -> u8 {
        self.tally.interrupts += 1;
        self.pics.acknowledge()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board() -> Board {
        Board::new(1_193_182, ClockTime(0), 16 << 20, b"")
    }

    #[test]
    fn wide_accesses_are_split_and_nobody_reads_ones() {
        let mut b = board();
        assert_eq!(b.port_in(0x1234, 4), u32::MAX);
        assert_eq!(b.port_in(0xffff, 2), 0xffff);
        assert_eq!(b.port_out(0x70, 2, 0x0b), Flow::Continue);
        assert_eq!(b.tally().unmapped_ports, 6);
        assert_eq!(b.port_in(0xe9, 1), 0xe9);
    }

    #[test]
    fn a_run_ends_by_three_ports() {
        let mut b = board();
        assert_eq!(b.port_out(0xf4, 4, 0x31), Flow::Stop);
        assert_eq!(b.request.take(), Some(Request::Exit(99)));
        for (i, c) in b"ShShutdown".iter().enumerate() {
            let flow = b.port_out(0x8900, 1, u32::from(*c));
            assert_eq!(flow == Flow::Stop, i == 9, "{i}");
        }
        assert_eq!(b.request.take(), Some(Request::Shutdown));
        assert_eq!(b.port_out(0x64, 1, 0xfe), Flow::Stop);
        assert_eq!(b.request.take(), Some(Request::Reset));
    }

    #[test]
    fn a_halted_cpu_sleeps_to_the_next_timer_edge() {
        let mut b = board();
        b.clock(10);
        assert_eq!(b.skip(), None);
        for (port, value) in [(0x20, 0x11), (0x21, 8), (0x21, 4), (0x21, 1), (0x43, 0x34)] {
            b.port_out(port, 1, value);
        }
        b.port_out(0x40, 1, 100);
        b.port_out(0x40, 1, 0);
        assert_eq!(b.next_event(), 110);
        assert_eq!(b.skip(), Some(100));
        assert!(b.intr());
        assert_eq!((b.acknowledge(), b.tally().timer_edges), (8, 1));
        b.clock(11);
        assert_eq!((b.skipped(), b.next_event()), (100, 110));
        b.port_out(0x21, 1, 1);
        assert_eq!((b.skip(), b.next_event()), (None, u64::MAX));
    }
}
