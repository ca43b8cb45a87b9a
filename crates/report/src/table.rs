//! Plain text tables: a title, a header, right-aligned cells.
//!
//! Invariant: a table with no rows prints its reason instead; no line is wider than [`WIDTH`] while the numbers of a row fit.

/// Widest line of any table, in columns.
pub const WIDTH: usize = 100;

/// A table being made.
#[derive(Debug, Clone)]
pub struct Table {
    title: String,
    header: Vec<String>,
    rows: Vec<Vec<String>>,
    notes: Vec<String>,
    empty: String,
    gap: usize,
}

impl Table {
    /// A table with a title and column names; the first column is left-aligned.
    pub fn new(title: impl Into<String>, header: &[&str]) -> Table {
        Table {
            title: title.into(),
            header: header.iter().map(|h| (*h).to_owned()).collect(),
            rows: Vec::new(),
            notes: Vec::new(),
            empty: "nothing was counted".to_owned(),
            gap: 2,
        }
    }

    /// The same table with columns one space apart, for many narrow columns.
    #[must_use]
    pub fn tight(mut self) -> Table {
        self.gap = 1;
        self
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.header.len(), "{}", self.title);
        self.rows.push(cells);
    }

    /// Adds a line under the table.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Says why the table is empty, should it be.
    pub fn empty_because(&mut self, reason: impl Into<String>) {
        self.empty = reason.into();
    }

    /// The table as text, ending in a line feed.
    pub fn render(&self) -> String {
        let mut out = format!("{}\n", self.title);
        if self.rows.is_empty() {
            wrap(&mut out, "  ", &format!("none: {}", self.empty));
        } else {
            let widths: Vec<usize> = (0..self.header.len())
                .map(|i| {
                    let cells = self.rows.iter().chain([&self.header]);
                    cells.map(|r| r[i].chars().count()).max().unwrap_or(0)
                })
                .collect();
            let numbers: usize = widths[1..].iter().sum();
            let room = |gap: usize| WIDTH.saturating_sub(2 + numbers + gap * (widths.len() - 1));
            // Too wide, columns move together; if that is not enough, long names take lines of their own.
            let gap = match widths[0] <= room(self.gap) {
                true => self.gap,
                false => 1,
            };
            let first = widths[0].min(room(gap));
            for row in [&self.header].into_iter().chain(&self.rows) {
                let mut line = format!("  {:<first$}", row[0]);
                if row[0].chars().count() > first {
                    out.push_str(line.trim_end());
                    out.push('\n');
                    line = format!("  {:<first$}", "");
                }
                for (cell, w) in row.iter().zip(&widths).skip(1) {
                    line.push_str(&format!("{:gap$}{cell:>w$}", ""));
                }
                out.push_str(line.trim_end());
                out.push('\n');
            }
        }
        for note in &self.notes {
            wrap(&mut out, "  ", note);
        }
        out
    }
}

/// Appends `text` in lines of at most [`WIDTH`] columns, each after `indent`.
pub fn wrap(out: &mut String, indent: &str, text: &str) {
    let mut line = String::from(indent);
    for word in text.split_whitespace() {
        let room = line.chars().count() + 1 + word.chars().count() <= WIDTH;
        if line.len() > indent.len() {
            if room {
                line.push(' ');
            } else {
                out.push_str(&line);
                out.push('\n');
                line.truncate(indent.len());
            }
        }
        line.push_str(word);
    }
    out.push_str(&line);
    out.push('\n');
}

/// A count in at most seven columns: exact to 999,999, then three decimals less.
pub fn count(n: u64) -> String {
    match n {
        0..1_000_000 => grouped(n),
        1_000_000..1_000_000_000 => scaled(n, 1_000_000, "M"),
        _ => scaled(n, 1_000_000_000, "G"),
    }
}

/// A count in at most five columns.
pub fn short(n: u64) -> String {
    let (unit, name) = match n {
        0..10_000 => return n.to_string(),
        10_000..1_000_000 => (1_000, "k"),
        1_000_000..1_000_000_000 => (1_000_000, "M"),
        1_000_000_000..1_000_000_000_000 => (1_000_000_000, "G"),
        _ => (1_000_000_000_000, "T"),
    };
    match n / unit {
        0..10 => format!("{}.{:02}{name}", n / unit, n % unit * 100 / unit),
        10..100 => format!("{}.{}{name}", n / unit, n % unit * 10 / unit),
        whole => format!("{whole}{name}"),
    }
}

