//! Protocol versions and their negotiation (1.2, "Protocol Negotiation").

/// A STOMP version this server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    V10,
    V11,
    V12,
}

impl Version {
    /// What an ERROR says of a failed negotiation, highest last, as RabbitMQ writes it.
    pub const SUPPORTED: &'static str = "1.0,1.1,1.2";

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V10 => "1.0",
            Self::V11 => "1.1",
            Self::V12 => "1.2",
        }
    }

    /// The highest version both sides have. `accept-version` wins over the subprotocol's
    /// version; without either it is 1.0.
    #[must_use]
    pub fn negotiate(accept_version: Option<&str>, subprotocol: Option<Self>) -> Option<Self> {
        let Some(list) = accept_version else {
            return Some(subprotocol.unwrap_or(Self::V10));
        };
        list.split(',').filter_map(|item| Self::from_name(item.trim())).max()
    }

    fn from_name(name: &str) -> Option<Self> {
        match name {
            "1.0" => Some(Self::V10),
            "1.1" => Some(Self::V11),
            "1.2" => Some(Self::V12),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negotiation() {
        let cases = [
            (None, None, Some(Version::V10)),
            (None, Some(Version::V12), Some(Version::V12)),
            (Some("1.0,1.1,1.2"), None, Some(Version::V12)),
            (Some("1.1, 1.0"), Some(Version::V12), Some(Version::V11)),
            (Some("1.0,1.3"), None, Some(Version::V10)),
            (Some("2.0"), None, None),
            (Some(""), None, None),
        ];
        for (accept, subprotocol, expected) in cases {
            assert_eq!(Version::negotiate(accept, subprotocol), expected, "{accept:?}");
        }
    }
}
