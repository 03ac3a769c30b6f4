//! Headers of one frame: ordered, of a repeated name the first counts.

use std::fmt;

/// An ordered list of headers, unescaped. All names and values share one text, so that a frame
/// costs two allocations however many headers it has.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers {
    text: String,
    /// Where each name and each value ends in `text`; a name begins where the last value ended.
    ends: Vec<(u32, u32)>,
}

impl Headers {
    /// Room for so many headers, so many bytes of names and values in all.
    #[must_use]
    pub fn with_capacity(headers: usize, bytes: usize) -> Self {
        Self { text: String::with_capacity(bytes), ends: Vec::with_capacity(headers) }
    }

    /// Appends a header. An earlier one of the same name keeps its precedence.
    pub fn push(&mut self, name: &str, value: &str) {
        self.text.push_str(name);
        let name_end = self.position();
        self.text.push_str(value);
        self.ends.push((name_end, self.position()));
    }

    /// The first value of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let text = self.text.as_bytes();
        let mut start = 0_usize;
        for &(name_end, value_end) in &self.ends {
            let (name_end, value_end) = (name_end as usize, value_end as usize);
            // Most names differ in length already.
            if name_end - start == name.len() && text.get(start..name_end) == Some(name.as_bytes())
            {
                return self.text.get(name_end..value_end);
            }
            start = value_end;
        }
        None
    }

    /// Whether a header of that name is there.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Names and values in wire order, repeated ones included.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut start = 0_usize;
        self.ends.iter().map(move |&(name_end, value_end)| {
            let (name_end, value_end) = (name_end as usize, value_end as usize);
            let name = self.text.get(start..name_end).unwrap_or_default();
            let value = self.text.get(name_end..value_end).unwrap_or_default();
            start = value_end;
            (name, value)
        })
    }

    /// How many headers there are, repeated ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of all names and values together.
    #[must_use]
    pub fn text_len(&self) -> usize {
        self.text.len()
    }

    fn position(&self) -> u32 {
        u32::try_from(self.text.len()).unwrap_or(u32::MAX)
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Headers {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(headers: I) -> Self {
        let mut out = Self::default();
        for (name, value) in headers {
            out.push(name, value);
        }
        out
    }
}

impl fmt::Debug for Headers {
    /// Values may be credentials, so only names are shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|(name, _)| name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_of_a_repeated_name_counts_and_order_is_kept() {
        let headers: Headers = [("a", "1"), ("b", ""), ("a", "2")].into_iter().collect();
        assert_eq!(headers.get("a"), Some("1"));
        assert_eq!(headers.get("b"), Some(""));
        assert_eq!(headers.get("c"), None);
        assert_eq!(headers.iter().collect::<Vec<_>>(), [("a", "1"), ("b", ""), ("a", "2")]);
    }

    #[test]
    fn debug_shows_no_values() {
        let headers: Headers = [("passcode", "secret")].into_iter().collect();
        assert_eq!(format!("{headers:?}"), r#"["passcode"]"#);
    }
}
