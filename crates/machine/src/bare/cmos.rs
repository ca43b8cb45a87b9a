//! The CMOS clock and RAM of a PC AT (Motorola MC146818A data sheet; IBM PC AT Technical Reference, 1985, section 5).
//!
//! The clock starts at a given second, so that runs repeat, and goes on with the machine's time. Writing the time has no
//! effect, nor have alarm and periodic interrupts. Memory sizes stand where the AT's BIOS put them, and those above 16 MiB and
//! 4 GiB where later BIOSes and QEMU put them (34h, 35h, 5Bh to 5Dh).
//!
//! Invariant: reading the clock changes nothing.

/// A date and time as seconds since 1970-01-01 00:00:00.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockTime(pub u64);

/// A time that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a time such as 2004-06-16T12:00:00 between the years 1970 and 2099")]
pub struct ClockError(pub String);

impl Default for ClockTime {
    /// 2004-06-16 00:00:00, the day on which Linux 2.6.7 was released.
    fn default() -> ClockTime {
        ClockTime(days_from_civil(2004, 6, 16) * 86_400)
    }
}

impl std::str::FromStr for ClockTime {
    type Err = ClockError;
    fn from_str(text: &str) -> Result<ClockTime, ClockError> {
        let parse = || {
            let (date, time) = text.split_once(['T', ' ']).unwrap_or((text, "00:00:00"));
            let numbers = |text: &str, by: char| -> Option<[u64; 3]> {
                let all: Vec<u64> = text
                    .split(by)
                    .map(|n| {
                        let digits = !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit());
                        digits.then(|| n.parse().ok()).flatten()
                    })
                    .collect::<Option<_>>()?;
                all.try_into().ok()
            };
            let [year, month, day] = numbers(date, '-')?;
            let [hour, minute, second] = numbers(time, ':')?;
            let valid = (1970..2100).contains(&year)
                && (1..=12).contains(&month)
                && (1..=31).contains(&day)
                && hour < 24
                && minute < 60
                && second < 60;
            let days = valid.then(|| days_from_civil(year, month, day))?;
            // The 31st of a short month is no day.
            (civil(days) == (year, month, day)).then_some(ClockTime(
                days * 86_400 + hour * 3600 + minute * 60 + second,
            ))
        };
        parse().ok_or_else(|| ClockError(text.to_owned()))
    }
}

/// Days from 1970-01-01 to a day of the Gregorian calendar: years counted from March, so that leap days come last.
fn days_from_civil(year: u64, month: u64, day: u64) -> u64 {
    let (y, m) = match month {
        1 | 2 => (year - 1, month + 9),
        _ => (year, month - 3),
    };
    let in_year = (153 * m + 2) / 5 + day - 1;
    365 * y + y / 4 - y / 100 + y / 400 + in_year - 719_468
}

/// The inverse, within 1970 to 2099 and some way beyond.
fn civil(days: u64) -> (u64, u64, u64) {
    let mut year = 1970 + days / 366;
    while days_from_civil(year + 1, 1, 1) <= days {
        year += 1;
    }
    let month = (1..=12)
        .rev()
        .find(|&m| days_from_civil(year, m, 1) <= days)
        .expect("the year's first day is not behind");
    (year, month, days - days_from_civil(year, month, 1) + 1)
}

/// Register A: divider on, 1024 Hz; no update in progress.
const REGISTER_A: u8 = 0x26;
/// Register B: 24 hours, BCD.
const REGISTER_B: u8 = 0x02;
/// Register D: the battery is good.
const REGISTER_D: u8 = 0x80;

/// The chip.
#[derive(Debug, Clone)]
pub(crate) struct Cmos {
    index: u8,
    bytes: [u8; 128],
    start: ClockTime,
}

impl Cmos {
    /// With the sizes of `ram_bytes` of RAM in it.
    pub(crate) fn new(start: ClockTime, ram_bytes: u64) -> Cmos {
        let mut bytes = [0; 128];
        let mut put = |at: usize, value: u64, most: u64, n: usize| {
            bytes[at..at + n].copy_from_slice(&value.min(most).to_le_bytes()[..n]);
        };
        let above = |mib: u64| ram_bytes.saturating_sub(mib << 20);
        put(0x15, 640, 640, 2);
        put(0x17, above(1) >> 10, 0xffff, 2);
        put(0x30, above(1) >> 10, 0xffff, 2);
        put(0x34, above(16).min((4 << 30) - (16 << 20)) >> 16, 0xffff, 2);
        put(0x5b, above(4096) >> 16, 0xff_ffff, 3);
        bytes[0x0a] = REGISTER_A;
        bytes[0x0b] = REGISTER_B;
        bytes[0x0d] = REGISTER_D;
        Cmos {
            index: 0,
            bytes,
            start,
        }
    }

