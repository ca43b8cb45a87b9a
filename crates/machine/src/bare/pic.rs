//! The two 8259A interrupt controllers of a PC (Intel 8259A data sheet, order 231468), the second on input 2 of the first.
//!
//! Edge-triggered; fully nested, rotating and special-mask priorities, both EOIs, automatic EOI, poll. Left out: level
//! triggering, special fully nested mode, the 8080 mode. Until its ICW1 a controller is masked; silicon leaves that undefined.
//!
//! Invariant: an input in service blocks itself and all lower ones, unless special mask mode says otherwise.

/// What the next write to the data port is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Mask,
    Icw2,
    Icw3,
    Icw4,
}

/// One 8259A.
#[derive(Debug, Clone)]
struct Controller {
    requests: u8,
    in_service: u8,
    mask: u8,
    vector: u8,
    expected: Expected,
    single: bool,
    wants_icw4: bool,
    auto_eoi: bool,
    rotate: bool,
    special_mask: bool,
    read_in_service: bool,
    poll: bool,
    /// The input of lowest priority.
    lowest: u8,
}

impl Controller {
    fn new() -> Controller {
        Controller {
            requests: 0,
            in_service: 0,
            mask: 0xff,
            vector: 0,
            expected: Expected::Mask,
            single: false,
            wants_icw4: false,
            auto_eoi: false,
            rotate: false,
            special_mask: false,
            read_in_service: false,
            poll: false,
            lowest: 7,
        }
    }

    /// Inputs from highest to lowest priority.
    fn order(&self) -> impl Iterator<Item = u8> + use<> {
        let lowest = self.lowest;
        (1..=8).map(move |n| (lowest + n) & 7)
    }

    /// The input that asks for service and may have it; `more` are requests beside the latched ones.
    fn pending(&self, more: u8) -> Option<u8> {
        let asking = (self.requests | more) & !self.mask;
        for input in self.order() {
            let bit = 1 << input;
            if self.in_service & bit != 0 {
                match self.special_mask {
                    true => continue,
                    false => return None,
                }
            }
            if asking & bit != 0 {
                return Some(input);
            }
        }
        None
    }

    /// Takes an input into service.
    fn take(&mut self, input: u8) {
        self.requests &= !(1 << input);
        match self.auto_eoi {
            true if self.rotate => self.lowest = input,
            true => {}
            false => self.in_service |= 1 << input,
        }
    }

    fn command(&mut self, value: u8) {
        if value & 0x10 != 0 {
            // ICW1 clears everything but the vector.
            let vector = self.vector;
            *self = Controller {
                vector,
                mask: 0,
                expected: Expected::Icw2,
                single: value & 2 != 0,
                wants_icw4: value & 1 != 0,
                ..Controller::new()
            };
            return;
        }
        if value & 8 != 0 {
            // OCW3.
            match value >> 5 & 3 {
                2 => self.special_mask = false,
                3 => self.special_mask = true,
                _ => {}
            }
            self.poll = value & 4 != 0;
            match value & 3 {
                2 => self.read_in_service = false,
                3 => self.read_in_service = true,
                _ => {}
            }
            return;
        }
        // OCW2.
        let named = value & 7;
        match value >> 5 {
            1 | 5 => {
                let highest = self.order().find(|&i| self.in_service >> i & 1 != 0);
                if let Some(input) = highest {
                    self.in_service &= !(1 << input);
                    if value >> 5 == 5 {
                        self.lowest = input;
                    }
                }
            }
            3 => self.in_service &= !(1 << named),
            7 => {
                self.in_service &= !(1 << named);
                self.lowest = named;
            }
            6 => self.lowest = named,
            4 => self.rotate = true,
            0 => self.rotate = false,
            _ => {}
        }
    }

    fn data(&mut self, value: u8) {
        match self.expected {
            Expected::Mask => self.mask = value,
            Expected::Icw2 => {
                self.vector = value & 0xf8;
                self.expected = match (self.single, self.wants_icw4) {
                    (false, _) => Expected::Icw3,
                    (true, true) => Expected::Icw4,
                    (true, false) => Expected::Mask,
                };
            }
            Expected::Icw3 => {
                self.expected = match self.wants_icw4 {
                    true => Expected::Icw4,
                    false => Expected::Mask,
                };
            }
            Expected::Icw4 => {
                self.auto_eoi = value & 2 != 0;
                self.expected = Expected::Mask;
            }
        }
    }

    fn read(&mut self, more: u8) -> u8 {
        if std::mem::take(&mut self.poll) {
            return match self.pending(more) {
                Some(input) => {
                    self.take(input);
                    0x80 | input
                }
                None => 0,
            };
        }
        match self.read_in_service {
            true => self.in_service,
            false => self.requests | more,
        }
    }
}

