//! The 8254 timer (Intel 8254 data sheet, order 231164): channel 0 on interrupt line 0, channel 2 behind port 61h.
//!
//! Modes 0, 2, 3 and 4 count; 1 and 5 need a rising gate, which channel 0 never has, and stand still on channel 2, too. The count
//! latch, the read-back command and BCD counting are there. The one clock that silicon takes to load a count is left out.
//!
//! Invariant: a channel's state is a function of what was written and of the clock; nothing is stepped.

/// Clock of the timer in Hz: 14.31818 MHz / 12.
pub(crate) const HZ: u64 = 1_193_182;

/// Which bytes of a count are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bytes {
    Low,
    High,
    Both,
}

/// One counter.
#[derive(Debug, Clone)]
struct Channel {
    mode: u8,
    bytes: Bytes,
    bcd: bool,
    /// 1 to 65536, in binary; `None`: no count was written since the mode was.
    count: Option<u32>,
    /// Clock at which it was.
    start: u64,
    /// The low byte of a count that is being written.
    low: Option<u8>,
    latched: Option<u16>,
    status: Option<u8>,
    /// The high byte is read next.
    high_next: bool,
}

impl Channel {
    fn new() -> Channel {
        Channel {
            mode: 3,
            bytes: Bytes::Both,
            bcd: false,
            count: None,
            start: 0,
            low: None,
            latched: None,
            status: None,
            high_next: false,
        }
    }

    /// The first rising edge of the output behind clock `after`.
    fn edge_after(&self, after: u64) -> Option<u64> {
        let count = u64::from(self.count?);
        match self.mode {
            2 | 3 => {
                let periods = after.saturating_sub(self.start) / count + 1;
                Some(self.start + periods * count)
            }
            0 | 4 => Some(self.start + count).filter(|&edge| edge > after),
            _ => None,
        }
    }

    /// The output at clock `now`.
    fn output(&self, now: u64) -> bool {
        let Some(count) = self.count.map(u64::from) else {
            return self.mode != 0;
        };
        let passed = now - self.start;
        match self.mode {
            0 => passed >= count,
            2 => passed % count != count - 1,
            3 => passed % count < count.div_ceil(2),
            4 => passed != count,
            _ => true,
        }
    }

    /// The counter as it is read at clock `now`.
    fn value(&self, now: u64) -> u16 {
        let Some(count) = self.count.map(u64::from) else {
            return 0;
        };
        let passed = now - self.start;
        let wrap = if self.bcd { 10_000 } else { 1 << 16 };
        let left = match self.mode {
            2 => count - passed % count,
            // Two at a time, once for each half of the wave.
            3 => {
                let half = count.div_ceil(2);
                (count - 2 * (passed % half)) & !1
            }
            _ => (count + wrap - passed % wrap) % wrap,
        };
        match self.bcd {
            true => to_bcd((left % wrap) as u16),
            false => left as u16,
        }
    }

    fn control(&mut self, value: u8, now: u64) {
        match value >> 4 & 3 {
            0 => {
                let value = self.value(now);
                self.latched.get_or_insert(value);
                return;
            }
            1 => self.bytes = Bytes::Low,
            2 => self.bytes = Bytes::High,
            _ => self.bytes = Bytes::Both,
        }
        // 6 and 7 are other names of 2 and 3.
        self.mode = match value >> 1 & 7 {
            mode @ 6..=7 => mode - 4,
            mode => mode,
        };
        self.bcd = value & 1 != 0;
        (self.count, self.low, self.latched) = (None, None, None);
        self.high_next = false;
    }

    fn write(&mut self, value: u8, now: u64) {
        let count = match (self.bytes, self.low.take()) {
            (Bytes::Low, _) => u16::from(value),
            (Bytes::High, _) => u16::from(value) << 8,
            (Bytes::Both, Some(low)) => u16::from_le_bytes([low, value]),
            (Bytes::Both, None) => {
                self.low = Some(value);
                return;
            }
        };
        let count = match self.bcd {
            true => u32::from(from_bcd(count)),
            false => u32::from(count),
        };
        self.count = Some(match (count, self.bcd) {
            (0, false) => 1 << 16,
            (0, true) => 10_000,
            // Mode 2 cannot count 1, mode 3 neither; silicon leaves them undefined.
            (1, _) if matches!(self.mode, 2 | 3) => 2,
            (count, _) => count,
        });
        self.start = now;
    }

    fn read(&mut self, now: u64) -> u8 {
        if let Some(status) = self.status.take() {
            return status;
        }
        let value = self.latched.unwrap_or_else(|| self.value(now));
        let [low, high] = value.to_le_bytes();
        let (byte, last) = match self.bytes {
            Bytes::Low => (low, true),
            Bytes::High => (high, true),
            Bytes::Both => {
                let second = self.high_next;
                self.high_next = !second;
                (if second { high } else { low }, second)
            }
        };
        if last {
            self.latched = None;
        }
        byte
    }