    /// Port 70: which byte; bit 7 masks NMI, of which there are none.
    pub(crate) fn select(&mut self, value: u8) {
        self.index = value & 0x7f;
    }

    /// Port 71.
    pub(crate) fn write(&mut self, value: u8) {
        match self.index {
            0x00..=0x09 | 0x0c | 0x0d | 0x32 => {}
            // No update is ever in progress.
            0x0a => self.bytes[0x0a] = value & 0x7f,
            at => self.bytes[usize::from(at)] = value,
        }
    }

    /// Port 71, `seconds` after the start.
    pub(crate) fn read(&self, seconds: u64) -> u8 {
        let now = self.start.0.saturating_add(seconds);
        let (days, of_day) = (now / 86_400, now % 86_400);
        let hour = of_day / 3600;
        let value = match self.index {
            0 => of_day % 60,
            2 => of_day / 60 % 60,
            4 => return self.hour(hour),
            // 1970-01-01 was a Thursday; Sunday is 1.
            6 => (days + 4) % 7 + 1,
            7 => civil(days).2,
            8 => civil(days).1,
            9 => civil(days).0 % 100,
            0x32 => civil(days).0 / 100,
            at => return self.bytes[usize::from(at)],
        };
        self.coded(value)
    }

    fn coded(&self, value: u64) -> u8 {
        match self.bytes[0x0b] & 4 != 0 {
            true => value as u8,
            false => (((value / 10) << 4) | (value % 10)) as u8,
        }
    }

    fn hour(&self, hour: u64) -> u8 {
        if self.bytes[0x0b] & 2 != 0 {
            return self.coded(hour);
        }
        let pm = if hour >= 12 { 0x80 } else { 0 };
        self.coded((hour + 11) % 12 + 1) | pm
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(cmos: &mut Cmos, index: u8, seconds: u64) -> u8 {
        cmos.select(index);
        cmos.read(seconds)
    }

    #[test]
    fn the_clock_starts_where_told_and_goes_on() {
        let start: ClockTime = "2004-02-28T23:59:58".parse().unwrap();
        let mut c = Cmos::new(start, 256 << 20);
        let read = |c: &mut Cmos, s| [0, 2, 4, 6, 7, 8, 9, 0x32].map(|i| at(c, i, s));
        assert_eq!(read(&mut c, 0), [0x58, 0x59, 0x23, 7, 0x28, 2, 4, 0x20]);
        assert_eq!(read(&mut c, 2), [0, 0, 0, 1, 0x29, 2, 4, 0x20]);
        assert_eq!(read(&mut c, 86_402), [0, 0, 0, 2, 1, 3, 4, 0x20]);
        c.select(0x0b);
        c.write(4);
        assert_eq!((at(&mut c, 4, 0), at(&mut c, 0, 0)), (0x8b, 58));
    }

    #[test]
    fn times_are_read_or_refused() {
        assert_eq!("1970-01-01".parse(), Ok(ClockTime(0)));
        assert_eq!("2000-03-01 00:00:01".parse(), Ok(ClockTime(951_868_801)));
        for bad in [
            "",
            "2004",
            "2003-02-29",
            "2004-13-01",
            "2004-01-01T24:00:00",
            "+204-1-1",
            "9-9-9",
        ] {
            assert!(bad.parse::<ClockTime>().is_err(), "{bad}");
        }
        for days in [0, 11_016, 11_017, 47_481] {
            let (y, m, d) = civil(days);
            assert_eq!(days_from_civil(y, m, d), days);
        }
    }

    #[test]
    fn memory_sizes() {
        let mut c = Cmos::new(ClockTime(0), 256 << 20);
        let word = |c: &mut Cmos, i| u16::from_le_bytes([at(c, i, 0), at(c, i + 1, 0)]);
        assert_eq!(
            [0x15, 0x17, 0x30, 0x34, 0x5b].map(|i| word(&mut c, i)),
            [640, 65535, 65535, 240 << 4, 0]
        );
        let mut c = Cmos::new(ClockTime(0), 6 << 30);
        assert_eq!([0x34, 0x5b].map(|i| word(&mut c, i)), [0xff00, 0x8000]);
    }
}