/// A number with its thousands grouped.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// Bytes in KiB (rounded up), MiB or GiB.
pub fn size(bytes: u64) -> String {
    match bytes {
        0 => "0".to_owned(),
        1..10_240_000 => format!("{}K", grouped(bytes.div_ceil(1024))),
        10_240_000..1_048_576_000 => scaled(bytes, 1 << 20, "M"),
        1_048_576_000..10_737_418_240 => format!("{}M", grouped(bytes >> 20)),
        _ => scaled(bytes, 1 << 30, "G"),
    }
}

/// Tenths as a decimal with sign.
pub fn tenths(n: i64) -> String {
    let sign = if n < 0 { "-" } else { "+" };
    format!(
        "{sign}{}.{}",
        grouped(n.unsigned_abs() / 10),
        n.unsigned_abs() % 10
    )
}

/// `n / d` with one decimal, rounded; `-` when `d` is 0.
pub fn ratio(n: u64, d: u64) -> String {
    if d == 0 {
        return "-".to_owned();
    }
    let t = (u128::from(n) * 10 + u128::from(d) / 2) / u128::from(d);
    let t = u64::try_from(t).unwrap_or(u64::MAX);
    format!("{}.{}", grouped(t / 10), t % 10)
}

fn scaled(n: u64, unit: u64, name: &str) -> String {
    let tenths = (u128::from(n) * 10 + u128::from(unit) / 2) / u128::from(unit);
    let tenths = u64::try_from(tenths).unwrap_or(u64::MAX);
    format!("{}.{}{name}", grouped(tenths / 10), tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_right() {
        assert_eq!(count(999_999), "999,999");
        assert_eq!(count(1_234_567), "1.2M");
        assert_eq!(short(9_999), "9999");
        assert_eq!(short(12_345), "12.3k");
        assert_eq!(short(1_234_567), "1.23M");
        assert_eq!(size(4096), "4K");
        assert_eq!(size(896 << 20), "896.0M");
        assert_eq!(tenths(-15), "-1.5");
        assert_eq!(tenths(16_800), "+1,680.0");
        assert_eq!(ratio(7, 2), "3.5");
        assert_eq!(ratio(7, 0), "-");
        for n in [0, 9_999, 10_000, 999_999, 1_000_000, 99_999_999_999_999] {
            assert!(short(n).len() <= 5, "{}", short(n));
        }
    }

    #[test]
    fn an_empty_table_says_why() {
        let mut table = Table::new("Unmap", &["configuration", "pages"]);
        table.empty_because("the probe was off");
        assert_eq!(table.render(), "Unmap\n  none: the probe was off\n");
    }

    #[test]
    fn a_wide_table_moves_together_and_then_breaks_lines() {
        let render = |name: &str, columns: usize| {
            let header: Vec<String> = (0..columns).map(|i| format!("column{i}")).collect();
            let mut names = vec!["name"];
            names.extend(header.iter().map(String::as_str));
            let mut table = Table::new("Wide", &names);
            let cells = (0..columns).map(|i| (1_000_000 + i).to_string());
            table.row([name.to_owned()].into_iter().chain(cells).collect());
            table.render()
        };
        assert!(render("short", 10).contains("  column0  column1"));
        let tight = render("anon_vma_chain 4g4g", 9);
        assert!(tight.contains("4g4g 1000000 1000001"), "{tight}");
        let broken = render("anon_vma_chain 4g4g, cluster 3, highpte on", 9);
        assert!(broken.contains("\n  anon_vma_chain 4g4g, cluster 3, highpte on\n"));
        for text in [tight, broken] {
            assert!(text.lines().all(|l| l.chars().count() <= WIDTH), "{text}");
            assert!(text.contains("1000008"));
        }
    }

    #[test]
    fn text_is_wrapped_at_the_width() {
        let mut out = String::new();
        wrap(&mut out, "  ", &"word ".repeat(100));
        assert!(
            out.lines()
                .all(|l| l.len() <= WIDTH && l.starts_with("  word"))
        );
        assert_eq!(out.matches("word").count(), 100);
    }
}