    fn latch_status(&mut self, now: u64) {
        let bytes = match self.bytes {
            Bytes::Low => 1,
            Bytes::High => 2,
            Bytes::Both => 3,
        };
        let status = u8::from(self.output(now)) << 7
            | u8::from(self.count.is_none()) << 6
            | bytes << 4
            | self.mode << 1
            | u8::from(self.bcd);
        self.status.get_or_insert(status);
    }
}

fn from_bcd(v: u16) -> u16 {
    (0..4).rev().fold(0, |n, digit| {
        // A digit above 9 counts as it is, as the subtraction in silicon would.
        (n * 10u32 + u32::from(v >> (4 * digit) & 15)).min(9_999)
    }) as u16
}

fn to_bcd(v: u16) -> u16 {
    (v % 10) | (v / 10 % 10) << 4 | (v / 100 % 10) << 8 | (v / 1000 % 10) << 12
}

/// The three channels and port 61h.
#[derive(Debug, Clone)]
pub(crate) struct Pit {
    channels: [Channel; 3],
    /// Edges of channel 0 up to this clock have been told.
    told: u64,
    /// Bits 0 and 1 of port 61h: gate of channel 2, speaker.
    port61: u8,
}

impl Pit {
    pub(crate) fn new() -> Pit {
        Pit {
            channels: [Channel::new(), Channel::new(), Channel::new()],
            told: 0,
            port61: 0,
        }
    }

    /// Clock of the next edge that raises interrupt line 0.
    pub(crate) fn next_edge(&self) -> Option<u64> {
        self.channels[0].edge_after(self.told)
    }

    /// Whether line 0 was raised since last asked, up to clock `now`.
    pub(crate) fn raised(&mut self, now: u64) -> bool {
        let edge = self.next_edge();
        self.told = self.told.max(now);
        edge.is_some_and(|edge| edge <= now)
    }

    /// Ports 40 to 43 and 61.
    pub(crate) fn read(&mut self, port: u16, now: u64) -> u8 {
        match port {
            0x40..=0x42 => self.channels[usize::from(port & 3)].read(now),
            // Refresh toggles every 15 us, 18 clocks.
            0x61 => {
                let output = u8::from(self.channels[2].output(now)) << 5;
                self.port61 | output | u8::from((now / 18) & 1 != 0) << 4
            }
            _ => 0xff,
        }
    }

    /// Ports 40 to 43 and 61.
    pub(crate) fn write(&mut self, port: u16, value: u8, now: u64) {
        match port {
            0x40..=0x42 => self.channels[usize::from(port & 3)].write(value, now),
            0x61 => {
                // A rising gate starts modes 2 and 3 anew; in the others it only lets them count, which is not modelled.
                let c = &mut self.channels[2];
                if value & !self.port61 & 1 != 0 && c.count.is_some() {
                    c.start = now;
                }
                self.port61 = value & 3;
            }
            _ if value >> 6 == 3 => {
                for (n, c) in self.channels.iter_mut().enumerate() {
                    if value >> (n + 1) & 1 == 0 {
                        continue;
                    }
                    if value & 0x20 == 0 {
                        let value = c.value(now);
                        c.latched.get_or_insert(value);
                    }
                    if value & 0x10 == 0 {
                        c.latch_status(now);
                    }
                }
            }
            _ => self.channels[usize::from(value >> 6)].control(value, now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_generator() {
        let mut p = Pit::new();
        p.write(0x43, 0x34, 0);
        p.write(0x40, 0xe8, 0);
        assert_eq!(p.next_edge(), None);
        p.write(0x40, 0x03, 10);
        assert_eq!(p.next_edge(), Some(1010));
        assert!(!p.raised(1009) && p.raised(1010) && !p.raised(1011));
        assert_eq!(p.next_edge(), Some(2010));
        p.write(0x43, 0, 1020);
        assert_eq!((p.read(0x40, 1500), p.read(0x40, 1501)), (0xde, 0x03));
        assert!(p.raised(9000) && !p.raised(9000));
    }

    #[test]
    fn one_shot_square_wave_and_bcd() {
        let mut p = Pit::new();
        p.write(0x43, 0x10, 0);
        p.write(0x40, 50, 100);
        assert_eq!(p.next_edge(), Some(150));
        assert!(p.raised(200));
        assert_eq!(p.next_edge(), None);
        p.write(0x43, 0x37, 200);
        p.write(0x40, 0x00, 200);
        p.write(0x40, 0x10, 200);
        assert_eq!(p.next_edge(), Some(1200));
        p.write(0x43, 0xc2, 300);
        assert_eq!(
            p.read(0x40, 300),
            0xb7,
            "output high, counted, both bytes, mode 3, bcd"
        );
        assert_eq!((p.read(0x40, 300), p.read(0x40, 300)), (0x00, 0x08));
        p.write(0x43, 0xb0, 0);
        p.write(0x42, 10, 0);
        p.write(0x42, 0, 0);
        assert_eq!((p.read(0x61, 5) & 0x20, p.read(0x61, 10) & 0x20), (0, 0x20));
    }
}
