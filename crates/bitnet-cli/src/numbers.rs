//! Numbers as people read them.

use std::time::Duration;

/// `2.95 MiB`: binary units, three significant digits.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{} {}", digits(value), UNITS[unit]) }
}

/// `512MiB`, `6 GiB`, `1.5G`: units of 1024; without one, bytes.
#[cfg(any(feature = "serve", feature = "train"))]
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let wrong = || "expected a size such as 512MiB, 1.5GiB or a number of bytes".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return Err(wrong()),
    };
    let bytes = match number.parse::<u64>() {
        Ok(whole) => whole.checked_mul(unit).ok_or_else(wrong)?,
        Err(_) => (number.parse::<f64>().map_err(|_| wrong())? * unit as f64) as u64,
    };
    if bytes == 0 { Err(wrong()) } else { Ok(bytes) }
}

/// `41.3 ms`, `2.07 s`.
pub(crate) fn duration(d: Duration) -> String {
    seconds(d.as_secs_f64())
}

/// As [`duration`], from seconds.
pub(crate) fn seconds(s: f64) -> String {
    if s < 1e-3 {
        format!("{} µs", digits(s * 1e6))
    } else if s < 1.0 {
        format!("{} ms", digits(s * 1e3))
    } else {
        format!("{} s", digits(s))
    }
}

/// Events per second; a duration too short to measure has no rate.
pub(crate) fn rate(count: usize, time: Duration) -> Option<f64> {
    let seconds = time.as_secs_f64();
    (count > 0 && seconds > 0.0).then(|| count as f64 / seconds)
}

/// Three significant digits, no exponent.
pub(crate) fn digits(v: f64) -> String {
    let decimals = if v.abs() >= 99.95 {
        0
    } else if v.abs() >= 9.995 {
        1
    } else {
        2
    };
    format!("{v:.decimals$}")
}

/// `1 token`, `2 tokens`.
pub(crate) fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_change_where_people_expect() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.00 KiB");
        assert_eq!(bytes(1024 * 1024 - 1), "1.00 MiB");
        assert_eq!(bytes(3 << 30), "3.00 GiB");
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
        assert_eq!(seconds(0.0421), "42.1 ms");
        assert_eq!(seconds(123.4), "123 s");
        assert_eq!(rate(5, Duration::ZERO), None);
        assert_eq!(rate(5, Duration::from_millis(500)), Some(10.0));
        assert_eq!(count(1, "token") + &count(2, "token"), "1 token2 tokens");
    }

    #[test]
    #[cfg(any(feature = "serve", feature = "train"))]
    fn sizes() {
        assert_eq!([size("4096"), size("6GiB"), size("1.5 g")], [Ok(4096), Ok(6 << 30), Ok(3 << 29)]);
        for wrong in ["", "0", "G", "-1G", "1X", "1.2.3", "99999999999999T"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
