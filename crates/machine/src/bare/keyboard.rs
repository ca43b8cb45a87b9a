//! The keyboard controller (8042) without a keyboard: self-tests, the command byte, the output port and its reset line.
//!
//! Kernels ask it to open A20, to prove itself and to reset the CPU; no key is ever pressed. Invariant: it is never busy.

/// What a write asks of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Nothing,
    Reset,
}

/// The controller.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keyboard {
    answer: Option<u8>,
    command_byte: u8,
    /// The command whose data byte comes next.
    waiting: Option<u8>,
}

impl Keyboard {
    /// Ports 60 and 64. Status: system flag, not inhibited, output full or not.
    pub(crate) fn read(&mut self, port: u16) -> u8 {
        match port {
            0x60 => self.answer.take().unwrap_or(0),
            _ => 0x14 | u8::from(self.answer.is_some()),
        }
    }

    /// Ports 60 and 64.
    pub(crate) fn write(&mut self, port: u16, value: u8) -> Asked {
        if port == 0x60 {
            match self.waiting.take() {
                Some(0x60) => self.command_byte = value,
                // Bit 0 of the output port is the CPU's reset line, active low.
                Some(0xd1) if value & 1 == 0 => return Asked::Reset,
                Some(_) => {}
                // To a keyboard that is not there: resend.
                None => self.answer = Some(0xfe),
            }
            return Asked::Nothing;
        }
        self.waiting = None;
        match value {
            0x20 => self.answer = Some(self.command_byte),
            0x60 | 0xd1..=0xd4 => self.waiting = Some(value),
            0xaa => self.answer = Some(0x55),
            0xab => self.answer = Some(0),
            0xd0 => self.answer = Some(0x03),
            // Pulses the lines whose bits are 0.
            0xf0..=0xff if value & 1 == 0 => return Asked::Reset,
            _ => {}
        }
        Asked::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn self_test_and_reset() {
        let mut k = Keyboard::default();
        assert_eq!(k.write(0x64, 0xaa), Asked::Nothing);
        assert_eq!(
            (k.read(0x64), k.read(0x60), k.read(0x64)),
            (0x15, 0x55, 0x14)
        );
        assert_eq!(k.write(0x64, 0xd1), Asked::Nothing);
        assert_eq!(k.write(0x60, 0xdf), Asked::Nothing);
        assert_eq!(k.write(0x64, 0xfe), Asked::Reset);
        assert_eq!(k.write(0x64, 0xff), Asked::Nothing);
    }
}
