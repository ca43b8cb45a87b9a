//! COM1: a 16550A UART (National Semiconductor PC16550D data sheet) whose line is infinitely fast.
//!
//! A byte written is out at once, so the transmitter is always empty; received bytes wait in a file's order. Loopback mode is
//! there because drivers detect the chip by it. Left out: baud rates (stored only), breaks, line errors, modem changes.
//!
//! Invariant: the interrupt line is up exactly while an enabled cause exists and OUT2 is set.

use std::collections::VecDeque;

/// Line status: transmitter and holding register empty.
const LSR_EMPTY: u8 = 0x60;
/// Line status: data ready.
const LSR_DATA: u8 = 1;
/// Modem control: OUT2, the interrupt's gate on a PC.
const MCR_OUT2: u8 = 8;
/// Modem control: loopback.
const MCR_LOOP: u8 = 0x10;
/// Modem status of a line that is there: CD, DSR, CTS.
const MSR_CONNECTED: u8 = 0xb0;
/// Interrupt identification: none.
const IIR_NONE: u8 = 1;
/// Interrupt identification: transmitter empty.
const IIR_EMPTY: u8 = 2;
/// Interrupt identification: data available.
const IIR_DATA: u8 = 4;
/// Bytes that fit into the receiver in loopback mode.
const FIFO: usize = 16;

/// The chip.
#[derive(Debug, Clone, Default)]
pub(crate) struct Serial {
    divisor: [u8; 2],
    enabled: u8,
    fifo: u8,
    line: u8,
    modem: u8,
    scratch: u8,
    received: VecDeque<u8>,
    looped: VecDeque<u8>,
    /// The transmitter became empty and nobody has looked.
    emptied: bool,
}

impl Serial {
    /// With `input` waiting on the line.
    pub(crate) fn new(input: &[u8]) -> Serial {
        Serial {
            received: input.iter().copied().collect(),
            ..Serial::default()
        }
    }

    fn queue(&mut self) -> &mut VecDeque<u8> {
        match self.modem & MCR_LOOP {
            0 => &mut self.received,
            _ => &mut self.looped,
        }
    }

    fn has_data(&self) -> bool {
        match self.modem & MCR_LOOP {
            0 => !self.received.is_empty(),
            _ => !self.looped.is_empty(),
        }
    }

    fn cause(&self) -> u8 {
        if self.enabled & 1 != 0 && self.has_data() {
            IIR_DATA
        } else if self.enabled & 2 != 0 && self.emptied {
            IIR_EMPTY
        } else {
            IIR_NONE
        }
    }

    /// The level of the interrupt line.
    pub(crate) fn interrupt(&self) -> bool {
        self.modem & MCR_OUT2 != 0 && self.cause() != IIR_NONE
    }

    fn latch(&self) -> bool {
        self.line & 0x80 != 0
    }

    /// Registers 0 to 7.
    pub(crate) fn read(&mut self, register: u16) -> u8 {
        match register {
            0 | 1 if self.latch() => self.divisor[usize::from(register)],
            0 => self.queue().pop_front().unwrap_or(0),
            1 => self.enabled,
            2 => {
                let cause = self.cause();
                if cause == IIR_EMPTY {
                    self.emptied = false;
                }
                cause | if self.fifo & 1 != 0 { 0xc0 } else { 0 }
            }
            3 => self.line,
            4 => self.modem,
            5 => LSR_EMPTY | if self.has_data() { LSR_DATA } else { 0 },
            6 => match self.modem & MCR_LOOP {
                0 => MSR_CONNECTED,
                // DTR to DSR, RTS to CTS, OUT1 to RI, OUT2 to CD.
                _ => {
                    let m = self.modem;
                    (m & 1) << 5 | (m & 2) << 3 | (m & 4) << 4 | (m & 8) << 4
                }
            },
            _ => self.scratch,
        }
    }

    /// Registers 0 to 7; the byte that goes out on the line, if one does.
    pub(crate) fn write(&mut self, register: u16, value: u8) -> Option<u8> {
        match register {
            0 | 1 if self.latch() => self.divisor[usize::from(register)] = value,
            0 => {
                self.emptied = true;
                if self.modem & MCR_LOOP == 0 {
                    return Some(value);
                }
                if self.looped.len() < FIFO {
                    self.looped.push_back(value);
                }
            }
            1 => {
                // Enabling the cause while the transmitter is empty raises it.
                if value & !self.enabled & 2 != 0 {
                    self.emptied = true;
                }
                self.enabled = value & 0xf;
            }
            2 => {
                self.fifo = value;
                if value & 2 != 0 {
                    self.looped.clear();
                }
            }
            3 => self.line = value,
            4 => self.modem = value & 0x1f,
            7 => self.scratch = value,
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_out_unless_looped() {
        let mut s = Serial::new(b"hi");
        assert_eq!(s.write(0, b'x'), Some(b'x'));
        s.write(3, 0x80);
        assert_eq!((s.write(0, 1), s.read(0)), (None, 1));
        s.write(3, 3);
        assert_eq!(
            (s.read(5), s.read(0), s.read(0), s.read(5)),
            (0x61, b'h', b'i', 0x60)
        );
        s.write(4, 0x1a);
        assert_eq!(
            s.read(6) & 0xf0,
            0x90,
            "RTS and OUT2 come back as CTS and CD"
        );
        assert_eq!((s.write(0, 7), s.read(0)), (None, 7));
    }

    #[test]
    fn interrupts_need_an_enabled_cause_and_out2() {
        let mut s = Serial::new(b"");
        s.write(1, 2);
        assert!(!s.interrupt());
        s.write(4, 8);
        assert!(s.interrupt());
        assert_eq!((s.read(2), s.read(2)), (IIR_EMPTY, IIR_NONE));
        assert!(!s.interrupt());
        s.write(0, 0);
        assert!(s.interrupt());
    }
}
