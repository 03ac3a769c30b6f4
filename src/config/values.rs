//! Texts of the config to values and back: sizes, times, addresses.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::types::AddressRange;

const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
/// In milliseconds.
const TIMES: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Reads `256KiB`, `1MiB`, `1GiB` or a number of bytes.
///
/// # Errors
/// With what can be written.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, unit) = split_unit(text);
    let factor = match unit {
        "" => Some(1),
        _ => SIZES.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor),
    };
    scaled(digits, factor)
        .ok_or_else(|| format!("{text:?} is no size; write bytes, or \"256KiB\", \"1MiB\""))
}

/// Reads `500ms`, `10s`, `25m`, `1h`, `7d`.
///
/// # Errors
/// With what can be written.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let (digits, unit) = split_unit(text);
    let factor = TIMES.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    scaled(digits, factor).map(Duration::from_millis).ok_or_else(|| {
        format!("{text:?} is no time; write \"500ms\", \"10s\", \"25m\", \"1h\", \"7d\"")
    })
}

/// As `parse_size` reads it, in the largest unit that fits.
pub(super) fn show_size(bytes: u64) -> String {
    show(bytes, &SIZES).unwrap_or_else(|| "0B".into())
}

/// As `parse_time` reads it, in the largest unit that fits.
pub(super) fn show_time(time: Duration) -> String {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    show(millis, &TIMES).unwrap_or_else(|| "0s".into())
}

/// Reads `127.0.0.1:8080`, `[::1]:8080` or `localhost:8080`.
pub(super) fn parse_address(text: &str) -> Result<SocketAddr, String> {
    if let Some(port) = text.strip_prefix("localhost:").and_then(|port| port.parse().ok()) {
        return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }
    text.parse().map_err(|_| {
        format!("{text:?} is no address; write \"127.0.0.1:8080\", \"0.0.0.0:8080\" for everywhere")
    })
}

/// Reads `10.0.0.0/8`, `::1` or one address.
pub(super) fn parse_range(text: &str) -> Result<AddressRange, String> {
    let error = || format!("{text:?} is no range of addresses; write \"10.0.0.0/8\" or \"::1\"");
    let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
    let address: IpAddr = address.parse().map_err(|_| error())?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        None => bits,
        Some(prefix) => prefix.parse().ok().filter(|p| *p <= bits).ok_or_else(error)?,
    };
    if address != address.to_canonical() {
        return Err(format!("{text:?} is an IPv4 address; write it so"));
    }
    Ok(AddressRange { address, prefix })
}

fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    (digits, unit.strip_prefix(' ').unwrap_or(unit))
}

fn scaled(digits: &str, factor: Option<u64>) -> Option<u64> {
    digits.parse::<u64>().ok()?.checked_mul(factor?)
}

fn show(number: u64, units: &[(&str, u64)]) -> Option<String> {
    units
        .iter()
        .find(|(_, factor)| number >= *factor && number.is_multiple_of(*factor))
        .map(|(name, factor)| format!("{}{name}", number / factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_come_back() {
        for (text, bytes) in [("0B", 0), ("1000B", 1000), ("256KiB", 262_144), ("1GiB", 1 << 30)] {
            assert_eq!((parse_size(text), show_size(bytes).as_str()), (Ok(bytes), text));
        }
        for (text, millis) in
            [("0s", 0), ("500ms", 500), ("10s", 10_000), ("25m", 1_500_000), ("7d", 604_800_000)]
        {
            let time = Duration::from_millis(millis);
            assert_eq!((parse_time(text), show_time(time).as_str()), (Ok(time), text));
        }
        assert_eq!(parse_size("12"), Ok(12));
        for wrong in ["", "KiB", "1KB", "-1", "1.5MiB", "99999999999999999999", "17179869184GiB"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "10", "s", "-1s", "1.5s", "1w", "9999999999999999999d"] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn addresses() {
        assert_eq!(parse_address("localhost:80").unwrap().to_string(), "127.0.0.1:80");
        assert_eq!(parse_address("[::1]:80").unwrap().to_string(), "[::1]:80");
        for wrong in ["", ":80", "80", "example.org:80", "127.0.0.1", "127.0.0.1:99999"] {
            assert!(parse_address(wrong).is_err(), "{wrong}");
        }
        let cases = [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("0.0.0.0/0", "::1", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("fd00::/8", "fdff::1", true),
            ("::/0", "::1", true),
        ];
        for (range, address, expected) in cases {
            let address = address.parse().unwrap();
            assert_eq!(parse_range(range).unwrap().contains(address), expected, "{range}");
        }
        for wrong in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "x", "::ffff:10.0.0.0/104"] {
            assert!(parse_range(wrong).is_err(), "{wrong}");
        }
    }
}