/// The pair.
#[derive(Debug, Clone)]
pub(crate) struct Pics {
    first: Controller,
    second: Controller,
}

/// The input of the first on which the second sits.
const CASCADE: u8 = 2;
/// The input that answers when nobody asks any more.
const SPURIOUS: u8 = 7;

impl Pics {
    pub(crate) fn new() -> Pics {
        Pics {
            first: Controller::new(),
            second: Controller::new(),
        }
    }

    /// A rising edge on interrupt line 0 to 15.
    pub(crate) fn raise(&mut self, line: u8) {
        match line {
            0..8 => self.first.requests |= 1 << line,
            _ => self.second.requests |= 1 << (line & 7),
        }
    }

    fn cascade(&self) -> u8 {
        u8::from(self.second.pending(0).is_some()) << CASCADE
    }

    /// The level of INTR.
    pub(crate) fn intr(&self) -> bool {
        self.first.pending(self.cascade()).is_some()
    }

    /// The interrupt acknowledge cycle.
    pub(crate) fn acknowledge(&mut self) -> u8 {
        let Some(input) = self.first.pending(self.cascade()) else {
            return self.first.vector | SPURIOUS;
        };
        self.first.take(input);
        if input != CASCADE {
            return self.first.vector | input;
        }
        match self.second.pending(0) {
            Some(input) => {
                self.second.take(input);
                self.second.vector | input
            }
            None => self.second.vector | SPURIOUS,
        }
    }

    /// Whether `line` could be taken if it were raised: not masked, nor its way through the first controller.
    pub(crate) fn open(&self, line: u8) -> bool {
        match line {
            0..8 => self.first.mask >> line & 1 == 0,
            _ => self.first.mask >> CASCADE & 1 == 0 && self.second.mask >> (line & 7) & 1 == 0,
        }
    }

    /// Ports 20, 21, A0, A1.
    pub(crate) fn read(&mut self, port: u16) -> u8 {
        let cascade = self.cascade();
        match port {
            0x20 => self.first.read(cascade),
            0x21 => self.first.mask,
            0xa0 => self.second.read(0),
            _ => self.second.mask,
        }
    }

    /// Ports 20, 21, A0, A1.
    pub(crate) fn write(&mut self, port: u16, value: u8) {
        match port {
            0x20 => self.first.command(value),
            0x21 => self.first.data(value),
            0xa0 => self.second.command(value),
            _ => self.second.data(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn initialised() -> Pics {
        let mut p = Pics::new();
        for (port, value) in [
            (0x20, 0x11),
            (0x21, 0x20),
            (0x21, 4),
            (0x21, 1),
            (0xa0, 0x11),
            (0xa1, 0x28),
            (0xa1, 2),
            (0xa1, 1),
        ] {
            p.write(port, value);
        }
        p
    }

    #[test]
    fn the_highest_line_comes_first_and_blocks_the_lower_until_its_eoi() {
        let mut p = initialised();
        p.raise(4);
        p.raise(1);
        assert_eq!(p.acknowledge(), 0x21);
        assert!(!p.intr());
        p.raise(0);
        assert_eq!(p.acknowledge(), 0x20);
        p.write(0x20, 0x20);
        assert!(!p.intr());
        p.write(0x20, 0x20);
        assert_eq!(p.acknowledge(), 0x24);
        p.write(0x20, 0x0b);
        assert_eq!(p.read(0x20), 1 << 4);
        p.write(0x20, 0x64);
        assert_eq!(p.read(0x20), 0);
    }

    #[test]
    fn the_second_controller_speaks_through_the_first() {
        let mut p = initialised();
        p.raise(8);
        assert!(p.intr() && p.open(8));
        assert_eq!(p.acknowledge(), 0x28);
        assert!(!p.intr());
        p.raise(3);
        assert!(!p.intr(), "input 2 is in service");
        p.write(0xa0, 0x20);
        p.write(0x20, 0x20);
        assert_eq!(p.acknowledge(), 0x23);
        p.write(0x21, 1 << CASCADE);
        assert!(!p.open(8));
    }

    #[test]
    fn masked_lines_are_remembered_and_nobody_asking_is_spurious() {
        let mut p = initialised();
        p.write(0x21, 1);
        p.raise(0);
        assert!(!p.intr());
        assert_eq!(p.acknowledge(), 0x27);
        p.write(0x21, 0);
        assert!(p.intr());
        p.write(0x20, 0x0c);
        assert_eq!(p.read(0x20), 0x80);
        assert!(Pics::new().first.mask == 0xff);
    }
}
